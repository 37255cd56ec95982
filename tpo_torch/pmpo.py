"""PMPO: learn from accepted and from rejected candidates, held by a KL to a reference. Last axis = group."""

from __future__ import annotations

import torch
from torch import Tensor

from tpo_torch import checks, simplex
from tpo_torch.tpo import tpo_loss


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
    alpha, beta = checks.non_negative("alpha", alpha), checks.non_negative("beta", beta)
    if alpha > 1:
        raise ValueError(f"alpha: got {alpha!r}, expected a share in [0, 1]; ½ has a fixed point")
    raw = checks.array("logp", logp)
    keep = checks.mask_for(mask, raw)
    _accepted(accepted, tuple(raw.shape))
    x = checks.finite_log_weights("logp", raw, keep)
    ref = checks.log_weights("logp_ref", logp_ref, keep, tuple(raw.shape)).detach()
    plus, minus = (accepted & keep).to(x.dtype), (~accepted & keep).to(x.dtype)
    pull = (1 - alpha) * minus / _size(minus) - alpha * plus / _size(plus)
    p_ref = simplex.softmax(ref, keep)
    # KL(p_ref‖p) is cross-entropy less the entropy of p_ref.
    gap = tpo_loss(x, p_ref, keep) - simplex.entropy(p_ref)
    return (pull * x).sum(-1) + beta * gap


def _accepted(accepted: Tensor, shape: tuple[int, ...]) -> None:
    if not isinstance(accepted, Tensor) or accepted.dtype != torch.bool:
        kind = getattr(accepted, "dtype", type(accepted).__name__)
        raise TypeError(f"accepted: got {kind}, expected a bool tensor; threshold the scores first")
    checks.same_shape("accepted", accepted, shape)


def _size(members: Tensor) -> Tensor:
    return members.sum(-1, keepdim=True).clamp(min=1)
