"""The methods of the MNIST bandit: the feedback of one sampled action per image, and which rule acts on what group."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tpo_ref.study.chosen_rules import ChosenRule
from tpo_ref.study.protocol import unknown
from tpo_torch import rules
from tpo_torch.families.tilted import Tpo
from tpo_torch.mnist.settings import MnistSettings
from tpo_torch.mnist.table import own_name
from tpo_torch.rules import CANDIDATES, Rule
from tpo_torch.single import tpo_single_loss, tpo_single_target
from tpo_torch.standardize import standardize

# Added to the standard deviation of a batch, outside the root (deviation D22).
BATCH_SD_FLOOR = 1e-8

# What makes a group: the ten classes of an image, of which the sampled one has the score r − b and the others 0; the
# sampled action alone, with what that group gives it; the sampled action against all others (deviation D7); the classes
# with the label's score 1, which only an oracle has; the sampled actions of a batch, with rewards or with r − b.
CLASSES, SAMPLED, SINGLE, LABELS, BATCH, BATCH_BASELINE = (
    "classes",
    "sampled",
    "single",
    "labels",
    "batch",
    "batch-baseline",
)
# What may make one for a rule that is not in the table, the usual one first.
GROUPINGS = (CLASSES, SAMPLED, BATCH, BATCH_BASELINE)


@dataclass(frozen=True)
class Feedback:
    """The feedback of S seeds × B images; a last axis of 1 is the group of the one sampled action.

    logits (S, B, A) and logp (S, B, 1), log π of the action, carry the graph; actions (S, B, 1), labels (S, B) and
    rewards (S, B, 1), r = 1{a = y}, and advantages (S, B, 1), r − b with b = Σ π², do not.
    """

    logits: Tensor
    logp: Tensor
    labels: Tensor
    actions: Tensor
    rewards: Tensor
    advantages: Tensor


def act(logits: Tensor, labels: Tensor, uniforms: Tensor) -> Feedback:
    """Sample one action per image by inverse CDF, and collect its feedback.

    Paper: Fig. 4 (its feedback), App. C (its baseline)

    a = the number of k < A − 1 with π_0 + … + π_k ≤ uniform; A(a) = 1{a = y} − Σ π².

    Args: logits (S, B, A), with graph; labels (S, B) int64; uniforms (S, B) in [0, 1).
    Returns: feedback, of which logits and logp carry the graph.

    >>> act(torch.zeros(1, 2, 4), torch.tensor([[1, 1]]), torch.tensor([[0.3, 0.9]])).advantages.squeeze(-1)
    tensor([[ 0.7500, -0.2500]])
    """
    every = torch.log_softmax(logits, -1)
    policy = every.detach().exp()
    # The last class needs no bound: a rounded total below 1 cannot send an action out of range.
    actions = (policy.cumsum(-1)[..., :-1] <= uniforms.unsqueeze(-1)).sum(-1, keepdim=True)
    rewards = (actions == labels.unsqueeze(-1)).to(policy.dtype)
    advantages = rewards - (policy * policy).sum(-1, keepdim=True)
    return Feedback(logits, every.gather(-1, actions), labels, actions, rewards, advantages)


def standardized_scores(feedback: Feedback) -> Tensor:
    """Scores (r − b)e_a, standardised over the classes: (S, B, A), detached.

    Paper: App. C

    u(c·e_a) = sign(c)·u(e_a): one row of a table for each action, instead of a group for each image.
    """
    logits = feedback.logits
    table = _one_hot_scores(logits.shape[-1], logits.dtype, logits.device)
    return feedback.advantages.sign() * table[feedback.actions.squeeze(-1)]


@functools.cache
def _one_hot_scores(classes: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return standardize(torch.eye(classes, dtype=dtype, device=device))


@dataclass(frozen=True)
class Method:
    """A rule and what makes its group."""

    rule: Rule
    grouping: str

    def losses(self, feedback: Feedback) -> Tensor:
        """Terms of each image, (S, B), whose mean over the batch has the gradient of the rule's loss.

        Where that is a sum over the candidates of a group, of their mean. In a batch the values are those of the loss
        only where it is linear in log-probabilities.
        """
        if self.grouping == SINGLE:
            return _against_the_others(feedback, self.rule)
        if self.grouping == CLASSES:
            return self._of_classes(feedback, _scores_of_action(feedback))
        if self.grouping == LABELS:
            return self._of_classes(feedback, torch.nn.functional.one_hot(feedback.labels, feedback.logits.shape[-1]))
        if self.grouping == SAMPLED:
            g = self._gradient(torch.log_softmax(feedback.logits, -1), _scores_of_action(feedback))
            return (g.gather(-1, feedback.actions) * feedback.logp).squeeze(-1)
        if self.grouping in (BATCH, BATCH_BASELINE):
            scores = feedback.rewards if self.grouping == BATCH else feedback.advantages
            g = self._gradient(feedback.logp.squeeze(-1), scores.squeeze(-1))
            # The mean over images is the mean over candidates, and B times too small for one loss of the whole batch.
            return g * feedback.logp.squeeze(-1) * (1 if self.rule.reduction == CANDIDATES else g.shape[-1])
        raise unknown("grouping", self.grouping, (CLASSES, SAMPLED, SINGLE, LABELS, BATCH, BATCH_BASELINE))

    def _of_classes(self, feedback: Feedback, scores: Tensor) -> Tensor:
        logp = torch.log_softmax(feedback.logits, -1)
        old = logp.detach()
        if self.rule.whole_batch:
            terms = torch.stack([self.rule.loss(*seed) for seed in zip(logp, old, scores, strict=True)])
        else:
            terms = self.rule.loss(logp, old, scores)
        return terms / logp.shape[-1] if self.rule.reduction == CANDIDATES else terms

    def _gradient(self, logp: Tensor, scores: Tensor) -> Tensor:
        """The rule's gradient at the snapshot, in the group of the last axis; each seed is a batch of its own."""
        at = logp.detach()
        if not self.rule.whole_batch:
            return self.rule.gradient(at, at, scores)
        return torch.stack([self.rule.gradient(x, x, s) for x, s in zip(at, scores, strict=True)])


