"""GSPO beside TPO."""

from __future__ import annotations

from typing import Any

from benchmarks.helpers.baselines import Baseline
from benchmarks.helpers.timing import normal


class Gspo(Baseline):
    """Candidates of 1 to some 400 tokens."""

    stem, rule = "gspo", "gspo"

    def arguments(self, backend: str) -> tuple[Any, ...]:
        return normal(backend, 1), normal(backend, 2), 1 + 100 * abs(normal(backend, 3))
