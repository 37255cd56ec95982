"""Clipped ratios: policy gradients that stop paying once a candidate has moved far enough."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tpo_torch import advantages, checks, dapo, grpo, gspo, ppo
from tpo_torch.families.base import MOVED, Rule, ScoredGroup, option, optional
from tpo_torch.families.weighted import Baselined


@dataclass(frozen=True)
class Ppo(Baselined):
    """PPO's clipped ratio on scores less a baseline."""

    name, source, reads = "ppo", "Paper: PPO", MOVED
    epsilon: float = option(0.2, checks.non_negative, "width of the clip")

    def _loss(self, group: ScoredGroup) -> Tensor:
        return ppo._ppo_loss(group.logp, group.logp_old, self._advantages(group), self.epsilon)

    def _gradient(self, group: ScoredGroup) -> Tensor:
        return ppo._ppo_grad(group.logp, group.logp_old, self._advantages(group), self.epsilon)


@dataclass(frozen=True)
class DrGrpo(Rule):
    """PPO's clipped ratio on scores less their group's mean."""

    name, source, reads = "dr_grpo", "Dr. GRPO", MOVED
    epsilon: float = option(0.2, checks.non_negative, "width of the clip")

    def _loss(self, group: ScoredGroup) -> Tensor:
        a = advantages._centred(group.scores, group.mask)
        return ppo._ppo_loss(group.logp, group.logp_old, a, self.epsilon)


@dataclass(frozen=True)
class Informed(Rule):
    """What rules share that may leave out groups of equal scores, and then average over the others."""

    drop_idle: bool = option(False, checks.truth, "leave out groups of equal scores; the mean is over the others")

    @property
    def whole_batch(self) -> bool:
        return self.drop_idle

    def _weight(self, group: ScoredGroup) -> Tensor:
        """(…): 0 for a group that is left out, else how much the others count for it."""
        if not self.drop_idle:
            return torch.ones((), dtype=group.logp.dtype, device=group.logp.device)
        told = dapo._informative(group.scores, group.mask)
        kept = told.to(group.logp.dtype)
        return kept * (kept.numel() / kept.sum().clamp(min=1))


@dataclass(frozen=True)
class Grpo(Informed):
    """GRPO: the clipped ratio on standardised scores, and a penalty for leaving the snapshot."""

    name, source, reads = "grpo", "Paper: GRPO", MOVED
    epsilon: float = option(0.2, checks.non_negative, "width of the clip")
    beta: float = option(0.04, checks.non_negative, "weight of the penalty k3")
    epsilon_std: float = option(1e-4, checks.non_negative, "added to the standard deviation")
    log_ratio_limit: float | None = option(None, optional(checks.positive), "clamp on |ℓ − ℓ_old|; None for none")

    def _loss(self, group: ScoredGroup) -> Tensor:
        a = advantages._group_standardised(group.scores, self.epsilon_std, group.mask)
        near, _ = self._near(group)
        return grpo._grpo_loss(near, group.logp_old, a, self.epsilon, self.beta) * self._weight(group)

    def _gradient(self, group: ScoredGroup) -> Tensor:
        a = advantages._group_standardised(group.scores, self.epsilon_std, group.mask)
        near, inside = self._near(group)
        g = grpo._grpo_grad(near, group.logp_old, a, self.epsilon, self.beta)
        return torch.where(inside, g, 0.0) * self._weight(group).unsqueeze(-1)

    def _near(self, group: ScoredGroup) -> tuple[Tensor, Tensor]:
        """Log-probabilities no further from the snapshot than the limit, and which of them have a slope."""
        if self.log_ratio_limit is None:
            return group.logp, group.mask
        x, limit = group.logp - group.logp_old, self.log_ratio_limit
        return group.logp_old + x.clamp(-limit, limit), x.abs() <= limit


@dataclass(frozen=True)
class GrpoNoKl(Grpo):
    """GRPO without its penalty."""

    name = "grpo_no_kl"
    beta: float = option(0.0, checks.non_negative, "weight of the penalty k3")


@dataclass(frozen=True)
class GrpoMasked(Grpo):
    """GRPO with groups of equal scores left out."""

    name = "grpo_masked"
    drop_idle: bool = option(True, checks.truth, "leave out groups of equal scores; the mean is over the others")


@dataclass(frozen=True)
class Dapo(Informed):
    """DAPO: a clip that is wider above than below, and groups of equal scores left out."""

    name, source, reads = "dapo", "DAPO", MOVED
    drop_idle: bool = option(True, checks.truth, "leave out groups of equal scores; the mean is over the others")
    epsilon_low: float = option(0.2, checks.non_negative, "width of the clip below 1")
    epsilon_high: float = option(0.28, checks.non_negative, "width of the clip above 1")
    epsilon_std: float = option(1e-4, checks.non_negative, "added to the standard deviation")

    def _loss(self, group: ScoredGroup) -> Tensor:
        a = advantages._group_standardised(group.scores, self.epsilon_std, group.mask)
        each = dapo._dapo_loss(group.logp, group.logp_old, a, self.epsilon_low, self.epsilon_high)
        return each * self._weight(group)


@dataclass(frozen=True)
class Gspo(Rule):
    """GSPO: the clipped ratio of a whole sequence, per token of it."""

    name, source, reads = "gspo", "GSPO", MOVED
    epsilon_low: float = option(3e-4, checks.non_negative, "width of the clip below 1")
    epsilon_high: float = option(4e-4, checks.non_negative, "width of the clip above 1")
    epsilon_std: float = option(1e-4, checks.non_negative, "added to the standard deviation")

    @property
    def uses_lengths(self) -> bool:
        return True

    def _loss(self, group: ScoredGroup) -> Tensor:
        a = advantages._group_standardised(group.scores, self.epsilon_std, group.mask)
        return gspo._gspo_loss(group.logp, group.logp_old, a, group.lengths, self.epsilon_low, self.epsilon_high)
