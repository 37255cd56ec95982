"""REBEL: all pairs at the price of a variance, and the fixed point it shares with TPO."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.backends import Backend
from helpers.rules import Rollout, assert_gradient, rollouts
from helpers.strategies import etas
from hypothesis import given


@pytest.mark.paper("REBEL")
@given(rollout=rollouts(), eta_r=etas)
def test_loss_sums_every_pair_and_gradient_is_the_residual(backend: Backend, rollout: Rollout, eta_r: float) -> None:
    k, s = rollout.group.k, rollout.group.scores
    a = rollout.x / eta_r - s
    pairs = ((a[:, :, None] - a[:, None, :]) ** 2).sum((-2, -1)) / (2 * k**2)
    loss = backend.call("rebel.rebel_loss", rollout.logp, rollout.logp_old, s, eta_r)
    np.testing.assert_allclose(loss, pairs, rtol=1e-8, atol=1e-10)
    expected = 2 / (k * eta_r) * (a - a.mean(-1, keepdims=True))
    # Curvature grows with 1/η_R²: at η_R = 0.1 rounding of the difference does too.
    assert_gradient(backend, "rebel.rebel", expected, rollout.logp, rollout.logp_old, s, eta_r)
    np.testing.assert_allclose(expected.sum(-1), 0, atol=1e-9)


@pytest.mark.paper("REBEL")
@given(rollout=rollouts(), eta_r=etas)
def test_stationary_where_tpo_is(backend: Backend, rollout: Rollout, eta_r: float) -> None:
    s, old = rollout.group.scores, rollout.logp_old
    fixed = old + eta_r * s + 3.0
    np.testing.assert_allclose(backend.grad("rebel.rebel", fixed, old, s, eta_r), 0, atol=1e-12)
    np.testing.assert_allclose(backend.call("rebel.rebel_loss", fixed, old, s, eta_r), 0, atol=1e-20)
    # TPO with u/η := η_R s, in both of its forms.
    q = backend.call("tpo.tpo_target", old, eta_r * s)
    np.testing.assert_allclose(backend.grad("tpo.tpo", fixed, q), 0, atol=1e-13)
    w = backend.call("tpo.tpo_weights", eta_r * s)
    np.testing.assert_allclose(backend.grad("tpo.tpo_ratio", fixed, old, w), 0, atol=1e-13)


def test_a_zero_variance_group_is_pulled_to_the_snapshot(backend: Backend) -> None:
    old, s = np.array([-1.0, -2.0]), np.array([0.3, 0.3])
    np.testing.assert_array_equal(backend.grad("rebel.rebel", old, old, s), 0)
    np.testing.assert_allclose(backend.grad("rebel.rebel", old + np.array([0.5, -0.5]), old, s), [0.5, -0.5])


@given(rollout=rollouts())
def test_a_masked_candidate_changes_nothing(backend: Backend, rollout: Rollout) -> None:
    keep = rollout.group.mask
    logp, old, s = (np.where(keep, x, np.nan) for x in (rollout.logp, rollout.logp_old, rollout.group.scores))
    loss = backend.call("rebel.rebel_loss", logp, old, s, mask=keep)
    g = backend.grad("rebel.rebel", logp, old, s, mask=keep)
    assert (g[~keep] == 0).all()
    for row, m in enumerate(keep):
        alone = (logp[row][m], old[row][m], s[row][m])
        np.testing.assert_allclose(loss[row], backend.call("rebel.rebel_loss", *alone), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(g[row][m], backend.grad("rebel.rebel", *alone), rtol=1e-9, atol=1e-12)
