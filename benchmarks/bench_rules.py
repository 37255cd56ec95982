"""Every rule as an object, beside TPO: what a gradient of 4,096 groups of 16 costs."""

from __future__ import annotations

from benchmarks.helpers.timing import BACKENDS, load, normal, ratio
from tpo_ref.rules import RULES


class Gradient:
    """4,096 groups of 16 candidates; scores are not negative, as MaxRL wants them."""

    params = (BACKENDS, tuple(RULES))
    param_names = ("backend", "rule")

    def setup(self, backend: str, rule: str) -> None:
        rules = load(backend, "rules")
        self.rule, self.tpo = rules.named(rule), rules.named("tpo")
        logp, logp_old, scores = (normal(backend, seed) for seed in range(3))
        self.given = (logp, logp_old, abs(scores))

    def time_gradient(self, backend: str, rule: str) -> None:
        self.rule.gradient(*self.given)

    def track_gradient_over_tpo(self, backend: str, rule: str) -> float:
        return ratio(lambda: self.rule.gradient(*self.given), lambda: self.tpo.gradient(*self.given))

    track_gradient_over_tpo.unit = "ratio"
