"""PMPO: learn from accepted and from rejected candidates, held by a KL to a reference. Last axis = group."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tpo_torch import checks, simplex, tpo


def pmpo_loss(
    logp: Tensor,
    logp_ref: Tensor,
    accepted: Tensor,
    alpha: float = 0.5,
    beta: float = 1.0,
    mask: Tensor | None = None,
) -> Tensor:
    """Raise the accepted, lower the rejected, stay near the reference.

    Paper: PMPO

    L = −α mean_{D⁺} ℓ + (1−α) mean_{D⁻} ℓ + β KL(p_ref‖p), p and p_ref the group distributions. An empty D⁺ or D⁻
    contributes 0 (deviation D36). Autograd gives −α/|D⁺| if accepted, (1−α)/|D⁻| if rejected, plus β(p − p_ref).
    A fixed point needs α = ½ and both sets: the penalty's gradient sums to 0.

    Args: logp (…, K) in nats, finite; logp_ref (…, K) in nats, −inf allowed; accepted (…, K) bool, D⁺ where True;
        alpha in [0, 1]; beta ≥ 0; mask (…, K) bool.
    Returns: (…), one loss per group in nats.
    Raises: TypeError, ValueError for a bad dtype, shape, mask, alpha or beta, NaN or infinity.

    >>> logp = torch.tensor([-1.0, -2.0])
    >>> pmpo_loss(logp, logp, torch.tensor([True, False]))
    tensor(-0.5000)
    """
    alpha, beta = checks.share("alpha", alpha), checks.non_negative("beta", beta)
    x, keep = checks.group("logp", logp, mask, checks.finite_log_weights)
    ref = checks.log_weights("logp_ref", logp_ref, keep)
    return _pmpo_loss(x, ref, checks.flags("accepted", accepted, keep), alpha, beta, keep)


# -- what is computed, of tensors that were checked ----------------------------------------------------------------
# Their masked entries are −inf in logp_ref, 0 in logp.


def _pmpo_loss(logp: Tensor, logp_ref: Tensor, accepted: Tensor, alpha: float, beta: float, mask: Tensor) -> Tensor:
    plus, minus = (accepted & mask).to(logp.dtype), (~accepted & mask).to(logp.dtype)
    pull = (1 - alpha) * minus / _size(minus) - alpha * plus / _size(plus)
    p_ref = simplex._softmax(logp_ref.detach(), mask)
    # KL(p_ref‖p) is cross-entropy less the entropy of p_ref.
    gap = tpo._tpo_loss(torch.where(mask, logp, -math.inf), p_ref, mask) - simplex._entropy(p_ref)
    return (pull * logp).sum(-1) + beta * gap


def _size(members: Tensor) -> Tensor:
    return members.sum(-1, keepdim=True).clamp(min=1)
