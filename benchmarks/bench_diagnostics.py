"""Diagnostics of one update: each figure in both backends, and all of them beside the target that they describe."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.helpers.timing import BACKENDS, SHAPE, load, normal, ratio

# A candidate of the sequence tasks: ten tokens out of two.
LENGTH, VOCABULARY = 10, 2


class Diagnostics:
    """4,096 groups of 16 candidates."""

    params = BACKENDS
    param_names = ("backend",)

    def setup(self, backend: str) -> None:
        self.diagnostics, self.tpo = load(backend, "diagnostics"), load(backend, "tpo")
        self.logp, self.u, self.mask = normal(backend, 0), normal(backend, 1), normal(backend, 2) > -1
        self.tokens = self.integers(backend)

    def integers(self, backend: str) -> Any:
        x = np.random.default_rng(3).integers(0, VOCABULARY, (*SHAPE, LENGTH))
        if backend == "numpy":
            return x
        import torch

        return torch.as_tensor(x)

    def time_anchor_health(self, backend: str) -> None:
        self.diagnostics.anchor_health(self.logp, self.u)

    def time_anchor_health_masked(self, backend: str) -> None:
        self.diagnostics.anchor_health(self.logp, self.u, mask=self.mask)

    def time_summarise(self, backend: str) -> None:
        self.diagnostics.summarise(self.logp, self.u)

    def time_duplicate_rate(self, backend: str) -> None:
        self.diagnostics.duplicate_rate(self.tokens)

    def time_correlation(self, backend: str) -> None:
        self.diagnostics.correlation(self.logp, self.u)

    def time_winners_losers_weight(self, backend: str) -> None:
        self.diagnostics.winners_losers_weight(self.logp, self.u)

    def track_summarise_over_target(self, backend: str) -> float:
        return ratio(
            lambda: self.diagnostics.summarise(self.logp, self.u), lambda: self.tpo.tpo_target(self.logp, self.u), 3
        )

    track_summarise_over_target.unit = "ratio"
