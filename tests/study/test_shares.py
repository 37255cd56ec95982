"""Intervals of shares and of their differences, against published tables and by how often they cover."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpo_ref.study import shares


def pairs_of(both: int, only_a: int, only_b: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    a = np.repeat([True, True, False, False], (both, only_a, only_b, neither))
    b = np.repeat([True, False, True, False], (both, only_a, only_b, neither))
    return a, b


@pytest.mark.parametrize(
    ("a", "n", "b", "m", "expected"),
    [
        # Newcombe (1998), table II, method 10.
        (56, 70, 48, 80, (0.0524, 0.3339)),
        (9, 10, 3, 10, (0.1705, 0.8090)),
        (10, 10, 0, 20, (0.6791, 1.0000)),
        (0, 10, 0, 10, (-0.2775, 0.2775)),
    ],
)
def test_independent_shares_have_the_published_intervals(
    a: int, n: int, b: int, m: int, expected: tuple[float, float]
) -> None:
    found = shares.difference(np.arange(n) < a, np.arange(m) < b, paired=False)
    assert found == pytest.approx(expected, abs=6e-5)


def test_pairs_that_agree_are_told_apart_sooner() -> None:
    # 60 % and 40 % of 100: of the second, all were solved by the first, or as many as by chance, or as few as can be.
    widths = []
    for both in (40, 24, 0):
        low, high = shares.difference(*pairs_of(both, 60 - both, 40 - both, both), paired=True)
        widths.append(high - low)
    assert widths == sorted(widths)
    # By chance, they are as good as independent: phi is 0.
    assert shares.difference(*pairs_of(24, 36, 16, 24), paired=True) == pytest.approx(
        shares.difference(*pairs_of(24, 36, 16, 24), paired=False)
    )
    # By hand for all of the second: phi = (40·40 − 50)/(√(60·40·40·60)) = .6458, where uncorrected it were 2/3.
    a, b = pairs_of(40, 20, 0, 40)
    (low_p, _), (_, high_q) = shares.wilson(0.6, 100), shares.wilson(0.4, 100)
    x, y, phi = 0.6 - low_p, high_q - 0.4, (40 * 40 - 50) / 2400
    assert shares.difference(a, b, paired=True)[0] == pytest.approx(0.2 - math.sqrt(x * x + y * y - 2 * phi * x * y))


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 30), st.integers(1, 30), st.booleans())
def test_a_difference_lies_in_its_interval_and_is_mirrored(w: int, x: int, y: int, z: int, paired: bool) -> None:
    a, b = pairs_of(w, x, y, z)
    low, high = shares.difference(a, b, paired)
    if len(a) < 2:
        assert math.isnan(low)
        return
    assert -1 - 1e-12 <= low <= a.mean() - b.mean() <= high <= 1 + 1e-12
    assert shares.difference(b, a, paired) == pytest.approx((-high, -low))


@pytest.mark.parametrize("paired", [True, False])
def test_intervals_of_differences_cover_about_as_often_as_they_say(paired: bool) -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(1000):
        task = rng.normal(size=(1, 10)) if paired else rng.normal(size=(2, 10))
        a, b = task + 0.5 * rng.normal(size=(2, 10)) > np.array([[-1.0], [0.0]])
        low, high = shares.difference(a, b, paired)
        # Normal with variance 1.25: P(X > −1) − P(X > 0).
        covered += low <= 0.5 * (1 + math.erf(1 / math.sqrt(2.5))) - 0.5 <= high
    assert 0.92 <= covered / 1000 <= 0.995
