"""TPO for one sampled action beside TPO on groups, over as many numbers."""

from __future__ import annotations

from typing import Any

from benchmarks.helpers.baselines import Baseline
from benchmarks.helpers.timing import normal


class Single(Baseline):
    """65,536 actions, each a context of its own: two outcomes where the group form has sixteen candidates."""

    stem, rule = "single", "tpo_single"

    def setup(self, backend: str) -> None:
        super().setup(backend)
        self.logp = self.log_probabilities(backend, 0)
        if backend == "torch":
            self.logp.requires_grad_()

    def arguments(self, backend: str) -> tuple[Any, ...]:
        return (self.module.tpo_single_target(self.log_probabilities(backend, 1), normal(backend, 2)),)

    def time_target(self, backend: str) -> None:
        self.module.tpo_single_target(self.logp, self.rest[0])

    def log_probabilities(self, backend: str, seed: int) -> Any:
        """Log-probabilities of a nat or two."""
        return -abs(normal(backend, seed))
