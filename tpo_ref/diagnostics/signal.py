"""Do the scores of a group ask for anything, and who gets the weight."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from tpo_ref import checks
from tpo_ref.checks import Bools, Floats
from tpo_ref.diagnostics import means
from tpo_ref.standardize import CONSTANT_ULPS


def all_fail(scores: ArrayLike, mask: ArrayLike | None = None) -> Floats:
    """Whether no candidate of a group succeeded.

    Paper: ours (Figs 10–12 plot its mean)

    1 if every score ≤ 0.

    Args: scores (…, K), 0 = failed; mask (…, K) bool.
    Returns: (…), 1 or 0; NaN for a group that is masked throughout.
    Raises: TypeError, ValueError for NaN or infinite scores, a bad dtype, shape or mask.

    >>> all_fail([[0.0, 1.0], [0.0, 0.0]]).tolist()
    [0.0, 1.0]
    """
    s, keep = checks.group("scores", scores, mask, checks.finite)
    return _all_fail(s, keep)


def zero_variance(u: ArrayLike, mask: ArrayLike | None = None) -> Floats:
    """Whether the scores of a group ask for nothing.

    Paper: ours (App. A's u = 0)

    1 if max u = min u, exactly: `standardize` has removed rounding.

    Args: u (…, K); mask (…, K) bool.
    Returns: (…), 1 or 0; NaN for a group that is masked throughout.
    Raises: TypeError, ValueError for NaN or infinite u, a bad dtype, shape or mask.

    >>> zero_variance([[1.0, -1.0], [0.0, 0.0]]).tolist()
    [0.0, 1.0]
    """
    tilt, keep = checks.group("u", u, mask, checks.finite)
    return _zero_variance(tilt, keep)


def winners_losers_weight(
    coefficients: ArrayLike, scores: ArrayLike, mask: ArrayLike | None = None
) -> tuple[Floats, Floats]:
    """Mean push on the candidates that scored above their group's mean, and on those below.

    Paper: ours (Figs 10–12 plot a weight on winners and losers; deviation D52)

    mean of −g_i over {s_i > s̄} and over {s_i < s̄}; a difference from s̄ within rounding is neither.

    Args: coefficients (…, K), −∂L/∂ℓ, as `tpo_coefficients` gives; scores (…, K); mask (…, K) bool.
    Returns: winners (…), losers (…); NaN where a group has none.
    Raises: TypeError, ValueError for NaN or infinity, a bad dtype, shape or mask.

    >>> [float(x) for x in winners_losers_weight([0.5, -0.25, -0.25], [1.0, 0.0, 0.0])]
    [0.5, -0.25]
    """
    c, keep = checks.group("coefficients", coefficients, mask, checks.finite)
    return _winners_losers_weight(c, checks.finite("scores", scores, keep), keep)


# -- what is computed, of arrays that were checked -----------------------------------------------------------------
# Their masked entries are 0.


def _all_fail(scores: Floats, mask: Bools) -> Floats:
    return means._yes((scores <= 0).all(-1), mask.any(-1))


def _zero_variance(u: Floats, mask: Bools) -> Floats:
    return means._yes(means._range(u, mask) == 0, mask.any(-1))


def _winners_losers_weight(coefficients: Floats, scores: Floats, mask: Bools) -> tuple[Floats, Floats]:
    largest = np.abs(scores).max(-1, keepdims=True)
    s = scores / np.where(largest > 0, largest, 1.0)
    above = np.where(mask, s - s.sum(-1, keepdims=True) / np.maximum(mask.sum(-1, keepdims=True), 1), 0.0)
    slack = CONSTANT_ULPS * np.finfo(np.float64).eps
    winners, losers = above > slack, above < -slack
    return (
        means._ratio((coefficients * winners).sum(-1), winners.sum(-1)),
        means._ratio((coefficients * losers).sum(-1), losers.sum(-1)),
    )
