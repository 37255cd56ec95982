"""One sampled action against the rest: target, loss, gradient, and what they share with groups."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal, localcontext

import numpy as np
import pytest
from helpers.backends import BACKENDS, Backend
from helpers.single import LOSS, RULE, TARGET, Batch, batches, softmax_gradient
from helpers.strategies import etas
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

DIGITS = 60


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
