"""What help adds where experiments are named: their settings, field by field, with the values at each scale."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from tpo_ref.study import registry
from tpo_ref.study.cli import show
from tpo_ref.study.field_lines import field_lines
from tpo_ref.study.protocol import SCALES, Experiment

VARIES = "varies"


def show_settings(words: Sequence[str]) -> None:
    """Print a table for each settings class of the experiments and suites among some words, nothing without any."""
    for kind, experiments in _by_kind(words).items():
        names = ", ".join(e.id for e in experiments)
        show.print_table(settings_table(kind, experiments), f"settings of {names} ({kind.__name__}), by scale")


def settings_table(kind: type[Any], experiments: Sequence[Experiment]) -> list[list[str]]:
    """Header and a row per field: its name, its value at each scale, and its line."""
    lines = field_lines(kind)
    head = ["setting", *SCALES, "meaning"]
    return [head, *([name, *(_value(experiments, s, name) for s in SCALES), line] for name, line in lines.items())]


def _by_kind(words: Sequence[str]) -> dict[type[Any], list[Experiment]]:
    """The named experiments, each once, by the class of their settings."""
    by_kind: dict[type[Any], list[Experiment]] = {}
    for name in dict.fromkeys(member for word in words for member in _members(word)):
        experiment = registry.EXPERIMENTS[name]
        kind = type(next(iter(experiment.scales.values())).settings)
        if dataclasses.is_dataclass(kind):
            by_kind.setdefault(kind, []).append(experiment)
    return by_kind


def _members(word: str) -> Iterable[str]:
    if word in registry.SUITES:
        return registry.SUITES[word].members
    return [word] if word in registry.EXPERIMENTS else []


def _value(experiments: Sequence[Experiment], scale: str, name: str) -> str:
    """The value that all experiments share at a scale."""
    values = {str(getattr(e.scales[scale].settings, name)) for e in experiments if scale in e.scales}
    return VARIES if len(values) > 1 else "".join(values)
