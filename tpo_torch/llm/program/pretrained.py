"""Finding a model before anything is loaded: a local folder, or a name on the hub; else one line with the remedy."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import huggingface_hub
import huggingface_hub.constants
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from tpo_ref.study import files
from tpo_ref.study.errors import Unavailable
from tpo_torch.llm.program.settings import switches

if TYPE_CHECKING:
    # Imported where a model is loaded: that one is missing is said before, and needs neither.
    import torch

# Keys of a model's own file that no call of ours acts on.
NATIVE = ("auto_map", "custom_generate", "token", "auto_mapping")
CONFIG, ADAPTER = "config.json", "adapter_config.json"
# Seconds to wait for the hub before saying that it cannot be reached.
PATIENCE = 10.0


# Goes last into every call that loads something.
SAFE = {"trust_remote_code": False, "use_safetensors": True}
# What transformers says of a model that has code of its own, and of weights in another format.
FOREIGN, PICKLED = "trust_remote_code", ("safetensors", "pytorch_model.bin", "adapter_model.bin")


def locate(model: str, revision: str | None = None) -> str:
    """The model as transformers takes it: the folder, or the hub name once it is known to be there.

    Args: model; revision of a hub name, None for the newest.
    Raises: Unavailable for a folder without a model or with one that names code, a hub name that does not exist, is
        gated, or cannot be reached.
    """
    huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY = True
    path = files.at_home(model)
    if path.is_dir():
        if not any((path / name).exists() for name in (CONFIG, ADAPTER)):
            raise Unavailable(f"model: got the folder {path}, expected a {CONFIG} and safetensors weights in it")
        check_folder(path)
        return str(path)
    if path.is_absolute() or model.startswith((".", "~")) or path.exists():
        raise Unavailable(f"model: got {model}, which is no folder; give the folder of a model, or its hub name")
    remedy = (
        f"download it where there is a network (hf download {model} --local-dir FOLDER) and give the folder: "
        "model=FOLDER"
    )
    try:
        if isinstance(huggingface_hub.try_to_load_from_cache(model, CONFIG, revision=revision), str):
            return model
    except HFValidationError as error:
        raise Unavailable(
            f"model: got {model!r}, which is neither a folder nor a hub name such as Qwen/Qwen3-1.7B"
        ) from error
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        raise Unavailable(f"model: {model} is not in the local cache, and HF_HUB_OFFLINE is set; {remedy}")
    try:
        huggingface_hub.HfApi().model_info(model, revision=revision, timeout=PATIENCE)
    except HfHubHTTPError as error:
        status = error.response.status_code
        what = f"the hub does not give {model} (HTTP {status}: no such name, or gated)"
        raise Unavailable(f"model: {what}; {remedy}") from error
    except Exception as error:
        # Which library's errors a failed connection raises depends on the version of the hub's client.
        what = f"{model} is not in the local cache, and the hub cannot be reached ({error})"
        raise Unavailable(f"model: {what}; {remedy}") from error
    return model


def check_folder(path: Path) -> None:
    """Unavailable for a model or adapter whose own files ask for code that would be fetched or imported."""
    for name in (CONFIG, ADAPTER):
        if (path / name).is_file():
            try:
                content = files.read_json(path / name)
                # A native class is taken in place of one that auto_map names.
                switches.check(str(path / name), {k: x for k, x in content.items() if k not in NATIVE})
            except ValueError as error:
                raise Unavailable(f"model: {error}") from error
    if (path / ADAPTER).is_file() and not any(path.glob("*.safetensors")):
        raise Unavailable(f"model: {path} has no weights as safetensors; {switches.PICKLE}")


@contextlib.contextmanager
def named(model: str) -> Iterator[None]:
    """While inside, what transformers says of code and of pickled weights becomes Unavailable, with a remedy."""
    try:
        yield
    except (ValueError, ImportError, OSError) as error:
        text = str(error)
        if FOREIGN in text:
            what = "has code of its own, which is not run: transformers has no model of its kind"
            raise Unavailable(f"model: {model} {what}; choose one that transformers has") from error
        if isinstance(error, OSError) and any(word in text for word in PICKLED):
            raise Unavailable(f"model: {model} has no weights as safetensors; {switches.PICKLE}") from error
        raise


def load(model: str, device: torch.device, revision: str | None = None) -> tuple[Any, Any]:
    """A model with its adapter, if it has one, and its tokenizer, for generation; Unavailable as `locate`, `named`."""
    import transformers

    place = locate(model, revision)
    pinned = {"revision": revision, "trust_remote_code": SAFE["trust_remote_code"]}
    with named(model):
        if (Path(place) / ADAPTER).exists():
            from peft import AutoPeftModelForCausalLM

            loaded = AutoPeftModelForCausalLM.from_pretrained(place, torch_dtype="auto", **SAFE)
        else:
            loaded = transformers.AutoModelForCausalLM.from_pretrained(place, dtype="auto", **(pinned | SAFE))
        tokenizer = transformers.AutoTokenizer.from_pretrained(place, padding_side="left", **pinned)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return loaded.to(device).eval(), tokenizer
