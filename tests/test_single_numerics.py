"""One sampled action where arithmetic and graphs bite: limits, float32, certainty, masks, stop-gradients, bad input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.backends import BACKENDS, Backend
from helpers.single import LOSS, RULE, TARGET, Batch, batches, softmax_gradient
from helpers.strategies import BAD_LOGP, BAD_MASKS, BAD_NUMBERS, BAD_POSITIVES, BAD_SHAPES, bad, etas, filled
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from tpo_torch import single

TWO = np.array([-0.5, -2.0])


def test_limits(backend: Backend) -> None:
    old, far = np.log(np.array([0.3, 0.3])), np.array([1e9, -1e9])
    t = backend.call(TARGET, old, far)
    # Without doubt about the action: its log-likelihood, or that of not taking it.
    np.testing.assert_allclose(backend.call(LOSS, old, t), [-np.log(0.3), -np.log(0.7)], rtol=1e-12)
    np.testing.assert_allclose(backend.grad(RULE, old, t), [-1, 3 / 7], rtol=1e-12)
    # With no faith in advantages: nothing.
    np.testing.assert_allclose(backend.grad(RULE, old, backend.call(TARGET, old, [1.0, -1.0], 1e12)), 0, atol=1e-11)
    # An advantage that overflows still has a target.
    assert np.isfinite(backend.call(TARGET, old, np.array([1e300, -1e300]), 1e-20)).all()
    # A rare action: linear in p, so that a surprising success is hardly heard.
    rare = np.log(np.array([1e-9]))
    pull = -backend.grad(RULE, rare, backend.call(TARGET, rare, np.array([1.0])))
    np.testing.assert_allclose(pull, 1e-9 * np.expm1(1), rtol=1e-7)
    lost = np.array([-1e4])
    assert backend.grad(RULE, lost, backend.call(TARGET, lost, np.array([1.0]))) == 0


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("old", [-1e-45, -1e-20, -1e-8, -0.5, -90.0, -1e5, 0.0])
@pytest.mark.parametrize("new", [-1e-45, -1e-20, -1e-8, -0.5, -90.0, -1e5, 0.0])
def test_extremes_stay_finite(backend: Backend, old: float, new: float, dtype: Any) -> None:
    a = np.array([0.0, 1.0, -1.0, 50.0, -50.0, 1e30, -1e30], dtype=dtype)
    logp, logp_old = np.full_like(a, new), np.full_like(a, old)
    for t in (backend.call(TARGET, logp_old, a), backend.call(TARGET, logp_old, a, 1e-3)):
        assert np.isfinite(t).all()
        assert np.isfinite(backend.call(LOSS, logp, t)).all()
        assert np.isfinite(backend.grad(RULE, logp, t)).all()


@pytest.mark.parametrize("old", [0.0, -1e-30, -1e-12])
def test_a_certain_action_has_the_limit_of_the_snapshot(backend: Backend, old: float) -> None:
    # (p − q)/(1 − p) tends to e^{−A/η} − 1 as p_old = p → 1: a log-softmax that rounds to 0 has it too.
    a = np.array([1.0, 0.0, -1.0, -5.0])
    g = backend.grad(RULE, np.full(4, old), backend.call(TARGET, np.full(4, old), a))
    np.testing.assert_allclose(g, np.expm1(-a), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(seed=st.integers(0, 2**32 - 1), spread=st.sampled_from([1.0, 10.0, 100.0]))
def test_a_network_gets_bounded_gradients_however_sure_it_is(dtype: Any, seed: int, spread: float) -> None:
    rng = np.random.default_rng(seed)
    old, new = rng.normal(0, spread, (2, 16, 5))
    action, advantages = old.argmax(-1), torch.as_tensor(rng.normal(0, 3, 16), dtype=dtype)
    logp_old = torch.log_softmax(torch.as_tensor(old, dtype=dtype), -1).amax(-1)
    t = single.tpo_single_target(logp_old, advantages)
    for logits in (old, new):
        g = softmax_gradient(logits, action, t.numpy(), dtype)
        assert np.isfinite(g).all()
        assert (np.abs(g) <= 1 + 1e-5).all()


@given(batch=batches(lowest=-5.0), eta=etas)
def test_float32_keeps_the_digits_of_what_is_left(batch: Batch, eta: float) -> None:
    eps = float(np.finfo(np.float32).eps)
    old, new, a = (x.astype(np.float32) for x in (batch.logp_old, batch.logp, np.clip(batch.advantages, -9, 9)))
    t32 = BACKENDS["torch"].call(TARGET, old, a, eta)
    t64 = BACKENDS["numpy"].call(TARGET, old.astype(float), a.astype(float), eta)
    assert t32.dtype == np.float32
    assert (np.abs(t32 - t64) <= 4 * eps * (np.abs(old) + np.abs(a) / eta + 20)).all()
    # Relative to its two parts, q and (1 − q)p/(1 − p): from q itself, 1 − q would have no digit left near 1.
    t64 = t32.astype(float)
    g32, g64 = BACKENDS["torch"].grad(RULE, new, t32), BACKENDS["numpy"].grad(RULE, new.astype(float), t64)
    size = special.expit(t64) + special.expit(-t64) * np.exp(new.astype(float)) / -np.expm1(new.astype(float))
    assert (np.abs(g32 - g64) <= 8 * eps * (np.abs(t64) + np.abs(new) + 20) * size + 1e-37).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    leaf = torch.tensor([-0.5, -3.0], dtype=dtype, requires_grad=True)
    t = single.tpo_single_target(leaf, torch.tensor([1.0, -1.0], dtype=dtype))
    loss = single.tpo_single_loss(leaf, t)
    assert t.dtype == loss.dtype == torch.float32
    torch.testing.assert_close(loss, single.tpo_single_loss(leaf.detach().float(), t), rtol=0, atol=0)
    assert torch.autograd.grad(loss.sum(), leaf)[0].dtype == dtype


@given(batch=batches(), eta=etas)
def test_a_masked_sample_may_hold_anything_and_is_zero(backend: Backend, batch: Batch, eta: float) -> None:
    keep = batch.mask
    full = backend.call(TARGET, batch.logp_old, batch.advantages, eta)
    old, a, logp = (np.where(keep, x, np.nan) for x in (batch.logp_old, batch.advantages, batch.logp))
    t = backend.call(TARGET, old, a, eta, mask=keep)
    np.testing.assert_array_equal(t, np.where(keep, full, 0))
    g = backend.grad(RULE, logp, np.where(keep, t, np.inf), mask=keep)
    np.testing.assert_array_equal(g, np.where(keep, backend.grad(RULE, batch.logp, full), 0))
    loss = backend.call(LOSS, logp, t, mask=keep)
    np.testing.assert_array_equal(loss, np.where(keep, backend.call(LOSS, batch.logp, full), 0))


def test_the_graph_reaches_the_current_policy_only(backend: Backend) -> None:
    assert backend.attached(TARGET, TWO, np.array([1.0, -1.0])) == []
    assert backend.attached(LOSS, TWO, np.array([1.0, -1.0])) == ([0] if backend.name != "numpy" else [])


@pytest.mark.reads_values
@pytest.mark.parametrize("path", [TARGET, LOSS])
@bad([case for case in BAD_LOGP if case[0] != "impossible-group"])
def test_bad_log_probabilities_are_refused(
    backend: Backend, path: str, value: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=f"logp.*({words}|NaN or infinite)"):
        backend.call(path, value, TWO)


@pytest.mark.reads_values
@pytest.mark.parametrize("path", [TARGET, LOSS])
def test_a_density_is_no_probability(backend: Backend, path: str) -> None:
    with pytest.raises(ValueError, match=r"logp(_old)?: got 0\.5, expected log-probabilities, at most 0"):
        backend.call(path, np.array([0.5, -1.0]), TWO)
    with pytest.raises(ValueError, match=r"logp(_old)?: got 1 NaN or infinite"):
        backend.call(path, np.array([-np.inf, -1.0]), TWO)
    masked = backend.call(path, np.array([0.5, -1.0]), TWO, mask=np.array([False, True]))
    assert masked[0] == 0


@pytest.mark.reads_values
@pytest.mark.parametrize("path", [TARGET, LOSS])
@bad((*BAD_NUMBERS, *BAD_SHAPES))
def test_bad_advantages_and_targets_are_refused(
    backend: Backend, path: str, value: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=f"(advantages|target): .*({words}|shape)"):
        backend.call(path, *filled((TWO, None), value))


@pytest.mark.parametrize("path", [TARGET, LOSS])
@bad(BAD_MASKS)
def test_bad_masks_are_refused(backend: Backend, path: str, value: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        backend.call(path, TWO, TWO, mask=value)


@bad(BAD_POSITIVES)
def test_bad_temperatures_are_refused(backend: Backend, value: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=f"eta: .*{words}"):
        backend.call(TARGET, TWO, TWO, eta=value)
