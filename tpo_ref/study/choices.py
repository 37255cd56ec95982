"""What a user chooses for every experiment that a command names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tpo_ref.study.context import CPU


@dataclass(frozen=True)
class Choices:
    """Methods, seeds and scale to run, where to compute and where to store.

    >>> Choices(methods=("tpo", "pg"), seeds=8).limits
    ('tpo', 'pg', '8seeds')
    """

    # None for those of the scale.
    methods: tuple[str, ...] | None = None
    # How many, from 0 up; None for those of the scale.
    seeds: int | None = None
    scale: str = "cpu"
    device: str = CPU
    # The folder of results.
    out: Path = Path("runs")

    @property
    def limits(self) -> tuple[str, ...]:
        """The methods and the number of seeds of the choices, as parts of a file name."""
        return (*(self.methods or ()), *([f"{self.seeds}seeds"] if self.seeds else []))
