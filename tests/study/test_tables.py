"""Sentences on who won: who is behind, who is as good, and whom these seeds cannot tell."""

from __future__ import annotations

import math

import pytest

from tpo_ref.study import tables
from tpo_ref.study.estimates import Estimate
from tpo_ref.study.reports import IntervalEstimate, MethodRow


def row(method: str, area: float, behind: float, error: float, seeds: int = 10) -> MethodRow:
    return MethodRow(
        method, method.upper(), seeds, IntervalEstimate(area, 0.05, seeds), {}, Estimate(behind, error, seeds)
    )


BEST = row("tpo", 0.5, 0.0, 0.0)


def test_who_is_not_behind_is_named_with_the_smallest() -> None:
    # 2 % of .5 is .01; t = 2.26 for 9 degrees of freedom, 2.69 for one of three at 95 % together.
    rows = [BEST, row("dg", 0.502, 0.002, 0.001), row("grpo", 0.53, 0.03, 0.01), row("pg", 0.8, 0.3, 0.01)]
    assert tables.ranking(rows) == (["TPO"], ["DG"], ["GRPO"])
    assert tables.leaders(rows) == ["TPO", "DG", "GRPO"]
    assert tables.winner(rows) == (
        "TPO has the smallest area under the error curve, 0.5 ± 0.05 (10 seeds); within 2 % of it, a tie: DG; not told "
        "apart from it by these seeds, a tie: GRPO."
    )
    # A difference that is clear, and too small to matter.
    assert tables.ranking([BEST, row("dg", 0.505, 0.005, 0.0001)])[1] == ["DG"]


def test_areas_are_compared_seed_by_seed_and_together() -> None:
    # The areas spread by .05; the difference of each seed by .008, which decides alone, and not among five.
    pair = [BEST, row("dg", 0.53, 0.03, 0.008)]
    assert tables.leaders(pair) == ["TPO"]
    others = [row(f"m{i}", 0.53, 0.03, 0.008) for i in range(5)]
    assert len(tables.leaders([BEST, *others])) == 6


def test_one_method_or_one_seed_wins_against_nobody() -> None:
    assert tables.winner([BEST]) is None
    assert tables.winner([]) is None
    # An oracle is no competitor.
    assert tables.winner([row("ce", 0.4, -0.1, 0.01), BEST]) is None
    alone = [row("tpo", 0.5, 0.0, math.nan, 1), row("dg", 0.9, 0.4, math.nan, 1)]
    assert str(tables.winner(alone)).endswith("(1 seed, which decides nothing).")


@pytest.mark.parametrize(("low", "high", "says"), [(0.1, 0.25, "0.1 to 0.25"), (math.nan, math.nan, "none")])
def test_an_interval_is_said_or_none(low: float, high: float, says: str) -> None:
    assert tables.bounds(low, high) == says
