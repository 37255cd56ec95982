"""DG beside TPO."""

from __future__ import annotations

from typing import Any

from benchmarks.helpers.baselines import Baseline
from benchmarks.helpers.timing import normal


class Dg(Baseline):
    """REINFORCE and a gate."""

    stem, rule = "dg", "dg"

    def arguments(self, backend: str) -> tuple[Any, ...]:
        return (normal(backend, 1),)
