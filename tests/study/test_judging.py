"""Rules of judgement: noise, ties, single seeds and many claims confirm nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from tpo_ref.study import judging
from tpo_ref.study.estimates import Estimate, Share
from tpo_ref.study.judging import FAILS, HOLDS, UNCLEAR, Bounds

POSITIVE, NEGATIVE, BETWEEN = (0.0, math.inf), (-math.inf, 0.0), (-1.0, 1.0)
SETS = 400


def decided(estimate: Estimate, region: Bounds, level: float = judging.LEVEL) -> str:
    (judgement,) = judging.judge([estimate], [region], level)
    return judgement.word


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Estimate, Bounds]:
    n = draw(st.integers(2, 30))
    if draw(st.booleans()):
        count = draw(st.integers(0, n))
        return Share(count / n, 0.1, n), draw(st.sampled_from([(0.2, 0.6), (0.4, math.inf), (-math.inf, 0.4)]))
    region = draw(st.sampled_from([POSITIVE, NEGATIVE, BETWEEN, (0.2, 0.6)]))
    return Estimate(draw(st.floats(-2, 2)), draw(st.floats(1e-3, 1)), n), region


def test_an_interval_is_students_or_clopper_and_pearsons() -> None:
    # Tables: t = 2.262 for 9 degrees of freedom at 95 %; 3.250 at 99 %.
    assert judging.interval(Estimate(1.0, 0.1, 10)) == pytest.approx((1 - 0.2262, 1 + 0.2262), abs=1e-4)
    assert judging.interval(Estimate(1.0, 0.1, 10), 0.99) == pytest.approx((1 - 0.3250, 1 + 0.3250), abs=1e-4)
    # Nobody of ten is solved: 1 − .025^(1/10) is still possible.
    assert judging.interval(Share(0.0, 0.0, 10)) == pytest.approx((0, 1 - 0.025**0.1))
    assert judging.interval(Share(0.75, 0.1, 20)) == pytest.approx((0.509, 0.913), abs=5e-4)


@pytest.mark.parametrize("region", [POSITIVE, NEGATIVE, BETWEEN])
@pytest.mark.parametrize("estimate", [Estimate(0.5, math.nan, 1), Share(1.0, math.nan, 1), Estimate(0.5, math.nan, 9)])
def test_one_seed_or_no_error_decides_nothing(estimate: Estimate, region: Bounds) -> None:
    assert decided(estimate, region) == UNCLEAR
    assert decided(Estimate(math.nan, 0.0, 9), region) == UNCLEAR


def test_one_seed_decides_nothing_however_clear() -> None:
    assert decided(Estimate(9.0, 0.0, 1), POSITIVE) == UNCLEAR
    assert decided(Share(1.0, 0.0, 1), (0.02, 1.0)) == UNCLEAR


def test_a_tie_is_not_better() -> None:
    assert decided(Estimate(0.0, 0.0, 5), POSITIVE) == FAILS
    assert decided(Estimate(0.0, 0.0, 5), NEGATIVE) == FAILS
    assert decided(Estimate(1e-9, 0.0, 5), POSITIVE) == HOLDS
    # Between two bounds, either of them is accepted.
    assert [decided(Estimate(x, 0.0, 5), BETWEEN) for x in (-1.0, 1.0, 1.1)] == [HOLDS, HOLDS, FAILS]


def test_a_claim_to_one_side_needs_more_than_its_noise() -> None:
    # t = 2.776 for 4 degrees of freedom.
    assert [decided(Estimate(x, 1.0, 5), POSITIVE) for x in (2.8, 2.7, -2.7, -2.8)] == [HOLDS, UNCLEAR, UNCLEAR, FAILS]
    assert [decided(Estimate(-x, 1.0, 5), NEGATIVE) for x in (2.8, 2.7, -2.7, -2.8)] == [HOLDS, UNCLEAR, UNCLEAR, FAILS]


def test_a_claim_to_two_sides_needs_a_small_error() -> None:
    # In the middle of a region as wide as 1 either way, with an error that leaves 5 open, and one that does not.
    assert decided(Estimate(0.0, 2.0, 5), BETWEEN) == UNCLEAR
    assert decided(Estimate(0.0, 0.3, 5), BETWEEN) == HOLDS
    assert decided(Estimate(2.0, 0.3, 5), BETWEEN) == FAILS


def test_few_seeds_need_a_clearer_difference() -> None:
    assert [decided(Estimate(2.5, 1.0, n), POSITIVE) for n in (2, 5, 20)] == [UNCLEAR, UNCLEAR, HOLDS]


def test_a_share_is_judged_by_its_count() -> None:
    # All of three seeds: .025^(1/3) = .292 is still possible.
    assert [decided(Share(1.0, 0.0, 3), (low, 1.0)) for low in (0.29, 0.3)] == [HOLDS, UNCLEAR]
    assert decided(Share(0.0, 0.0, 20), (0.5, 0.9)) == FAILS


def test_a_level_that_no_resample_reaches_fails() -> None:
    assert decided(Estimate(math.inf, 0.0, 5), (10.0, 20.0)) == FAILS
    assert decided(Estimate(math.inf, math.nan, 5), (10.0, 20.0)) == UNCLEAR
    assert decided(Estimate(math.inf, 0.0, 5), (10.0, math.inf)) == HOLDS


@given(pair=pairs())
def test_the_doubt_is_one_minus_the_highest_level_that_decides(pair: tuple[Estimate, Bounds]) -> None:
    estimate, region = pair
    # The clear twin: halve the range of levels until the interval just decides.
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        open_ = judging.word(judging.interval(estimate, 1 - middle), region) == UNCLEAR
        low, high = (middle, high) if open_ else (low, middle)
    assert judging.doubt(estimate, region) == pytest.approx(high, rel=1e-6, abs=1e-9)


@given(pair=pairs(), level=st.floats(0.5, 0.999), wider=st.floats(0.5, 0.999))
def test_a_higher_level_decides_no_more(pair: tuple[Estimate, Bounds], level: float, wider: float) -> None:
    level, wider = sorted((level, wider))
    words = decided(*pair, level), decided(*pair, wider)
    assert words[1] in (UNCLEAR, words[0])


@given(many=st.lists(pairs(), min_size=1, max_size=8))
def test_many_claims_are_decided_as_holm_says(many: list[tuple[Estimate, Bounds]]) -> None:
    ours, regions = [list(part) for part in zip(*many, strict=True)]
    found = judging.judge(ours, regions)
    # The textbook: p-values in order, each against alpha over the number of those left; stop at the first above.
    p = [judging.doubt(*pair) for pair in many]
    assume(all(abs(x * (len(p) - i) - 0.05) > 1e-9 for x in p for i in range(len(p))))
    left, expected = len(p), [False] * len(p)
    for index in np.argsort(p, kind="stable"):
        if p[index] >= 0.05 / left:
            break
        expected[index] = True
        left -= 1
    assert [each.word != UNCLEAR for each in found] == expected
    # What is shown is what decided.
    for each, estimate, region in zip(found, ours, regions, strict=True):
        assert each.interval == judging.interval(estimate, each.level)
        assert each.word == judging.word(each.interval, region)


def test_the_clearest_claim_is_decided_first_and_makes_room_for_the_next() -> None:
    # t = 2.205 with 19 degrees of freedom has p = .04: too much for one of two, enough once the other is decided.
    ours = [Estimate(0.2205, 0.1, 20), Estimate(1.0, 0.1, 20)]
    found = judging.judge(ours, [POSITIVE] * 2)
    assert [(each.word, each.level) for each in found] == [(HOLDS, 0.95), (HOLDS, pytest.approx(0.975))]
    # Nor is there room beside one that stays open.
    found = judging.judge([ours[0], ours[0]], [POSITIVE] * 2)
    assert [(each.word, each.level) for each in found] == [(UNCLEAR, pytest.approx(0.975))] * 2


@given(many=st.lists(pairs(), min_size=1, max_size=5))
def test_a_claim_beside_others_is_decided_no_sooner(many: list[tuple[Estimate, Bounds]]) -> None:
    together = judging.judge(*(list(part) for part in zip(*many, strict=True)))
    for each, (estimate, region) in zip(together, many, strict=True):
        assert each.word in (UNCLEAR, decided(estimate, region))


@pytest.mark.parametrize("seeds", [3, 10])
def test_noise_alone_confirms_a_claim_of_twenty_in_one_table_of_twenty(seeds: int) -> None:
    # Twenty orders that are ties: in at most 5 % of tables is any of them decided; 400 tables tell that within 1.1 %.
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(SETS):
        x = rng.normal(size=(20, seeds))
        ours = [Estimate(float(row.mean()), float(stats.sem(row)), seeds) for row in x]
        wrong += any(each.word != UNCLEAR for each in judging.judge(ours, [POSITIVE] * 20))
    assert wrong / SETS <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / SETS)
