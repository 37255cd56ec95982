"""TPO itself: target (Eq. 2), loss (Eq. 3), gradient (Prop. 1), objective (Eq. 4), the whole update (Alg. 1)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.backends import Backend, group_difference
from helpers.strategies import Group, etas, groups
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, special

GOLDEN = json.loads((Path(__file__).parent / "golden" / "golden.json").read_text(encoding="utf-8"))
# Anchors whose every probability is above the smallest float64, so that identities in p and q hold as written.
REPRESENTABLE = (0.1, 1.0, 5.0, 50.0)


def target(backend: Backend, group: Group, eta: float) -> tuple[np.ndarray, np.ndarray]:
    u = backend.call("standardize.standardize", group.scores)
    return u, backend.call("tpo.tpo_target", group.logp_old, u, eta)


@pytest.mark.paper("Eq. 2")
@given(group=groups(), eta=etas)
def test_the_target_is_the_old_distribution_tilted(backend: Backend, group: Group, eta: float) -> None:
    u, q = target(backend, group, eta)
    assert (q >= 0).all()
    np.testing.assert_allclose(q.sum(-1), 1, rtol=1e-13)
    weights = special.log_softmax(group.logp_old, -1) + u / eta
    np.testing.assert_allclose(
        q, np.exp(weights - special.logsumexp(weights, -1, keepdims=True)), rtol=1e-10, atol=1e-300
    )


@pytest.mark.paper("Eq. 3")
@given(group=groups())
def test_the_loss_is_cross_entropy_and_its_excess_a_divergence(backend: Backend, group: Group) -> None:
    q = group.distribution()
    loss = backend.call("tpo.tpo_loss", group.logp, q)
    np.testing.assert_allclose(loss, -(q * special.log_softmax(group.logp, -1)).sum(-1), rtol=1e-12)
    # L − H(q) = KL(q‖p), in logs since p itself may underflow.
    excess = (q * (np.log(q) - special.log_softmax(group.logp, -1))).sum(-1)
    np.testing.assert_allclose(loss - backend.call("simplex.entropy", q), excess, rtol=1e-10, atol=1e-10)
    # At the target itself nothing is left but the entropy.
    np.testing.assert_allclose(
        backend.call("tpo.tpo_loss", np.log(q), q), backend.call("simplex.entropy", q), atol=1e-12
    )


@pytest.mark.paper("Prop. 1")
@given(group=groups(), eta=etas)
def test_the_gradient_is_p_minus_q(backend: Backend, group: Group, eta: float) -> None:
    _, q = target(backend, group, eta)
    g = backend.grad("tpo.tpo", group.logp, q)
    np.testing.assert_allclose(g, special.softmax(group.logp, -1) - q, atol=1e-14)
    np.testing.assert_allclose(g, group_difference(backend, "tpo.tpo", group.logp, q), atol=1e-6)
    np.testing.assert_allclose(g.sum(-1), 0, atol=1e-14)
    assert (np.abs(g) <= 1 + 1e-14).all()
    assert (np.abs(g).sum(-1) <= 2 + 1e-13).all()


@pytest.mark.paper("Prop. 1")
@given(group=groups(), eta=etas)
def test_the_gradient_with_a_mask(backend: Backend, group: Group, eta: float) -> None:
    u = backend.call("standardize.standardize", group.scores, mask=group.mask)
    q = backend.call("tpo.tpo_target", group.logp_old, u, eta, mask=group.mask)
    g = backend.grad("tpo.tpo", group.logp, q, mask=group.mask)
    np.testing.assert_allclose(g, group_difference(backend, "tpo.tpo", group.logp, q, mask=group.mask), atol=1e-6)
    assert (g[~group.mask] == 0).all()


@pytest.mark.paper("Eq. 4")
@given(group=groups(), eta=etas)
def test_every_other_distribution_is_worse_by_a_divergence(backend: Backend, group: Group, eta: float) -> None:
    u, q = target(backend, group, eta)
    tilted = special.log_softmax(group.logp_old, -1) + u / eta
    best = backend.call("tpo.tpo_objective", q, group.logp_old, u, eta)
    np.testing.assert_allclose(best, eta * special.logsumexp(tilted, -1), rtol=1e-9, atol=1e-9)
    for r in (group.distribution(), np.eye(group.k)[group.rng.integers(group.k, size=len(q))]):
        gap = (special.xlogy(r, r) - np.where(r > 0, r * special.log_softmax(tilted, -1), 0)).sum(-1)
        value = backend.call("tpo.tpo_objective", r, group.logp_old, u, eta)
        np.testing.assert_allclose(best - value, eta * gap, rtol=1e-9, atol=1e-9)


@pytest.mark.paper("Eq. 4")
@settings(max_examples=8)
@given(group=groups(min_k=2, max_k=5, spreads=(0.1, 1.0)), eta=st.sampled_from((0.5, 1.0, 4.0)))
def test_the_target_is_what_an_optimiser_finds(backend: Backend, group: Group, eta: float) -> None:
    old = group.logp_old[0]
    u = backend.call("standardize.standardize", group.scores[0])

    def negative(theta: np.ndarray) -> float:
        return -float(backend.call("tpo.tpo_objective", special.softmax(theta), old, u, eta))

    found = optimize.minimize(negative, old, method="BFGS")
    np.testing.assert_allclose(special.softmax(found.x), backend.call("tpo.tpo_target", old, u, eta), atol=1e-3)


@given(group=groups(spreads=REPRESENTABLE), eta=etas)
def test_the_target_improves_the_score_by_two_divergences(backend: Backend, group: Group, eta: float) -> None:
    u, q = target(backend, group, eta)
    p = backend.call("simplex.softmax", group.logp_old)
    gain = ((q - p) * u).sum(-1)
    both = backend.call("simplex.kl", q, p) + backend.call("simplex.kl", p, q)
    np.testing.assert_allclose(gain, eta * both, rtol=1e-9, atol=1e-11)
    assert (gain >= -1e-14).all()
    assert (gain[~group.differ] == 0).all()


@given(group=groups(spreads=REPRESENTABLE), eta=etas)
def test_tilts_compose(backend: Backend, group: Group, eta: float) -> None:
    u, q = target(backend, group, eta)
    more = group.rng.normal(size=u.shape)
    twice = backend.call("tpo.tpo_target", np.log(q), more, eta)
    np.testing.assert_allclose(twice, backend.call("tpo.tpo_target", group.logp_old, u + more, eta), rtol=1e-10)


@given(group=groups(kinds=("constant",)), eta=etas)
def test_equal_scores_leave_exactly_the_old_distribution(backend: Backend, group: Group, eta: float) -> None:
    _, q = target(backend, group, eta)
    np.testing.assert_array_equal(q, backend.call("simplex.softmax", group.logp_old))
    assert (backend.call("tpo.tpo_coefficients", group.logp_old, q) == 0).all()
    # Equal without being zero, too: a constant tilt is no tilt.
    level = np.full_like(group.logp, 1 / 3)
    np.testing.assert_array_equal(backend.call("tpo.tpo_target", group.logp_old, level, eta), q)


@given(group=groups(min_k=2), eta=st.sampled_from((1.0, 4.0)), c=st.floats(-10, 10))
def test_tpo_and_its_ratio_form_come_to_rest_at_the_same_place(
    backend: Backend, group: Group, eta: float, c: float
) -> None:
    u, q = target(backend, group, eta)
    w = backend.call("tpo.tpo_weights", u, eta)
    rest = group.logp_old + u / eta + c
    np.testing.assert_allclose(backend.grad("tpo.tpo", rest, q), 0, atol=1e-12)
    np.testing.assert_allclose(backend.grad("tpo.tpo_ratio", rest, group.logp_old, w), 0, atol=1e-11)
    # One nat away the ratio form moves, however one-hot the anchor; at η ≥ 1 no w is so close to 1 as to hide it.
    best = np.eye(group.k)[np.argmax(u, -1)]
    assert (np.abs(backend.grad("tpo.tpo_ratio", rest - best, group.logp_old, w)).max(-1) > 1e-3).all()


@given(group=groups(), eta=etas)
def test_the_ratio_form_has_gradient_p_minus_w(backend: Backend, group: Group, eta: float) -> None:
    u, _ = target(backend, group, eta)
    w = backend.call("tpo.tpo_weights", u, eta)
    np.testing.assert_allclose(w, special.softmax(u / eta, -1), rtol=1e-12)
    g = backend.grad("tpo.tpo_ratio", group.logp, group.logp_old, w)
    np.testing.assert_allclose(g, special.softmax(group.logp - group.logp_old, -1) - w, atol=1e-12)
    difference = group_difference(backend, "tpo.tpo_ratio", group.logp, group.logp_old, w)
    np.testing.assert_allclose(g, difference, atol=1e-6)
    # At the snapshot no log-probability is left in it.
    snapshot = backend.grad("tpo.tpo_ratio", group.logp_old, group.logp_old, w)
    np.testing.assert_allclose(snapshot, 1 / group.k - w, atol=1e-15)


@given(group=groups(min_k=2, max_k=2), eta=etas)
def test_two_candidates_are_logistic_regression_with_a_soft_label(backend: Backend, group: Group, eta: float) -> None:
    u, q = target(backend, group, eta)
    margin, old = (-np.diff(x)[:, 0] for x in (group.logp, group.logp_old))
    # u = ±1 whatever the scores, so the label is the old odds times e^{±2/η}.
    label = special.expit(old + np.where(group.differ, np.sign(u[:, 0]), 0) * 2 / eta)
    np.testing.assert_allclose(q[:, 0], label, rtol=1e-12)
    logistic = label * np.logaddexp(0, -margin) + (1 - label) * np.logaddexp(0, margin)
    np.testing.assert_allclose(backend.call("tpo.tpo_loss", group.logp, q), logistic, rtol=1e-10, atol=1e-12)


@given(group=groups(max_k=1), eta=etas)
def test_one_candidate_teaches_nothing(backend: Backend, group: Group, eta: float) -> None:
    u, q = target(backend, group, eta)
    assert (u == 0).all()
    assert (q == 1).all()
    assert (backend.call("tpo.tpo", group.logp, group.logp_old, group.scores, eta) == 0).all()
    assert (backend.grad("tpo.tpo", group.logp, q) == 0).all()


@pytest.mark.paper("Alg. 1")
@given(group=groups(), eta=etas)
def test_the_whole_update_is_its_three_steps(backend: Backend, group: Group, eta: float) -> None:
    for options in ({}, {"tau": 0.3}, {"compat": "author"}, {"mask": group.mask}):
        mask = {k: v for k, v in options.items() if k == "mask"}
        u = backend.call("standardize.standardize", group.scores, **options)
        q = backend.call("tpo.tpo_target", group.logp_old, u, eta, **mask)
        whole = backend.call("tpo.tpo", group.logp, group.logp_old, group.scores, eta, **options)
        np.testing.assert_array_equal(whole, backend.call("tpo.tpo_loss", group.logp, q, **mask))


@pytest.mark.paper("Alg. 1")
@pytest.mark.parametrize("name", ["tpo_three", "tpo_onehot8", "tpo_zerovar"])
def test_golden_groups(backend: Backend, name: str) -> None:
    """Three groups worked out in float64 by an independent program: distinct scores, one success in 8, no variance."""
    case = {k: np.array(v, dtype=float) for k, v in GOLDEN[name].items()}
    old, eta = np.log(case["p_old"]), float(case["eta"])
    u = backend.call("standardize.standardize", case["s"])
    q = backend.call("tpo.tpo_target", old, u, eta)
    np.testing.assert_allclose(u, case["u"], atol=1e-14)
    np.testing.assert_allclose(q, case["q"], atol=1e-14)
    np.testing.assert_allclose(backend.call("tpo.tpo_weights", u, eta), case["q_no_anchor"], atol=1e-14)
    np.testing.assert_allclose(backend.call("tpo.tpo", case["l_theta"], old, case["s"], eta), case["loss"], rtol=1e-14)
    np.testing.assert_allclose(backend.grad("tpo.tpo", case["l_theta"], q), case["grad"], atol=1e-14)
