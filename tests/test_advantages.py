"""Advantage estimators: what each subtracts and divides by, masks, and what a zero-variance group gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.backends import Backend
from helpers.strategies import BAD_MASKS, BAD_NUMBERS, Group, bad, groups
from hypothesis import given
from hypothesis import strategies as st

ESTIMATORS = (
    "centred",
    "rloo",
    "group_standardised",
    "maxrl",
    "batch_standardised",
    "group_centred_batch_standardised",
)
PER_GROUP = ("centred", "rloo", "group_standardised", "maxrl")


def estimate(backend: Backend, name: str, scores: np.ndarray, **options: Any) -> Any:
    return backend.call(f"advantages.{name}", scores, **options)


@pytest.mark.paper("Dr. GRPO")
@given(group=groups())
def test_centred_subtracts_the_group_mean(backend: Backend, group: Group) -> None:
    a = estimate(backend, "centred", group.scores)
    np.testing.assert_allclose(a, group.scores - group.scores.mean(-1, keepdims=True), rtol=1e-12, atol=1e-14)


@pytest.mark.paper("RLOO")
@given(group=groups(min_k=2))
def test_rloo_subtracts_the_mean_of_the_others(backend: Backend, group: Group) -> None:
    s = group.scores
    others = (s.sum(-1, keepdims=True) - s) / (group.k - 1)
    np.testing.assert_allclose(estimate(backend, "rloo", s), s - others, rtol=1e-10, atol=1e-12)


@pytest.mark.paper("GRPO")
@given(group=groups(), epsilon_std=st.sampled_from((0.0, 1e-8, 1e-4, 0.1)))
def test_group_standardised_divides_by_the_guarded_deviation(
    backend: Backend, group: Group, epsilon_std: float
) -> None:
    a = estimate(backend, "group_standardised", group.scores, epsilon_std=epsilon_std)
    for row, s in zip(a, group.scores, strict=True):
        expected = (s - s.mean()) / (s.std(ddof=0) + epsilon_std) if np.ptp(s) > 0 else np.zeros(group.k)
        np.testing.assert_allclose(row, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.paper("MaxRL")
@given(k=st.integers(1, 64), data=st.data())
def test_maxrl_of_binary_scores(backend: Backend, k: int, data: st.DataObject) -> None:
    m = data.draw(st.integers(0, k))
    a = estimate(backend, "maxrl", np.r_[np.ones(m), np.zeros(k - m)])
    # With m of K solved, s̄ = m/K: successes get K/m − 1, failures −1; all solved or all failed say nothing.
    expected = np.r_[np.full(m, k / m - 1), np.full(k - m, -1.0)] if 0 < m < k else np.zeros(k)
    np.testing.assert_allclose(a, expected, rtol=1e-12)


@pytest.mark.paper("REINFORCE++")
@given(group=groups())
def test_batch_estimators_divide_by_the_deviation_of_the_batch(backend: Backend, group: Group) -> None:
    s = group.scores
    if np.ptp(s) > 0:
        np.testing.assert_allclose(
            estimate(backend, "batch_standardised", s), (s - s.mean()) / s.std(), rtol=1e-9, atol=1e-12
        )
    c = s - s.mean(-1, keepdims=True)
    a = estimate(backend, "group_centred_batch_standardised", s)
    if group.differ.any():
        np.testing.assert_allclose(a, c / c.std(), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose((a**2).mean(), 1, rtol=1e-9)
    else:
        assert (a == 0).all()


@pytest.mark.parametrize("name", [n for n in ESTIMATORS if n != "batch_standardised"])
@pytest.mark.parametrize("value", [0.1, 1 / 3, 7e5, 1e-300, 0.0])
def test_a_zero_variance_group_gives_exactly_zero(backend: Backend, name: str, value: float) -> None:
    # Its mean is off by rounding (seven copies of 0.1 miss it by 1e-17); divided by σ that would be ±1.
    scores = np.stack([np.full(7, value), [1.0, 0, 0, 0, 0, 0, 0]])
    a = estimate(backend, name, scores)
    assert (a[0] == 0).all()
    assert (a[1] != 0).all()


def test_only_the_batch_mean_moves_a_zero_variance_group(backend: Backend) -> None:
    scores = np.array([[1.0, 1.0], [0.0, 0.0]])
    np.testing.assert_allclose(estimate(backend, "batch_standardised", scores), [[1, 1], [-1, -1]])
    np.testing.assert_array_equal(estimate(backend, "batch_standardised", np.full((3, 7), 0.1)), 0)


@pytest.mark.parametrize("name", ESTIMATORS)
@given(group=groups(kinds=("binary", "onehot", "tied")))
def test_a_masked_candidate_changes_nothing(backend: Backend, name: str, group: Group) -> None:
    a = estimate(backend, name, np.where(group.mask, group.scores, np.nan), mask=group.mask)
    assert (a[~group.mask] == 0).all()
    if name in PER_GROUP:
        for row, keep, s in zip(a, group.mask, group.scores, strict=True):
            np.testing.assert_allclose(row[keep], estimate(backend, name, s[keep]), rtol=1e-10, atol=1e-12)
    else:
        np.testing.assert_allclose(a.sum(), 0, atol=1e-9)
        energy = (a**2).sum()
        assert energy == 0 or np.isclose(energy, group.mask.sum())


@pytest.mark.parametrize("name", ESTIMATORS)
def test_groups_of_one_and_groups_of_none_say_nothing(backend: Backend, name: str) -> None:
    np.testing.assert_array_equal(estimate(backend, name, np.array([3.0])), [0])
    nobody = {"mask": np.array([False, False])}
    np.testing.assert_array_equal(estimate(backend, name, np.array([np.nan, 1.0]), **nobody), [0, 0])


@pytest.mark.parametrize("name", ESTIMATORS)
def test_extreme_units_neither_overflow_nor_vanish(backend: Backend, name: str) -> None:
    scores = np.array([1.0, 0.0, 0.0, 0.0])
    options = {"epsilon_std": 0.0} if name == "group_standardised" else {}
    one = estimate(backend, name, scores, **options)
    for unit in (1e-200, 1e200):
        scale = unit if name in ("centred", "rloo") else 1
        np.testing.assert_allclose(estimate(backend, name, unit * scores, **options), scale * one, rtol=1e-12)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_integers_are_scores_and_no_graph_is_kept(backend: Backend, name: str) -> None:
    np.testing.assert_allclose(
        estimate(backend, name, np.array([[2, 0], [1, 1]])),
        estimate(backend, name, np.array([[2.0, 0.0], [1.0, 1.0]])),
        rtol=1e-6,
    )
    assert backend.attached(f"advantages.{name}", np.array([1.0, 0.0])) == []


@pytest.mark.reads_values
@pytest.mark.parametrize("name", ESTIMATORS)
@bad(BAD_NUMBERS)
def test_bad_scores_are_refused(backend: Backend, name: str, value: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=f"scores: .*{words}"):
        estimate(backend, name, value)


@pytest.mark.reads_values
@pytest.mark.parametrize("name", ESTIMATORS)
@bad(BAD_MASKS)
def test_bad_masks_are_refused(backend: Backend, name: str, value: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        estimate(backend, name, np.array([1.0, 0.0]), mask=value)


def test_negative_scores_and_guards_are_refused(backend: Backend) -> None:
    # A negative mean would turn every push round.
    with pytest.raises(ValueError, match="scores: got -1, expected 0"):
        estimate(backend, "maxrl", np.array([-1.0, 0.0]))
    with pytest.raises(ValueError, match="epsilon_std: got -1"):
        estimate(backend, "group_standardised", np.array([1.0, 0.0]), epsilon_std=-1.0)
