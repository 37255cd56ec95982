"""DG: the gate, its stop-gradient, its two limits."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.backends import Backend, group_difference
from helpers.rules import Rollout, rollouts
from helpers.strategies import etas
from hypothesis import given
from scipy import special


@pytest.mark.paper("DG")
@given(rollout=rollouts(), dg_eta=etas)
def test_gradient_is_the_gated_advantage(backend: Backend, rollout: Rollout, dg_eta: float) -> None:
    a = rollout.advantages
    gated = a * special.expit(-a * rollout.logp / dg_eta)
    g = backend.grad("dg.dg", rollout.logp, a, dg_eta)
    np.testing.assert_allclose(g, -gated, rtol=1e-9, atol=1e-12)
    # With the gate frozen the loss is REINFORCE on gated advantages, and so is its slope.
    np.testing.assert_allclose(
        backend.call("dg.dg_loss", rollout.logp, a, dg_eta), backend.call("pg.pg_loss", rollout.logp, gated), rtol=1e-9
    )
    np.testing.assert_allclose(g, group_difference(backend, "pg.pg", rollout.logp, gated), atol=1e-6)


def test_surprise_opens_the_gate_for_the_good_and_shuts_it_for_the_bad(backend: Backend) -> None:
    expected, surprising = np.log(0.99), np.log(1e-6)
    g = backend.grad("dg.dg", np.array([expected, surprising, expected, surprising]), np.array([1.0, 1.0, -1.0, -1.0]))
    # σ(−log p) = 1/(1 + p) for A = 1, and p/(1 + p) for A = −1.
    np.testing.assert_allclose(g, [-1 / 1.99, -1 / (1 + 1e-6), 0.99 / 1.99, 1e-6 / (1 + 1e-6)], rtol=1e-12)


def test_extreme_gates_stay_finite_and_zero_advantages_are_neutral(backend: Backend) -> None:
    logp = np.array([-1e4, -1e4, np.nan])
    np.testing.assert_array_equal(backend.grad("dg.dg", logp, np.array([1.0, -1.0, 0.0]), 1e-3), [-1, 0, 0])
    assert backend.call("dg.dg_loss", logp, np.array([1.0, -1.0, 0.0]), 1e-3) == 1e4
