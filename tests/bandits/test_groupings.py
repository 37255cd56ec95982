"""What each grouping makes of a rule, in the logits: autograd through the softmax, and the mean over every draw."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st

from tpo_ref import rules, simplex
from tpo_ref.bandits import readable
from tpo_ref.bandits.environments import ManyContexts, SingleContext
from tpo_ref.bandits.methods import ARMS, BATCH, EXPECTED, GROUP, Method, resolve
from tpo_torch import rules as mirror

SEEDS, GROUPS = 2, 3
BASELINE = {"pg": -2.0, "dg": 0.5, "ppo": 0.0}


def autograd(name: str, grouping: str, z: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """Descent of the rule's loss in the logits of one seed: z (A,), actions (G, K), the right arm first."""
    rule, leaf = mirror.named(name), torch.tensor(z, requires_grad=True)
    logs, drawn = torch.log_softmax(leaf, -1), torch.tensor(actions)
    if grouping == ARMS:
        logp = logs[None]
        # (n_a/B)(r_a − b) at b = 0, in which MaxRL may take the mean.
        scores = (torch.arange(z.size) == 0)[None] * (drawn == 0).double().mean()
    else:
        logp, scores = logs[drawn], (drawn == 0).double()
    loss = rule.loss(logp, logp.detach(), scores).mean()
    (g,) = torch.autograd.grad(-loss / (logp.shape[-1] if rule.reduction == mirror.CANDIDATES else 1), leaf)
    return g.numpy()


@pytest.mark.paper("Alg. 1")
@pytest.mark.parametrize("name", sorted(rules.RULES))
@profile(max_examples=5)
@given(seed=st.integers(0, 1000), arms=st.integers(2, 5), draws=st.integers(2, 6))
def test_a_direction_is_the_descent_of_the_rules_loss(name: str, seed: int, arms: int, draws: int) -> None:
    """Of the mean over candidates where the loss is a sum, and over groups; a seed is a batch of its own."""
    rng = np.random.default_rng(seed)
    z, actions = rng.normal(size=(SEEDS, arms)), rng.integers(0, arms, (SEEDS, GROUPS, draws))
    settings = SingleContext(arms=arms, actions=draws, baseline=0.0)
    rule = rules.named(name)
    directions = {
        GROUP: readable._group_direction(Method(rule, GROUP), z, actions),
        BATCH: readable._single_direction(Method(rule, BATCH), z, actions[:, 0], settings),
        ARMS: readable._single_direction(Method(rule, ARMS), z, actions[:, 0], settings),
    }
    for grouping, got in directions.items():
        drawn = actions if grouping == GROUP else actions[:, :1]
        expected = np.stack([autograd(name, grouping, z[s], drawn[s]) for s in range(SEEDS)])
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-11, err_msg=grouping)


@pytest.mark.paper("Fig. 3")
@pytest.mark.parametrize("name", ["pg", "dg", "ppo", "grpo", "rloo", "maxrl"])
@profile(max_examples=20)
@given(seed=st.integers(0, 1000), arms=st.integers(2, 6))
def test_an_expected_direction_is_the_mean_over_every_draw(name: str, seed: int, arms: int) -> None:
    """Every arm in proportion to π, its coefficient times e_a − π; PG's baseline then leaves no trace."""
    z = np.random.default_rng(seed).normal(size=(2, arms))
    rule = rules.named(name, **({"baseline": BASELINE[name]} if name in BASELINE else {}))
    method = resolve(rule, ManyContexts(), EXPECTED)
    pi, got, right = simplex.softmax(z), readable._exact_direction(method, z), np.eye(arms)[0]
    for row in range(len(z)):
        logp = np.log(pi[row])
        g = rule.gradient(logp, logp, right)
        mean = sum(-pi[row, a] * g[a] * (np.eye(arms)[a] - pi[row]) for a in range(arms))
        np.testing.assert_allclose(got[row], mean, rtol=1e-9, atol=1e-12)
        if name == "pg":
            np.testing.assert_allclose(got[row], pi[row, 0] * (right - pi[row]), rtol=1e-9, atol=1e-12)


@profile(max_examples=20)
@given(seed=st.integers(0, 1000), arms=st.integers(2, 5), draws=st.integers(2, 8))
def test_the_scores_of_the_arms_are_shares_of_draws_less_a_baseline(seed: int, arms: int, draws: int) -> None:
    """s_a = (n_a/B)(r_a − b), written out arm by arm, and given to PG with a mean of its own."""
    rng = np.random.default_rng(seed)
    z, actions = rng.normal(size=(1, arms)), rng.integers(0, arms, (1, draws))
    settings = SingleContext(arms=arms, actions=draws, baseline=0.25)
    got = readable._single_direction(Method(rules.named("pg"), ARMS), z, actions, settings)
    s = np.array([(actions == a).sum() / draws * ((a == 0) - 0.25) for a in range(arms)])
    # Centred scores sum to zero, so that nothing is left for the normaliser to move.
    np.testing.assert_allclose(got[0], (s - s.mean()) / arms, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["reinforce_pp", "reinforce_pp_baseline", "dapo", "grpo_masked"])
def test_a_seed_is_a_batch_of_its_own(name: str) -> None:
    """Whatever the other seeds drew, which a whole-batch rule would see in one call."""
    rng = np.random.default_rng(0)
    z, actions = rng.normal(size=(4, 5)), rng.integers(0, 5, (4, GROUPS, 6))
    method = Method(rules.named(name), GROUP)
    together = readable._group_direction(method, z, actions)
    for s in range(len(z)):
        np.testing.assert_array_equal(readable._group_direction(method, z[[s]], actions[[s]])[0], together[s])
