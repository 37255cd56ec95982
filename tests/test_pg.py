"""REINFORCE, Group PG and the cross-entropy oracle: gradients that never look at what has been learnt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.backends import Backend
from helpers.rules import Rollout, assert_gradient, rollouts
from helpers.strategies import etas
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

GOLDEN = json.loads((Path(__file__).parent / "golden" / "golden.json").read_text(encoding="utf-8"))


@pytest.mark.paper("PG")
@given(rollout=rollouts())
def test_reinforce_gradient_is_minus_the_advantage(backend: Backend, rollout: Rollout) -> None:
    assert_gradient(backend, "pg.pg", -rollout.advantages, rollout.logp, rollout.advantages)


@pytest.mark.paper("Group PG")
@given(rollout=rollouts(), eta=etas)
def test_group_pg_gradient_is_minus_the_tilt(backend: Backend, rollout: Rollout, eta: float) -> None:
    u = backend.call("standardize.standardize", rollout.group.scores)
    assert_gradient(backend, "pg.group_pg", -u / eta, rollout.logp, u, eta)
    np.testing.assert_allclose(backend.grad("pg.group_pg", rollout.logp, u, eta).sum(-1), 0, atol=1e-8)
    if np.ptp(rollout.group.scores) == 0:
        assert (backend.grad("pg.group_pg", rollout.logp, u, eta) == 0).all()


@pytest.mark.paper("CE")
@given(rollout=rollouts(), data=st.data())
def test_cross_entropy_gradient_is_p_minus_the_label(backend: Backend, rollout: Rollout, data: st.DataObject) -> None:
    label = data.draw(st.integers(0, rollout.group.k - 1)) * np.ones(len(rollout.logp), dtype=int)
    onehot = np.eye(rollout.group.k)[label]
    p = special.softmax(rollout.logp, -1)
    np.testing.assert_allclose(
        backend.call("pg.ce_loss", rollout.logp, label), -np.log((p * onehot).sum(-1)), rtol=1e-9, atol=1e-12
    )
    assert_gradient(backend, "pg.ce", p - onehot, rollout.logp, label=label)


def test_golden_reinforce(backend: Backend) -> None:
    case = {k: np.array(v) for k, v in GOLDEN["reinforce"].items()}
    np.testing.assert_allclose(backend.call("pg.pg_loss", case["l"], case["adv"]), case["loss"], rtol=1e-12)
    np.testing.assert_allclose(backend.grad("pg.pg", case["l"], case["adv"]), case["grad"], rtol=1e-12)


def test_golden_chain_to_the_logits_of_a_classifier(backend: Backend) -> None:
    # One action sampled per image, baseline b = Σπ²: ∂L/∂z_w = Σ_{i: y_i = w} g_i − π_w Σ g_i, mean over the images.
    case = GOLDEN["mnist_pg"]
    logits, actions = np.array(case["logits"]), np.array(case["actions"])
    logs = backend.call("simplex.log_softmax", logits)
    advantages = (np.array(case["rewards"]) - (np.exp(logs) ** 2).sum(-1))[:, None]
    taken = np.take_along_axis(logs, actions[:, None], -1)
    loss = backend.call("pg.pg_loss", taken, advantages).mean()
    np.testing.assert_allclose(loss, case["loss"], rtol=1e-12)
    g = backend.grad("pg.pg", taken, advantages) / len(logits)
    onehot = np.eye(logits.shape[-1])[actions]
    np.testing.assert_allclose(g * onehot - np.exp(logs) * g, case["grad"], rtol=1e-10)


def test_a_candidate_without_advantage_may_hold_anything(backend: Backend) -> None:
    logp, a = np.array([-1.0, np.nan, -np.inf]), np.array([2.0, 0.0, 0.0])
    assert backend.call("pg.pg_loss", logp, a) == 2
    np.testing.assert_array_equal(backend.grad("pg.pg", logp, a), [-2, 0, 0])


def test_an_impossible_class_costs_infinity_and_weighs_nothing(backend: Backend) -> None:
    logits = np.array([0.0, 0.0, -np.inf])
    np.testing.assert_allclose(backend.call("pg.ce_loss", logits, label=np.array(1)), np.log(2))
    np.testing.assert_allclose(backend.grad("pg.ce", logits, label=np.array(1)), [0.5, -0.5, 0])
    assert backend.call("pg.ce_loss", logits, label=np.array(2)) == np.inf


@pytest.mark.reads_values
@pytest.mark.parametrize(
    ("label", "error", "words"),
    [
        ([0.0, 1.0], TypeError, "integer"),
        ([True, False], TypeError, "integer"),
        ([0, 1, 1], ValueError, r"shape \(3,\), expected \(2,\)"),
        ([[0], [1]], ValueError, r"shape \(2, 1\)"),
        ([0, 2], ValueError, "expected classes 0 to 1"),
        ([0, -1], ValueError, "expected classes 0 to 1"),
    ],
)
def test_bad_labels_are_refused(backend: Backend, label: list[Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        backend.call("pg.ce_loss", np.zeros((2, 2)), np.array(label))
