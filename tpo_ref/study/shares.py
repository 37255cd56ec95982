"""Intervals of shares of seeds and of their differences: resamples of seeds that all succeed would show no spread."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tpo_ref.study.estimates import LEVEL

# The lower and the upper end of an interval.
Ends = tuple[float, float]
Bools = NDArray[np.bool_]


def interval(count: int, n: int, level: float = LEVEL) -> Ends:
    """Clopper's and Pearson's exact interval of a share, for `count` of n seeds.

    >>> [round(end, 3) for end in interval(15, 20)]
    [0.509, 0.913]
    """
    from scipy import stats

    chance = stats.binomtest(count, n).proportion_ci(level)
    return float(chance.low), float(chance.high)


def difference(a: Bools, b: Bools, paired: bool, level: float = LEVEL) -> Ends:
    """Newcombe's interval for share(a) − share(b), by Wilson's interval of each; NaN where either is one seed.

    Newcombe, Statistics in Medicine 17 (1998): method 10 of "Interval estimation for the difference between independent
    proportions", and of "Improved confidence intervals ... based on paired data" for seeds that are paired.

    Args: a, b, which seeds succeeded, of one length when paired.

    >>> solved, others = np.arange(70) < 56, np.arange(80) < 48
    >>> [round(end, 4) for end in difference(solved, others, paired=False)]
    [0.0524, 0.3339]
    """
    if min(len(a), len(b)) < 2:
        return math.nan, math.nan
    p, q = float(np.mean(a)), float(np.mean(b))
    (low_p, high_p), (low_q, high_q) = wilson(p, len(a), level), wilson(q, len(b), level)
    phi = _correlation(a, b) if paired else 0.0
    down = _length(p - low_p, high_q - q, phi)
    up = _length(high_p - p, q - low_q, phi)
    return p - q - down, p - q + up


def wilson(share: float, n: int, level: float = LEVEL) -> Ends:
    """Wilson's score interval of a share of n seeds.

    >>> [round(end, 4) for end in wilson(0.8, 70)]
    [0.6918, 0.877]
    """
    from scipy import stats

    z = float(stats.norm.isf((1 - level) / 2))
    centre = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)


def _length(x: float, y: float, phi: float) -> float:
    """The third side of a triangle of two errors whose correlation is phi."""
    return math.sqrt(max(x * x - 2 * phi * x * y + y * y, 0.0))


def _correlation(a: Bools, b: Bools) -> float:
    """Newcombe's phi of pairs: corrected towards 0 where it is positive; 0 where a margin is empty."""
    n = len(a)
    both, only_a, only_b = int((a & b).sum()), int((a & ~b).sum()), int((b & ~a).sum())
    neither = n - both - only_a - only_b
    margins = math.prod((both + only_a, only_b + neither, both + only_b, only_a + neither))
    if margins == 0:
        return 0.0
    odds = both * neither - only_a * only_b
    return (odds if odds <= 0 else max(odds - n / 2, 0.0)) / math.sqrt(margins)
