"""DAPO: PPO with more room upwards than downwards, and no update from groups that say nothing. Last axis = group."""

from __future__ import annotations

import torch
from torch import Tensor

from tpo_torch import checks, standardize
from tpo_torch.ppo import clipped_objective


def dapo_loss(
    logp: Tensor,
    logp_old: Tensor,
    advantages: Tensor,
    epsilon_low: float = 0.2,
    epsilon_high: float = 0.28,
) -> Tensor:
    """Clipped policy gradient whose clip is wider above than below.

    Paper: DAPO

    L = −Σ min(r_i A_i, clip(r_i, 1−ε_low, 1+ε_high) A_i); one ratio per candidate, summed (deviation D33). Groups with
    `informative` False are to be dropped from the batch: their loss is 0, yet they would still be averaged over.
    Autograd gives ∂L/∂ℓ_i = −A_i r_i 1_i with 1_i from `inside_clip`.

    Args: logp, logp_old (…, K) in nats, finite; advantages (…, K); epsilon_low, epsilon_high ≥ 0. A masked candidate is
        given as logp = logp_old, A = 0, and contributes exactly nothing.
    Returns: (…), one loss per group; inf where r of an A < 0 overflows.
    Raises: TypeError, ValueError for a bad dtype, shape or epsilon, NaN or infinity.

    >>> dapo_loss(torch.tensor([0.0, -2.0]), torch.tensor([-1.0, -2.0]), torch.tensor([1.0, -1.0]))
    tensor(-0.2800)
    """
    low, high = checks.non_negative("epsilon_low", epsilon_low), checks.non_negative("epsilon_high", epsilon_high)
    return _dapo_loss(*checks.rollout(logp, logp_old, advantages), low, high)


def informative(scores: Tensor, mask: Tensor | None = None) -> Tensor:
    """Which groups DAPO's dynamic sampling keeps.

    Paper: DAPO

    True where the scores of a group differ, "differ" meaning what it means in `standardize`: ptp(s) > 8·eps·max|s|.

    Args: scores (…, K); mask (…, K) bool, False = no candidate here.
    Returns: (…) bool; False for a group of one and for a group that is masked throughout.
    Raises: TypeError, ValueError for NaN or infinite scores, a bad dtype, shape or mask.

    >>> informative(torch.tensor([[1.0, 0.0], [0.1, 0.1]]))
    tensor([ True, False])
    """
    s, keep = checks.group("scores", scores, mask, checks.scores)
    return _informative(s, keep)


# -- what is computed, of tensors that were checked ----------------------------------------------------------------
# Their masked entries are 0.


def _dapo_loss(logp: Tensor, logp_old: Tensor, advantages: Tensor, epsilon_low: float, epsilon_high: float) -> Tensor:
    x = logp - logp_old.detach()
    return -clipped_objective(x, advantages.detach(), epsilon_low, epsilon_high).sum(-1)


def _informative(scores: Tensor, mask: Tensor) -> Tensor:
    return torch.ne(standardize._standardize(scores, mask), 0).any(-1)
