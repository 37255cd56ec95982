"""Rules of judgement: when an estimate decides that a number lies in a region, and how several are decided together.

Nothing here knows of an experiment: estimates and regions in, words out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tpo_ref.study import shares
from tpo_ref.study.estimates import LEVEL, Estimate, Share

HOLDS, UNCLEAR, FAILS = "holds", "unclear", "FAILS"
# A single seed shows nothing of how far seeds are apart.
FEWEST_SEEDS = 2

# The lower and the upper end of an interval or a region; a region may have one that is infinite.
Bounds = tuple[float, float]


@dataclass(frozen=True)
class Judgement:
    """What was decided, and the interval at its level that decided it; NaN for its ends where there is none."""

    word: str
    interval: Bounds
    level: float


def judge(estimates: Sequence[Estimate], regions: Sequence[Bounds], level: float = LEVEL) -> list[Judgement]:
    """Decide of each number whether it lies in its region, all at once, by Holm's step-down rule.

    The chance that any of them is decided wrongly is at most 1 − level. The m numbers are taken in the order of how
    clearly their estimates decide; the j-th of them, from 0, gets an interval at level 1 − (1 − level)/(m − j). The
    first that stays unclear ends the descent, and those after it get its level.

    Args: estimates; regions, one for each; level, the share of cases in which all words are right.

    >>> few, many = Estimate(0.2, 0.05, 3), Estimate(0.2, 0.05, 20)
    >>> [each.word for each in judge([few, many], [(0.0, math.inf)] * 2)]
    ['unclear', 'holds']
    """
    doubts = [doubt(*pair) for pair in zip(estimates, regions, strict=True)]
    judgements: dict[int, Judgement] = {}
    left = len(doubts)
    for index in sorted(range(len(doubts)), key=doubts.__getitem__):
        own = 1 - (1 - level) / left
        bounds = interval(estimates[index], own)
        judgements[index] = Judgement(word(bounds, regions[index]), bounds, own)
        if judgements[index].word != UNCLEAR:
            left -= 1
    return [judgements[index] for index in range(len(doubts))]


def interval(estimate: Estimate, level: float = LEVEL) -> Bounds:
    """The interval of an estimate: Clopper's and Pearson's of a share, else Student's with n − 1 degrees of freedom.

    Returns: its ends, NaN for fewer than two seeds, or without a standard error.

    >>> [round(end, 3) for end in interval(Share(0.75, 0.1, 20))]
    [0.509, 0.913]
    """
    if not _decides(estimate):
        return math.nan, math.nan
    if isinstance(estimate, Share):
        return shares.interval(estimate.count, estimate.n, level)
    if estimate.error == 0:
        return estimate.value, estimate.value
    from scipy import stats

    half = float(stats.t.isf((1 - level) / 2, estimate.n - 1)) * estimate.error
    return estimate.value - half, estimate.value + half


def word(bounds: Bounds, region: Bounds) -> str:
    """HOLDS for an interval wholly inside a region, FAILS for one wholly outside, else UNCLEAR, as without an interval.

    Between two finite bounds, a bound belongs to the region. A single bound does not: a tie is not better.

    >>> word((0.1, 0.3), (0.0, 0.2)), word((0.0, 0.0), (0.0, math.inf)), word((math.nan, math.nan), (0.0, 0.2))
    ('unclear', 'FAILS', 'unclear')
    """
    (a, b), (low, high) = bounds, region
    if math.isnan(a) or math.isnan(b):
        return UNCLEAR
    if math.isfinite(low) and math.isfinite(high):
        inside, outside = low <= a and b <= high, b < low or a > high
    elif math.isfinite(low):
        inside, outside = a > low, b <= low
    else:
        inside, outside = b < high, a >= high
    return HOLDS if inside else FAILS if outside else UNCLEAR


def doubt(estimate: Estimate, region: Bounds) -> float:
    """One minus the highest level at which the interval of an estimate lies wholly inside or wholly outside a region.

    Returns: the p-value of that decision, 1 where no level decides.

    >>> round(doubt(Estimate(0.2, 0.1, 5), (0.0, math.inf)), 3)
    0.116
    """
    if not _decides(estimate):
        return 1.0
    # A number without spread is decided at every level.
    if estimate.error == 0 and not isinstance(estimate, Share):
        return 0.0
    low, high = region
    inside = max(_above(estimate, low), _below(estimate, high))
    outside = min(_below(estimate, low), _above(estimate, high))
    return min(1.0, 2 * min(inside, outside))


def _decides(estimate: Estimate) -> bool:
    return estimate.n >= FEWEST_SEEDS and not math.isnan(estimate.value) and not math.isnan(estimate.error)


def _above(estimate: Estimate, bound: float) -> float:
    """The chance of an estimate as high as this if the number were the bound."""
    if math.isinf(bound):
        return float(bound > 0)
    from scipy import stats

    if isinstance(estimate, Share):
        return float(stats.binom.sf(estimate.count - 1, estimate.n, min(max(bound, 0.0), 1.0)))
    return float(stats.t.sf((estimate.value - bound) / estimate.error, estimate.n - 1))


def _below(estimate: Estimate, bound: float) -> float:
    """The chance of an estimate as low as this if the number were the bound."""
    if math.isinf(bound):
        return float(bound < 0)
    from scipy import stats

    if isinstance(estimate, Share):
        return float(stats.binom.cdf(estimate.count, estimate.n, min(max(bound, 0.0), 1.0)))
    return float(stats.t.cdf((estimate.value - bound) / estimate.error, estimate.n - 1))
