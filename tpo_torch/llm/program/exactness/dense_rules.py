"""The losses of other update rules as their papers write them, for one batch of whole groups; torch alone.

As `dense`, which takes them: nothing of ours, so that an error of the rules cannot be repeated here. Each is the mean
over the candidates of a group, or what its paper sums over one; scores are not constant where a rule divides by their
spread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# log-probabilities now and at the snapshot, rewards, lengths: (K,) each, and the rewards of the whole batch.
Loss = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def _clipped(ratio: Tensor, advantage: Tensor, low: float, high: float) -> Tensor:
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage).mean()


def _grpo_advantage(rewards: Tensor) -> Tensor:
    return (rewards - rewards.mean()) / (rewards.std(correction=0) + 1e-4)


def rloo(logp: Tensor, old: Tensor, rewards: Tensor, lengths: Tensor, batch: Tensor) -> Tensor:
    """REINFORCE, the baseline of each candidate being the mean of the others."""
    count = len(rewards)
    others = (rewards.sum() - rewards) / max(count - 1, 1)
    return -((rewards - others) * logp).mean() if count > 1 else 0 * logp.mean()


def maxrl(logp: Tensor, old: Tensor, rewards: Tensor, lengths: Tensor, batch: Tensor) -> Tensor:
    """REINFORCE on the rewards over their mean."""
    mean = rewards.mean()
    return -((rewards / mean - 1) * logp).mean() if mean > 0 else 0 * logp.mean()


def dr_grpo(logp: Tensor, old: Tensor, rewards: Tensor, lengths: Tensor, batch: Tensor) -> Tensor:
    """PPO on the rewards less their mean."""
    return _clipped((logp - old).exp(), rewards - rewards.mean(), 0.2, 0.2)


def gspo(logp: Tensor, old: Tensor, rewards: Tensor, lengths: Tensor, batch: Tensor) -> Tensor:
    """PPO on the geometric mean of the ratios of a completion's tokens."""
    return _clipped(((logp - old) / lengths).exp(), _grpo_advantage(rewards), 3e-4, 4e-4)


def grpo(logp: Tensor, old: Tensor, rewards: Tensor, lengths: Tensor, batch: Tensor) -> Tensor:
    """PPO on standardised rewards, and .04 of the penalty k3, with one ratio for a completion."""
    penalty = ((old - logp).exp() - (old - logp) - 1).mean()
    return _clipped((logp - old).exp(), _grpo_advantage(rewards), 0.2, 0.2) + 0.04 * penalty


def dg(logp: Tensor, old: Tensor, rewards: Tensor, lengths: Tensor, batch: Tensor) -> Tensor:
    """REINFORCE with a gate that is open where a reward surprises."""
    advantage = rewards - rewards.mean()
    gate = torch.sigmoid(advantage * -logp).detach()
    return -(gate * advantage * logp).mean()


def rebel(logp: Tensor, old: Tensor, rewards: Tensor, lengths: Tensor, batch: Tensor) -> Tensor:
    """Half the mean square over all pairs of what their log-ratios miss of their rewards."""
    off = (logp - old) - rewards
    return ((off[:, None] - off[None, :]) ** 2).mean() / 2


def pmpo(logp: Tensor, old: Tensor, rewards: Tensor, lengths: Tensor, batch: Tensor) -> Tensor:
    """Half of those above the mean up, half of the others down, and the divergence from the snapshot."""
    anchor, now = torch.log_softmax(old, -1), torch.log_softmax(logp, -1)
    pull = (anchor.exp() * (anchor - now)).sum()
    good = rewards > rewards.mean()
    if rewards.max() <= rewards.min():
        return pull
    return (logp[~good].mean() - logp[good].mean()) / 2 + pull


def reinforce_pp(logp: Tensor, old: Tensor, rewards: Tensor, lengths: Tensor, batch: Tensor) -> Tensor:
    """REINFORCE on rewards standardised over the batch."""
    return -((rewards - batch.mean()) / batch.std(correction=0) * logp).mean()


LOSSES: dict[str, Loss] = {f.__name__: f for f in (rloo, maxrl, dr_grpo, gspo, grpo, dg, rebel, pmpo, reinforce_pp)}


def losses(rule: str, groups: Sequence[tuple[Tensor, Tensor, Tensor, Tensor]]) -> list[Tensor]:
    """The loss of each group under a rule; of one without members, 0.

    Args: rule, a name of `LOSSES`; groups, log-probabilities now and at the snapshot, rewards and lengths of each.
    """
    batch = torch.cat([rewards for _, _, rewards, _ in groups])
    return [LOSSES[rule](*group, batch) if len(group[0]) else group[0].sum() for group in groups]
