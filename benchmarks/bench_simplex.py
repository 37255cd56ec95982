"""Distributions over groups: each function in both backends, and softmax beside the bare exponential it must make."""

from __future__ import annotations

from typing import Any

from benchmarks.helpers.timing import BACKENDS, load, normal, ratio


class Simplex:
    """4,096 groups of 16 candidates."""

    params = BACKENDS
    param_names = ("backend",)

    def setup(self, backend: str) -> None:
        self.simplex = load(backend, "simplex")
        self.logp = normal(backend, 0)
        self.mask = normal(backend, 1) > -1
        self.p, self.q = (self.simplex.softmax(normal(backend, seed)) for seed in (2, 3))

    def time_softmax(self, backend: str) -> None:
        self.simplex.softmax(self.logp)

    def time_softmax_masked(self, backend: str) -> None:
        self.simplex.softmax(self.logp, self.mask)

    def time_log_softmax(self, backend: str) -> None:
        self.simplex.log_softmax(self.logp)

    def time_logsumexp(self, backend: str) -> None:
        self.simplex.logsumexp(self.logp)

    def time_kl(self, backend: str) -> None:
        self.simplex.kl(self.p, self.q)

    def time_entropy(self, backend: str) -> None:
        self.simplex.entropy(self.p)

    def time_tv(self, backend: str) -> None:
        self.simplex.tv(self.p, self.q)

    def time_effective_sample_size(self, backend: str) -> None:
        self.simplex.effective_sample_size(self.p)

    def track_softmax_over_exponentials(self, backend: str) -> float:
        return ratio(lambda: self.simplex.softmax(self.logp), self.exponentials)

    track_softmax_over_exponentials.unit = "ratio"

    def exponentials(self) -> Any:
        """The floor: no softmax makes fewer than one exponential per candidate."""
        if hasattr(self.logp, "exp"):
            return self.logp.exp()
        import numpy as np

        return np.exp(self.logp)
