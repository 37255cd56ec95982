"""Regressions: towards differences of scores, or towards candidates by the weight that their scores give them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tpo_ref import advantages, checks
from tpo_ref.checks import Floats
from tpo_ref.dapo import informative
from tpo_ref.families.base import GROUP, MOVED, SCORES, Rule, ScoredGroup, option, optional, share
from tpo_ref.families.weighted import Baselined
from tpo_ref.pmpo import pmpo_grad
from tpo_ref.rebel import rebel_grad
from tpo_ref.regression import awr_grad, mpo_grad, mpo_temperature, mpo_weights
from tpo_ref.simplex import softmax
from tpo_ref.tpo import tpo_grad


@dataclass(frozen=True)
class Rebel(Rule):
    """REBEL: differences of log-ratios regressed on differences of scores."""

    name, source, reads, reduction = "rebel", "REBEL", MOVED, GROUP
    eta_r: float = option(1.0, checks.divisor, "nats per unit of score")

    def _gradient(self, group: ScoredGroup) -> Floats:
        return rebel_grad(group.logp, group.logp_old, group.scores, self.eta_r, group.mask)


@dataclass(frozen=True)
class Awr(Baselined):
    """AWR: likelihood weighted by the exponential of the advantage; it raises every candidate."""

    name, source, reads = "awr", "AWR", SCORES
    beta: float = option(1.0, checks.positive, "temperature, in the unit of the scores")
    w_max: float = option(20.0, checks.positive, "largest weight")

    def _gradient(self, group: ScoredGroup) -> Floats:
        return awr_grad(group.logp, self._advantages(group), self.beta, self.w_max, group.mask)


@dataclass(frozen=True)
class Mpo(Rule):
    """MPO: likelihood weighted by softmax(s/η*), η* the temperature that spends a budget of KL divergence."""

    name, source, reads, reduction = "mpo", "MPO", SCORES, GROUP
    epsilon: float = option(0.1, checks.divisor, "budget of KL divergence, in nats")

    def _gradient(self, group: ScoredGroup) -> Floats:
        temperature = mpo_temperature(group.scores, self.epsilon, None, group.mask)
        return mpo_grad(group.logp, mpo_weights(group.scores, temperature, None, group.mask), group.mask)


@dataclass(frozen=True)
class Pmpo(Rule):
    """PMPO: raise the accepted, lower the rejected, stay near the snapshot.

    A group of equal scores accepts and rejects nothing where the threshold is its own mean.
    """

    name, source, reduction = "pmpo", "PMPO", GROUP
    alpha: float = option(0.5, share, "share of the accepted; only ½ has a fixed point")
    beta: float = option(1.0, checks.non_negative, "weight of the KL divergence to the snapshot")
    threshold: float | None = option(None, optional(checks.real), "accepted above it; None for the group's mean")

    def _gradient(self, group: ScoredGroup) -> Floats:
        if self.threshold is None:
            above = advantages.centred(group.scores, group.mask)
        else:
            above = group.scores - self.threshold
        g = pmpo_grad(group.logp, group.logp_old, above > 0, self.alpha, self.beta, group.mask)
        if self.threshold is not None:
            return g
        pull = self.beta * tpo_grad(group.logp, softmax(group.logp_old, group.mask), group.mask)
        return np.asarray(np.where(informative(group.scores, group.mask)[..., None], g, pull))
