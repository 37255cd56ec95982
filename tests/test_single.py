"""One sampled action against the rest: target, loss, gradient, what they share with groups, the extremes, bad input."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal, localcontext
from typing import Any

import numpy as np
import pytest
import torch
from helpers.backends import BACKENDS, Backend
from helpers.strategies import BAD_LOGP, BAD_MASKS, BAD_NUMBERS, BAD_POSITIVES, BAD_SHAPES, bad, etas, filled
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from tpo_torch import single

TWO = np.array([-0.5, -2.0])
DIGITS = 60
TARGET, LOSS, RULE = "single.tpo_single_target", "single.tpo_single_loss", "single.tpo_single"


@dataclass(frozen=True)
class Batch:
    """B sequences of T tokens: log-probabilities from −1e-14, all but certain, to −300, advantages of all sizes."""

    logp: np.ndarray
    logp_old: np.ndarray
    advantages: np.ndarray
    mask: np.ndarray


@st.composite
def batches(draw: st.DrawFn, lowest: float = -14.0) -> Batch:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 6)))
    logp, old = (-(10 ** rng.uniform(lowest, 2.5, shape)) for _ in range(2))
    advantages = rng.normal(size=shape) * 10 ** rng.uniform(-2, 2, shape) * (rng.random(shape) < 0.9)
    return Batch(logp, old, advantages, rng.random(shape) < 0.7)


def exactly(logp: float, target: float) -> tuple[float, float]:
    """The loss and the factor (p − q)/(1 − p) as they are written, in sixty digits."""
    with localcontext() as context:
        context.prec = DIGITS
        # Beyond a thousand nats q is 0 or 1 to far more digits than a float has.
        t = Decimal(max(-1e3, min(1e3, target)))
        p, q, rest = Decimal(logp).exp(), 1 / (1 + (-t).exp()), 1 / (1 + t.exp())
        return float(-q * Decimal(logp) - rest * (1 - p).ln()), float((p - q) / (1 - p))


@pytest.mark.paper("App. C")
@given(batch=batches(), eta=etas)
def test_the_target_moves_the_log_odds_by_the_advantage(backend: Backend, batch: Batch, eta: float) -> None:
    t = backend.call(TARGET, batch.logp_old, batch.advantages, eta)
    for i in np.ndindex(t.shape):
        with localcontext() as context:
            context.prec = DIGITS
            p = Decimal(batch.logp_old[i]).exp()
            log_odds = float((p / (1 - p)).ln())
        tilt = batch.advantages[i] / eta
        np.testing.assert_allclose(t[i], log_odds + tilt, rtol=1e-13, atol=1e-13 * abs(tilt))


@pytest.mark.paper("App. C")
@given(batch=batches(), eta=etas)
def test_loss_and_gradient_are_those_of_two_outcomes(backend: Backend, batch: Batch, eta: float) -> None:
    t = BACKENDS["numpy"].call(TARGET, batch.logp_old, batch.advantages, eta)
    loss, g = backend.call(LOSS, batch.logp, t), backend.grad(RULE, batch.logp, t)
    for i in np.ndindex(t.shape):
        expected, slope = exactly(batch.logp[i], t[i])
        np.testing.assert_allclose(loss[i], expected, rtol=1e-11, atol=1e-15)
        np.testing.assert_allclose(g[i], slope, rtol=1e-10, atol=1e-12)
    assert (g >= -1 - 1e-12).all()


@given(batch=batches(lowest=-2.0), eta=etas)
def test_the_gradient_is_the_slope_of_the_loss(backend: Backend, batch: Batch, eta: float) -> None:
    t = backend.call(TARGET, batch.logp_old, batch.advantages, eta)
    step = 1e-5 * np.minimum(1, -batch.logp)
    up, down = (backend.call(LOSS, batch.logp + sign * step, t) for sign in (1, -1))
    slope = (up - down) / (2 * step)
    g = backend.grad(RULE, batch.logp, t)
    # Rounding of the two losses over the step.
    noise = 1e-15 * np.abs(up) / step
    assert (np.abs(g - slope) <= 1e-6 * (1 + np.abs(g)) + noise).all()


@given(batch=batches(), eta=etas)
def test_both_backends_agree(batch: Batch, eta: float) -> None:
    numpy, mirror = BACKENDS["numpy"], BACKENDS["torch"]
    t = numpy.call(TARGET, batch.logp_old, batch.advantages, eta, mask=batch.mask)
    for path, args in ((TARGET, (batch.logp_old, batch.advantages, eta)), (LOSS, (batch.logp, t))):
        ours, theirs = (b.call(path, *args, mask=batch.mask) for b in (numpy, mirror))
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-14)
    ours, theirs = (b.grad(RULE, batch.logp, t, mask=batch.mask) for b in (numpy, mirror))
    np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12)


@given(batch=batches(), eta=etas)
def test_the_policy_rests_at_the_target(backend: Backend, batch: Batch, eta: float) -> None:
    t = backend.call(TARGET, batch.logp_old, np.clip(batch.advantages, -20 * eta, 20 * eta), eta)
    rest = special.log_expit(np.minimum(t, 25.0))
    g = backend.grad(RULE, rest, np.minimum(t, 25.0))
    # log p is rounded to its own precision, and q/(1 − q) of it is the error of a log-odds.
    np.testing.assert_allclose(g, 0, atol=1e-14)
    entropy = -special.expit(t) * special.log_expit(t) - special.expit(-t) * special.log_expit(-t)
    assert (backend.call(LOSS, batch.logp, t) >= entropy - 1e-12 * (1 + entropy)).all()


@given(batch=batches(), eta=etas)
def test_a_good_action_rises_a_bad_one_falls_an_average_one_stays(backend: Backend, batch: Batch, eta: float) -> None:
    tilt = batch.advantages / eta
    t = backend.call(TARGET, batch.logp_old, batch.advantages, eta)
    g = backend.grad(RULE, batch.logp_old, t)
    p = np.exp(batch.logp_old)
    # p(e^{−A/η} − 1)/(p + (1 − p)e^{−A/η}) with q in front: −p(A/η) for small ones, REINFORCE's, weighted by p.
    expected = special.expit(t) * np.expm1(np.minimum(-tilt, 700))
    np.testing.assert_allclose(g, np.where(tilt > -30, expected, g), rtol=1e-9, atol=1e-11)
    told = (np.abs(tilt) > 1e-6) & (p > 1e-9)
    np.testing.assert_array_equal(np.sign(g[told]), -np.sign(tilt[told]))
    np.testing.assert_allclose(g[tilt == 0], 0, atol=1e-14)
    if backend.name == "numpy":
        assert (g[tilt == 0] == 0).all()


def softmax_gradient(logits: np.ndarray, action: np.ndarray, target: np.ndarray, dtype: Any = torch.float64) -> Any:
    """What back-propagation hands to the logits, here the mirror's."""
    leaf = torch.tensor(logits, dtype=dtype, requires_grad=True)
    logp = torch.log_softmax(leaf, -1).gather(-1, torch.as_tensor(action)[:, None]).squeeze(-1)
    loss = single.tpo_single_loss(logp, torch.as_tensor(target, dtype=dtype))
    return torch.autograd.grad(loss.sum(), leaf)[0].numpy()


