"""The listwise update in both backends, each divergence beside TPO."""

from __future__ import annotations

from benchmarks.helpers.timing import BACKENDS, load, normal, ratio

DIVERGENCES = ("forward", "reverse")


class Listwise:
    """4,096 groups of 16 candidates."""

    params = (BACKENDS, DIVERGENCES)
    param_names = ("backend", "divergence")

    def setup(self, backend: str, divergence: str) -> None:
        self.lpo_loss, self.tpo = load(backend, "lpo").lpo_loss, load(backend, "tpo").tpo
        self.given = tuple(normal(backend, seed) for seed in range(3))

    def time_loss(self, backend: str, divergence: str) -> None:
        self.lpo_loss(*self.given, divergence=divergence)

    def track_loss_over_tpo(self, backend: str, divergence: str) -> float:
        return ratio(lambda: self.lpo_loss(*self.given, divergence=divergence), lambda: self.tpo(*self.given))

    track_loss_over_tpo.unit = "ratio"
