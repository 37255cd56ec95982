"""PPO beside TPO."""

from __future__ import annotations

from typing import Any

from benchmarks.helpers.baselines import Baseline
from benchmarks.helpers.timing import normal


class Ppo(Baseline):
    """Log-ratios of a nat or two: most candidates meet the clip."""

    stem, rule = "ppo", "ppo"

    def arguments(self, backend: str) -> tuple[Any, ...]:
        return normal(backend, 1), normal(backend, 2)
