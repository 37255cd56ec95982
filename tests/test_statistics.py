"""Estimates over seeds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpo_ref.study import claims, statistics


@given(seed=st.integers(0, 1000), n=st.integers(2, 50))
def test_mean_and_its_error(seed: int, n: int) -> None:
    x = np.random.default_rng(seed).normal(size=n)
    found = statistics.mean(x)
    assert found.value == pytest.approx(x.mean())
    assert found.error == pytest.approx(x.std(ddof=1) / math.sqrt(n))


def test_one_seed_has_no_error() -> None:
    for found in (
        statistics.mean(np.ones(1)),
        statistics.median(np.ones(1)),
        statistics.first_below(np.ones((1, 3)), 2),
    ):
        assert math.isnan(found.error)
        assert found.n == 1


def test_first_below_reads_the_mean_curve_not_the_seeds() -> None:
    # Each seed alone is below 0.5 at step 0 or 1; their mean is not before step 2.
    curves = np.array([[0.4, 0.9, 0.1], [0.9, 0.4, 0.1]])
    assert statistics.first_below(curves, 0.5).value == 2
    assert math.isnan(statistics.first_below(curves, 0.01).value)
    assert statistics.first_below(curves, 0.5, np.array([0, 200, 400])).value == 400


def test_the_median_curve_ignores_one_lost_seed() -> None:
    curves = np.array([[0.9, 0.1, 0.1]] * 4 + [[0.9, 0.9, 0.3]])
    assert statistics.first_below(curves, 0.2).value == 2
    assert statistics.first_below(curves, 0.2, centre=np.median).value == 1


def test_first_below_error_shrinks_with_agreement() -> None:
    x = np.arange(50.0)
    rng = np.random.default_rng(0)
    wide = np.exp(-0.1 * x * rng.uniform(0.5, 1.5, (20, 1)))
    narrow = np.exp(-0.1 * x * rng.uniform(0.95, 1.05, (20, 1)))
    assert statistics.first_below(narrow, 0.1).error < statistics.first_below(wide, 0.1).error


def test_median_resists_one_lost_seed() -> None:
    assert statistics.median(np.r_[np.full(19, 3.0), 90.0]).value == 3.0


def test_tolerances_are_the_widest_of_three() -> None:
    assert claims.around(10.0, relative=0.1) == (9.0, 11.0)
    assert claims.around(10.0, relative=0.1, absolute=2.0) == (8.0, 12.0)
    # 5e-5 is published with one digit: anything that rounds to it is accepted.
    assert claims.around(5e-5, relative=0.01, digit=1e-5) == pytest.approx((4.5e-5, 5.5e-5))


def test_a_nan_never_holds() -> None:
    from toy import TOY

    flat = {"tpo": {"error": np.ones((3, 40))}, "pg": {"error": np.ones((3, 40))}}
    assert [v.word for v in claims.judge(TOY, "paper", flat)] == [claims.FAILS, claims.HOLDS]
    better = {"tpo": {"error": np.zeros((3, 40))}, "pg": {"error": np.ones((3, 40))}}
    worse = {"tpo": better["pg"], "pg": better["tpo"]}
    assert claims.judge(TOY, "paper", better)[1].word == claims.HOLDS
    assert claims.judge(TOY, "paper", worse)[1].word == claims.FAILS


@pytest.mark.parametrize(
    ("value", "word"), [(1.0, "holds"), (2.0, "holds"), (2.19, "unclear"), (2.21, "FAILS"), (0.0, "FAILS")]
)
def test_outside_by_less_than_our_noise_is_unclear(value: float, word: str) -> None:
    claim = claims.final("tpo", "error", 1.5, (1.0, 2.0), "toy")
    assert claims.Verdict(claim, 1.0, 2.0, statistics.Estimate(value, 0.1, 9)).word == word


def test_one_seed_outside_fails_since_its_noise_is_unknown() -> None:
    claim = claims.final("tpo", "error", 1.5, (1.0, 2.0), "toy")
    assert claims.Verdict(claim, 1.0, 2.0, statistics.Estimate(2.01, math.nan, 1)).word == claims.FAILS
