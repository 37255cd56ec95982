"""TPO and its relatives: a target that standardised scores tilt, and how far the policy is from it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tpo_torch import checks, dapo, pg, scale, tpo, variants
from tpo_torch.families.base import CANDIDATES, GROUP, MOVED, SCORES, Rule, ScoredGroup, option


def score_scale(name: str, x: str) -> str:
    """One of `tpo_torch.scale.SCALES`."""
    checks.choice(name, x, scale.SCALES)
    return x


@dataclass(frozen=True)
class Tilted(Rule):
    """What the rules that tilt by standardised scores share. A subclass gives `_tilted`, a loss that takes u too, and
    `_coefficients`, minus its gradient in closed form, which keeps more digits than autograd."""

    reduction = GROUP
    eta: float = option(1.0, checks.positive, "temperature of the tilt u/η")
    tau: float = option(0.0, checks.non_negative, "noise of the scorer, in the unit of the scores")
    scale: str = option("group_std", score_scale, f"unit of the scores, one of {', '.join(scale.SCALES)}")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tau and self.scale not in scale.WITH_NOISE:
            raise ValueError(f"tau: got {self.tau:g}, expected 0 under scale {self.scale!r}, which has no deviation")

    @property
    def whole_batch(self) -> bool:
        return self.scale == "batch_std"

    @property
    def counts_successes(self) -> bool:
        return self.scale == "group_mean"

    def _loss(self, group: ScoredGroup) -> Tensor:
        return self._tilted(group, self._u(group))

    def _gradient(self, group: ScoredGroup) -> Tensor:
        return 0.0 - self._coefficients(group, self._u(group))

    def _u(self, group: ScoredGroup) -> Tensor:
        u = scale._scale_scores(group.scores, self.scale, group.mask, self.tau)
        return u.to(torch.promote_types(u.dtype, group.logp.dtype))

    def _tilted(self, group: ScoredGroup, u: Tensor) -> Tensor:
        raise NotImplementedError

    def _coefficients(self, group: ScoredGroup, u: Tensor) -> Tensor:
        raise NotImplementedError


@dataclass(frozen=True)
class Tpo(Tilted):
    """Cross-entropy of the group's softmax to the target p_old exp(u/η)."""

    name, source = "tpo", "Paper: Eqs 2-3"
    impossible = True

    def _tilted(self, group: ScoredGroup, u: Tensor) -> Tensor:
        q = tpo._tpo_target(group.logits_old, u, self.eta, group.mask)
        return tpo._tpo_loss(group.logits, q, group.mask)

    def _coefficients(self, group: ScoredGroup, u: Tensor) -> Tensor:
        q = tpo._tpo_target(group.logits_old, u, self.eta, group.mask)
        return tpo._tpo_coefficients(group.logits, q, group.mask)


@dataclass(frozen=True)
class TpoRatio(Tilted):
    """Cross-entropy of the softmax of log-ratios to softmax(u/η)."""

    name, source, reads = "tpo_ratio", "arXiv:2605.06139, forward", MOVED
    aliases = ("lpo",)

    def _tilted(self, group: ScoredGroup, u: Tensor) -> Tensor:
        return tpo._tpo_ratio_loss(group.logits, group.logp_old, tpo._tpo_weights(u, self.eta, group.mask), group.mask)

    def _coefficients(self, group: ScoredGroup, u: Tensor) -> Tensor:
        w = tpo._tpo_weights(u, self.eta, group.mask)
        return tpo._tpo_coefficients(group.logits - group.logp_old, w, group.mask)


@dataclass(frozen=True)
class TpoRatioReverse(Tilted):
    """KL divergence from the softmax of log-ratios to softmax(u/η)."""

    name, source, reads = "tpo_ratio_reverse", "arXiv:2605.06139, reverse", MOVED
    aliases = ("lpo_reverse",)

    def _tilted(self, group: ScoredGroup, u: Tensor) -> Tensor:
        x = group.logits - group.logp_old
        return variants._tpo_reverse_loss(x, torch.zeros_like(x), u, self.eta, group.mask)

    def _coefficients(self, group: ScoredGroup, u: Tensor) -> Tensor:
        x = group.logits - group.logp_old
        return variants._tpo_reverse_coefficients(x, torch.zeros_like(x), u, self.eta, group.mask)


