"""In what unit the scores of a group are measured before they tilt a target: the score scale, by name."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tpo_ref import advantages, checks, standardize
from tpo_ref.checks import Bools, Floats

SCALES = ("group_std", "none", "group_mean", "batch_std")
# Those that divide by a standard deviation, to which the scorer's noise can be added.
WITH_NOISE = ("group_std", "batch_std")


def scale_scores(
    scores: ArrayLike,
    scale: str = "group_std",
    mask: ArrayLike | None = None,
    tau: float = 0.0,
    deviation: ArrayLike | None = None,
) -> Floats:
    """Centred scores u of each group in the unit that `scale` names.

    Paper: App. A (group_std); none (the others: deviation D80)

    group_std: u = (s − s̄)/√(σ² + τ²), as `standardize`. none: u = s − s̄, as Dr. GRPO. group_mean: u = (s − s̄)/s̄, as
    MaxRL. batch_std: u = (s − s̄)/√(σ_b² + τ²), σ_b the population standard deviation of the scores of the whole batch.
    A group of equal scores has u = 0 in all of them.

    Args: scores (…, K), any unit, not negative for group_mean; scale, one of `SCALES`; mask (…, K) bool; tau ≥ 0, the
        scorer's noise in the unit of the scores, for the two that divide by a deviation; deviation, σ_b ≥ 0, (1,) or
        (…, 1), where the batch is larger than these scores; by default that of all of them, as `batch_deviation`.
    Returns: (…, K), Σ u = 0; without unit, except under none, which keeps that of the scores.
    Raises: TypeError, ValueError for NaN or infinite scores, wrong shapes, an unknown scale, or a tau or deviation that
        the scale does not take.

    >>> scale_scores([[4.0, 0.0], [1.0, 1.0]], "none").tolist()
    [[2.0, -2.0], [0.0, 0.0]]
    >>> scale_scores([[4.0, 0.0], [1.0, 1.0]], "group_mean").tolist()
    [[1.0, -1.0], [0.0, 0.0]]
    """
    checks.choice("scale", scale, SCALES)
    tau = checks.non_negative("tau", tau)
    if tau and scale not in WITH_NOISE:
        raise ValueError(f"tau: got {tau:g}, expected 0 under scale {scale!r}, which divides by no deviation")
    if deviation is not None and scale != "batch_std":
        raise ValueError(f"deviation: got one, expected none under scale {scale!r}; it belongs to 'batch_std'")
    s, keep = checks.group("scores", scores, mask, checks.successes if scale == "group_mean" else checks.scores)
    sigma = None if deviation is None else checks.deviations("deviation", deviation)
    return _scale_scores(s, scale, keep, tau, sigma)


def batch_deviation(scores: ArrayLike, mask: ArrayLike | None = None) -> Floats:
    """Population standard deviation of the scores of a whole batch, every axis.

    Paper: none (deviation D80)

    Args: scores (…), any unit; mask (…) bool, False = not counted.
    Returns: (1,), in the unit of the scores; 0 without scores.
    Raises: TypeError, ValueError for NaN or infinite scores.

    >>> batch_deviation([[2.0, 0.0], [2.0, 0.0]]).tolist()
    [1.0]
    """
    s, keep = checks.group("scores", scores, mask, checks.finite)
    return _batch_deviation(s, keep)


# -- what is computed, of arrays that were checked -----------------------------------------------------------------
# Scores come in a dtype of their own, which says what is rounding; the masked ones are 0.


def _scale_scores(
    scores: NDArray[Any], scale: str, mask: Bools, tau: float = 0.0, deviation: Floats | None = None
) -> Floats:
    if scale == "group_std":
        return standardize._standardize(scores, mask, tau)
    if scale == "none":
        return advantages._centred(scores, mask)
    if scale == "group_mean":
        return advantages._maxrl(scores, mask)
    sigma = _batch_deviation(np.asarray(scores, dtype=np.float64), mask) if deviation is None else deviation
    width = np.hypot(sigma, tau)
    return advantages._centred(scores, mask) / np.where(width > 0, width, 1.0)


def _batch_deviation(scores: Floats, mask: Bools) -> Floats:
    count = np.maximum(mask.sum(), 1)
    # Squares are taken of numbers up to 1, so that they neither overflow nor vanish.
    largest = np.abs(scores).max(initial=0.0)
    unit = largest if largest > 0 else 1.0
    s = scores / unit
    away = np.where(mask, s - s.sum() / count, 0.0)
    return np.asarray(unit * np.sqrt((away**2).sum(keepdims=True).reshape(1) / count))
