"""What a configuration that somebody else wrote may not switch on: foreign code, pickled weights, data sent away."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

from tpo_ref.study import files

CODE = "a model is weights and configuration, not a program"
PICKLE = "weights are read from safetensors alone; a pickle can run code"
SENDS = "a configuration sends nothing away; push what a run has made by yourself (hf upload FOLDER)"
SECRETS = "the run's record is no place for a secret; use the HF_TOKEN environment variable"
REMOTE = "trust_remote_code"
# Keys at any depth, the values that ask for nothing, and why the others are refused.
KEYS: dict[str, tuple[tuple[object, ...], str]] = {
    REMOTE: ((False, None), f"it stays off: {CODE}"),
    "auto_map": ((None,), f"it names classes of a folder's own: {CODE}"),
    "custom_generate": ((None,), f"it names a function of a folder's own: {CODE}"),
    "code_revision": ((None,), f"no code is fetched: {CODE}"),
    "use_kernels": ((False, None), f"it fetches compiled code from the hub: {CODE}"),
    "kernel_config": ((None,), f"it fetches compiled code from the hub: {CODE}"),
    "allow_all_kernels": ((False, None), f"it fetches compiled code from the hub: {CODE}"),
    "megatron_core": (("megatron.core", None), f"it names a module that peft would import: {CODE}"),
    "megatron_config": ((None,), f"with it peft imports the module megatron_core: {CODE}"),
    "auto_mapping": ((None,), f"it names a module that peft would import: {CODE}"),
    "use_safetensors": ((True, None), PICKLE),
    "weights_only": ((True, None), PICKLE),
    "token": ((None,), SECRETS),
    "use_auth_token": ((None,), SECRETS),
}
# Of these the value, where it names a repository of kernels instead of an implementation.
KERNELS = ("attn_implementation", "_attn_implementation", "experts_implementation")
# Fields of the trainer that send what a run makes to the hub, and the values that ask for nothing beside None.
SENDING: dict[str, tuple[object, ...]] = {
    "push_to_hub": (False,),
    "hub_model_id": (),
    "hub_strategy": ("every_save",),
    "hub_private_repo": (),
    "hub_always_push": (False,),
    "hub_revision": (),
    "log_completions_hub_repo": (),
    "trackio_space_id": (),
    "trackio_bucket_id": (),
    "trackio_static_space_id": (),
}


def parsed(name: str, value: object) -> object:
    """What JSON text says, and every other value as it is; ValueError for text that is no JSON; name, for messages.

    >>> parsed("model_init_kwargs", '{"trust_remote_c\\\\u006fde": true}')
    {'trust_remote_code': True}
    """
    if not isinstance(value, str) or not value.lstrip().startswith("{"):
        return value
    try:
        return files.strict_json(value)
    except ValueError as error:
        raise ValueError(f"{name}: got text that is no JSON ({error}); write it as YAML: {{key: value}}") from error


def check(name: str, value: object) -> None:
    """Refuse a value that holds a switch of `KEYS` which is on, or names a kernel of the hub, at whatever depth.

    Args: name of the setting, for the message; value, as it was read. Raises: ValueError.
    """
    for key, part in _pairs(parsed(name, value)):
        nothing, reason = KEYS.get(key, ((), ""))
        if key in KEYS and not any(part is each or (isinstance(part, str) and part == each) for each in nothing):
            shown = "a value" if reason is SECRETS else repr(part)
            raise ValueError(f"{name}: got {key} = {shown}, but {reason}")
        if key in KERNELS and "/" in json.dumps(part, default=str):
            raise ValueError(f"{name}: got {key} = {part!r}, which fetches compiled code from the hub: {CODE}")


def sends(name: str, value: object) -> bool:
    """Whether a field of the trainer asks to send something away."""
    return name in SENDING and value is not None and value not in SENDING[name]


def _pairs(value: object) -> Iterator[tuple[str, object]]:
    """All keys of a value with what they stand for, at every depth."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield str(key), part
            yield from _pairs(part)
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        for part in value:
            yield from _pairs(part)