@dataclass(frozen=True)
class Choices:
    """B contexts with A actions each, of which one was sampled."""

    logits: np.ndarray
    logits_old: np.ndarray
    action: np.ndarray
    advantages: np.ndarray

    def sampled(self, logits: np.ndarray) -> np.ndarray:
        """log p(a), with the digits of 1 − p that a log-softmax drops."""
        others = special.logsumexp(np.where(self.chosen == 0, logits, -np.inf), -1)
        return -np.logaddexp(0, others - logits[self.chosen == 1])

    @property
    def chosen(self) -> np.ndarray:
        return np.eye(self.logits.shape[-1])[self.action]


@st.composite
def choices(draw: st.DrawFn) -> Choices:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (4, draw(st.integers(2, 12)))
    spread = draw(st.sampled_from((0.1, 1.0, 4.0)))
    new, old = rng.normal(0, spread, (2, *shape))
    return Choices(new, old, rng.integers(0, shape[1], 4), rng.normal(0, 2, 4))


@given(case=choices(), eta=etas)
def test_the_logit_of_the_action_has_p_minus_q(case: Choices, eta: float) -> None:
    t = BACKENDS["torch"].call(TARGET, case.sampled(case.logits_old), case.advantages, eta)
    g = softmax_gradient(case.logits, case.action, t)
    pi = special.softmax(case.logits, -1)
    p, q = np.exp(case.sampled(case.logits)), special.expit(t)
    others = -pi * ((p - q) / (1 - p))[:, None]
    # Where p is close to 1 the log-softmax itself has lost digits of 1 − p.
    np.testing.assert_allclose(g, np.where(case.chosen == 1, (p - q)[:, None], others), atol=1e-7)
    np.testing.assert_allclose(g.sum(-1), 0, atol=1e-7)
    # The closed form takes the same way.
    closed = BACKENDS["numpy"].grad(RULE, case.sampled(case.logits), t)[:, None] * (case.chosen - pi)
    np.testing.assert_allclose(g, closed, atol=1e-7)


