"""PMPO beside TPO."""

from __future__ import annotations

from typing import Any

from benchmarks.helpers.baselines import Baseline
from benchmarks.helpers.timing import normal


class Pmpo(Baseline):
    """Half of the candidates accepted."""

    stem, rule = "pmpo", "pmpo"

    def arguments(self, backend: str) -> tuple[Any, ...]:
        return normal(backend, 1), normal(backend, 2) > 0
