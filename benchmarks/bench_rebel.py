"""REBEL beside TPO: all pairs of a group at the price of a variance."""

from __future__ import annotations

from typing import Any

from benchmarks.helpers.baselines import Baseline
from benchmarks.helpers.timing import normal


class Rebel(Baseline):
    """K² pairs, O(K) work."""

    stem, rule = "rebel", "rebel"

    def arguments(self, backend: str) -> tuple[Any, ...]:
        return normal(backend, 1), normal(backend, 2)
