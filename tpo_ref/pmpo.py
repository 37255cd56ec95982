"""PMPO: learn from accepted and from rejected candidates, held by a KL to a reference. Last axis = group."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from tpo_ref import checks, simplex
from tpo_ref.checks import Bools, Floats
from tpo_ref.tpo import tpo_loss


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
    x, ref, weight, keep, beta = _checked(logp, logp_ref, accepted, alpha, beta, mask)
    p_ref = simplex.softmax(ref, keep)
    # KL(p_ref‖p) is cross-entropy less the entropy of p_ref; in logarithms, so that a tiny p does not become 0.
    gap = tpo_loss(x, p_ref, keep) - simplex.entropy(p_ref)
    return np.asarray((weight * x).sum(-1) + beta * gap)


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
    x, ref, weight, keep, beta = _checked(logp, logp_ref, accepted, alpha, beta, mask)
    return weight + beta * (simplex.softmax(x, keep) - simplex.softmax(ref, keep))


def _checked(
    logp: ArrayLike, logp_ref: ArrayLike, accepted: ArrayLike, alpha: float, beta: float, mask: ArrayLike | None
) -> tuple[Floats, Floats, Floats, Bools, float]:
    """Current and reference log-probabilities, the weight of each ℓ_i, the mask and beta."""
    alpha, beta = checks.non_negative("alpha", alpha), checks.non_negative("beta", beta)
    if alpha > 1:
        raise ValueError(f"alpha: got {alpha!r}, expected a share in [0, 1]; ½ has a fixed point")
    raw = checks.array("logp", logp)
    keep = checks.mask_for(mask, raw.shape)
    good = checks.converted("accepted", accepted)
    if good.dtype != np.bool_:
        raise TypeError(f"accepted: got dtype {good.dtype}, expected bool; threshold the scores first")
    checks.same_shape("accepted", good, raw.shape)
    plus, minus = good & keep, ~good & keep
    weight = (1 - alpha) * minus / _size(minus) - alpha * plus / _size(plus)
    x = checks.finite_log_weights("logp", raw, keep)
    return x, checks.log_weights("logp_ref", logp_ref, keep, raw.shape), weight, keep, beta


def _size(members: Bools) -> Floats:
    return np.asarray(np.maximum(members.sum(-1, keepdims=True), 1), dtype=np.float64)
