"""TPO and its relatives: a target that standardised scores tilt, and how far the policy is from it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tpo_torch import checks
from tpo_torch.dapo import informative
from tpo_torch.families.base import CANDIDATES, GROUP, MOVED, SCORES, Rule, ScoredGroup, option
from tpo_torch.pg import group_pg_loss
from tpo_torch.scale import SCALES, scale_scores
from tpo_torch.tpo import tpo_coefficients, tpo_loss, tpo_ratio_loss, tpo_target, tpo_weights
from tpo_torch.variants import (
    tpo_length_normalised_loss,
    tpo_no_anchor_loss,
    tpo_reverse_coefficients,
    tpo_reverse_loss,
    tpo_tempered_loss,
)


def score_scale(name: str, x: str) -> str:
    """One of `tpo_torch.scale.SCALES`."""
    checks.choice(name, x, SCALES)
    return x


@dataclass(frozen=True)
class Tilted(Rule):
    """What the rules that tilt by standardised scores share. A subclass gives `_tilted`, which takes u too,
    and `_coefficients` where a closed form keeps more digits."""

    reduction = GROUP
    eta: float = option(1.0, checks.positive, "temperature of the tilt u/η")
    tau: float = option(0.0, checks.non_negative, "noise of the scorer, in the unit of the scores")
    scale: str = option("group_std", score_scale, f"unit of the scores, one of {', '.join(SCALES)}")

    def __post_init__(self) -> None:
        super().__post_init__()
        scale_scores(torch.zeros(1), self.scale, tau=self.tau)

    @property
    def whole_batch(self) -> bool:
        return self.scale == "batch_std"

    def _loss(self, group: ScoredGroup) -> Tensor:
        return self._tilted(group, self._u(group))

    def _gradient(self, group: ScoredGroup) -> Tensor:
        c = self._coefficients(group, self._u(group))
        return super()._gradient(group) if c is None else 0.0 - c

    def _u(self, group: ScoredGroup) -> Tensor:
        u = scale_scores(group.scores, self.scale, group.mask, self.tau)
        return u.to(torch.promote_types(u.dtype, group.logp.dtype))

    def _tilted(self, group: ScoredGroup, u: Tensor) -> Tensor:
        raise NotImplementedError

    def _coefficients(self, group: ScoredGroup, u: Tensor) -> Tensor | None:
        """Minus the gradient in closed form; None where autograd's is as good."""
        return None


@dataclass(frozen=True)
class Tpo(Tilted):
    """Cross-entropy of the group's softmax to the target p_old exp(u/η)."""

    name, source = "tpo", "Paper: Eqs 2-3"

    def _tilted(self, group: ScoredGroup, u: Tensor) -> Tensor:
        q = tpo_target(group.logp_old, u, self.eta, group.mask)
        return tpo_loss(group.logp, q, group.mask)

    def _coefficients(self, group: ScoredGroup, u: Tensor) -> Tensor:
        return tpo_coefficients(group.logp, tpo_target(group.logp_old, u, self.eta, group.mask), group.mask)


@dataclass(frozen=True)
class TpoRatio(Tilted):
    """Cross-entropy of the softmax of log-ratios to softmax(u/η)."""

    name, source, reads = "tpo_ratio", "arXiv:2605.06139, forward", MOVED
    aliases = ("lpo",)

    def _tilted(self, group: ScoredGroup, u: Tensor) -> Tensor:
        return tpo_ratio_loss(group.logp, group.logp_old, tpo_weights(u, self.eta, group.mask), group.mask)

    def _coefficients(self, group: ScoredGroup, u: Tensor) -> Tensor:
        return tpo_coefficients(group.logp - group.logp_old, tpo_weights(u, self.eta, group.mask), group.mask)


