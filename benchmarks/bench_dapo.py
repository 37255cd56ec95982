"""DAPO beside TPO, and the choice of groups that it keeps."""

from __future__ import annotations

from typing import Any

from benchmarks.helpers.baselines import Baseline
from benchmarks.helpers.timing import BACKENDS, load, normal, ratio


class Dapo(Baseline):
    """The asymmetric clip."""

    stem, rule = "dapo", "dapo"

    def arguments(self, backend: str) -> tuple[Any, ...]:
        return normal(backend, 1), normal(backend, 2)


class Informative:
    """Which of 4,096 groups are kept, beside standardising them."""

    params = BACKENDS
    param_names = ("backend",)

    def setup(self, backend: str) -> None:
        self.dapo, self.standardize = load(backend, "dapo"), load(backend, "standardize")
        self.scores = normal(backend, 0)

    def track_informative_over_standardize(self, backend: str) -> float:
        return ratio(lambda: self.dapo.informative(self.scores), lambda: self.standardize.standardize(self.scores))

    track_informative_over_standardize.unit = "ratio"
