"""PPO and the clip that four rules share: both signs, both sides, the boundary, overflow, masks."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.backends import Backend
from helpers.rules import Rollout, assert_gradient, inside, rollouts
from hypothesis import given

from tpo_torch import ppo

GOLDEN = json.loads((Path(__file__).parent / "golden" / "golden.json").read_text(encoding="utf-8"))


@pytest.mark.paper("PPO")
@given(rollout=rollouts())
def test_gradient_is_the_ratio_times_the_advantage_inside_the_clip(backend: Backend, rollout: Rollout) -> None:
    a, r = rollout.advantages, rollout.ratio
    assert_gradient(backend, "ppo.ppo", -a * r * inside(r, a), rollout.logp, rollout.logp_old, a)


@pytest.mark.paper("PPO")
@given(rollout=rollouts())
def test_loss_is_the_pessimistic_of_two_objectives(backend: Backend, rollout: Rollout) -> None:
    a, r = rollout.advantages, rollout.ratio
    loss = backend.call("ppo.ppo_loss", rollout.logp, rollout.logp_old, a, epsilon=0.1)
    np.testing.assert_allclose(loss, -np.minimum(r * a, np.clip(r, 0.9, 1.1) * a).sum(-1), rtol=1e-9, atol=1e-12)


# (advantage, ratio, is the gradient alive): the clip stops only what has already moved the way it is pushed.
CORNERS = [
    (1.0, 0.5, True),
    (1.0, 1.1, True),
    (1.0, 1.5, False),
    (-1.0, 0.5, False),
    (-1.0, 0.9, True),
    (-1.0, 9.0, True),
]


@pytest.mark.parametrize(("advantage", "ratio", "alive"), CORNERS)
def test_both_signs_and_both_sides(backend: Backend, advantage: float, ratio: float, alive: bool) -> None:
    old = np.array([-2.0, -1.0])
    g = backend.grad("ppo.ppo", old + np.array([np.log(ratio), 0.0]), old, np.array([advantage, 0.0]))
    np.testing.assert_allclose(g, [-advantage * ratio * alive, 0.0])


def test_golden(backend: Backend) -> None:
    # r = (1.35, 0.67, 1, 2.72): the first is clipped above, the second below, the fourth is free since its A < 0.
    case = {k: np.array(v) for k, v in GOLDEN["ppo"].items()}
    arguments = (case["l"], case["l_old"], case["adv"], float(case["eps"]))
    np.testing.assert_allclose(backend.call("ppo.ppo_loss", *arguments), case["loss"], rtol=1e-12)
    np.testing.assert_allclose(backend.grad("ppo.ppo", *arguments), case["grad"], rtol=1e-12)


@pytest.mark.parametrize(("advantage", "bound"), [(1.0, 1.2), (-1.0, 0.8), (0.5, 1.2)])
def test_the_boundary_itself_is_inside(backend: Backend, advantage: float, bound: float) -> None:
    # A min of two equal branches would hand half the gradient to each; the indicator gives all of it.
    for x in (np.log(bound), math.log1p(bound - 1)):
        g = backend.grad("ppo.ppo", np.array([x]), np.array([0.0]), np.array([advantage]))
        np.testing.assert_allclose(g, [-advantage * bound])


def test_the_boundary_is_inside_in_float32_too() -> None:
    x = torch.log(torch.tensor([1.2, 0.8])).requires_grad_()
    (g,) = torch.autograd.grad(ppo.ppo_loss(x, torch.zeros(2), torch.tensor([1.0, -1.0])), x)
    torch.testing.assert_close(g, torch.tensor([-1.2, 0.8]))


def test_without_room_only_the_snapshot_is_inside(backend: Backend) -> None:
    old, a = np.array([-1.0, -2.0]), np.array([1.0, -1.0])
    np.testing.assert_array_equal(backend.grad("ppo.ppo", old, old, a, epsilon=0.0), -a)
    np.testing.assert_array_equal(backend.grad("ppo.ppo", old + np.array([0.01, -0.01]), old, a, epsilon=0.0), 0)
    # With room of 1 and more, a ratio can never fall far enough to be clipped.
    np.testing.assert_allclose(backend.grad("ppo.ppo", old - 30, old, -np.abs(a), epsilon=1.0), np.exp(-30.0))


def test_a_clipped_ratio_that_overflows_has_zero_gradient(backend: Backend) -> None:
    # r = e^5000 is no number: clipped, it never enters; unclipped (A < 0), it is infinite and stays visible.
    far, old = np.array([5e3, -5e3, 5e3, 0.0]), np.zeros(4)
    a = np.array([1.0, -1.0, 0.0, 1.0])
    np.testing.assert_allclose(backend.call("ppo.ppo_loss", far, old, a), -(1.2 - 0.8 + 0 + 1))
    np.testing.assert_array_equal(backend.grad("ppo.ppo", far, old, a), [0, 0, 0, -1])
    assert backend.call("ppo.ppo_loss", np.array([5e3]), np.zeros(1), np.array([-1.0])) == np.inf
    assert backend.grad("ppo.ppo", np.array([5e3]), np.zeros(1), np.array([-1.0])) == np.inf


@given(rollout=rollouts())
def test_a_masked_candidate_contributes_exactly_nothing(backend: Backend, rollout: Rollout) -> None:
    keep = rollout.group.mask
    logp = np.where(keep, rollout.logp, rollout.logp_old)
    a = np.where(keep, rollout.advantages, 0.0)
    g = backend.grad("ppo.ppo", logp, rollout.logp_old, a)
    assert (g[~keep] == 0).all()
    loss = backend.call("ppo.ppo_loss", logp, rollout.logp_old, a)
    for row, m in enumerate(keep):
        alone = backend.call("ppo.ppo_loss", rollout.logp[row][m], rollout.logp_old[row][m], a[row][m])
        np.testing.assert_allclose(loss[row], alone, rtol=1e-12, atol=1e-13)


def test_log_ratio_ignores_what_stands_at_a_masked_entry(backend: Backend) -> None:
    mask = np.array([True, False])
    x = backend.call("ppo.log_ratio", np.array([-1.0, np.nan]), np.array([-2.0, -np.inf]), mask=mask)
    np.testing.assert_array_equal(x, [1.0, 0.0])
