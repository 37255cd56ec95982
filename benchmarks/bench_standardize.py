"""Standardised scores in both backends, and beside the mean and standard deviation they must compute."""

from __future__ import annotations

from benchmarks.helpers.timing import BACKENDS, load, normal, ratio


class Standardize:
    """4,096 groups of 16 scores."""

    params = BACKENDS
    param_names = ("backend",)

    def setup(self, backend: str) -> None:
        self.standardize = load(backend, "standardize").standardize
        self.scores = normal(backend, 0)
        self.mask = normal(backend, 1) > -1

    def time_standardize(self, backend: str) -> None:
        self.standardize(self.scores)

    def time_standardize_masked(self, backend: str) -> None:
        self.standardize(self.scores, self.mask)

    def time_standardize_shrunk(self, backend: str) -> None:
        self.standardize(self.scores, tau=0.1)

    def track_over_mean_and_deviation(self, backend: str) -> float:
        return ratio(lambda: self.standardize(self.scores), self.moments)

    track_over_mean_and_deviation.unit = "ratio"

    def moments(self) -> None:
        """The floor: one pass for the mean, one for the deviation."""
        self.scores.mean(-1)
        self.scores.std(-1)
