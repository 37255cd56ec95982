"""What each grouping of the MNIST bandit makes of a rule, in the logits, written out with the NumPy rules."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.digits import DATA, SMALL
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st

from tpo_ref import rules, simplex
from tpo_ref.study.chosen_rules import choose
from tpo_ref.study.context import Context
from tpo_torch import rules as mirror
from tpo_torch.mnist import runs
from tpo_torch.mnist.methods import BATCH, BATCH_BASELINE, CLASSES, GROUPINGS, SAMPLED, Method, act

SEEDS, IMAGES = 2, 4
# The methods of the table as rules of the list, with what makes their group.
AS_RULES = {
    "pg": ("pg,baseline=0.0", BATCH_BASELINE),
    "dg": ("dg,baseline=0.0", BATCH_BASELINE),
    "pg_batchnorm": ("grpo_no_kl,epsilon_std=1e-08", BATCH_BASELINE),
    "group_pg": ("group_pg", SAMPLED),
}


def written_out(name: str, grouping: str, logits: np.ndarray, labels: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """Gradient in the logits (B, A) of one seed's loss, by the rule of `tpo_ref` and the chain rule of the softmax."""
    rule, every, image = rules.named(name), np.arange(logits.shape[-1]), np.arange(len(logits))
    pi, logp = simplex.softmax(logits), simplex.log_softmax(logits)
    taken = (every == actions[:, None]).astype(float)
    rewards = (actions == labels).astype(float)
    advantages = rewards - (pi**2).sum(-1)
    if grouping in (CLASSES, SAMPLED):
        g = rule.gradient(logp, logp, advantages[:, None] * taken) / len(logits)
        at_classes = g * taken if grouping == SAMPLED else g / (every.size if rule.reduction == "candidates" else 1)
    else:
        x = logp[image, actions]
        g = rule.gradient(x, x, rewards if grouping == BATCH else advantages)
        at_classes = taken * (g / (len(logits) if rule.reduction == "candidates" else 1))[:, None]
    return at_classes - pi * at_classes.sum(-1, keepdims=True)


@pytest.mark.parametrize("name", sorted(rules.RULES))
@profile(max_examples=10)
@given(seed=st.integers(0, 1000), classes=st.integers(2, 10))
def test_the_step_of_a_grouping_is_the_rules_gradient_written_out(name: str, seed: int, classes: int) -> None:
    """Of the mean over images and over candidates where the loss is a sum; a seed is a batch of its own."""
    rng = np.random.default_rng(seed)
    z, labels = 2 * rng.normal(size=(SEEDS, IMAGES, classes)), rng.integers(0, classes, (SEEDS, IMAGES))
    leaf = torch.tensor(z, requires_grad=True)
    feedback = act(leaf, torch.tensor(labels), torch.tensor(rng.random((SEEDS, IMAGES))))
    actions = feedback.actions.squeeze(-1).numpy()
    rule = mirror.named(name)
    for grouping in (BATCH,) if rule.counts_successes else GROUPINGS:
        losses = Method(rule, grouping).losses(feedback)
        (got,) = torch.autograd.grad(losses.mean(-1).sum(), leaf, retain_graph=True)
        expected = np.stack([written_out(name, grouping, z[s], labels[s], actions[s]) for s in range(SEEDS)])
        np.testing.assert_allclose(got.numpy(), expected, rtol=1e-8, atol=1e-11, err_msg=grouping)


@pytest.mark.parametrize("method", AS_RULES)
def test_a_method_of_the_table_is_its_rule_on_its_group_to_the_bit(method: str) -> None:
    text, grouping = AS_RULES[method]
    rule = choose(text)
    own = runs.run(rule.method, SMALL, (3, 5), DATA, Context(rule=rule, grouping=grouping))
    table = runs.run(method, SMALL, (3, 5), DATA)
    np.testing.assert_array_equal(own["test_error"], table["test_error"])
    np.testing.assert_array_equal(own["train_reward"], table["train_reward"])


def test_tpo_on_the_classes_trains_as_its_fast_form() -> None:
    rule = choose("tpo")
    own = runs.run("tpo", SMALL, (3, 5), DATA, Context(rule=rule, grouping=CLASSES))
    table = runs.run("tpo", SMALL, (3, 5), DATA)
    # The same gradient to rounding, which sixty steps may carry over the edge for an image or two.
    np.testing.assert_allclose(own["test_error"], table["test_error"], atol=0.02)


@pytest.mark.parametrize("name", sorted(rules.RULES))
def test_every_rule_trains_by_every_grouping(name: str) -> None:
    rule = choose(name)
    for grouping in (BATCH,) if mirror.named(name).counts_successes else GROUPINGS:
        training = runs.MnistTraining(rule, SMALL, (0, 1), DATA, "cpu", grouping)
        before = [x.detach().clone() for x in training.net.parameters()]
        training.train(3)
        after = list(training.net.parameters())
        assert all(bool(torch.isfinite(x).all()) for x in after), grouping
        assert any(not torch.equal(x, y) for x, y in zip(before, after, strict=True)), grouping
