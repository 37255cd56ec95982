"""The mean over groups, and what the other figures share."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from tpo_ref import checks
from tpo_ref.checks import Bools, Floats


def group_mean(values: ArrayLike, keep_axes: int = 0) -> Floats:
    """Mean over groups, leaving out those that have no answer.

    Paper: ours

    Args: values (…), one number per group, NaN where there is none; keep_axes, how many leading axes (seeds) stay.
    Returns: 0-d, or the kept axes; NaN where no group has an answer.
    Raises: TypeError, ValueError for a bad dtype, no values, or more axes kept than there are.

    >>> float(group_mean([1.0, np.nan, 0.0]))
    0.5
    """
    a = checks.figures("values", values)
    return _group_mean(a, checks.axes("keep_axes", keep_axes, a.ndim))


# -- what is computed, of arrays that were checked -----------------------------------------------------------------


def _group_mean(values: Floats, keep_axes: int) -> Floats:
    flat = values.reshape(*values.shape[:keep_axes], -1)
    present = ~np.isnan(flat)
    return _ratio(np.where(present, flat, 0.0).sum(-1), present.sum(-1))


def _range(x: Floats, mask: Bools) -> Floats:
    return np.asarray(np.where(mask, x, -np.inf).max(-1) - np.where(mask, x, np.inf).min(-1))


def _yes(condition: ArrayLike, present: ArrayLike) -> Floats:
    return np.where(present, np.asarray(condition, dtype=np.float64), np.nan)


def _ratio(a: ArrayLike, b: ArrayLike) -> Floats:
    return np.asarray(np.divide(a, b, out=np.full(np.shape(b), np.nan), where=np.asarray(b) != 0))
