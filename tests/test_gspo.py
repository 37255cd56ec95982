"""GSPO: the ratio per token of a sequence, and its narrow clip."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.backends import Backend
from helpers.rules import Rollout, assert_gradient, away_from_kinks, inside, rollouts
from hypothesis import given


@pytest.mark.paper("GSPO")
@given(rollout=rollouts())
def test_gradient_is_the_mean_ratio_over_the_length(backend: Backend, rollout: Rollout) -> None:
    n, a = rollout.lengths, rollout.advantages
    x = away_from_kinks(rollout.x / n)
    logp, r = rollout.logp_old + n * x, np.exp(x)
    expected = -a * r * inside(r, a, 0.1, 0.2) / n
    assert_gradient(backend, "gspo.gspo", expected, logp, rollout.logp_old, a, n, 0.1, 0.2)


@pytest.mark.paper("GSPO")
@pytest.mark.parametrize(
    ("per_token", "advantage", "alive"),
    [(3.5e-4, 1.0, True), (4.5e-4, 1.0, False), (-2.5e-4, -1.0, True), (-3.5e-4, -1.0, False), (-1e-3, 1.0, True)],
)
def test_the_published_clip(backend: Backend, per_token: float, advantage: float, alive: bool) -> None:
    # 1 − 3e-4 and 1 + 4e-4, whatever the length: a thousand tokens may move a thousand times as far in all.
    for n in (1, 1000):
        g = backend.grad("gspo.gspo", np.array([n * per_token]), np.zeros(1), np.array([advantage]), np.array([n]))
        np.testing.assert_allclose(g, [-advantage * np.exp(per_token) * alive / n], rtol=1e-12)


@pytest.mark.reads_values
@given(rollout=rollouts())
def test_a_masked_candidate_contributes_exactly_nothing(backend: Backend, rollout: Rollout) -> None:
    keep = rollout.group.mask
    logp, a = np.where(keep, rollout.logp, rollout.logp_old), np.where(keep, rollout.advantages, 0.0)
    g = backend.grad("gspo.gspo", logp, rollout.logp_old, a, rollout.lengths)
    assert (g[~keep] == 0).all()
    assert (backend.grad("gspo.gspo", logp, rollout.logp_old, 0 * a, rollout.lengths) == 0).all()


def test_an_empty_sequence_is_refused(backend: Backend) -> None:
    logp = np.array([-1.0, -2.0])
    with pytest.raises(ValueError, match="lengths: got 0, expected at least 1 token"):
        backend.call("gspo.gspo_loss", logp, logp, np.zeros(2), np.array([3, 0]))
