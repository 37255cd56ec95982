"""Listwise policy optimization (arXiv:2605.06139) by its own name: TPO's ratio form under either divergence."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from tpo_ref import checks
from tpo_ref.checks import Bools, Floats
from tpo_ref.scale import scale_scores
from tpo_ref.tpo import tpo_ratio_grad, tpo_ratio_loss, tpo_weights
from tpo_ref.variants import tpo_reverse_grad, tpo_reverse_loss

DIVERGENCES = ("forward", "reverse")


def lpo_loss(
    logp: ArrayLike,
    logp_old: ArrayLike,
    scores: ArrayLike,
    temperature: float = 1.0,
    mask: ArrayLike | None = None,
    divergence: str = "forward",
    scale: str = "group_std",
) -> Floats:
    """Distance of the policy's shift within a group from the softmax of its scores.

    Paper: none; the listwise update of arXiv:2605.06139

    P = softmax(ℓ − ℓ_old), w = softmax(u/temperature), u the scores in the unit of `scale`. forward: −Σ w log P, which
    is `tpo_ratio_loss`; reverse: KL(P‖w).

    Args: logp, logp_old (…, K) in nats, logp_old finite; scores (…, K) raw; temperature > 0; mask (…, K) bool;
        divergence, one of `DIVERGENCES`; scale, one of `tpo_ref.scale.SCALES`.
    Returns: (…), one loss per group in nats. Raises: TypeError, ValueError as `scale_scores` and `tpo_ratio_loss`.

    >>> float(lpo_loss([0.0, 0.0], [0.0, 0.0], [1.0, 0.0]).round(4))
    0.6931
    """
    temperature = checks.positive("temperature", temperature)
    u = _checked(scores, mask, divergence, scale)
    if divergence == "forward":
        return tpo_ratio_loss(logp, logp_old, tpo_weights(u, temperature, mask), mask)
    shift, keep = _shift(logp, logp_old, mask)
    return tpo_reverse_loss(shift, np.zeros(shift.shape), u, temperature, keep)


def lpo_grad(
    logp: ArrayLike,
    logp_old: ArrayLike,
    scores: ArrayLike,
    temperature: float = 1.0,
    mask: ArrayLike | None = None,
    divergence: str = "forward",
    scale: str = "group_std",
) -> Floats:
    """Gradient of `lpo_loss` in the group logits.

    Paper: none; as `lpo_loss`

    forward: P − w. reverse: P_i (d_i − Σ P d) with d = log P − u/temperature; at the snapshot −u/(K·temperature), the
    policy gradient of these advantages.

    Args, Raises: as `lpo_loss`. Returns: (…, K).

    >>> lpo_grad([0.0, 0.0], [0.0, 0.0], [1.0, 0.0], divergence="reverse", scale="none").tolist()
    [-0.25, 0.25]
    """
    temperature = checks.positive("temperature", temperature)
    u = _checked(scores, mask, divergence, scale)
    if divergence == "forward":
        return tpo_ratio_grad(logp, logp_old, tpo_weights(u, temperature, mask), mask)
    shift, keep = _shift(logp, logp_old, mask)
    return tpo_reverse_grad(shift, np.zeros(shift.shape), u, temperature, keep)


def _checked(scores: ArrayLike, mask: ArrayLike | None, divergence: str, scale: str) -> Floats:
    checks.choice("divergence", divergence, DIVERGENCES)
    return scale_scores(scores, scale, mask)


def _shift(logp: ArrayLike, logp_old: ArrayLike, mask: ArrayLike | None) -> tuple[Floats, Bools]:
    raw = checks.array("logp", logp)
    keep = checks.mask_for(mask, raw.shape)
    old = checks.finite_log_weights("logp_old", logp_old, keep, raw.shape)
    return np.where(keep, checks.log_weights("logp", raw, keep) - old, 0.0), keep
