"""Scores of one group to standardised scores u. Last axis = group."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tpo_ref import checks
from tpo_ref.checks import Bools, Floats

# "σ = 0" in floating point: a spread below this many units in the last place of the largest score is rounding.
CONSTANT_ULPS = 8
# The authors' code returns s − s̄ below this standard deviation (deviation D2).
AUTHOR_SIGMA_FLOOR = 1e-6
COMPAT = (None, "author")


def standardize(
    scores: ArrayLike, mask: ArrayLike | None = None, tau: float = 0.0, compat: str | None = None
) -> Floats:
    """Standardised scores u of each group.

    Paper: App. A

    u = (s − s̄) / √(σ² + τ²) with σ the population standard deviation (ddof 0); u = 0 when the scores are equal.
    Equal means ptp(s) ≤ 8·eps·max|s| (deviation D1). A masked candidate leaves s̄ and σ, and gets u = 0.

    Args: scores (…, K), any real dtype, any unit; mask (…, K) bool; tau ≥ 0, the scorer's noise in the unit of the
        scores; compat "author" returns s − s̄ where σ ≤ 1e-6, as the authors' code does.
    Returns: (…, K), without unit. Σ u = 0, and Σ u² = K when τ = 0 and the scores differ.
    Raises: TypeError, ValueError for NaN or infinite scores, wrong shapes, negative tau, unknown compat.

    >>> standardize([1.0, 0.0, -1.0]).round(4).tolist()
    [1.2247, 0.0, -1.2247]
    >>> standardize([0.1] * 7).tolist() == [0.0] * 7
    True
    """
    checks.choice("compat", compat, COMPAT)
    tau = checks.non_negative("tau", tau)
    s, keep = checks.group("scores", scores, mask, checks.scores)
    return _standardize(s, keep, tau, compat)


# The scores come in a dtype of their own, which says what is rounding.


def _standardize(scores: NDArray[Any], mask: Bools, tau: float = 0.0, compat: str | None = None) -> Floats:
    s = scores if scores.dtype.kind == "f" else np.where(mask, _above_lowest(scores, mask), 0)
    s = np.asarray(s, dtype=np.float64)
    count = np.maximum(mask.sum(-1, keepdims=True), 1)
    # Scores are first divided by their largest magnitude, so that squares neither overflow nor vanish.
    largest = np.abs(s).max(-1, keepdims=True)
    scale = np.where(largest > 0, largest, 1.0)
    s = s / scale
    centred = np.where(mask, s - s.sum(-1, keepdims=True) / count, 0.0)
    sigma = np.sqrt((centred**2).sum(-1, keepdims=True) / count)
    spread = np.where(mask, s, -np.inf).max(-1, keepdims=True) - np.where(mask, s, np.inf).min(-1, keepdims=True)
    constant = spread <= CONSTANT_ULPS * _resolution(scores)
    with np.errstate(over="ignore"):
        width = np.where(constant, 1.0, np.hypot(sigma, tau / scale))
    u = np.where(constant, 0.0, centred / width)
    if compat == "author":
        u = np.where(sigma * scale <= AUTHOR_SIGMA_FLOOR, centred * scale, u)
    return u


def _above_lowest(scores: NDArray[Any], mask: Bools) -> NDArray[Any]:
    # Standardised scores ignore a shift, and float64 cannot tell 2⁵³ from 2⁵³ + 1: shift while still exact.
    # The difference of two 64-bit integers, read as unsigned, is exact however wide.
    whole = scores if scores.dtype.kind == "u" else scores.astype(np.int64)
    lowest = np.where(mask, whole, np.iinfo(whole.dtype).max).min(-1, keepdims=True)
    return np.asarray((whole - lowest).astype(np.uint64))


def _resolution(scores: NDArray[Any]) -> float:
    # Half precision is judged as float32, in which the mirror computes it; identical scores stay identical there.
    floating = scores.dtype.kind == "f"
    return float(np.finfo(np.promote_types(scores.dtype, np.float32) if floating else np.float64).eps)
