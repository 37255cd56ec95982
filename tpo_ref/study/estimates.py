"""Numbers per seed read off learning curves, and estimates over seeds with a standard error or an interval.

scipy.stats takes half a second to load: the functions that use it import it, so that listing does not.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tpo_ref import checks

# Beside the error of the last episode, a run is reported by the mean error of its last 100.
LAST = 100
# A seed has solved its task when the mean error of its last 50 episodes is below 5 %.
SOLVED_COUNT, SOLVED_LEVEL = 50, 0.05
# A run may stop once the mean over seeds has stayed below 1 % for 50 episodes; it is carried on with their mean.
STOP_COUNT = 50

# A number over seeds, for one or several samples and along an `axis`.
Statistic = Callable[..., NDArray[np.float64]]

# The standard deviation of a number that is known to a whole step, in steps.
ROUNDING = 1 / math.sqrt(12)
# Resamples of the seeds behind a standard error that has no formula, and the stream that draws them.
RESAMPLES = 999
BOOTSTRAP_SEED = 0
# An interval is read off the tails of the resamples, which takes more of them.
INTERVAL_RESAMPLES = 9_999
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A value over `n` seeds with its standard error; NaN where there is none, as for one seed."""

    value: float
    error: float
    n: int


@dataclass(frozen=True)
class Share(Estimate):
    """The share of `n` seeds of which something is so."""

    @property
    def count(self) -> int:
        """How many seeds those are."""
        return round(self.value * self.n)


def mean(values: NDArray[Any]) -> Estimate:
    """Mean over seeds; the standard error uses ddof 1, where the paper divides by n (deviation D40).

    >>> mean(np.array([1.0, 3.0]))
    Estimate(value=2.0, error=1.0, n=2)
    """
    from scipy import stats

    n = len(values)
    error = float(stats.sem(values)) if n > 1 else math.nan
    return Estimate(float(np.mean(values)), error, n)


def median(values: NDArray[Any]) -> Estimate:
    """Median over seeds, with the bootstrap standard error of a median.

    >>> median(np.array([1.0, 2.0, 9.0])).value
    2.0
    """
    n = len(values)
    if n == 1:
        return Estimate(float(values[0]), math.nan, 1)
    return Estimate(float(np.median(values)), _spread(_resampled(np.asarray(values), np.median), n), n)


def share(successes: NDArray[np.bool_]) -> Share:
    """Share of the seeds that succeeded, (S,) to a number; the standard error is that of a mean of ones and zeros.

    >>> share(np.array([True, True, False, False])).value
    0.5
    """
    found = mean(np.asarray(successes, dtype=np.float64))
    return Share(found.value, found.error, found.n)


def to_budget(curves: NDArray[Any]) -> NDArray[Any]:
    """Curves (S, E) of a run that was allowed to stop early, carried on to its budget of E episodes (deviation D54).

    A stop is NaN in every seed from some episode to the end: there each seed gets the mean of its own last 50
    episodes. If the mean over seeds would have stayed below 1 %, a mean over all E episodes and seeds is off by less
    than 0.01 for it. A NaN anywhere else is a failure, and stays.

    >>> to_budget(np.array([[0.9, 0.1, np.nan, np.nan]]))
    array([[0.9, 0.1, 0.5, 0.5]])
    """
    whole = np.asarray(curves)
    episodes = _before_stop(whole)
    missing = whole.shape[-1] - episodes.shape[-1]
    if not missing:
        return whole
    tail = np.repeat(last(episodes, STOP_COUNT)[..., None], missing, axis=-1)
    return np.concatenate([episodes, tail], axis=-1)


def auc(curves: NDArray[Any]) -> NDArray[np.float64]:
    """Area under each seed's curve over its own steps: the mean of the carried curve, (S, T) to (S,)."""
    return np.asarray(to_budget(curves).mean(-1), dtype=np.float64)


def last(curves: NDArray[Any], count: int = LAST) -> NDArray[np.float64]:
    """Mean of each seed's last `count` episodes before a stop, or of all when there are fewer, (S, E) to (S,).

    >>> last(np.array([[0.9, 0.5, 0.1, np.nan]]), count=2)
    array([0.3])
    """
    checks.whole("count", count, 1)
    return np.asarray(_before_stop(curves)[..., -count:].mean(-1, dtype=np.float64))


def final(curves: NDArray[Any]) -> NDArray[np.float64]:
    """Each seed's value in the last episode before a stop, (S, E) to (S,).

    >>> final(np.array([[0.9, 0.5, np.nan]]))
    array([0.5])
    """
    return np.asarray(_before_stop(curves)[..., -1], dtype=np.float64)


def solved(curves: NDArray[Any], level: float = SOLVED_LEVEL, count: int = SOLVED_COUNT) -> NDArray[np.bool_]:
    """Whether the mean of each seed's last `count` episodes before a stop is below a level, (S, E) to (S,).

    >>> solved(np.array([[0.9, 0.0], [0.9, 0.8]]), count=1)
    array([ True, False])
    """
    return last(curves, count) < level


