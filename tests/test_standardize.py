"""Standardised scores: App. A, its invariances, its floating-point meaning of σ = 0."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.backends import Backend, lookup
from helpers.strategies import BAD_MASKS, BAD_NUMBERS, Group, bad, groups
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.paper("App. A")
@given(group=groups())
def test_mean_zero_and_unit_population_variance(backend: Backend, group: Group) -> None:
    u = backend.call("standardize.standardize", group.scores)
    differ = np.ptp(group.scores, axis=-1) > 0
    np.testing.assert_allclose(u.sum(-1), 0, atol=1e-9)
    # ddof 0: Σ u² = K, not K − 1.
    np.testing.assert_allclose((u**2).sum(-1), np.where(differ, group.k, 0), rtol=1e-9)


@given(group=groups(kinds=("normal", "binary", "onehot", "tied")), a=st.floats(0.1, 10), c=st.floats(-10, 10))
def test_invariant_under_shift_and_positive_scale_odd_under_sign(
    backend: Backend, group: Group, a: float, c: float
) -> None:
    u = backend.call("standardize.standardize", group.scores)
    np.testing.assert_allclose(backend.call("standardize.standardize", a * group.scores + c), u, atol=1e-8)
    np.testing.assert_allclose(backend.call("standardize.standardize", -group.scores), -u, atol=1e-12)


@given(group=groups(min_k=2))
def test_range_and_extremes(backend: Backend, group: Group) -> None:
    k = group.k
    u = backend.call("standardize.standardize", group.scores)
    differ = np.ptp(group.scores, axis=-1) > 0
    spread = np.ptp(u, axis=-1)[differ]
    assert (np.abs(u) <= np.sqrt(k - 1) * (1 + 1e-12)).all()
    assert (spread >= 2 * (1 - 1e-12)).all()
    assert (spread <= np.sqrt(2 * k) * (1 + 1e-12)).all()


@given(k=st.integers(2, 64), data=st.data())
def test_binary_scores_have_a_closed_form(backend: Backend, k: int, data: st.DataObject) -> None:
    m = data.draw(st.integers(1, k - 1))
    u = backend.call("standardize.standardize", np.r_[np.ones(m), np.zeros(k - m)])
    np.testing.assert_allclose(u[:m], np.sqrt((k - m) / m), rtol=1e-12)
    np.testing.assert_allclose(u[m:], -np.sqrt(m / (k - m)), rtol=1e-12)


@given(group=groups())
def test_a_masked_candidate_changes_nothing(backend: Backend, group: Group) -> None:
    spoiled = np.where(group.mask, group.scores, np.nan)
    u = backend.call("standardize.standardize", spoiled, mask=group.mask)
    for row, keep, scores in zip(u, group.mask, group.scores, strict=True):
        np.testing.assert_allclose(row[keep], backend.call("standardize.standardize", scores[keep]), atol=1e-12)
        assert (row[~keep] == 0).all()


@pytest.mark.parametrize("value", [0.1, 1 / 3, -7e5, 1e-300, 0.0, 1e300])
@pytest.mark.parametrize("k", [1, 7, 64])
def test_equal_scores_give_exactly_zero(backend: Backend, value: float, k: int) -> None:
    # Seven copies of 0.1 have σ = 1e-17: the literal rule would turn them into u = ±1.
    assert (backend.call("standardize.standardize", np.full(k, value)) == 0).all()


def test_rounding_is_not_a_spread(backend: Backend) -> None:
    # 0.1 + 0.2 is 0.3 up to its last bit; two scorers that agree must not be told apart by it (deviation D1).
    assert (backend.call("standardize.standardize", np.array([0.3, 0.1 + 0.2, 0.3, 0.3])) == 0).all()
    assert (backend.call("standardize.standardize", np.array([0.3, 0.3 + 1e-9, 0.3, 0.3])) != 0).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1.0, -3e4, 1e-20])
def test_equal_means_within_eight_units_in_the_last_place(backend: Backend, size: float, dtype: type) -> None:
    # Relative to the precision in which the scores arrive, and to their size; eight units more is a difference.
    eps = np.finfo(dtype).eps
    within, beyond = (np.array([1, 1 - units * eps], dtype) * dtype(size) for units in (6, 16))
    assert (backend.call("standardize.standardize", within) == 0).all()
    np.testing.assert_allclose(
        backend.call("standardize.standardize", beyond), np.sign(size) * np.array([1, -1]), rtol=0.1
    )


@pytest.mark.parametrize("scale", [1e-200, 1e-30, 1e30, 1e200])
def test_extreme_units_neither_overflow_nor_vanish(backend: Backend, scale: float) -> None:
    expected = backend.call("standardize.standardize", np.array([1.0, 0.0, 0.0]))
    np.testing.assert_allclose(backend.call("standardize.standardize", np.array([scale, 0.0, 0.0])), expected)


def test_tau_shrinks_noise_and_spares_signal(backend: Backend) -> None:
    # 0.001 against zeros is the scorer's noise at τ = 0.1; a binary success is not.
    noise = backend.call("standardize.standardize", np.array([0.001, 0.0, 0.0, 0.0]), tau=0.1)
    signal = backend.call("standardize.standardize", np.array([1.0, 0.0, 0.0, 0.0]), tau=0.1)
    assert np.abs(noise).max() < 0.01
    np.testing.assert_allclose(signal, np.array([0.75, -0.25, -0.25, -0.25]) / np.hypot(np.sqrt(3) / 4, 0.1))


def test_author_compat_returns_centred_scores_at_tiny_variance(backend: Backend) -> None:
    s = np.array([1e-7, 0.0])
    np.testing.assert_allclose(backend.call("standardize.standardize", s, compat="author"), [5e-8, -5e-8])
    np.testing.assert_allclose(backend.call("standardize.standardize", s), [1, -1])
    np.testing.assert_allclose(
        backend.call("standardize.standardize", s * 1e7, compat="author"),
        backend.call("standardize.standardize", s * 1e7),
    )


def test_large_integers_keep_their_last_digit(backend: Backend) -> None:
    np.testing.assert_array_equal(backend.call("standardize.standardize", np.array([2**53, 2**53 + 1])), [-1, 1])


@pytest.mark.parametrize("wide", [2**61, 2**62, 2**63 - 1])
def test_integers_of_any_width_keep_their_order(backend: Backend, wide: int) -> None:
    u = backend.call("standardize.standardize", np.array([wide, -wide, 0, 5]))
    np.testing.assert_allclose(u, np.array([1.0, -1.0, 0.0, 0.0]) * np.sqrt(2), atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_subnormal_scores_are_scores(backend: Backend, dtype: type) -> None:
    s = np.array([np.finfo(dtype).tiny / 6, 0.0], dtype=dtype)
    np.testing.assert_allclose(backend.call("standardize.standardize", s), [1.0, -1.0], rtol=1e-6)


def test_integers_are_scores_too(backend: Backend) -> None:
    np.testing.assert_allclose(backend.call("standardize.standardize", np.array([1, 0, 0, 1])), [1, -1, -1, 1])
    # One apart, yet equal in float32: exact integers are shifted before they are rounded.
    large = np.array([16_777_217, 16_777_216, 0])
    mask = np.array([True, True, False])
    np.testing.assert_allclose(backend.call("standardize.standardize", large, mask=mask), [1, -1, 0])
    assert (backend.call("standardize.standardize", large[[0, 0, 0]]) == 0).all()
    np.testing.assert_allclose(backend.call("standardize.standardize", np.array([True, False])), [1, -1])


@given(group=groups())
def test_permutation_equivariance(backend: Backend, group: Group) -> None:
    u = backend.call("standardize.standardize", group.scores)
    order = group.rng.permutation(group.k)
    np.testing.assert_allclose(backend.call("standardize.standardize", group.scores[:, order]), u[:, order], atol=1e-12)


@given(k=st.integers(3, 64))
def test_the_largest_score_possible_needs_all_others_equal(backend: Backend, k: int) -> None:
    # |u_i| = √(K−1), the bound, for one success among failures; strictly below it as soon as two others differ.
    one_hot = np.eye(k)[0]
    np.testing.assert_allclose(backend.call("standardize.standardize", one_hot)[0], np.sqrt(k - 1))
    assert backend.call("standardize.standardize", one_hot + 0.1 * np.eye(k)[1])[0] < np.sqrt(k - 1) * (1 - 1e-4)


@given(group=groups(), tau=st.floats(0, 10))
def test_tau_is_noise_added_to_the_variance(backend: Backend, group: Group, tau: float) -> None:
    u = backend.call("standardize.standardize", group.scores, tau=tau)
    centred = group.scores - group.scores.mean(-1, keepdims=True)
    width = np.sqrt(group.scores.var(-1, keepdims=True) + tau**2)
    np.testing.assert_allclose(u, np.where(group.differ[:, None], centred / np.maximum(width, 1e-300), 0), atol=1e-12)


def test_a_group_without_candidates_or_with_one_is_zero(backend: Backend) -> None:
    scores, mask = np.array([[np.nan, np.inf], [3.0, np.nan]]), np.array([[False, False], [True, False]])
    for options in ({}, {"tau": 0.1}, {"compat": "author"}):
        assert (backend.call("standardize.standardize", scores, mask=mask, **options) == 0).all()


@pytest.mark.parametrize("dtype", ["float16", "float32", "bfloat16"])
def test_torch_computes_half_precision_in_float32(dtype: str) -> None:
    scores = torch.tensor([1.0, 0.0, -1.0, 7.0], dtype=getattr(torch, dtype))
    u = lookup("tpo_torch", "standardize.standardize")(scores)
    assert u.dtype == torch.float32
    np.testing.assert_allclose(u, lookup("tpo_ref", "standardize.standardize")(scores.double().numpy()), rtol=1e-5)
    # A score that half precision rounds is rounded alike in every copy.
    assert (lookup("tpo_torch", "standardize.standardize")(torch.full((7,), 0.1, dtype=scores.dtype)) == 0).all()


def test_no_gradient_reaches_the_scores() -> None:
    scores = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    for options in ({}, {"tau": 0.1}, {"compat": "author"}):
        assert not lookup("tpo_torch", "standardize.standardize")(scores, **options).requires_grad


@pytest.mark.reads_values
@bad(BAD_NUMBERS)
def test_bad_scores_are_refused(backend: Backend, value: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        backend.call("standardize.standardize", value)


@bad(BAD_MASKS)
def test_bad_masks_are_refused(backend: Backend, value: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        backend.call("standardize.standardize", np.zeros(2), mask=value)


@pytest.mark.parametrize(
    ("tau", "error"), [(-0.1, ValueError), (np.nan, ValueError), (np.inf, ValueError), ("1", TypeError)]
)
def test_bad_tau_is_refused(backend: Backend, tau: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=f"tau: got {tau!r}, expected one finite number 0 or above"):
        backend.call("standardize.standardize", np.zeros(2), tau=tau)


def test_a_masked_array_is_refused_rather_than_unmasked() -> None:
    from tpo_ref.standardize import standardize

    with pytest.raises(TypeError, match=r"mask=~x\.mask"):
        standardize(np.ma.array([1.0, 2.0, 9.0], mask=[0, 0, 1]))


def test_an_unknown_compat_lists_the_options(backend: Backend) -> None:
    with pytest.raises(ValueError, match="compat: got 'autor', expected one of None, 'author'"):
        backend.call("standardize.standardize", np.zeros(2), compat="autor")
