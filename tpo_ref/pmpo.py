"""PMPO: learn from accepted and from rejected candidates, held by a KL to a reference. Last axis = group."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from tpo_ref import checks, simplex, tpo
from tpo_ref.checks import Bools, Floats


def pmpo_loss(
    logp: ArrayLike,
    logp_ref: ArrayLike,
    accepted: ArrayLike,
    alpha: float = 0.5,
    beta: float = 1.0,
    mask: ArrayLike | None = None,
) -> Floats:
    """Raise the accepted, lower the rejected, stay near the reference.

    Paper: PMPO

    L = −α mean_{D⁺} ℓ + (1−α) mean_{D⁻} ℓ + β KL(p_ref‖p), p and p_ref the group distributions. An empty D⁺ or D⁻
    contributes 0 (deviation D36). A fixed point needs α = ½ and both sets: the penalty's gradient sums to 0.

    Args: logp (…, K) in nats, finite; logp_ref (…, K) in nats, −inf allowed; accepted (…, K) bool, D⁺ where True;
        alpha in [0, 1]; beta ≥ 0; mask (…, K) bool.
    Returns: (…), one loss per group in nats.
    Raises: TypeError, ValueError for a bad dtype, shape, mask, alpha or beta, NaN or infinity.

    >>> float(pmpo_loss([-1.0, -2.0], [-1.0, -2.0], [True, False]))
    -0.5
    """
    alpha, beta = checks.share("alpha", alpha), checks.non_negative("beta", beta)
    x, keep = checks.group("logp", logp, mask, checks.finite_log_weights)
    ref = checks.log_weights("logp_ref", logp_ref, keep)
    return _pmpo_loss(x, ref, checks.flags("accepted", accepted, keep.shape), alpha, beta, keep)


def pmpo_grad(
    logp: ArrayLike,
    logp_ref: ArrayLike,
    accepted: ArrayLike,
    alpha: float = 0.5,
    beta: float = 1.0,
    mask: ArrayLike | None = None,
) -> Floats:
    """Gradient of `pmpo_loss` in the group logits.

    Paper: PMPO

    ∂L/∂ℓ_i = −α/|D⁺| if accepted, (1−α)/|D⁻| if rejected, plus β(p − p_ref)_i.

    Args, Raises: as `pmpo_loss`. Returns: (…, K).

    >>> pmpo_grad([-1.0, -2.0], [-1.0, -2.0], [True, False]).tolist()
    [-0.5, 0.5]
    """
    alpha, beta = checks.share("alpha", alpha), checks.non_negative("beta", beta)
    x, keep = checks.group("logp", logp, mask, checks.finite_log_weights)
    ref = checks.log_weights("logp_ref", logp_ref, keep)
    return _pmpo_grad(x, ref, checks.flags("accepted", accepted, keep.shape), alpha, beta, keep)


# -- what is computed, of arrays that were checked -----------------------------------------------------------------
# Their masked entries are −inf in logp_ref, 0 in logp.


def _pmpo_loss(logp: Floats, logp_ref: Floats, accepted: Bools, alpha: float, beta: float, mask: Bools) -> Floats:
    p_ref = simplex._softmax(logp_ref, mask)
    # KL(p_ref‖p) is cross-entropy less the entropy of p_ref; in logarithms, so that a tiny p does not become 0.
    gap = tpo._tpo_loss(np.where(mask, logp, -np.inf), p_ref, mask) - simplex._entropy(p_ref)
    return np.asarray((_weight(accepted, alpha, mask) * logp).sum(-1) + beta * gap)


def _pmpo_grad(logp: Floats, logp_ref: Floats, accepted: Bools, alpha: float, beta: float, mask: Bools) -> Floats:
    p, p_ref = simplex._softmax(np.where(mask, logp, -np.inf), mask), simplex._softmax(logp_ref, mask)
    return _weight(accepted, alpha, mask) + beta * (p - p_ref)


def _weight(accepted: Bools, alpha: float, mask: Bools) -> Floats:
    plus, minus = accepted & mask, ~accepted & mask
    return np.asarray((1 - alpha) * minus / _size(minus) - alpha * plus / _size(plus))


def _size(members: Bools) -> Floats:
    return np.asarray(np.maximum(members.sum(-1, keepdims=True), 1), dtype=np.float64)