def _scores_of_action(feedback: Feedback) -> Tensor:
    """(r − b)e_a, (S, B, A)."""
    return torch.zeros_like(feedback.logits).scatter(-1, feedback.actions, feedback.advantages)


def _against_the_others(feedback: Feedback, rule: Rule) -> Tensor:
    """TPO from the sampled action alone: the scores (r − b)e_a standardise to u_a − u_j = ±A/√(A − 1)."""
    assert isinstance(rule, Tpo)
    classes = feedback.logits.shape[-1]
    advantages = feedback.advantages.sign() * classes / math.sqrt(classes - 1)
    target = tpo_single_target(feedback.logp, advantages, rule.eta)
    return tpo_single_loss(feedback.logp, target).squeeze(-1)


# The rule and the group behind each name of the table.
RULES: Mapping[str, Callable[[MnistSettings], Method]] = {
    "tpo": lambda s: Method(rules.named("tpo", eta=s.eta), SINGLE),
    "dg": lambda s: Method(rules.named("dg", baseline=0.0, dg_eta=s.dg_eta), BATCH_BASELINE),
    "pg": lambda s: Method(rules.named("pg", baseline=0.0), BATCH_BASELINE),
    "pg_batchnorm": lambda s: Method(rules.named("grpo_no_kl", epsilon_std=BATCH_SD_FLOOR), BATCH_BASELINE),
    "group_pg": lambda s: Method(rules.named("group_pg", eta=s.eta), SAMPLED),
    "ce": lambda s: Method(rules.named("ce"), LABELS),
}


def resolve(method: str | ChosenRule, settings: MnistSettings, grouping: str = "") -> Method:
    """The method of that name or alias, or of a rule that a user has chosen, on the usual grouping where none is said.

    Raises: ValueError for an unknown name or grouping, with the nearest.

    >>> resolve("tpo", MnistSettings()).grouping
    'single'
    """
    if isinstance(method, str):
        return RULES[own_name(method)](settings)
    if grouping and grouping not in GROUPINGS:
        raise unknown("grouping", grouping, GROUPINGS)
    return Method(method.build(rules), grouping or GROUPINGS[0])
