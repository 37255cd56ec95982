"""PPO, and the clipped ratio that GRPO, DAPO and GSPO share with it. Last axis = group."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tpo_torch import checks

# "r exactly at the boundary" in floating point: log r this many units in the last place past it is rounding
# (deviation D38).
CLIP_ULPS = 4


def ppo_loss(logp: Tensor, logp_old: Tensor, advantages: Tensor, epsilon: float = 0.2) -> Tensor:
    """Policy gradient that stops paying once a candidate's ratio has moved by ε in its favour.

    Paper: PPO

    L = −Σ min(r_i A_i, clip(r_i, 1−ε, 1+ε) A_i) with r = exp(ℓ − ℓ_old); no clamp on ℓ − ℓ_old (deviation D30).
    Autograd gives ∂L/∂ℓ_i = −A_i r_i 1_i with 1_i from `inside_clip`.

    Args: logp, logp_old (…, K) in nats, finite; advantages (…, K); epsilon ≥ 0. A masked candidate is given as
        logp = logp_old, A = 0, and contributes exactly nothing.
    Returns: (…), one loss per group, summed over its candidates; inf where r of an A < 0 overflows.
    Raises: TypeError, ValueError for a bad dtype, shape or epsilon, NaN or infinity.

    >>> ppo_loss(torch.tensor([-1.0, -2.0]), torch.tensor([-1.0, -2.0]), torch.tensor([1.0, -0.5]))
    tensor(-0.5000)
    """
    epsilon = checks.non_negative("epsilon", epsilon)
    return _ppo_loss(*checks.rollout(logp, logp_old, advantages), epsilon)


def log_ratio(logp: Tensor, logp_old: Tensor, mask: Tensor | None = None) -> Tensor:
    """How far each log-probability has moved since the snapshot.

    Paper: PPO (its ratio)

    x = ℓ − ℓ_old with ℓ_old frozen, so that r = exp x; 0 at a masked entry.

    Args: logp, logp_old (…, K) in nats, finite where unmasked; mask (…, K) bool.
    Returns: (…, K) in nats.
    Raises: TypeError, ValueError for a bad dtype, shape or mask, NaN or infinity.

    >>> log_ratio(torch.tensor([-1.0, -2.0]), torch.tensor([-1.5, -2.0]))
    tensor([0.5000, 0.0000])
    """
    new, keep = checks.group("logp", logp, mask, checks.finite_log_weights)
    return new - checks.finite_log_weights("logp_old", logp_old, keep).detach()


def inside_clip(x: Tensor, advantages: Tensor, epsilon_low: float, epsilon_high: float) -> Tensor:
    """Which candidates still have a gradient.

    Paper: PPO (its clip)

    1_i = [A ≥ 0 and r ≤ 1+ε_high] or [A < 0 and r ≥ 1−ε_low]: the boundary, up to rounding, is inside. Decided on
    x = log r, which cannot overflow. Its complement, averaged, is the clip fraction.

    Args: x (…, K), a log-ratio; advantages (…, K); epsilon_low, epsilon_high ≥ 0; all checked by the rule that calls.
    Returns: (…, K) bool.

    >>> x = torch.log(torch.tensor([1.2, 1.3, 0.7, 0.7]))
    >>> inside_clip(x, torch.tensor([1.0, 1.0, 1.0, -1.0]), 0.2, 0.2)
    tensor([ True, False,  True, False])
    """
    slack = CLIP_ULPS * torch.finfo(x.dtype).eps
    lowest = math.log1p(-epsilon_low) if epsilon_low < 1 else -math.inf
    # As a complement, so that a NaN counts as inside and stays visible.
    return ~torch.where(advantages >= 0, x > math.log1p(epsilon_high) + slack, x < lowest - slack)


def clipped_objective(x: Tensor, advantages: Tensor, epsilon_low: float, epsilon_high: float) -> Tensor:
    """What each candidate adds to the objective.

    Paper: PPO (its clip)

    min(rA, clip(r, 1−ε_low, 1+ε_high) A) with r = exp x, which is rA where `inside_clip`, else A times the bound.

    Args: as `inside_clip`. Returns: (…, K), in the unit of the advantages; its slope is A r inside, exactly 0 outside.

    >>> clipped_objective(torch.log(torch.tensor([2.0, 0.5])), torch.tensor([1.0, -1.0]), 0.2, 0.2)
    tensor([ 1.2000, -0.8000])
    """
    capped = torch.where(advantages >= 0, advantages * (1 + epsilon_high), advantages * (1 - epsilon_low))
    inside = inside_clip(x, advantages, epsilon_low, epsilon_high)
    # A clipped ratio may overflow: it never enters exp, or autograd would make 0·inf = NaN of its zero gradient.
    return torch.where(inside, torch.exp(torch.where(inside, x, 0.0)) * advantages, capped)


# -- what is computed, of tensors that were checked ----------------------------------------------------------------
# Their masked entries are 0.


def _ppo_loss(logp: Tensor, logp_old: Tensor, advantages: Tensor, epsilon: float) -> Tensor:
    return -clipped_objective(logp - logp_old.detach(), advantages.detach(), epsilon, epsilon).sum(-1)


def _ppo_grad(logp: Tensor, logp_old: Tensor, advantages: Tensor, epsilon: float) -> Tensor:
    return 0.0 - _slope(logp - logp_old, advantages, epsilon, epsilon)


def _slope(x: Tensor, advantages: Tensor, epsilon_low: float, epsilon_high: float) -> Tensor:
    """Slope of `clipped_objective` in x: A r inside the clip, exactly 0 outside."""
    inside = inside_clip(x, advantages, epsilon_low, epsilon_high)
    return torch.where(inside, torch.exp(torch.where(inside, x, 0.0)) * advantages, 0.0)
