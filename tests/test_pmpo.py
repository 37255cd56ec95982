"""PMPO: accepted up, rejected down, and the one weighting that has a fixed point."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.backends import Backend
from helpers.rules import Rollout, assert_gradient, rollouts
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

ALPHAS = (0.0, 0.3, 0.5, 1.0)


def pull(accepted: np.ndarray, alpha: float) -> np.ndarray:
    """The two means, written out; an empty set contributes nothing."""
    sizes = accepted.sum(-1, keepdims=True), (~accepted).sum(-1, keepdims=True)
    return np.where(accepted, -alpha / np.maximum(sizes[0], 1), (1 - alpha) / np.maximum(sizes[1], 1))


@pytest.mark.paper("PMPO")
@given(rollout=rollouts(), alpha=st.sampled_from(ALPHAS), beta=st.sampled_from((0.0, 0.5, 2.0)))
def test_loss_and_gradient(backend: Backend, rollout: Rollout, alpha: float, beta: float) -> None:
    logp, ref, accepted = rollout.logp, rollout.logp_old, rollout.accepted
    logs, logs_ref = special.log_softmax(logp, -1), special.log_softmax(ref, -1)
    loss = (pull(accepted, alpha) * logp).sum(-1) + beta * (np.exp(logs_ref) * (logs_ref - logs)).sum(-1)
    options = {"accepted": accepted, "alpha": alpha, "beta": beta}
    np.testing.assert_allclose(backend.call("pmpo.pmpo_loss", logp, ref, **options), loss, rtol=1e-9, atol=1e-11)
    expected = pull(accepted, alpha) + beta * (np.exp(logs) - np.exp(logs_ref))
    assert_gradient(backend, "pmpo.pmpo", expected, logp, ref, **options)


def test_a_fixed_point_exists_only_at_one_half(backend: Backend) -> None:
    logp, accepted = np.log([0.5, 0.3, 0.2]), np.array([True, False, False])
    # Σ g = −α + (1 − α): zero at α = ½ alone, as the penalty's share sums to zero whatever p is.
    for alpha in ALPHAS:
        g = backend.grad("pmpo.pmpo", logp, np.zeros(3), accepted, alpha)
        np.testing.assert_allclose(g.sum(), 1 - 2 * alpha, atol=1e-15)
    # There p = p_ref + ½/β on the accepted, − ½/β shared by the rejected: β = 2 takes ⅛ from each of two.
    p_ref = np.array([0.4, 0.3, 0.3])
    fixed = np.log(p_ref + np.array([0.25, -0.125, -0.125]))
    np.testing.assert_allclose(backend.grad("pmpo.pmpo", fixed, np.log(p_ref), accepted, 0.5, 2.0), 0, atol=1e-15)


@pytest.mark.parametrize(("accepted", "sign"), [([True, True], -1), ([False, False], 1)])
def test_an_empty_set_contributes_nothing(backend: Backend, accepted: list[bool], sign: int) -> None:
    logp = np.array([-1.0, -3.0])
    # ½ of the mean of the other set; the reference is where the policy stands.
    np.testing.assert_allclose(backend.call("pmpo.pmpo_loss", logp, logp, np.array(accepted)), sign * -1.0)
    np.testing.assert_allclose(backend.grad("pmpo.pmpo", logp, logp, np.array(accepted)), [sign / 4, sign / 4])


@given(rollout=rollouts())
def test_a_masked_candidate_changes_nothing(backend: Backend, rollout: Rollout) -> None:
    keep = rollout.group.mask
    logp, ref = (np.where(keep, x, np.nan) for x in (rollout.logp, rollout.logp_old))
    loss = backend.call("pmpo.pmpo_loss", logp, ref, rollout.accepted, mask=keep)
    g = backend.grad("pmpo.pmpo", logp, ref, rollout.accepted, mask=keep)
    assert (g[~keep] == 0).all()
    for row, m in enumerate(keep):
        alone = (logp[row][m], ref[row][m], rollout.accepted[row][m])
        np.testing.assert_allclose(loss[row], backend.call("pmpo.pmpo_loss", *alone), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(g[row][m], backend.grad("pmpo.pmpo", *alone), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("accepted", "error", "words"),
    [
        ([1.0, 0.0], TypeError, "accepted: .*bool"),
        ([1, 0], TypeError, "accepted: .*bool"),
        ([True], ValueError, "shape"),
    ],
)
def test_bad_verdicts_are_refused(backend: Backend, accepted: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        backend.call("pmpo.pmpo_loss", np.zeros(2), np.zeros(2), np.array(accepted))


@pytest.mark.parametrize(("alpha", "beta"), [(1.5, 1.0), (-0.1, 1.0), (float("nan"), 1.0), (0.5, -1.0)])
def test_bad_weights_are_refused(backend: Backend, alpha: float, beta: float) -> None:
    with pytest.raises(ValueError, match=r"alpha: got|beta: got"):
        backend.call("pmpo.pmpo_loss", np.zeros(2), np.zeros(2), np.array([True, False]), alpha, beta)
