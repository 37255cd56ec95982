"""Policy gradients: each log-probability weighted by an advantage, the same however far the policy has moved."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tpo_torch import advantages, checks, dg, pg
from tpo_torch.families.base import SCORES, Rule, ScoredGroup, option, optional


@dataclass(frozen=True)
class Weighted(Rule):
    """What plain policy gradients share: −Σ A ℓ. A subclass gives `_advantages`."""

    reads = SCORES

    def _loss(self, group: ScoredGroup) -> Tensor:
        return pg._pg_loss(group.logp, self._advantages(group))

    def _gradient(self, group: ScoredGroup) -> Tensor:
        return -self._advantages(group)

    def _advantages(self, group: ScoredGroup) -> Tensor:
        raise NotImplementedError


@dataclass(frozen=True)
class Baselined(Rule):
    """What rules share whose advantages are the scores less a baseline."""

    baseline: float | None = option(None, optional(checks.real), "taken off the scores; None for the group's mean")

    def _advantages(self, group: ScoredGroup) -> Tensor:
        if self.baseline is None:
            return advantages._centred(group.scores, group.mask)
        return torch.where(group.mask, group.float_scores - self.baseline, 0.0)


@dataclass(frozen=True)
class Pg(Baselined, Weighted):
    """REINFORCE with a baseline."""

    name, source, aliases = "pg", "Paper: PG", ("reinforce",)


@dataclass(frozen=True)
class Rloo(Weighted):
    """REINFORCE whose baseline is the mean of the other candidates."""

    name, source = "rloo", "RLOO"

    def _advantages(self, group: ScoredGroup) -> Tensor:
        return advantages._rloo(group.scores, group.mask)


@dataclass(frozen=True)
class MaxRl(Weighted):
    """REINFORCE on (s − s̄)/s̄: the gradient of the logarithm of the success rate, for scores 0 and 1."""

    name, source = "maxrl", "MaxRL"

    @property
    def counts_successes(self) -> bool:
        return True

    def _advantages(self, group: ScoredGroup) -> Tensor:
        return advantages._maxrl(group.scores, group.mask)


@dataclass(frozen=True)
class ReinforcePp(Weighted):
    """REINFORCE on scores that are standardised over the whole batch."""

    name, source = "reinforce_pp", "REINFORCE++"

    @property
    def whole_batch(self) -> bool:
        return True

    def _advantages(self, group: ScoredGroup) -> Tensor:
        return advantages._batch_standardised(group.scores, group.mask)


@dataclass(frozen=True)
class ReinforcePpBaseline(Weighted):
    """REINFORCE on scores less their group's mean, in standard deviations of the batch."""

    name, source = "reinforce_pp_baseline", "REINFORCE++, group baseline"

    @property
    def whole_batch(self) -> bool:
        return True

    def _advantages(self, group: ScoredGroup) -> Tensor:
        return advantages._group_centred_batch_standardised(group.scores, group.mask)


@dataclass(frozen=True)
class Dg(Baselined):
    """Policy gradient with a gate: open for surprising good candidates, shut for surprising bad ones."""

    name, source = "dg", "Paper: DG"
    dg_eta: float = option(1.0, checks.positive, "temperature of the gate")

    def _loss(self, group: ScoredGroup) -> Tensor:
        return dg._dg_loss(group.logp, self._advantages(group), self.dg_eta)
