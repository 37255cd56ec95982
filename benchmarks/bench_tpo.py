"""TPO in both backends: its steps, loss with gradient beside one softmax, and the exact saving of merging copies."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import special

from benchmarks.helpers.timing import BACKENDS, SHAPE, load, normal, ratio

# Late in training a group of 16 holds about this many distinct candidates.
DISTINCT = 4


class Tpo:
    """4,096 groups of 16 candidates."""

    params = BACKENDS
    param_names = ("backend",)

    def setup(self, backend: str) -> None:
        self.tpo = load(backend, "tpo")
        self.logp, self.logp_old, self.scores = (normal(backend, seed) for seed in range(3))
        self.u = load(backend, "standardize").standardize(self.scores)
        self.q = self.tpo.tpo_target(self.logp_old, self.u)
        self.w = self.tpo.tpo_weights(self.u)
        self.c = self.tpo.tpo_coefficients(self.logp, self.q)
        if backend == "torch":
            self.logp.requires_grad_()

    def time_target(self, backend: str) -> None:
        self.tpo.tpo_target(self.logp_old, self.u)

    def time_loss(self, backend: str) -> None:
        self.tpo.tpo_loss(self.logp, self.q)

    def time_ratio_loss(self, backend: str) -> None:
        self.tpo.tpo_ratio_loss(self.logp, self.logp_old, self.w)

    def time_objective(self, backend: str) -> None:
        self.tpo.tpo_objective(self.q, self.logp_old, self.u)

    def time_coefficients(self, backend: str) -> None:
        self.tpo.tpo_coefficients(self.logp, self.q)

    def time_surrogate_loss(self, backend: str) -> None:
        self.tpo.tpo_surrogate_loss(self.logp, self.c)

    def time_loss_and_gradient(self, backend: str) -> None:
        self.loss_and_gradient()

    def time_whole_update(self, backend: str) -> None:
        self.tpo.tpo(self.logp, self.logp_old, self.scores)

    def track_loss_and_gradient_over_softmax(self, backend: str) -> float:
        return ratio(self.loss_and_gradient, self.softmax)

    track_loss_and_gradient_over_softmax.unit = "ratio"

    def track_whole_update_over_softmax(self, backend: str) -> float:
        return ratio(lambda: self.tpo.tpo(self.logp, self.logp_old, self.scores), self.softmax)

    track_whole_update_over_softmax.unit = "ratio"

    def loss_and_gradient(self) -> Any:
        loss = self.tpo.tpo_loss(self.logp, self.q)
        if hasattr(self.tpo, "tpo_grad"):
            return self.tpo.tpo_grad(self.logp, self.q)
        self.logp.grad = None
        return loss.sum().backward()

    def softmax(self) -> Any:
        """The floor: the group distribution over the same array, unchecked, by the library alone."""
        if hasattr(self.logp, "detach"):
            return self.logp.detach().softmax(-1)
        return special.softmax(self.logp, axis=-1)


class Copies:
    """Sixteen candidates of which four are distinct, against the four with their counts: the same gradient."""

    params = BACKENDS
    param_names = ("backend",)

    def setup(self, backend: str) -> None:
        self.tpo = load(backend, "tpo")
        self.merged = self.group(backend, (SHAPE[0], DISTINCT))
        self.copied = self.group(backend, SHAPE)

    def group(self, backend: str, shape: tuple[int, ...]) -> tuple[Any, Any]:
        logp, old, scores = (normal(backend, seed, shape) for seed in range(3))
        return logp, self.tpo.tpo_target(old, scores)

    def track_merged_over_copied(self, backend: str) -> float:
        return ratio(lambda: self.tpo.tpo_loss(*self.merged), lambda: self.tpo.tpo_loss(*self.copied))

    track_merged_over_copied.unit = "ratio"


class Wide:
    """One group of all 65,536 candidates, as in full enumeration."""

    params = BACKENDS
    param_names = ("backend",)

    def setup(self, backend: str) -> None:
        shape = (1, int(np.prod(SHAPE)))
        self.tpo = load(backend, "tpo")
        self.logp, self.scores = (normal(backend, seed, shape) for seed in range(2))

    def time_whole_update(self, backend: str) -> None:
        self.tpo.tpo(self.logp, self.logp, self.scores)
