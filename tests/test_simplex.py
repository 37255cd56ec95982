"""Distributions over a group: Eq. 1's softmax with masks and extremes, divergences, effective sample size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.backends import Backend
from helpers.strategies import BAD_LOGP, BAD_MASKS, BAD_NUMBERS, BAD_SHAPES, Group, bad, groups
from hypothesis import given
from hypothesis import strategies as st

from tpo_torch import simplex


@pytest.mark.paper("Eq. 1")
@given(group=groups())
def test_softmax_is_a_distribution_and_the_exponential_of_its_log(backend: Backend, group: Group) -> None:
    p = backend.call("simplex.softmax", group.logp)
    assert (p >= 0).all()
    np.testing.assert_allclose(p.sum(-1), 1, rtol=1e-14)
    np.testing.assert_allclose(p, np.exp(backend.call("simplex.log_softmax", group.logp)), rtol=1e-12, atol=1e-300)


@pytest.mark.paper("Eq. 1")
@given(group=groups(spreads=(0.1, 1.0, 5.0)))
def test_softmax_is_its_definition(backend: Backend, group: Group) -> None:
    e = np.exp(group.logp)
    np.testing.assert_allclose(backend.call("simplex.softmax", group.logp), e / e.sum(-1, keepdims=True), rtol=1e-12)
    np.testing.assert_allclose(backend.call("simplex.logsumexp", group.logp), np.log(e.sum(-1)), atol=1e-12)


@given(group=groups(), c=st.floats(-1e3, 1e3))
def test_shift_invariance_and_permutation_equivariance(backend: Backend, group: Group, c: float) -> None:
    p = backend.call("simplex.softmax", group.logp)
    np.testing.assert_allclose(backend.call("simplex.softmax", group.logp + c), p, atol=1e-12)
    order = group.rng.permutation(group.k)
    np.testing.assert_allclose(backend.call("simplex.softmax", group.logp[:, order]), p[:, order], rtol=1e-12)


@given(group=groups())
def test_logsumexp_normalises(backend: Backend, group: Group) -> None:
    total = backend.call("simplex.logsumexp", group.logp, mask=group.mask)
    logs = backend.call("simplex.log_softmax", group.logp, mask=group.mask)
    expected = np.where(group.mask, group.logp - total[:, None], -np.inf)
    np.testing.assert_allclose(logs, expected, atol=1e-11)


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@given(group=groups())
def test_a_masked_candidate_is_not_there(backend: Backend, name: str, group: Group) -> None:
    nothing = 0.0 if name == "softmax" else -np.inf
    spoiled = np.where(group.mask, group.logp, np.nan)
    whole = backend.call(f"simplex.{name}", spoiled, mask=group.mask)
    for row, keep, logp in zip(whole, group.mask, group.logp, strict=True):
        # A log-probability near 0 has absolute digits only, and a sum in another order may cost the last.
        np.testing.assert_allclose(row[keep], backend.call(f"simplex.{name}", logp[keep]), rtol=1e-12, atol=1e-15)
        assert (row[~keep] == nothing).all()


def test_a_group_that_is_masked_throughout_has_no_weight(backend: Backend) -> None:
    logp, mask = np.zeros((2, 3)), np.array([[False] * 3, [True] * 3])
    np.testing.assert_allclose(backend.call("simplex.softmax", logp, mask=mask), [[0.0] * 3, [1 / 3] * 3])
    assert (backend.call("simplex.log_softmax", logp, mask=mask)[0] == -np.inf).all()
    np.testing.assert_allclose(backend.call("simplex.logsumexp", logp, mask=mask), [-np.inf, np.log(3)])


@pytest.mark.parametrize(
    ("logp", "expected"),
    [
        ([1e4, -1e4, 1e4], [0.5, 0.0, 0.5]),
        ([-np.inf, 0.0, -np.inf], [0.0, 1.0, 0.0]),
        ([-1e4, -1e4, -np.inf], [0.5, 0.5, 0.0]),
        ([3.0], [1.0]),
    ],
)
def test_extreme_logits(backend: Backend, logp: list[float], expected: list[float]) -> None:
    assert backend.call("simplex.softmax", np.array(logp)).tolist() == expected


@given(group=groups(spreads=(0.1, 1.0, 5.0, 50.0)))
def test_kl_is_its_definition_and_never_negative(backend: Backend, group: Group) -> None:
    p, q = backend.call("simplex.softmax", group.logp), group.distribution()
    divergence = backend.call("simplex.kl", p, q)
    logs = np.log(np.where(p > 0, p, 1)) - np.log(q)
    np.testing.assert_allclose(divergence, (p * logs).sum(-1), atol=1e-12)
    assert (divergence >= 0).all()
    assert (backend.call("simplex.kl", q, q) == 0).all()
    # Nearly equal: the true value is about 1e-17, and rounding must not make it negative.
    near = q * (1 + 1e-9 * group.rng.normal(size=q.shape))
    assert (backend.call("simplex.kl", q, near / near.sum(-1, keepdims=True)) >= 0).all()


def test_kl_at_the_edges(backend: Backend) -> None:
    one_hot, even = np.array([1.0, 0.0]), np.array([0.5, 0.5])
    assert backend.call("simplex.kl", even, one_hot) == np.inf
    np.testing.assert_allclose(backend.call("simplex.kl", one_hot, even), np.log(2))
    # p/q would overflow here; log p − log q does not.
    np.testing.assert_allclose(backend.call("simplex.kl", one_hot, np.array([1e-320, 1.0])), -np.log(1e-320))


@given(group=groups())
def test_entropy_between_one_candidate_and_all_of_them(backend: Backend, group: Group) -> None:
    p, even = group.distribution(), np.full((1, group.k), 1 / group.k)
    h = backend.call("simplex.entropy", p)
    # log K − H(p) = KL(p‖uniform).
    np.testing.assert_allclose(
        np.log(group.k) - h, backend.call("simplex.kl", p, np.repeat(even, len(p), 0)), atol=1e-12
    )
    np.testing.assert_allclose(backend.call("simplex.entropy", even), np.log(group.k), atol=1e-12)
    assert (backend.call("simplex.entropy", np.eye(group.k)) == 0).all()


@given(group=groups())
def test_total_variation_is_a_distance_below_pinskers_bound(backend: Backend, group: Group) -> None:
    p, q, r = group.distribution(), backend.call("simplex.softmax", group.logp), group.distribution()[::-1].copy()
    distance = backend.call("simplex.tv", p, q)
    assert ((distance >= 0) & (distance <= 1 + 1e-12)).all()
    np.testing.assert_array_equal(distance, backend.call("simplex.tv", q, p))
    assert (distance <= backend.call("simplex.tv", p, r) + backend.call("simplex.tv", r, q) + 1e-12).all()
    assert (distance**2 <= backend.call("simplex.kl", p, q) / 2 + 1e-12).all()
    assert backend.call("simplex.tv", np.array([0.75, 0.25]), np.array([0.25, 0.75])) == 0.5


@given(group=groups(), m=st.integers(1, 64))
def test_effective_sample_size_counts_equal_weights(backend: Backend, group: Group, m: int) -> None:
    size = backend.call("simplex.effective_sample_size", group.distribution())
    assert ((size >= 1 - 1e-12) & (size <= group.k * (1 + 1e-12))).all()
    m = min(m, group.k)
    p = np.r_[np.full(m, 1 / m), np.zeros(group.k - m)]
    np.testing.assert_allclose(backend.call("simplex.effective_sample_size", p), m)
    assert backend.call("simplex.effective_sample_size", np.zeros(group.k)) == 0


@pytest.mark.parametrize("name", ["kl", "entropy"])
@pytest.mark.parametrize("mask", [None, [True, True, False]])
def test_torch_gradient_survives_probability_zero(name: str, mask: list[bool] | None) -> None:
    # The last candidate has probability 0, by underflow or by the mask: it must not turn the gradient into 0·inf.
    logp = torch.tensor([0.0, 1.0, -1e4], dtype=torch.float64, requires_grad=True)
    p = simplex.softmax(logp, None if mask is None else torch.tensor(mask))
    value = simplex.kl(p, torch.tensor([0.5, 0.5, 0.0])) if name == "kl" else simplex.entropy(p)
    (g,) = torch.autograd.grad(value, logp)
    low, high = 1 / (1 + np.e), np.e / (1 + np.e)
    # Against the uniform pair, KL = log 2 − H; and dH/dℓ_1 = −p_0 p_1 (log p_1 − log p_0) = −p_0 p_1.
    expected = np.array([-1.0, 1.0, 0.0]) * low * high * (1 if name == "kl" else -1)
    np.testing.assert_allclose(g, expected, atol=1e-12)


@pytest.mark.reads_values
@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp"])
@bad(BAD_LOGP)
def test_bad_logits_are_refused(backend: Backend, name: str, value: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        backend.call(f"simplex.{name}", value)


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp"])
@bad(BAD_MASKS)
def test_bad_masks_are_refused(backend: Backend, name: str, value: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        backend.call(f"simplex.{name}", np.zeros(2), mask=value)


@pytest.mark.reads_values
@pytest.mark.parametrize("name", ["kl", "tv"])
@bad((*BAD_NUMBERS, *BAD_SHAPES, ("negative", np.array([1.5, -0.5]), ValueError, "negative entry -0.5")))
def test_bad_distributions_are_refused(
    backend: Backend, name: str, value: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        backend.call(f"simplex.{name}", np.array([0.5, 0.5]), value)


@pytest.mark.reads_values
@pytest.mark.parametrize("name", ["entropy", "effective_sample_size"])
@bad((*BAD_NUMBERS, ("negative", np.array([1.5, -0.5]), ValueError, "negative entry -0.5")))
def test_bad_single_distributions_are_refused(
    backend: Backend, name: str, value: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        backend.call(f"simplex.{name}", value)
