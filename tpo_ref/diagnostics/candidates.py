"""Are the candidates of a group any different, and does anything go with their log-probability."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tpo_ref import checks, standardize
from tpo_ref.checks import Bools, Floats
from tpo_ref.diagnostics import means


def duplicate_rate(tokens: ArrayLike, mask: ArrayLike | None = None) -> Floats:
    """Share of a group that repeats an earlier candidate.

    Paper: ours

    1 − distinct/K, K counting the unmasked.

    Args: tokens (…, K, T), integers; candidates of unequal length padded alike; mask (…, K) bool.
    Returns: (…), in [0, 1 − 1/K]; NaN for a group that is masked throughout.
    Raises: TypeError, ValueError for a bad dtype, shape or mask.

    >>> float(duplicate_rate([[1, 2], [1, 3], [1, 2], [1, 2]]))
    0.5
    """
    t = checks.array("tokens", tokens)
    if t.dtype.kind not in "iu":
        raise TypeError(f"tokens: got dtype {t.dtype}, expected integer token ids; were log-probabilities passed?")
    if t.ndim < 2:
        raise ValueError(
            f"tokens: got shape {t.shape}, expected (..., K, T); add the axis of positions: tokens[:, None]"
        )
    return _duplicate_rate(t, checks.mask_for(mask, t.shape[:-1]))


def correlation(x: ArrayLike, y: ArrayLike, mask: ArrayLike | None = None) -> Floats:
    """Correlation within a group: of ℓ_old with length, or with score.

    Paper: ours

    Pearson's, Σ (x − x̄)(y − ȳ)/(K sd_x sd_y). Of ℓ_old with length: does the anchor weigh brevity, not merit?

    Args: x, y (…, K), finite, any real dtype; mask (…, K) bool.
    Returns: (…), in [−1, 1]; NaN where x or y is constant in the sense of `standardize`.
    Raises: TypeError, ValueError for NaN or infinite numbers, a bad dtype, shape or mask.

    >>> float(correlation([-1.0, -2.0, -3.0], [10, 20, 30]).round(4))
    -1.0
    """
    a, keep = checks.group("x", x, mask, checks.scores)
    return _correlation(a, checks.scores("y", y, keep), keep)


# -- what is computed, of arrays that were checked -----------------------------------------------------------------


def _duplicate_rate(tokens: NDArray[Any], mask: Bools) -> Floats:
    equal = (tokens[..., :, None, :] == tokens[..., None, :, :]).all(-1) & mask[..., None, :]
    repeated = np.tril(equal, -1).any(-1)
    return means._ratio((repeated & mask).sum(-1), mask.sum(-1))


def _correlation(x: NDArray[Any], y: NDArray[Any], mask: Bools) -> Floats:
    ux, uy = standardize._standardize(x, mask), standardize._standardize(y, mask)
    both = (ux != 0).any(-1) & (uy != 0).any(-1)
    return np.clip(means._ratio((ux * uy).sum(-1), np.where(both, mask.sum(-1), 0)), -1.0, 1.0)
