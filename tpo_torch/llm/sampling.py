"""Completions are drawn as the settings say, and by nothing that a model's folder says besides.

`generate` fills in from the model's `generation_config` whatever a call leaves open: beams, forced or suppressed
tokens, a ban on repetitions. Completions would come from another distribution than the one that is trained.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import GenerationConfig

# What a model's own settings are asked for: which tokens begin, end and fill up a sequence.
TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
# What changes no completion, or is named by every call.
HARMLESS = (
    *("use_cache", "cache_", "compile", "disable_compile", "output_", "return_dict", "_", "transformers_version"),
    *("max_length", "max_new_tokens", "do_sample"),
)


class NamedSampling:
    """A part of a `GRPOTrainer` that samples as its arguments say, whatever the model's `generation_config` says."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        trainer: Any = self
        left_out = inherited(trainer.model, getattr(trainer, "generation_config", None))
        if left_out and trainer.accelerator.is_main_process:
            said = ", ".join(f"{name}={value!r}" for name, value in left_out.items())
            warnings.warn(
                f"the model's generation_config has {said}, which training does not use: completions would come from "
                "another distribution than is trained. To sample so all the same, say it in generation_kwargs",
                stacklevel=3,
            )

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        trainer: Any = self
        with as_named(trainer.accelerator.unwrap_model(trainer.model_wrapped)):
            return super()._generate_single_turn(*args, **kwargs)  # type: ignore[misc]


@contextmanager
def as_named(model: Any) -> Iterator[None]:
    """Inside, `generate` takes from the model's own settings the tokens that bound a sequence, and nothing else."""
    holder = _holder(model)
    own = holder.generation_config
    holder.generation_config = GenerationConfig(**{name: getattr(own, name, None) for name in TOKENS})
    try:
        yield
    finally:
        holder.generation_config = own


def inherited(model: Any, named: GenerationConfig | None) -> dict[str, Any]:
    """What `generate` would fill in from the model's own settings, where a call names none.

    Args: model; named, what the call names; None where another engine draws.

    >>> from types import SimpleNamespace
    >>> model = SimpleNamespace(generation_config=GenerationConfig(num_beams=3, temperature=0.5, eos_token_id=7))
    >>> inherited(model, GenerationConfig(temperature=1.0))
    {'num_beams': 3}
    """
    if named is None:
        return {}
    defaults = GenerationConfig._get_default_generation_params()
    return {
        name: value
        for name, value in _holder(model).generation_config.to_dict().items()
        if value is not None
        and value != defaults.get(name)
        and getattr(named, name, None) is None
        and name not in TOKENS
        and not name.startswith(HARMLESS)
    }


def _holder(model: Any) -> Any:
    """The module whose settings `generate` reads: under an adapter the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
