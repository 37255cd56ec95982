"""GSPO: the clipped ratio of a whole sequence, per token of it. Last axis = group."""

from __future__ import annotations

from torch import Tensor

from tpo_torch import checks
from tpo_torch.ppo import clipped_objective


def gspo_loss(
    logp: Tensor,
    logp_old: Tensor,
    advantages: Tensor,
    lengths: Tensor,
    epsilon_low: float = 3e-4,
    epsilon_high: float = 4e-4,
) -> Tensor:
    """Clipped policy gradient on the geometric mean of a candidate's token ratios.

    Paper: GSPO

    L = −Σ min(s_i A_i, clip(s_i, 1−ε_low, 1+ε_high) A_i) with s_i = exp((ℓ_i − ℓ_old,i)/n_i). Summed over the group
    (deviation D33). Autograd gives ∂L/∂ℓ_i = −A_i s_i 1_i / n_i with 1_i from `inside_clip` on s_i.

    Args: logp, logp_old (…, K) in nats, finite; advantages (…, K); lengths (…, K) tokens, ≥ 1; epsilon_low,
        epsilon_high ≥ 0. A masked candidate is given as logp = logp_old, A = 0, and contributes exactly nothing.
    Returns: (…), one loss per group; inf where s_i of an A < 0 overflows.
    Raises: TypeError, ValueError for a bad dtype, shape or epsilon, NaN or infinity, and for a length below 1.

    >>> import torch
    >>> logp = torch.tensor([-1.0, -2.0])
    >>> gspo_loss(logp, logp, torch.tensor([1.0, -0.5]), torch.tensor([4, 2]))
    tensor(-0.5000)
    """
    low, high = checks.non_negative("epsilon_low", epsilon_low), checks.non_negative("epsilon_high", epsilon_high)
    new, old, a = checks.rollout(logp, logp_old, advantages)
    return _gspo_loss(new, old, a, checks.lengths("lengths", lengths, like=new), low, high)


# -- what is computed, of tensors that were checked ----------------------------------------------------------------
# Their masked entries are 0, and 1 in lengths.


def _gspo_loss(
    logp: Tensor, logp_old: Tensor, advantages: Tensor, lengths: Tensor, epsilon_low: float, epsilon_high: float
) -> Tensor:
    x = (logp - logp_old.detach()) / lengths.detach()
    return -clipped_objective(x, advantages.detach(), epsilon_low, epsilon_high).sum(-1)
