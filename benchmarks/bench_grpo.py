"""GRPO beside TPO, per sequence and per token."""

from __future__ import annotations

from typing import Any

from benchmarks.helpers.baselines import Baseline
from benchmarks.helpers.timing import BACKENDS, load, normal, ratio

TOKENS = (256, 16, 64)


class Grpo(Baseline):
    """One ratio for each candidate."""

    stem, rule = "grpo", "grpo"

    def arguments(self, backend: str) -> tuple[Any, ...]:
        return normal(backend, 1), normal(backend, 2)


class GrpoToken:
    """256 groups of 16 candidates of 64 tokens, a ragged mask: time of the loss."""

    params = BACKENDS
    param_names = ("backend",)

    def setup(self, backend: str) -> None:
        self.grpo = load(backend, "grpo")
        self.logp, self.logp_old = normal(backend, 0, TOKENS), normal(backend, 1, TOKENS)
        self.advantages, self.mask = normal(backend, 2, TOKENS[:-1]), normal(backend, 3, TOKENS) > 0

    def time_token_loss(self, backend: str) -> None:
        self.token_loss()

    def track_token_over_sequence(self, backend: str) -> float:
        return ratio(self.token_loss, self.flat_loss)

    track_token_over_sequence.unit = "ratio"

    def token_loss(self) -> Any:
        return self.grpo.grpo_token_loss(self.logp, self.logp_old, self.advantages, self.mask)

    def flat_loss(self) -> Any:
        """The same number of ratios without tokens, mask or weights."""
        return self.grpo.grpo_loss(self.logp, self.logp_old, self.logp)
