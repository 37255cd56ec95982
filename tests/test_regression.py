"""AWR and MPO: the weights, MPO's temperature as the optimum of its dual, and an update that never ends."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.backends import Backend
from helpers.rules import Rollout, assert_gradient, rollouts
from helpers.strategies import BAD_LOGP, BAD_MASKS, BAD_NUMBERS, BAD_POSITIVES, Group, bad, etas, groups
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, special

BUDGETS = (1e-6, 0.01, 0.1, 0.5)
TWO = np.array([1.0, 0.0])


@pytest.mark.paper("AWR")
@given(rollout=rollouts(), beta=etas)
def test_awr_gradient_is_the_capped_weight(backend: Backend, rollout: Rollout, beta: float) -> None:
    a = rollout.advantages
    w = np.minimum(np.exp(a / beta), 20.0)
    assert_gradient(backend, "regression.awr", -w, rollout.logp, a, beta)
    assert (backend.grad("regression.awr", rollout.logp, a, beta) < 0).all()
    g = backend.grad("regression.awr", rollout.logp, 0 * a, beta)
    # Never zero: a zero-variance group is raised as a whole, Σ g = −K.
    np.testing.assert_array_equal(g.sum(-1), -rollout.group.k)


def test_awr_overflow_meets_the_cap_and_masks_are_needed(backend: Backend) -> None:
    logp, a, mask = np.array([-1.0, -2.0, np.nan]), np.array([1e4, -1e4, np.nan]), np.array([True, True, False])
    np.testing.assert_array_equal(backend.grad("regression.awr", logp, a, mask=mask), [-20, 0, 0])
    assert backend.call("regression.awr_loss", logp, a, mask=mask) == 20


@pytest.mark.paper("MPO")
@given(rollout=rollouts())
def test_mpo_gradient_never_extinguishes(backend: Backend, rollout: Rollout) -> None:
    s = rollout.group.scores
    eta = backend.call("regression.mpo_temperature", s, 0.1)
    w = backend.call("regression.mpo_weights", s, eta)
    np.testing.assert_allclose(w, special.softmax(s / eta[:, None], -1), rtol=1e-9, atol=1e-12)
    assert_gradient(backend, "regression.mpo", -w, rollout.logp, w)
    np.testing.assert_allclose(backend.grad("regression.mpo", rollout.logp, w).sum(-1), -1, rtol=1e-12)
    # Fitted perfectly, ℓ = log w, it pushes on just the same.
    np.testing.assert_allclose(backend.grad("regression.mpo", np.log(w + 1e-30), w), -w, atol=1e-15)


def divergence(eta: np.ndarray, s: np.ndarray, logs: np.ndarray) -> np.ndarray:
    """KL(q_η‖p_old), written out."""
    logq = special.log_softmax(logs + s / eta[:, None], -1)
    return (np.exp(logq) * (logq - logs)).sum(-1)


@pytest.mark.paper("MPO")
@given(
    group=groups(min_k=2, max_k=16, spreads=(0.1, 1.0), kinds=("normal", "onehot")),
    epsilon=st.sampled_from(BUDGETS),
    anchored=st.booleans(),
    unit=st.sampled_from((1e-3, 1.0, 1e6)),
)
def test_the_temperature_spends_the_budget(
    backend: Backend, group: Group, epsilon: float, anchored: bool, unit: float
) -> None:
    s = unit * group.scores
    logs = special.log_softmax(group.logp_old if anchored else np.zeros_like(s), -1)
    options = {"logp_old": group.logp_old} if anchored else {}
    eta = backend.call("regression.mpo_temperature", s, epsilon, **options)
    most = -np.take_along_axis(logs, s.argmax(-1)[:, None], -1)[:, 0]
    affordable = epsilon < most * 0.999
    spent = divergence(eta, s, logs)
    np.testing.assert_allclose(spent[affordable], epsilon, rtol=1e-6)
    np.testing.assert_allclose(eta[epsilon >= most], 1e-6 * np.ptp(s, axis=-1)[epsilon >= most], rtol=1e-9)


def test_the_temperature_minimises_the_dual(backend: Backend) -> None:
    s, old = np.array([1.0, 0.2, -0.5, 0.0]), np.array([-1.0, -0.5, -2.0, -3.0])

    def dual(eta: float) -> float:
        return float(eta * 0.1 + eta * special.logsumexp(special.log_softmax(old) + s / eta))

    best = optimize.minimize_scalar(dual, bounds=(1e-2, 1e2), method="bounded", options={"xatol": 1e-10}).x
    eta = backend.call("regression.mpo_temperature", s, 0.1, logp_old=old)
    # A minimum is found only to the square root of the precision of the function.
    np.testing.assert_allclose(eta, best, rtol=1e-6)


def test_temperatures_without_a_root(backend: Backend) -> None:
    s = np.array([[1.0, 0.0], [0.3, 0.3], [np.nan, np.nan]])
    mask = np.array([[True, True], [True, True], [False, False]])
    # log 2 nats buy the best of two outright: more is the floor. Constant scores and empty groups: any temperature.
    eta = backend.call("regression.mpo_temperature", s, 5.0, mask=mask)
    np.testing.assert_allclose(eta, [1e-6, 1, 1])
    w = backend.call("regression.mpo_weights", s, eta, mask=mask)
    np.testing.assert_array_equal(w, [[1, 0], [0.5, 0.5], [0, 0]])
    np.testing.assert_allclose(backend.call("regression.mpo_loss", np.log(w + 0.5), w, mask=mask), [-np.log(1.5), 0, 0])


def test_candidates_outside_the_support_do_not_count(backend: Backend) -> None:
    s, old = np.array([9.0, 1.0, 0.0]), np.array([-np.inf, -1.0, -1.0])
    eta = backend.call("regression.mpo_temperature", s, 0.1, logp_old=old)
    np.testing.assert_allclose(eta, backend.call("regression.mpo_temperature", s[1:], 0.1), rtol=1e-9)
    w = backend.call("regression.mpo_weights", s, eta, logp_old=old)
    np.testing.assert_allclose(w[1:], backend.call("regression.mpo_weights", s[1:], eta), rtol=1e-12)
    assert w[0] == 0


def test_nothing_is_attached_to_the_weights(backend: Backend) -> None:
    assert backend.attached("regression.mpo_temperature", TWO, epsilon=0.1) == []
    assert backend.attached("regression.mpo_temperature", TWO, epsilon=0.1, logp_old=TWO) == []
    assert backend.attached("regression.mpo_weights", TWO, np.array(0.5)) == []


@pytest.mark.reads_values
@bad(BAD_NUMBERS)
def test_bad_scores_are_refused(backend: Backend, value: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        backend.call("regression.mpo_temperature", value, 0.1)


@pytest.mark.reads_values
@bad([case for case in BAD_LOGP if case[0] not in ("empty", "0-d")])
def test_bad_anchors_are_refused(backend: Backend, value: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        backend.call("regression.mpo_temperature", TWO, 0.1, logp_old=value)


@bad(BAD_POSITIVES)
def test_bad_budgets_are_refused(backend: Backend, value: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=f"epsilon: .*{words}"):
        backend.call("regression.mpo_temperature", TWO, value)


@pytest.mark.reads_values
@bad(BAD_MASKS)
def test_bad_masks_are_refused(backend: Backend, value: Any, error: type[Exception], words: str) -> None:
    for path, args in (("mpo_temperature", (TWO, 0.1)), ("mpo_weights", (TWO, np.array(1.0)))):
        with pytest.raises(error, match=words):
            backend.call(f"regression.{path}", *args, mask=value)


def test_bad_temperatures_are_refused(backend: Backend) -> None:
    for value in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match=r"temperature: got .* above 0"):
            backend.call("regression.mpo_weights", TWO, np.array(value))
    with pytest.raises(ValueError, match=r"temperature: got shape \(2,\), expected \(\)"):
        backend.call("regression.mpo_weights", TWO, np.array([1.0, 1.0]))
    with pytest.raises(ValueError, match=r"logp_old: got shape \(3,\), expected \(2,\)"):
        backend.call("regression.mpo_weights", TWO, np.array(1.0), logp_old=np.zeros(3))
