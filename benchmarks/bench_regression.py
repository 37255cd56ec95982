"""AWR and MPO beside TPO, and the search for a temperature."""

from __future__ import annotations

from typing import Any

from benchmarks.helpers.baselines import Baseline
from benchmarks.helpers.timing import BACKENDS, load, normal

GROUPS = (256, 16)
BUDGET = 0.1


class Awr(Baseline):
    """Exponential weights."""

    stem, rule = "regression", "awr"

    def arguments(self, backend: str) -> tuple[Any, ...]:
        return (normal(backend, 1),)


class Mpo(Baseline):
    """Given weights."""

    stem, rule = "regression", "mpo"

    def arguments(self, backend: str) -> tuple[Any, ...]:
        return (load(backend, "tpo").tpo_weights(normal(backend, 1)),)


class Temperature:
    """256 temperatures: a root for each group in NumPy, a fixed number of bisections of all in torch."""

    params = BACKENDS
    param_names = ("backend",)

    def setup(self, backend: str) -> None:
        self.regression = load(backend, "regression")
        self.scores = normal(backend, 0, GROUPS)

    def time_temperature(self, backend: str) -> None:
        self.regression.mpo_temperature(self.scores, BUDGET)
