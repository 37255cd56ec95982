"""Estimates over seeds: means, medians and first crossings of the mean curve, each with a standard error."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

# Resamples of the seeds behind a standard error that has no formula, and the stream that draws them.
RESAMPLES = 999
BOOTSTRAP_SEED = 0


@dataclass(frozen=True)
class Estimate:
    """A value over `n` seeds with its standard error; NaN where there is none (one seed, a level never reached)."""

    value: float
    error: float
    n: int


def mean(values: NDArray[Any]) -> Estimate:
    """Mean over seeds; the standard error uses ddof 1, where the paper divides by n (deviation D40).

    >>> mean(np.array([1.0, 3.0]))
    Estimate(value=2.0, error=1.0, n=2)
    """
    n = len(values)
    error = float(stats.sem(values)) if n > 1 else math.nan
    return Estimate(float(np.mean(values)), error, n)


def median(values: NDArray[Any]) -> Estimate:
    """Median over seeds, with a bootstrap standard error.

    >>> median(np.array([1.0, 2.0, 9.0])).value
    2.0
    """
    n = len(values)
    if n == 1:
        return Estimate(float(values[0]), math.nan, 1)
    found = stats.bootstrap(
        (values,), np.median, n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(BOOTSTRAP_SEED)
    )
    return Estimate(float(np.median(values)), float(found.standard_error), n)


def auc(curves: NDArray[Any]) -> NDArray[np.float64]:
    """Area under each seed's curve over its own steps: the mean of the curve, (S, T) to (S,)."""
    return np.asarray(curves.mean(-1), dtype=np.float64)


def first_below(
    curves: NDArray[Any], level: float, steps: NDArray[Any] | None = None, centre: Callable[..., Any] = np.mean
) -> Estimate:
    """First step at which the mean over seeds, or another centre, is below a level; NaN if never. Bootstrap error.

    >>> first_below(np.array([[1.0, 0.4, 0.2], [1.0, 0.6, 0.2]]), 0.5).value
    2.0
    """
    at = np.arange(curves.shape[-1]) if steps is None else np.asarray(steps)
    value = float(_crossing(centre(curves, axis=0)[None], level, at)[0])
    n = len(curves)
    if n == 1 or math.isnan(value):
        return Estimate(value, math.nan, n)
    # The same resampled seeds for every step, so that a row of the distribution is one resampled curve.
    drawn = stats.bootstrap(
        (curves,),
        centre,
        axis=0,
        n_resamples=RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(BOOTSTRAP_SEED),
    ).bootstrap_distribution
    crossings = _crossing(np.moveaxis(drawn, -1, 0), level, at)
    # A resampled curve that never crosses counts as the last step, or the error would shrink where it should grow.
    return Estimate(value, float(np.where(np.isnan(crossings), at[-1], crossings).std(ddof=1)), n)


def _crossing(curves: NDArray[Any], level: float, at: NDArray[Any]) -> NDArray[np.float64]:
    below = curves < level
    return np.where(below.any(-1), at[below.argmax(-1)].astype(float), np.nan)
