"""Listwise policy optimization (arXiv:2605.06139) by its own name: TPO's ratio form under either divergence."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tpo_ref import checks, tpo, variants
from tpo_ref import scale as scales
from tpo_ref.checks import Bools, Floats

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
    checks.choice("divergence", divergence, DIVERGENCES)
    checks.choice("scale", scale, scales.SCALES)
    temperature = checks.positive("temperature", temperature)
    s, keep = checks.group("scores", scores, mask, checks.successes if scale == "group_mean" else checks.scores)
    x, old = checks.log_weights("logp", logp, keep), checks.finite_log_weights("logp_old", logp_old, keep)
    return _lpo_loss(x, old, s, temperature, keep, divergence, scale)


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
    checks.choice("divergence", divergence, DIVERGENCES)
    checks.choice("scale", scale, scales.SCALES)
    temperature = checks.positive("temperature", temperature)
    s, keep = checks.group("scores", scores, mask, checks.successes if scale == "group_mean" else checks.scores)
    x, old = checks.log_weights("logp", logp, keep), checks.finite_log_weights("logp_old", logp_old, keep)
    return _lpo_grad(x, old, s, temperature, keep, divergence, scale)


# -- what is computed, of arrays that were checked -----------------------------------------------------------------
# Their masked entries hold what the checks put there: −inf in logits, 0 elsewhere.


def _lpo_loss(
    logp: Floats,
    logp_old: Floats,
    scores: NDArray[Any],
    temperature: float,
    mask: Bools,
    divergence: str = "forward",
    scale: str = "group_std",
) -> Floats:
    u = scales._scale_scores(scores, scale, mask)
    if divergence == "forward":
        return tpo._tpo_ratio_loss(logp, logp_old, tpo._tpo_weights(u, temperature, mask), mask)
    return variants._tpo_reverse_loss(logp - logp_old, np.zeros(u.shape), u, temperature, mask)


def _lpo_grad(
    logp: Floats,
    logp_old: Floats,
    scores: NDArray[Any],
    temperature: float,
    mask: Bools,
    divergence: str = "forward",
    scale: str = "group_std",
) -> Floats:
    u = scales._scale_scores(scores, scale, mask)
    if divergence == "forward":
        return tpo._tpo_ratio_grad(logp, logp_old, tpo._tpo_weights(u, temperature, mask), mask)
    return variants._tpo_reverse_grad(logp - logp_old, np.zeros(u.shape), u, temperature, mask)
