"""Six ways to learn from one sampled action per image: the bandit's feedback, and each method's loss of it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tpo_ref.study.protocol import unknown
from tpo_torch.dg import dg_loss
from tpo_torch.mnist.settings import MnistSettings
from tpo_torch.pg import ce_loss, group_pg_loss, pg_loss
from tpo_torch.single import tpo_single_loss, tpo_single_target
from tpo_torch.standardize import standardize

# Added to the standard deviation of a batch, outside the root (deviation D22).
BATCH_SD_FLOOR = 1e-8


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


Rule = Callable[[Feedback, MnistSettings], Tensor]


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


def tpo(feedback: Feedback, settings: MnistSettings) -> Tensor:
    """Target policy from the sampled action: the scores (r − b)e_a standardise to u_a − u_j = ±A/√(A − 1)."""
    classes = feedback.logits.shape[-1]
    advantages = feedback.advantages.sign() * classes / math.sqrt(classes - 1)
    target = tpo_single_target(feedback.logp, advantages, settings.eta)
    return tpo_single_loss(feedback.logp, target).squeeze(-1)


def dg(feedback: Feedback, settings: MnistSettings) -> Tensor:
    """Delightful gradient: the gate sees log π of the sampled action."""
    return dg_loss(feedback.logp, feedback.advantages, settings.dg_eta)


def pg(feedback: Feedback, settings: MnistSettings) -> Tensor:
    """REINFORCE with the baseline b."""
    return pg_loss(feedback.logp, feedback.advantages)


def pg_batchnorm(feedback: Feedback, settings: MnistSettings) -> Tensor:
    """REINFORCE with advantages standardised over the batch; the paper calls it GRPO (deviation D22)."""
    centred = feedback.advantages - feedback.advantages.mean(1, keepdim=True)
    sigma = centred.square().mean(1, keepdim=True).sqrt()
    return pg_loss(feedback.logp, centred / (sigma + BATCH_SD_FLOOR))


def group_pg(feedback: Feedback, settings: MnistSettings) -> Tensor:
    """TPO's standardised score of the sampled action as its advantage: same signal, no target."""
    u = standardized_scores(feedback).gather(-1, feedback.actions)
    return group_pg_loss(feedback.logp, u, settings.eta)


def ce(feedback: Feedback, settings: MnistSettings) -> Tensor:
    """Cross-entropy with the label, which only an oracle has."""
    return ce_loss(feedback.logits, feedback.labels)


RULES: Mapping[str, Rule] = {
    "tpo": tpo,
    "dg": dg,
    "pg": pg,
    "pg_batchnorm": pg_batchnorm,
    "group_pg": group_pg,
    "ce": ce,
}
ALIASES: Mapping[str, str] = {"grpo": "pg_batchnorm"}


def resolve(method: str) -> str:
    """Return the method's own name; ValueError with the nearest names for an unknown one.

    >>> resolve("grpo")
    'pg_batchnorm'
    """
    name = ALIASES.get(method, method)
    if name not in RULES:
        raise unknown("method of mnist", method, (*RULES, *ALIASES))
    return name