def first_below(
    curves: NDArray[Any], level: float, steps: NDArray[Any] | None = None, centre: Statistic = np.mean
) -> Estimate:
    """First step at which the mean over seeds, or another centre, is below a level; infinite if never.

    The standard error is that of the same centre of resampled seeds, a resample that never crosses counting as the last
    step, and no less than that of rounding to a step, 1/√12 of it. Of a level that is never reached it is 0 when no
    resample reaches it either, and NaN, unknown, when some do. Episodes after a stop are not below anything.

    >>> first_below(np.array([[1.0, 0.4, 0.2], [1.0, 0.6, 0.2]]), 0.5).value
    2.0
    """
    positions = np.arange(curves.shape[-1]) if steps is None else np.asarray(steps)
    end = positions[-1]
    curves = _before_stop(curves)
    positions = positions[: curves.shape[-1]]
    value = float(_crossing(centre(curves, axis=0)[None], level, positions)[0])
    n = len(curves)
    if n == 1:
        return Estimate(value, math.nan, 1)
    crossings = _crossing(_resampled(curves, centre), level, positions)
    never = np.isinf(crossings)
    if math.isinf(value):
        return Estimate(value, 0.0 if never.all() else math.nan, n)
    # A resample that never crosses counts as the last step, or the error would shrink where it should grow.
    error = _spread(np.where(never, end, crossings), n)
    return Estimate(value, max(error, _rounding(value, positions)), n)


def lowest(curves: NDArray[Any]) -> Estimate:
    """Lowest point of the mean curve over seeds, (S, T) to a number; the standard error is that of resampled seeds.

    >>> lowest(np.array([[1.0, 0.5], [1.0, 0.0]])).value
    0.25
    """
    whole = to_budget(curves)
    value, n = float(whole.mean(0).min()), len(whole)
    return Estimate(value, math.nan if n == 1 else _spread(_resampled(whole, np.mean).min(-1), n), n)


def interval(values: NDArray[Any], level: float = LEVEL) -> tuple[float, float]:
    """Bootstrap interval for the mean over seeds, bias-corrected and accelerated; NaN for one seed (deviation D55).

    >>> low, high = interval(np.array([1.0, 2.0, 3.0, 4.0]))
    >>> 1.0 < low < 2.5 < high < 4.0
    True
    """
    return _bootstrap((np.asarray(values, dtype=np.float64),), np.mean, level)


def interval_between(a: NDArray[Any], b: NDArray[Any], level: float = LEVEL) -> tuple[float, float]:
    """Bootstrap interval for mean(a) − mean(b) of independent seeds, resampled apart; NaN when either is one seed.

    >>> low, high = interval_between(np.array([5.0, 6.0, 7.0]), np.array([1.0, 2.0, 4.0]))
    >>> 0 < low < high
    True
    """
    first, second = (np.asarray(x, dtype=np.float64) for x in (a, b))
    # Resampled in one order, whichever was asked for: then the interval of b − a is that of a − b mirrored.
    if tuple(second) < tuple(first):
        low, high = _bootstrap((second, first), _mean_difference, level)
        return -high, -low
    return _bootstrap((first, second), _mean_difference, level)


def _mean_difference(a: NDArray[Any], b: NDArray[Any], axis: int = -1) -> NDArray[np.float64]:
    return np.asarray(np.mean(a, axis=axis) - np.mean(b, axis=axis))


def _bootstrap(samples: tuple[NDArray[Any], ...], statistic: Statistic, level: float) -> tuple[float, float]:
    if not 0 < level < 1:
        raise ValueError(f"level: got {level!r}, expected a share between 0 and 1, such as {LEVEL}")
    if any(len(x) < 2 or not np.isfinite(x).all() for x in samples):
        return math.nan, math.nan
    from scipy import stats

    low = high = math.nan
    # Where the seeds do not differ, or hardly, the acceleration is 0 / 0: then the plain percentiles.
    for method in ("BCa", "percentile"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            bounds = stats.bootstrap(
                samples,
                statistic,
                n_resamples=INTERVAL_RESAMPLES,
                confidence_level=level,
                method=method,
                rng=np.random.default_rng(BOOTSTRAP_SEED),
            ).confidence_interval
        low, high = float(bounds.low), float(bounds.high)
        if math.isfinite(low) and math.isfinite(high):
            break
    return low, high


def _before_stop(curves: NDArray[Any]) -> NDArray[Any]:
    """The episodes before a stop; ValueError when there are none."""
    whole = np.asarray(curves)
    empty = np.isnan(whole).all(tuple(range(whole.ndim - 1)))
    if empty.all():
        raise ValueError(f"curves: got shape {whole.shape} without a number in it, expected at least one episode")
    return whole[..., : len(empty) - int((~empty[::-1]).argmax())]


def _crossing(curves: NDArray[Any], level: float, positions: NDArray[Any]) -> NDArray[np.float64]:
    below = curves < level
    return np.where(below.any(-1), positions[below.argmax(-1)].astype(float), np.inf)


def _resampled(values: NDArray[Any], statistic: Statistic) -> NDArray[np.float64]:
    """A statistic of resampled seeds, (S, ...) to (RESAMPLES, ...); seeds are drawn whole, so a curve stays one."""
    from scipy import stats

    distribution = stats.bootstrap(
        (values,),
        statistic,
        axis=0,
        n_resamples=RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(BOOTSTRAP_SEED),
    ).bootstrap_distribution
    return np.asarray(np.moveaxis(distribution, -1, 0))


def _spread(resamples: NDArray[np.float64], n: int) -> float:
    """The standard error that resamples of n seeds show."""
    return widened(float(resamples.std(ddof=1)), n)


def widened(error: float, n: int) -> float:
    """A bootstrap standard error without the bias of resampling n seeds, whose variance is short by (n − 1)/n.

    >>> widened(1.0, 2) == math.sqrt(2)
    True
    """
    return error * math.sqrt(n / (n - 1))


def _rounding(value: float, positions: NDArray[Any]) -> float:
    """The standard error of a number that is known to lie between one position and the next."""
    if len(positions) < 2:
        return 0.0
    index = max(int(np.searchsorted(positions, value)), 1)
    return float(positions[index] - positions[index - 1]) * ROUNDING
