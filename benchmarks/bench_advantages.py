"""Every advantage estimator beside `standardize`, whose meaning of a constant group they use."""

from __future__ import annotations

from typing import Any

from benchmarks.helpers.timing import BACKENDS, load, normal, ratio

ESTIMATORS = (
    "centred",
    "rloo",
    "group_standardised",
    "maxrl",
    "batch_standardised",
    "group_centred_batch_standardised",
)


class Advantages:
    """4,096 groups of 16 candidates."""

    params = (BACKENDS, ESTIMATORS)
    param_names = ("backend", "estimator")

    def setup(self, backend: str, estimator: str) -> None:
        self.estimator: Any = getattr(load(backend, "advantages"), estimator)
        self.standardize: Any = load(backend, "standardize").standardize
        self.scores = abs(normal(backend, 0))

    def time_estimator(self, backend: str, estimator: str) -> None:
        self.estimator(self.scores)

    def track_over_standardize(self, backend: str, estimator: str) -> float:
        return ratio(lambda: self.estimator(self.scores), lambda: self.standardize(self.scores))

    track_over_standardize.unit = "ratio"