@dataclass(frozen=True)
class TpoRatioReverse(Tilted):
    """KL divergence from the softmax of log-ratios to softmax(u/η)."""

    name, source, reads = "tpo_ratio_reverse", "arXiv:2605.06139, reverse", MOVED
    aliases = ("lpo_reverse",)

    def _tilted(self, group: ScoredGroup, u: Tensor) -> Tensor:
        x = group.logp - group.logp_old
        return tpo_reverse_loss(x, torch.zeros_like(x), u, self.eta, group.mask)

    def _coefficients(self, group: ScoredGroup, u: Tensor) -> Tensor:
        x = group.logp - group.logp_old
        return tpo_reverse_coefficients(x, torch.zeros_like(x), u, self.eta, group.mask)


@dataclass(frozen=True)
class TpoNoAnchor(Tilted):
    """Cross-entropy to softmax(u/η), the old policy left out: an ablation with a wrong fixed point."""

    name, source = "tpo_no_anchor", "Paper: Sec. 5, Fig. 8"

    def _tilted(self, group: ScoredGroup, u: Tensor) -> Tensor:
        return tpo_no_anchor_loss(group.logp, tpo_weights(u, self.eta, group.mask), group.mask)


@dataclass(frozen=True)
class TpoTempered(Tilted):
    """TPO with both softmaxes taken at a temperature."""

    name, source = "tpo_tempered", "ours, deviation D5"
    temperature: float = option(1.0, checks.positive, "T of softmax(ℓ/T); η·T keeps the tilt")

    def _tilted(self, group: ScoredGroup, u: Tensor) -> Tensor:
        return tpo_tempered_loss(group.logp, group.logp_old, u, self.eta, self.temperature, group.mask)

    def _coefficients(self, group: ScoredGroup, u: Tensor) -> Tensor:
        q = tpo_target(group.logp_old / self.temperature, u, self.eta, group.mask)
        return tpo_coefficients(group.logp / self.temperature, q, group.mask) / self.temperature


@dataclass(frozen=True)
class TpoLengthNormalised(Tilted):
    """TPO on mean token log-probabilities."""

    name, source = "tpo_length_normalised", "ours, deviation D5"

    @property
    def uses_lengths(self) -> bool:
        return True

    def _tilted(self, group: ScoredGroup, u: Tensor) -> Tensor:
        return tpo_length_normalised_loss(group.logp, group.logp_old, u, group.lengths, self.eta, group.mask)

    def _coefficients(self, group: ScoredGroup, u: Tensor) -> Tensor:
        q = tpo_target(group.logp_old / group.lengths, u, self.eta, group.mask)
        return tpo_coefficients(group.logp / group.lengths, q, group.mask) / group.lengths


@dataclass(frozen=True)
class TpoReverseKl(Tilted):
    """KL divergence from the group's softmax to TPO's target."""

    name, source = "tpo_reverse_kl", "ours, deviation D81"

    def _tilted(self, group: ScoredGroup, u: Tensor) -> Tensor:
        return tpo_reverse_loss(group.logp, group.logp_old, u, self.eta, group.mask)

    def _coefficients(self, group: ScoredGroup, u: Tensor) -> Tensor:
        return tpo_reverse_coefficients(group.logp, group.logp_old, u, self.eta, group.mask)


@dataclass(frozen=True)
class GroupPg(Tilted):
    """TPO's signal without a target: −Σ (u/η) ℓ."""

    name, source, reads, reduction = "group_pg", "Paper: Group PG", SCORES, CANDIDATES

    def _tilted(self, group: ScoredGroup, u: Tensor) -> Tensor:
        return group_pg_loss(group.logp, u, self.eta)


@dataclass(frozen=True)
class Ce(Rule):
    """Cross-entropy to the best candidates, which only an oracle knows; nothing for a group of equal scores."""

    name, source, reduction = "ce", "Paper: CE", GROUP

    def _loss(self, group: ScoredGroup) -> Tensor:
        scores = group.scores.to(group.logp.dtype)
        top = torch.where(group.mask, scores, -math.inf).amax(-1, keepdim=True)
        best = (group.mask & (scores == top)).to(scores.dtype)
        w = best / best.sum(-1, keepdim=True).clamp(min=1)
        return torch.where(informative(group.scores, group.mask), tpo_loss(group.logp, w, group.mask), 0.0)
