"""Regressions: towards differences of scores, or towards candidates by the weight that their scores give them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tpo_torch import advantages, checks, dapo, pmpo, rebel, regression, simplex, tpo
from tpo_torch.families.base import GROUP, MOVED, SCORES, Rule, ScoredGroup, option, optional
from tpo_torch.families.weighted import Baselined


@dataclass(frozen=True)
class Rebel(Rule):
    """REBEL: differences of log-ratios regressed on differences of scores."""

    name, source, reads, reduction = "rebel", "REBEL", MOVED, GROUP
    eta_r: float = option(1.0, checks.divisor, "nats per unit of score")

    def _loss(self, group: ScoredGroup) -> Tensor:
        return rebel._rebel_loss(group.logp, group.logp_old, group.float_scores, self.eta_r, group.mask)


@dataclass(frozen=True)
class Awr(Baselined):
    """AWR: likelihood weighted by the exponential of the advantage; it raises every candidate."""

    name, source, reads = "awr", "AWR", SCORES
    beta: float = option(1.0, checks.positive, "temperature, in the unit of the scores")
    w_max: float = option(20.0, checks.positive, "largest weight")

    def _loss(self, group: ScoredGroup) -> Tensor:
        return regression._awr_loss(group.logp, self._advantages(group), self.beta, self.w_max, group.mask)


@dataclass(frozen=True)
class Mpo(Rule):
    """MPO: likelihood weighted by softmax(s/η*), η* the temperature that spends a budget of KL divergence."""

    name, source, reads, reduction = "mpo", "MPO", SCORES, GROUP
    epsilon: float = option(0.1, checks.divisor, "budget of KL divergence, in nats")

    def _loss(self, group: ScoredGroup) -> Tensor:
        scores = group.float_scores
        temperature = regression._mpo_temperature(scores, self.epsilon, None, group.mask)
        w = regression._mpo_weights(scores, temperature, None, group.mask)
        return regression._mpo_loss(group.logp, w, group.mask)


@dataclass(frozen=True)
class Pmpo(Rule):
    """PMPO: raise the accepted, lower the rejected, stay near the snapshot.

    A group of equal scores accepts and rejects nothing where the threshold is its own mean.
    """

    name, source, reduction = "pmpo", "PMPO", GROUP
    alpha: float = option(0.5, checks.share, "share of the accepted; only ½ has a fixed point")
    beta: float = option(1.0, checks.non_negative, "weight of the KL divergence to the snapshot")
    threshold: float | None = option(None, optional(checks.real), "accepted above it; None for the group's mean")

    def _loss(self, group: ScoredGroup) -> Tensor:
        if self.threshold is None:
            above = advantages._centred(group.scores, group.mask)
        else:
            above = group.float_scores - self.threshold
        loss = pmpo._pmpo_loss(group.logp, group.logits_old, above > 0, self.alpha, self.beta, group.mask)
        if self.threshold is not None:
            return loss
        old = simplex._softmax(group.logits_old, group.mask)
        pull = self.beta * (tpo._tpo_loss(group.logits, old, group.mask) - simplex._entropy(old))
        return torch.where(dapo._informative(group.scores, group.mask), loss, pull)
