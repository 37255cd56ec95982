"""What follows from Eqs. 2-3: bounds and limits of the tilt, curvature of the loss, descent, duplicates, symmetries."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.backends import Backend
from helpers.strategies import Group, etas, groups
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

# Anchors whose every probability is above the smallest float64; and those on which no bound is met by rounding alone.
REPRESENTABLE = (0.1, 1.0, 5.0, 50.0)
MODERATE = (0.1, 1.0)
# Temperatures in units of the range of u: tilts of 10, 3, 1 and 0.3 nats.
RELATIVE_ETAS = (0.1, 0.3, 1.0, 3.0)


def scored(backend: Backend, group: Group) -> tuple[np.ndarray, np.ndarray]:
    """u and p_old."""
    u = backend.call("standardize.standardize", group.scores)
    return u, backend.call("simplex.softmax", group.logp_old)


@given(group=groups(min_k=2, spreads=REPRESENTABLE), eta=etas)
def test_every_bound_on_how_far_the_target_moves(backend: Backend, group: Group, eta: float) -> None:
    u, p = scored(backend, group)
    q = backend.call("tpo.tpo_target", group.logp_old, u, eta)
    moved, distance = backend.call("simplex.kl", q, p), backend.call("simplex.tv", q, p)
    reach = np.ptp(u, axis=-1) / eta
    best = np.where(u >= u.max(-1, keepdims=True) - 1e-9, group.logp_old, -np.inf)
    ceiling = special.logsumexp(group.logp_old, -1) - special.logsumexp(best, -1)
    for bound in (reach**2 / 8, np.full_like(reach, group.k / (4 * eta**2)), reach, ceiling):
        assert (moved <= bound * (1 + 1e-9) + 1e-12).all()
    assert (distance <= np.tanh(reach / 4) * (1 + 1e-9) + 1e-12).all()


@given(group=groups(min_k=2, spreads=MODERATE, kinds=("normal", "onehot")))
def test_a_colder_target_moves_further(backend: Backend, group: Group) -> None:
    u, p = scored(backend, group)
    reach = float(np.ptp(u, axis=-1).min())
    targets = [backend.call("tpo.tpo_target", group.logp_old, u, reach * eta) for eta in RELATIVE_ETAS]
    moved = np.array([backend.call("simplex.kl", q, p) for q in targets])
    assert (np.diff(moved, axis=0) < 0).all()


@given(group=groups(min_k=2))
def test_limits_in_eta(backend: Backend, group: Group) -> None:
    u, p = scored(backend, group)
    np.testing.assert_allclose(backend.call("tpo.tpo_target", group.logp_old, u, 1e9), p, atol=1e-7)
    # η → 0: the old distribution restricted to the best candidates, ties included, at the smallest float64 too.
    best = special.softmax(np.where(u == u.max(-1, keepdims=True), group.logp_old, -np.inf), -1)
    for eta in (1e-15, 1e-300):
        np.testing.assert_allclose(
            backend.call("tpo.tpo_target", group.logp_old, u, eta), best, rtol=1e-10, atol=1e-300
        )


@given(k=st.integers(2, 64), data=st.data(), eta=etas)
def test_binary_scores_multiply_the_odds_by_lambda(backend: Backend, k: int, data: st.DataObject, eta: float) -> None:
    m = data.draw(st.integers(1, k - 1))
    rng = np.random.default_rng(k)
    old, u = rng.normal(size=k), backend.call("standardize.standardize", np.r_[np.ones(m), np.zeros(k - m)])
    q, p = backend.call("tpo.tpo_target", old, u, eta), backend.call("simplex.softmax", old)
    log_odds = [np.log(x[:m].sum()) - np.log(x[m:].sum()) for x in (q, p)]
    np.testing.assert_allclose(log_odds[0] - log_odds[1], k / np.sqrt(m * (k - m)) / eta, rtol=1e-9)


@given(group=groups(max_k=16, spreads=REPRESENTABLE))
def test_the_hessian_is_the_covariance_of_the_candidates(backend: Backend, group: Group) -> None:
    q, step, k = group.distribution(), 1e-5, group.k
    shift = step * np.eye(k)[:, None, :]
    ups, downs = (
        backend.grad("tpo.tpo", group.logp + sign * shift, np.broadcast_to(q, (k, *q.shape)).copy()) for sign in (1, -1)
    )
    hessian = np.moveaxis((ups - downs) / (2 * step), 0, -1)
    p = backend.call("simplex.softmax", group.logp)
    np.testing.assert_allclose(hessian, p[..., None] * np.eye(k) - p[..., None] * p[..., None, :], atol=1e-8)
    # In [0, ½], 0 along the shift that softmax ignores, and at least the rarest candidate's probability otherwise.
    eigenvalues = np.linalg.eigvalsh((hessian + np.swapaxes(hessian, -1, -2)) / 2)
    assert (eigenvalues >= -1e-8).all()
    assert (eigenvalues <= 0.5 + 1e-8).all()
    if k > 1:
        assert (eigenvalues[:, 1] >= p.min(-1) - 1e-8).all()


@given(group=groups(), eta=etas, step=st.sampled_from((0.1, 1.0, 2.0)))
def test_descent_is_monotone_up_to_step_two(backend: Backend, group: Group, eta: float, step: float) -> None:
    u, _ = scored(backend, group)
    q = backend.call("tpo.tpo_target", group.logp_old, u, eta)
    logp = group.logp
    for _ in range(4):
        g = backend.grad("tpo.tpo", logp, q)
        before, logp = backend.call("tpo.tpo_loss", logp, q), logp - step * g
        after = backend.call("tpo.tpo_loss", logp, q)
        # Curvature of at most ½ guarantees this much.
        assert (after <= before - step * (1 - step / 4) * (g**2).sum(-1) + 1e-12 * (1 + before)).all()


@settings(max_examples=15)
@given(group=groups(max_k=6, spreads=(0.1,)))
def test_descent_reaches_the_target(backend: Backend, group: Group) -> None:
    u, _ = scored(backend, group)
    q = backend.call("tpo.tpo_target", group.logp_old, u, 4.0)
    logp = group.logp
    # Mild tilts keep min p above 1/20, so each step of 2 shrinks the error by a factor of at most 0.9.
    for _ in range(80):
        logp = logp - 2 * backend.grad("tpo.tpo", logp, q)
    np.testing.assert_allclose(backend.call("simplex.softmax", logp), q, atol=1e-3)


@given(group=groups(min_k=2), eta=etas, c=st.floats(-100, 100))
def test_shifts_change_nothing(backend: Backend, group: Group, eta: float, c: float) -> None:
    u, _ = scored(backend, group)
    q = backend.call("tpo.tpo_target", group.logp_old, u, eta)
    np.testing.assert_allclose(backend.call("tpo.tpo_target", group.logp_old + c, u + c, eta), q, atol=1e-11)
    loss, moved = (backend.call("tpo.tpo_loss", x, q) for x in (group.logp, group.logp + c))
    np.testing.assert_allclose(moved, loss, rtol=1e-11, atol=1e-11)
    g, moved = (backend.grad("tpo.tpo", x, q) for x in (group.logp, group.logp + c))
    np.testing.assert_allclose(moved, g, atol=1e-11)


@given(group=groups(), eta=etas)
def test_permuting_candidates_permutes_everything(backend: Backend, group: Group, eta: float) -> None:
    order = group.rng.permutation(group.k)
    u, _ = scored(backend, group)
    q = backend.call("tpo.tpo_target", group.logp_old, u, eta)
    permuted = backend.call("tpo.tpo_target", group.logp_old[:, order], u[:, order], eta)
    np.testing.assert_allclose(permuted, q[:, order], rtol=1e-11)
    g = backend.grad("tpo.tpo", group.logp, q)
    np.testing.assert_allclose(backend.grad("tpo.tpo", group.logp[:, order], permuted), g[:, order], atol=1e-13)
    whole = backend.call("tpo.tpo", group.logp, group.logp_old, group.scores, eta)
    parts = [x[:, order] for x in (group.logp, group.logp_old, group.scores)]
    np.testing.assert_allclose(backend.call("tpo.tpo", *parts, eta), whole, rtol=1e-11, atol=1e-11)


@pytest.mark.paper("Alg. 1")
@given(group=groups(), eta=etas)
def test_a_masked_candidate_changes_nothing(backend: Backend, group: Group, eta: float) -> None:
    logp, old, scores = (np.where(group.mask, x, np.nan) for x in (group.logp, group.logp_old, group.scores))
    whole = backend.call("tpo.tpo", logp, old, scores, eta, mask=group.mask)
    for i, keep in enumerate(group.mask):
        alone = [x[i][keep] for x in (logp, old, scores)]
        np.testing.assert_allclose(whole[i], backend.call("tpo.tpo", *alone, eta), rtol=1e-10, atol=1e-10)


@given(group=groups(min_k=2, max_k=8), eta=etas)
def test_copies_of_a_candidate_merge_exactly(backend: Backend, group: Group, eta: float) -> None:
    """P(y) ∝ n_y π(y): adding log n_y to one copy replaces the n_y copies; u still counts every copy."""
    copies = group.rng.integers(1, 6, group.k)
    logp, old, scores = (np.repeat(x, copies, -1) for x in (group.logp, group.logp_old, group.scores))
    u = backend.call("standardize.standardize", scores)
    g = backend.grad("tpo.tpo", logp, backend.call("tpo.tpo_target", old, u, eta))
    first = np.r_[0, np.cumsum(copies)[:-1]]
    q = backend.call("tpo.tpo_target", group.logp_old + np.log(copies), u[:, first].copy(), eta)
    merged = backend.grad("tpo.tpo", group.logp + np.log(copies), q)
    np.testing.assert_allclose(merged, np.add.reduceat(g, first, axis=-1), atol=1e-12)
