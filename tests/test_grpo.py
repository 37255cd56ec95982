"""GRPO: the clip, the k3 penalty, what is left of it in a zero-variance group, and its token form."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.backends import Backend, central_difference
from helpers.rules import Rollout, assert_gradient, inside, rollouts
from hypothesis import given, settings

GOLDEN = json.loads((Path(__file__).parent / "golden" / "golden.json").read_text(encoding="utf-8"))
BETAS = (0.0, 0.04, 1.0)


@pytest.mark.paper("GRPO")
@pytest.mark.parametrize("beta", BETAS)
@given(rollout=rollouts())
@settings(max_examples=30)
def test_gradient_is_clipped_and_pulled_back(backend: Backend, beta: float, rollout: Rollout) -> None:
    a, r = rollout.advantages, rollout.ratio
    expected = -a * r * inside(r, a) + beta * (1 - 1 / r)
    assert_gradient(backend, "grpo.grpo", expected, rollout.logp, rollout.logp_old, a, beta=beta)


@pytest.mark.paper("GRPO")
@given(rollout=rollouts())
def test_loss_is_the_clipped_objective_and_a_penalty_that_is_no_reward(backend: Backend, rollout: Rollout) -> None:
    a, r, x = rollout.advantages, rollout.ratio, rollout.x
    without = backend.call("grpo.grpo_loss", rollout.logp, rollout.logp_old, a, beta=0.0)
    np.testing.assert_allclose(without, -np.minimum(r * a, np.clip(r, 0.8, 1.2) * a).sum(-1), rtol=1e-9, atol=1e-12)
    penalty = backend.call("grpo.grpo_loss", rollout.logp, rollout.logp_old, a, beta=1.0) - without
    np.testing.assert_allclose(penalty, (np.exp(-x) + x - 1).sum(-1), rtol=1e-9, atol=1e-12)
    assert (penalty >= -1e-12).all()


def test_golden_without_penalty(backend: Backend) -> None:
    case = {k: np.array(v) for k, v in GOLDEN["grpo_beta0.0"].items()}
    arguments = (case["l"], case["l_old"], case["adv"], float(case["eps"]), 0.0)
    np.testing.assert_allclose(backend.call("grpo.grpo_loss", *arguments), case["loss"], rtol=1e-12)
    np.testing.assert_allclose(backend.grad("grpo.grpo", *arguments), case["grad"], rtol=1e-12)


@given(rollout=rollouts())
def test_a_zero_variance_group_keeps_only_the_pull(backend: Backend, rollout: Rollout) -> None:
    zero = np.zeros_like(rollout.logp)
    g = backend.grad("grpo.grpo", rollout.logp, rollout.logp_old, zero)
    np.testing.assert_allclose(g, 0.04 * (1 - 1 / rollout.ratio), rtol=1e-10)
    assert (backend.grad("grpo.grpo", rollout.logp, rollout.logp_old, zero, beta=0.0) == 0).all()
    assert (backend.grad("grpo.grpo", rollout.logp_old, rollout.logp_old, zero) == 0).all()
    assert (backend.call("grpo.grpo_loss", rollout.logp_old, rollout.logp_old, zero) == 0).all()


@given(rollout=rollouts())
def test_a_masked_candidate_contributes_exactly_nothing(backend: Backend, rollout: Rollout) -> None:
    keep = rollout.group.mask
    logp, a = np.where(keep, rollout.logp, rollout.logp_old), np.where(keep, rollout.advantages, 0.0)
    assert (backend.grad("grpo.grpo", logp, rollout.logp_old, a)[~keep] == 0).all()
    loss = backend.call("grpo.grpo_loss", logp, rollout.logp_old, a)
    for row, m in enumerate(keep):
        alone = backend.call("grpo.grpo_loss", rollout.logp[row][m], rollout.logp_old[row][m], a[row][m])
        np.testing.assert_allclose(loss[row], alone, rtol=1e-12, atol=1e-13)


def test_the_same_update_for_ever_at_a_solved_group(backend: Backend) -> None:
    # p is already (0.999, 0.001), yet at the snapshot the gradient is −A whatever p is.
    logp, a = np.log([0.999, 0.001]), np.array([1.0, -1.0])
    np.testing.assert_allclose(backend.grad("grpo.grpo", logp, logp, a), [-1, 1])


def test_overflow_never_becomes_nan(backend: Backend) -> None:
    old, a = np.zeros(2), np.array([1.0, -1.0])
    for logp in (np.array([5e3, -5e3]), np.array([-5e3, 5e3]), np.array([5e3, 5e3])):
        for beta in BETAS:
            assert not np.isnan(backend.call("grpo.grpo_loss", logp, old, a, beta=beta))
            assert not np.isnan(backend.grad("grpo.grpo", logp, old, a, beta=beta)).any()
    # Both clipped, no penalty: exactly nothing is left. With it, the pull of each, −∞ for the one that fell.
    np.testing.assert_array_equal(backend.grad("grpo.grpo", np.array([5e3, -5e3]), old, a, beta=0.0), 0)
    np.testing.assert_array_equal(backend.grad("grpo.grpo", np.array([5e3, -5e3]), old, a, beta=1.0), [1, -np.inf])


def tokens(rollout: Rollout, t: int = 3) -> tuple[np.ndarray, ...]:
    """Token log-probabilities (B, K, T) with log-ratios on both sides of the clip, and a ragged mask."""
    rng = rollout.group.rng
    old = rng.normal(-1, 1, (*rollout.logp.shape, t))
    x = np.where(rng.random(old.shape) < 0.5, rollout.x[..., None], rng.choice([-0.5, -0.1, 0.1, 0.5], old.shape))
    return old + x, old, np.arange(t) < np.minimum(rollout.lengths - 1, t)[..., None]


@pytest.mark.paper("GRPO")
@pytest.mark.parametrize("mean", [False, True])
@given(rollout=rollouts(max_k=4))
@settings(max_examples=25)
def test_token_gradient(backend: Backend, mean: bool, rollout: Rollout) -> None:
    logp, old, mask = tokens(rollout)
    a, r = rollout.advantages, np.exp(logp - old)
    per_token = -a[..., None] * r * inside(r, a[..., None] * np.ones_like(r)) + 0.04 * (1 - 1 / r)
    own = np.maximum(mask.sum(-1, keepdims=True), 1) if mean else 1
    options = {"token_mask": mask, "mean_over_tokens": mean}
    g = backend.grad("grpo.grpo_token", logp, old, a, **options)
    np.testing.assert_allclose(g, np.where(mask, per_token / own, 0.0), rtol=1e-9, atol=1e-12)
    assert (g[~mask] == 0).all()
    numeric = central_difference(lambda v: backend.call("grpo.grpo_token_loss", v, old, a, **options).sum(), logp)
    np.testing.assert_allclose(g, numeric, atol=1e-6)


@given(rollout=rollouts())
@settings(max_examples=30)
def test_one_token_is_the_sequence_form_and_masked_tokens_are_not_there(backend: Backend, rollout: Rollout) -> None:
    a = rollout.advantages
    sequence = backend.call("grpo.grpo_loss", rollout.logp, rollout.logp_old, a)
    nan = np.full_like(rollout.logp, np.nan)
    logp, old = np.stack([nan, rollout.logp], -1), np.stack([nan, rollout.logp_old], -1)
    mask = np.broadcast_to([False, True], logp.shape).copy()
    for mean in (False, True):
        loss = backend.call("grpo.grpo_token_loss", logp, old, a, token_mask=mask, mean_over_tokens=mean)
        np.testing.assert_allclose(loss, sequence, rtol=1e-12, atol=1e-13)
        g = backend.grad("grpo.grpo_token", logp, old, a, token_mask=mask, mean_over_tokens=mean)
        np.testing.assert_array_equal(g[..., 0], 0)
        np.testing.assert_allclose(g[..., 1], backend.grad("grpo.grpo", rollout.logp, rollout.logp_old, a), rtol=1e-12)
    empty = np.zeros_like(mask)
    assert (backend.call("grpo.grpo_token_loss", logp, old, a, token_mask=empty, mean_over_tokens=True) == 0).all()


def test_bad_token_shapes_are_refused(backend: Backend) -> None:
    logp, a = np.zeros((2, 3)), np.zeros(2)
    with pytest.raises(ValueError, match=r"expected \(\.\.\., K, T\)"):
        backend.call("grpo.grpo_token_loss", np.zeros(2), np.zeros(2), a)
    with pytest.raises(ValueError, match=r"advantages: got shape \(3,\), expected \(2,\)"):
        backend.call("grpo.grpo_token_loss", logp, logp, np.zeros(3))
    with pytest.raises(ValueError, match=r"mask: got shape \(2,\), expected \(2, 3\)"):
        backend.call("grpo.grpo_token_loss", logp, logp, a, token_mask=np.array([True, True]))
    with pytest.raises(ValueError, match="mean_over_tokens: got 'yes', expected one of False, True"):
        backend.call("grpo.grpo_token_loss", logp, logp, a, mean_over_tokens="yes")
