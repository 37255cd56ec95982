"""The other forms of TPO in both backends, each loss beside TPO's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.helpers.timing import BACKENDS, load, normal, ratio

RULES = ("no_anchor", "tempered", "length_normalised", "reverse_kl", "reverse")


class Variants:
    """4,096 groups of 16 candidates."""

    params = (BACKENDS, RULES)
    param_names = ("backend", "rule")

    def setup(self, backend: str, rule: str) -> None:
        tpo, variants = load(backend, "tpo"), load(backend, "variants")
        logp, old, scores = (normal(backend, seed) for seed in range(3))
        u = load(backend, "standardize").standardize(scores)
        w, lengths = tpo.tpo_weights(u), 1 + 100 * abs(normal(backend, 3))
        arguments = {
            "no_anchor": (w,),
            "tempered": (old, u),
            "length_normalised": (old, u, lengths),
            "reverse_kl": (w,),
            "reverse": (old, u),
        }
        loss = getattr(variants, f"tpo_{rule}_loss")
        self.loss: Callable[[], Any] = lambda: loss(logp, *arguments[rule])
        self.plain: Callable[[], Any] = lambda: tpo.tpo_loss(logp, w)

    def time_loss(self, backend: str, rule: str) -> None:
        self.loss()

    def track_loss_over_tpo(self, backend: str, rule: str) -> float:
        return ratio(self.loss, self.plain)

    track_loss_over_tpo.unit = "ratio"
