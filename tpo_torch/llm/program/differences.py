"""Which settings of a run differ from their defaults, and which do not."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import MISSING
from typing import Any

from tpo_torch.llm.program.settings import upstream
from tpo_torch.llm.program.settings.fields import Mappings
from tpo_torch.llm.program.settings.sections import METHODS, RunSettings

# The section of the trainer's fields, and those of its fields that follow from other settings.
TRAINER, DERIVED = "trainer", ("output_dir", "seed", "gradient_accumulation_steps")


def changed(settings: RunSettings, own: Mappings) -> list[str]:
    """What differs from the defaults, as "key = value (default)", in the order of the sections.

    Args: settings; own, values of the trainer's fields that a run has where its settings say nothing.

    >>> settings = RunSettings("x", "tiny", "gsm8k", seed=1, trainer={"beta": 0.5, "num_generations": 8})
    >>> changed(settings, {"logging_steps": 1})[3:]
    ['seed = 1 (default 0)', 'trainer.logging_steps = 1 (default 10)', 'trainer.beta = 0.5 (default 0.0)']
    """
    return [
        f"{name} = {value!r}" + ("" if default is MISSING else f" (default {default!r})")
        for name, value, default in _entries(settings, own)
        if value != default
    ]


def unchanged(settings: RunSettings, own: Mappings) -> list[str]:
    """What is as the defaults are, as "key=value", without what is None; arguments as `changed`."""
    return [
        f"{name}={value!r}"
        for name, value, default in _entries(settings, own)
        if value == default and value is not None
    ]


def _entries(settings: RunSettings, own: Mappings) -> Iterator[tuple[str, Any, Any]]:
    """Key, value and default of every setting that takes part in the run."""
    for field in dataclasses.fields(RunSettings):
        if not field.compare or field.name in (TRAINER, *METHODS):
            continue
        value = getattr(settings, field.name)
        if isinstance(field.default, field_type := type(value)) and dataclasses.is_dataclass(field_type):
            parts = dataclasses.fields(value)
            yield from ((f"{field.name}.{part.name}", getattr(value, part.name), part.default) for part in parts)
        else:
            default = field.default if field.default_factory is MISSING else field.default_factory()
            yield field.name, value, default
    shared = upstream.fields_of(upstream.GRPO_CONFIG)
    for name in upstream.fields_of(settings.configuration):
        if name in DERIVED:
            continue
        section = TRAINER if name in shared and name not in getattr(settings, settings.section) else settings.section
        try:
            default = upstream.default_of(settings.configuration, name)
        except AttributeError:
            # A list or the like, made anew for each object of the class.
            default = None
        yield f"{section}.{name}", settings.given.get(name, own.get(name, default)), default
