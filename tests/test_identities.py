"""Identities across methods: each rule is another one at some setting, so an error in either shows."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.backends import Backend
from helpers.rules import Rollout, rollouts
from helpers.strategies import Group, etas, groups
from hypothesis import given
from hypothesis import strategies as st


def same(backend: Backend, one: str, its: tuple, other: str, others: tuple, factor: float = 1.0) -> None:
    """Two rules have the same loss and the same gradient, up to a factor."""
    loss = backend.call(f"{other}_loss", *others)
    np.testing.assert_allclose(backend.call(f"{one}_loss", *its), factor * loss, rtol=1e-9, atol=1e-11)
    g = backend.grad(other, *others)
    np.testing.assert_allclose(backend.grad(one, *its), factor * g, rtol=1e-9, atol=1e-11)


@given(group=groups(min_k=2))
def test_every_group_advantage_is_dr_grpo_rescaled(backend: Backend, group: Group) -> None:
    s = group.scores
    centred = backend.call("advantages.centred", s)
    np.testing.assert_allclose(
        backend.call("advantages.rloo", s), group.k / (group.k - 1) * centred, rtol=1e-12, atol=1e-14
    )
    np.testing.assert_allclose(
        backend.call("advantages.group_standardised", s, epsilon_std=0.01),
        centred / (s.std(-1, keepdims=True) + 0.01),
        rtol=1e-9,
        atol=1e-12,
    )
    u = backend.call("standardize.standardize", s)
    np.testing.assert_allclose(
        backend.call("advantages.group_standardised", s, epsilon_std=0.0), u, rtol=1e-9, atol=1e-12
    )
    if (s >= 0).all():
        mean = s.mean(-1, keepdims=True)
        np.testing.assert_allclose(
            backend.call("advantages.maxrl", s), centred / np.where(mean > 0, mean, 1), rtol=1e-9, atol=1e-12
        )


@given(group=groups(min_k=2))
def test_a_batch_of_one_group_is_that_group(backend: Backend, group: Group) -> None:
    s = group.scores[:1]
    u = backend.call("standardize.standardize", s)
    for name in ("batch_standardised", "group_centred_batch_standardised"):
        np.testing.assert_allclose(backend.call(f"advantages.{name}", s), u, rtol=1e-9, atol=1e-9)


@given(rollout=rollouts())
def test_dapo_with_equal_bounds_is_ppo_and_so_is_grpo_without_penalty(backend: Backend, rollout: Rollout) -> None:
    common = (rollout.logp, rollout.logp_old, rollout.advantages)
    same(backend, "dapo.dapo", (*common, 0.2, 0.2), "ppo.ppo", common)
    same(backend, "grpo.grpo", (*common, 0.2, 0.0), "ppo.ppo", common)
    same(backend, "gspo.gspo", (*common, np.ones(rollout.logp.shape), 0.2, 0.28), "dapo.dapo", common)


@given(rollout=rollouts())
def test_gspo_of_single_tokens_is_sequence_grpo(backend: Backend, rollout: Rollout) -> None:
    common = (rollout.logp, rollout.logp_old, rollout.advantages)
    same(backend, "gspo.gspo", (*common, np.ones(rollout.logp.shape), 0.2, 0.2), "grpo.grpo", (*common, 0.2, 0.0))


@given(rollout=rollouts())
def test_dg_with_an_indifferent_gate_is_half_of_reinforce(backend: Backend, rollout: Rollout) -> None:
    same(
        backend,
        "dg.dg",
        (rollout.logp, rollout.advantages, 1e14),
        "pg.pg",
        (rollout.logp, rollout.advantages),
        factor=0.5,
    )


@given(rollout=rollouts(), eta=etas)
def test_group_pg_is_reinforce_on_standardised_scores(backend: Backend, rollout: Rollout, eta: float) -> None:
    u = backend.call("standardize.standardize", rollout.group.scores)
    same(backend, "pg.group_pg", (rollout.logp, u, eta), "pg.pg", (rollout.logp, u / eta))


@given(rollout=rollouts(min_k=2), eta=etas)
def test_group_pg_is_the_tilt_that_tpo_starts_with(backend: Backend, rollout: Rollout, eta: float) -> None:
    # At the snapshot, in ratio form under the reverse divergence, TPO is Group PG over K; afterwards it is not.
    u = backend.call("standardize.standardize", rollout.group.scores)
    w = backend.call("tpo.tpo_weights", u, eta)
    if (w > 1e-200).all():
        g = backend.grad("variants.tpo_reverse_kl", np.zeros_like(u), w)
        expected = backend.grad("pg.group_pg", rollout.logp_old, u, eta) / rollout.group.k
        np.testing.assert_allclose(g, expected, rtol=1e-7, atol=1e-9)


@given(rollout=rollouts(), beta=st.sampled_from((0.0, 0.04, 1.0)))
def test_in_the_first_epoch_no_penalty_and_no_clip_is_felt(backend: Backend, rollout: Rollout, beta: float) -> None:
    old, a = rollout.logp_old, rollout.advantages
    expected = backend.grad("pg.pg", old, a)
    for rule, options in (
        ("grpo.grpo", {"beta": beta}),
        ("ppo.ppo", {}),
        ("dapo.dapo", {}),
        ("gspo.gspo", {"lengths": np.ones(old.shape)}),
    ):
        np.testing.assert_allclose(backend.grad(rule, old, old, a, **options), expected, atol=1e-14)


@given(rollout=rollouts())
def test_the_oracle_is_tpo_with_a_one_hot_target(backend: Backend, rollout: Rollout) -> None:
    label = np.zeros(len(rollout.logp), dtype=int)
    onehot = np.eye(rollout.group.k)[label]
    np.testing.assert_allclose(
        backend.call("pg.ce_loss", rollout.logp, label), backend.call("tpo.tpo_loss", rollout.logp, onehot)
    )
    g = backend.grad("tpo.tpo", rollout.logp, onehot)
    np.testing.assert_allclose(backend.grad("pg.ce", rollout.logp, label=label), g, atol=1e-15)


@given(rollout=rollouts())
def test_uncapped_awr_is_mpo_unnormalised(backend: Backend, rollout: Rollout) -> None:
    a, beta = rollout.advantages, 2.0
    w = backend.call("regression.mpo_weights", a, np.full(len(a), beta))
    g = backend.grad("regression.awr", rollout.logp, a, beta, w_max=1e6)
    np.testing.assert_allclose(g, -w * np.exp(a / beta).sum(-1, keepdims=True), rtol=1e-9)


@given(rollout=rollouts())
def test_mpo_is_tpo_without_its_normaliser(backend: Backend, rollout: Rollout) -> None:
    # −Σ w ℓ = −Σ w log p − logsumexp ℓ: TPO adds p to the gradient, and that is what makes it end.
    w = rollout.group.distribution()
    g = backend.grad("tpo.tpo", rollout.logp, w) - backend.call("simplex.softmax", rollout.logp)
    np.testing.assert_allclose(backend.grad("regression.mpo", rollout.logp, w), g, atol=1e-14)


# Σ g = 0 marks the rules whose update redistributes within the group; the others raise or lower it as a whole.
ZERO_SUM = ("tpo", "tpo_ratio", "group_pg", "rebel")


@pytest.mark.parametrize("rule", ZERO_SUM)
@given(rollout=rollouts())
def test_the_sum_of_the_gradient(backend: Backend, rule: str, rollout: Rollout) -> None:
    u = backend.call("standardize.standardize", rollout.group.scores)
    logp, old = rollout.logp, rollout.logp_old
    g = {
        "tpo": lambda: backend.grad("tpo.tpo", logp, backend.call("tpo.tpo_target", old, u)),
        "tpo_ratio": lambda: backend.grad("tpo.tpo_ratio", logp, old, backend.call("tpo.tpo_weights", u)),
        "group_pg": lambda: backend.grad("pg.group_pg", logp, u),
        "rebel": lambda: backend.grad("rebel.rebel", logp, old, u),
    }[rule]()
    np.testing.assert_allclose(g.sum(-1), 0, atol=1e-9)


@given(rollout=rollouts())
def test_clipping_and_gating_break_the_zero_sum_of_centred_advantages(backend: Backend, rollout: Rollout) -> None:
    a = backend.call("advantages.centred", rollout.group.scores)
    np.testing.assert_allclose(backend.grad("pg.pg", rollout.logp, a).sum(-1), 0, atol=1e-9)
    # One candidate is clipped, its counterweight is not: the group as a whole is lowered.
    g = backend.grad("grpo.grpo", np.log([1.3, 1.0]), np.zeros(2), np.array([0.5, -0.5]), beta=0.0)
    np.testing.assert_allclose(g, [0, 0.5], atol=1e-15)
    # A gate of ⅔ beside one of ⅓: the group as a whole is raised.
    g = backend.grad("dg.dg", np.log([0.5, 0.5]), np.array([1.0, -1.0]))
    np.testing.assert_allclose(g, [-2 / 3, 1 / 3], rtol=1e-12)
