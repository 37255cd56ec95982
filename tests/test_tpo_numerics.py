"""Where arithmetic and graphs bite: float32, half precision, extreme logits, stop-gradients, shards, bad input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.backends import Backend, group_difference, lookup
from helpers.strategies import (
    BAD_LOGP,
    BAD_MASKS,
    BAD_NUMBERS,
    BAD_POSITIVES,
    BAD_SHAPES,
    Group,
    bad,
    etas,
    filled,
    groups,
)
from hypothesis import given
from hypothesis import strategies as st

from tpo_ref import tpo as exact
from tpo_torch import tpo

EPS32 = float(np.finfo(np.float32).eps)
# Below this, float32 has lost digits to gradual underflow and a relative error means nothing.
SMALLEST_NORMAL32 = float(np.finfo(np.float32).tiny)
TWO = np.array([0.5, 0.5])


@given(group=groups(), eta=etas)
def test_float32_error_of_the_target_is_bounded(group: Group, eta: float) -> None:
    old, scores = group.logp_old.astype(np.float32), group.scores.astype(np.float32)
    u = lookup("tpo_torch", "standardize.standardize")(torch.as_tensor(scores))
    q32 = tpo.tpo_target(torch.as_tensor(old), u, eta).numpy().astype(float)
    q64 = exact.tpo_target(old.astype(float), u.numpy().astype(float), eta)
    size = np.abs(old).max(-1) + np.abs(u.numpy()).max(-1) / eta + np.log(group.k) + 4
    error = np.abs(q32 - q64) / np.maximum(q64, SMALLEST_NORMAL32)
    assert (error <= 4 * EPS32 * size[:, None]).all()


@given(group=groups(), eta=etas, dtype=st.sampled_from((torch.float16, torch.bfloat16)))
def test_half_precision_is_computed_in_float32(group: Group, eta: float, dtype: torch.dtype) -> None:
    logp, old, scores = (torch.as_tensor(x).to(dtype) for x in (group.logp, group.logp_old, group.scores))
    loss = tpo.tpo(logp, old, scores, eta)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, tpo.tpo(logp.float(), old.float(), scores.float(), eta), rtol=0, atol=0)
    # The gradient arrives in the precision of the parameters.
    leaf = logp.clone().requires_grad_()
    (g,) = torch.autograd.grad(tpo.tpo(leaf, old, scores, eta).sum(), leaf)
    assert g.dtype == dtype


@pytest.mark.parametrize("scores", [[1.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
@pytest.mark.parametrize("old", [[1e4, -1e4, 0.0], [-1e4, -1e4, 1e4]])
def test_extreme_logits_stay_finite(backend: Backend, old: list[float], scores: list[float]) -> None:
    u = backend.call("standardize.standardize", np.array(scores))
    q = backend.call("tpo.tpo_target", np.array(old), u)
    # Twenty thousand nats against a tilt of two: the anchor decides alone.
    np.testing.assert_array_equal(q, np.array(old) == max(old))
    logp = -np.array(old)
    assert np.isfinite(backend.call("tpo.tpo_loss", logp, q))
    np.testing.assert_array_equal(backend.grad("tpo.tpo", logp, q), backend.call("simplex.softmax", logp) - q)


def test_a_wide_anchor_underflows_in_p_but_not_in_the_objective(backend: Backend) -> None:
    old, u = np.array([0.0, -900.0]), np.array([-1.0, 1.0])
    # p_old of the second candidate is e^-900 = 0 in float64, and J is finite all the same: 1 − η·900 at r = e_2.
    value = backend.call("tpo.tpo_objective", np.array([0.0, 1.0]), old, u, 0.001)
    np.testing.assert_allclose(value, 1 - 0.9, rtol=1e-12)
    np.testing.assert_allclose(backend.call("tpo.tpo_target", old, u, 0.001), [0, 1], atol=1e-12)


def test_minus_infinity_is_probability_zero(backend: Backend) -> None:
    old = np.array([0.0, -np.inf, 0.0])
    q = backend.call("tpo.tpo_target", old, np.array([-1.0, 2.0, -1.0]))
    # The best candidate is impossible: the tilt cannot revive it, and the others are equal.
    np.testing.assert_array_equal(q, [0.5, 0, 0.5])
    np.testing.assert_allclose(backend.call("tpo.tpo_target", old, np.array([-1.0, 2.0, -1.0]), 1e-300), [0.5, 0, 0.5])
    np.testing.assert_allclose(backend.call("tpo.tpo_loss", old, q), np.log(2))
    np.testing.assert_array_equal(backend.grad("tpo.tpo", old, q), 0)
    assert backend.call("tpo.tpo_objective", np.array([0.0, 1.0, 0.0]), old, q) == -np.inf
    # A target that wants the impossible costs infinity, and the gradient still says p − q.
    q = np.array([0.0, 1.0, 0.0])
    assert backend.call("tpo.tpo_loss", old, q) == np.inf
    np.testing.assert_array_equal(backend.grad("tpo.tpo", old, q), [0.5, -1, 0.5])


def test_a_group_masked_throughout_is_neutral(backend: Backend) -> None:
    """Padding in a batch (deviation D3): no target, no loss, no gradient, whatever stands there."""
    logp, mask = np.array([[np.nan, -np.inf], [0.0, 0.0]]), np.array([[False, False], [True, True]])
    scores = np.array([[np.nan, np.nan], [1.0, 0.0]])
    u = backend.call("standardize.standardize", scores, mask=mask)
    q = backend.call("tpo.tpo_target", logp, u, mask=mask)
    w = backend.call("tpo.tpo_weights", u, mask=mask)
    assert (q[0] == 0).all()
    assert (w[0] == 0).all()
    for loss in (
        backend.call("tpo.tpo", logp, logp, scores, mask=mask),
        backend.call("tpo.tpo_ratio_loss", logp, logp, w, mask=mask),
    ):
        np.testing.assert_allclose(loss, [0, np.log(2)])
    assert (backend.grad("tpo.tpo", logp, q, mask=mask)[0] == 0).all()
    assert (backend.grad("tpo.tpo_ratio", logp, logp, w, mask=mask)[0] == 0).all()
    assert backend.call("tpo.tpo_objective", q, logp, u, mask=mask)[0] == 0
    c = backend.call("tpo.tpo_coefficients", logp, q, mask=mask)
    np.testing.assert_allclose(backend.grad("tpo.tpo_surrogate", logp, c)[0], 0)
    assert backend.call("tpo.tpo_surrogate_loss", logp, c)[0] == 0


@pytest.mark.paper("Prop. 1")
def test_the_graph_reaches_the_current_policy_only(backend: Backend) -> None:
    logp, u, q = np.array([0.1, -0.3, 0.2]), np.array([1.0, -0.5, -0.5]), np.array([0.5, 0.25, 0.25])
    live = [0] if backend.name != "numpy" else []
    for frozen in (("tpo.tpo_target", logp, u), ("tpo.tpo_weights", u), ("tpo.tpo_coefficients", logp, q)):
        assert backend.attached(*frozen) == []
    assert backend.attached("tpo.tpo_objective", q, logp, u) == []
    for loss in (
        ("tpo.tpo", logp, logp, u),
        ("tpo.tpo_loss", logp, q),
        ("tpo.tpo_ratio_loss", logp, logp, q),
        ("tpo.tpo_surrogate_loss", logp, u),
    ):
        assert backend.attached(*loss) == live


@pytest.mark.paper("Prop. 1")
@given(group=groups(), eta=etas, pieces=st.integers(1, 5))
def test_coefficients_carry_the_gradient_into_any_micro_batch(
    backend: Backend, group: Group, eta: float, pieces: int
) -> None:
    u = backend.call("standardize.standardize", group.scores, mask=group.mask)
    q = backend.call("tpo.tpo_target", group.logp_old, u, eta, mask=group.mask)
    whole = backend.grad("tpo.tpo", group.logp, q, mask=group.mask)
    c = backend.call("tpo.tpo_coefficients", group.logp, q, mask=group.mask)
    np.testing.assert_allclose(c, -whole, atol=1e-15)
    slope = group_difference(backend, "tpo.tpo_surrogate", group.logp, c)
    np.testing.assert_allclose(slope, whole, atol=1e-6)
    # Candidates of any groups in any order, a few at a time.
    cut = np.full(c.size, np.nan)
    for part in np.array_split(group.rng.permutation(c.size), min(pieces, c.size)):
        cut[part] = backend.grad("tpo.tpo_surrogate", group.logp.ravel()[part], c.ravel()[part])
    np.testing.assert_allclose(cut.reshape(c.shape), whole, atol=1e-15)
    # Whole groups, one shard each.
    shards = [backend.grad("tpo.tpo", x, t, mask=m) for x, t, m in zip(group.logp, q, group.mask, strict=True)]
    np.testing.assert_allclose(np.stack(shards), whole, atol=1e-15)


def test_micro_batches_accumulate_the_gradient_of_shared_parameters() -> None:
    # One parameter vector behind every candidate: gradients add up across micro-batches as in a training loop.
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(3, 8, 5, generator=generator, dtype=torch.float64)
    theta = torch.randn(5, generator=generator, dtype=torch.float64).requires_grad_()
    scores = torch.randn(3, 8, generator=generator, dtype=torch.float64)
    q = tpo.tpo_target(torch.zeros_like(scores), scores)
    (whole,) = torch.autograd.grad(tpo.tpo_loss(torch.tanh(features) @ theta, q).sum(), theta)
    c = tpo.tpo_coefficients(torch.tanh(features) @ theta, q)
    for candidates in torch.arange(8).split(3):
        tpo.tpo_surrogate_loss(torch.tanh(features[:, candidates]) @ theta, c[:, candidates]).sum().backward()
    torch.testing.assert_close(theta.grad, whole)


# One argument is left open (None) and filled with each bad value.
LOGP_ARGUMENTS = (
    ("tpo.tpo_target", (None, TWO)),
    ("tpo.tpo_loss", (None, TWO)),
    ("tpo.tpo_coefficients", (None, TWO)),
    ("tpo.tpo_objective", (TWO, None, TWO)),
    ("tpo.tpo", (None, TWO, TWO)),
    ("tpo.tpo", (TWO, None, TWO)),
    ("tpo.tpo_ratio_loss", (None, TWO, TWO)),
    ("tpo.tpo_ratio_loss", (TWO, None, TWO)),
    ("tpo.tpo_surrogate_loss", (None, TWO)),
)
NUMBER_ARGUMENTS = {
    "tpo.tpo_target": (TWO, None),
    "tpo.tpo_loss": (TWO, None),
    "tpo.tpo_coefficients": (TWO, None),
    "tpo.tpo_objective": (None, TWO, TWO),
    "tpo.tpo": (TWO, TWO, None),
    "tpo.tpo_ratio_loss": (TWO, TWO, None),
    "tpo.tpo_surrogate_loss": (TWO, None),
}


@pytest.mark.reads_values
@pytest.mark.parametrize(("path", "template"), LOGP_ARGUMENTS)
@bad(BAD_LOGP)
def test_bad_log_probabilities_are_refused(
    backend: Backend, path: str, template: tuple[Any, ...], value: Any, error: type[Exception], words: str
) -> None:
    # Where ratios or plain sums are formed, any infinity is refused; and a wrong shape may be noticed first.
    with pytest.raises(error, match=f"{words}|NaN or infinite|shape"):
        backend.call(path, *filled(template, value))


@pytest.mark.reads_values
@pytest.mark.parametrize(("path", "template"), NUMBER_ARGUMENTS.items())
@bad((*BAD_NUMBERS, *BAD_SHAPES))
def test_bad_scores_and_targets_are_refused(
    backend: Backend, path: str, template: tuple[Any, ...], value: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=f"{words}|shape|empty"):
        backend.call(path, *filled(template, value))


@pytest.mark.reads_values
@pytest.mark.parametrize("path", ["tpo.tpo_loss", "tpo.tpo_coefficients"])
def test_a_target_that_is_no_distribution_is_refused(backend: Backend, path: str) -> None:
    with pytest.raises(ValueError, match=r"negative entry -0\.5"):
        backend.call(path, TWO, np.array([1.5, -0.5]))
    with pytest.raises(ValueError, match=r"sums to 1 only within 0\.5"):
        backend.call(path, TWO, np.array([0.25, 0.25]))
    with pytest.raises(ValueError, match="another mask"):
        backend.call(path, TWO, TWO, mask=np.array([True, False]))


@pytest.mark.parametrize("path", [p for p in NUMBER_ARGUMENTS if p != "tpo.tpo_surrogate_loss"])
@bad(BAD_MASKS)
def test_bad_masks_are_refused(backend: Backend, path: str, value: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        backend.call(path, *filled(NUMBER_ARGUMENTS[path], TWO), mask=value)


@pytest.mark.parametrize(
    ("path", "args"),
    [("tpo.tpo_target", 2), ("tpo.tpo_objective", 3), ("tpo.tpo", 3), ("tpo.tpo_weights", 1)],
)
@bad(BAD_POSITIVES)
def test_bad_temperatures_are_refused(
    backend: Backend, path: str, args: int, value: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=f"eta: .*{words}"):
        backend.call(path, *[TWO] * args, eta=value)


def test_a_temperature_that_is_a_tensor_would_need_a_synchronisation() -> None:
    with pytest.raises(TypeError, match="expected one finite number"):
        tpo.tpo_target(torch.zeros(2), torch.zeros(2), torch.tensor(1.0))  # type: ignore[arg-type]
