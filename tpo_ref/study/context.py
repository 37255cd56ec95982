"""The device, checkpoint file and progress callback of a run, beside its method, settings and seeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tpo_ref.study.origins import Part

if TYPE_CHECKING:
    # Reading it takes NumPy along, for which help and lists need not wait.
    from tpo_ref.study.chosen_rules import ChosenRule

# Takes how many units of work are done, and how many there are.
Progress = Callable[[int, int], None]
# As `Progress`, with the method's name as first argument.
MethodProgress = Callable[[str, int, int], None]

# What it and the processes before did of a run, until now.
Parts = Callable[[], tuple[Part, ...]]

CPU = "cpu"


def silent(count: int, total: int) -> None:
    """Ignore progress."""


@dataclass(frozen=True)
class Context:
    """Where a run computes, where it saves its state, and what it calls as it goes.

    >>> Context().device
    'cpu'
    """

    # The device of the arrays, by the name its library gives it.
    device: str = CPU
    # A file from which a run started again continues; the caller deletes it. None for a run that saves nothing.
    checkpoint: Path | None = None
    # Called with units done and units in all.
    progress: Progress = silent
    # The rule of a method that is not the experiment's own.
    rule: ChosenRule | None = None
    # What makes a group for that rule, one of the experiment's groupings.
    grouping: str = ""
    # Called for what a checkpoint says of how it was made; see `partial.write`.
    parts: Parts = tuple