@pytest.mark.paper("App. C")
@given(case=choices(), eta=etas)
def test_it_is_the_group_of_all_actions_less_how_the_others_share(backend: Backend, case: Choices, eta: float) -> None:
    t = backend.call(TARGET, case.sampled(case.logits_old), case.advantages, eta)
    q = backend.call("tpo.tpo_target", case.logits_old, case.advantages[:, None] * case.chosen, eta=eta)
    np.testing.assert_allclose((q * case.chosen).sum(-1), special.expit(t), rtol=1e-10)
    others = case.chosen == 0
    old, new = (backend.call("simplex.log_softmax", x, mask=others) for x in (case.logits_old, case.logits))
    share = -(np.exp(old) * np.where(others, new, 0)).sum(-1)
    whole = backend.call("tpo.tpo_loss", case.logits, q)
    parts = backend.call(LOSS, case.sampled(case.logits), t) + special.expit(-t) * share
    np.testing.assert_allclose(whole, parts, rtol=1e-9, atol=1e-12)
    # At the snapshot the others share as they did, so that the gradients are equal; later the group holds them there.
    at_snapshot = backend.grad("tpo.tpo", case.logits_old, q)
    g = backend.grad(RULE, case.sampled(case.logits_old), t)[:, None]
    pi = special.softmax(case.logits_old, -1)
    np.testing.assert_allclose(g * (case.chosen - pi), at_snapshot, rtol=1e-7, atol=1e-12)


@given(batch=batches(lowest=-6.0), eta=etas)
def test_two_candidates_are_the_group_form_at_every_epoch(backend: Backend, batch: Batch, eta: float) -> None:
    def pair(logp: np.ndarray) -> np.ndarray:
        return np.stack([logp, np.log(-np.expm1(logp))], -1)

    # Only the difference of the two scores counts. Standardised scores are ±1, whatever the scores were: A = 2.
    u = batch.advantages[..., None] * np.array([0.5, -0.5])
    t = backend.call(TARGET, batch.logp_old, batch.advantages, eta)
    q = backend.call("tpo.tpo_target", pair(batch.logp_old), u, eta=eta)
    np.testing.assert_allclose(q[..., 0], special.expit(t), rtol=1e-9, atol=1e-15)
    loss = backend.call("tpo.tpo_loss", pair(batch.logp), q)
    np.testing.assert_allclose(backend.call(LOSS, batch.logp, t), loss, rtol=1e-9, atol=1e-9)
    g = backend.grad("tpo.tpo", pair(batch.logp), q)
    # log(1 − p) moves against log p, by p/(1 − p): g_1 − g_2 p/(1 − p), with g_2 = −g_1.
    odds = np.exp(batch.logp) / -np.expm1(batch.logp)
    chained = g[..., 0] - g[..., 1] * odds
    np.testing.assert_allclose(backend.grad(RULE, batch.logp, t), chained, rtol=1e-8, atol=1e-9 * (1 + odds.max()))


def test_standardised_scores_of_two_are_an_advantage_of_two(backend: Backend) -> None:
    logits, scores = np.array([[0.3, -1.0]]), np.array([[0.2, 0.1]])
    q = backend.call("tpo.tpo_target", logits, backend.call("standardize.standardize", scores))
    t = backend.call(TARGET, special.log_softmax(logits, -1)[:, 0], np.array([2.0]))
    np.testing.assert_allclose(special.expit(t), q[:, 0], rtol=1e-12)


@pytest.mark.paper("App. C")
@given(arms=st.integers(2, 12), spread=st.sampled_from([0.1, 1.0, 5.0]), eta=st.sampled_from([0.25, 1.0, 4.0]))
def test_the_mean_over_the_action_is_the_closed_form(backend: Backend, arms: int, spread: float, eta: float) -> None:
    rng = np.random.default_rng(arms)
    logits = rng.normal(0, spread, (3, arms))
    logp, label = special.log_softmax(logits, -1), rng.integers(0, arms, 3)
    pi = np.exp(logp)
    # r − b with b = Σ π²: positive at the label, negative elsewhere; standardising over the actions forgets its size.
    right = np.eye(arms)[label]
    advantages = np.sign(right - (pi**2).sum(-1, keepdims=True)) * arms / np.sqrt(arms - 1)
    pull = -backend.grad(RULE, logp, backend.call(TARGET, logp, advantages, eta))
    mean = sum(pi[:, [a]] * pull[:, [a]] * (np.eye(arms)[a] - pi) for a in range(arms))
    closed = backend.call("closed_form.app_c_tpo", pi, label, eta=eta)
    np.testing.assert_allclose(mean, closed, rtol=1e-8, atol=1e-12)


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
    # At the snapshot the difference of q and p would have no digit left where 1 − p is below 1e-7.
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