@dataclass(frozen=True)
class TpoNoAnchor(Tilted):
    """Cross-entropy to softmax(u/η), the old policy left out: an ablation with a wrong fixed point."""

    name, source = "tpo_no_anchor", "Paper: Sec. 5, Fig. 8"
    impossible = True

    def _tilted(self, group: ScoredGroup, u: Tensor) -> Tensor:
        return variants._tpo_no_anchor_loss(group.logits, tpo._tpo_weights(u, self.eta, group.mask), group.mask)

    def _coefficients(self, group: ScoredGroup, u: Tensor) -> Tensor:
        return tpo._tpo_coefficients(group.logits, tpo._tpo_weights(u, self.eta, group.mask), group.mask)


@dataclass(frozen=True)
class TpoTempered(Tilted):
    """TPO with both softmaxes taken at a temperature."""

    name, source = "tpo_tempered", "ours, deviation D5"
    impossible = True
    temperature: float = option(1.0, checks.positive, "T of softmax(ℓ/T); η·T keeps the tilt")

    def _tilted(self, group: ScoredGroup, u: Tensor) -> Tensor:
        return variants._tpo_tempered_loss(group.logits, group.logits_old, u, self.eta, self.temperature, group.mask)

    def _coefficients(self, group: ScoredGroup, u: Tensor) -> Tensor:
        q = tpo._tpo_target(group.logits_old / self.temperature, u, self.eta, group.mask)
        return tpo._tpo_coefficients(group.logits / self.temperature, q, group.mask) / self.temperature


@dataclass(frozen=True)
class TpoLengthNormalised(Tilted):
    """TPO on mean token log-probabilities."""

    name, source = "tpo_length_normalised", "ours, deviation D5"
    impossible = True

    @property
    def uses_lengths(self) -> bool:
        return True

    def _tilted(self, group: ScoredGroup, u: Tensor) -> Tensor:
        return variants._tpo_length_normalised_loss(
            group.logits, group.logits_old, u, group.lengths, self.eta, group.mask
        )

    def _coefficients(self, group: ScoredGroup, u: Tensor) -> Tensor:
        q = tpo._tpo_target(group.logits_old / group.lengths, u, self.eta, group.mask)
        return tpo._tpo_coefficients(group.logits / group.lengths, q, group.mask) / group.lengths


@dataclass(frozen=True)
class TpoReverseKl(Tilted):
    """KL divergence from the group's softmax to TPO's target."""

    name, source = "tpo_reverse_kl", "ours, deviation D81"

    def _tilted(self, group: ScoredGroup, u: Tensor) -> Tensor:
        return variants._tpo_reverse_loss(group.logits, group.logp_old, u, self.eta, group.mask)

    def _coefficients(self, group: ScoredGroup, u: Tensor) -> Tensor:
        return variants._tpo_reverse_coefficients(group.logits, group.logp_old, u, self.eta, group.mask)


@dataclass(frozen=True)
class GroupPg(Tilted):
    """TPO's signal without a target: −Σ (u/η) ℓ."""

    name, source, reads, reduction = "group_pg", "Paper: Group PG", SCORES, CANDIDATES

    def _tilted(self, group: ScoredGroup, u: Tensor) -> Tensor:
        return pg._group_pg_loss(group.logp, u, self.eta)

    def _coefficients(self, group: ScoredGroup, u: Tensor) -> Tensor:
        return u / self.eta


@dataclass(frozen=True)
class Ce(Rule):
    """Cross-entropy to the best candidates, which only an oracle knows; nothing for a group of equal scores."""

    name, source, reduction = "ce", "Paper: CE", GROUP
    impossible = True

    def _loss(self, group: ScoredGroup) -> Tensor:
        scores = group.float_scores
        top = torch.where(group.mask, scores, -math.inf).amax(-1, keepdim=True)
        best = (group.mask & (scores == top)).to(scores.dtype)
        w = best / best.sum(-1, keepdim=True).clamp(min=1)
        return torch.where(dapo._informative(group.scores, group.mask), tpo._tpo_loss(group.logits, w, group.mask), 0.0)
