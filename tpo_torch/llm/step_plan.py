"""What the coefficients of an optimizer step wait for, as a pure function; and what is known of the step so far."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch

from tpo_torch.llm.advantages import Given
from tpo_torch.llm.target import TargetSettings
from tpo_torch.rules import MOVED, POLICY, SCORES, Rule


class Need(Enum):
    """What must be known of the policy before the rows of an optimizer step have their coefficients."""

    # Scores alone: coefficients stand before any forward pass.
    NOTHING = "nothing"
    # The training pass itself: each micro-batch holds whole groups, and is weighed between its pass and its loss.
    TRAINING_PASS = "training pass"
    # ℓ_old, which TRL has computed when it generated: the policy is still that.
    OLD = "log-probabilities of the round"
    # A pass of its own over the rows of the step, without gradient.
    OWN_PASS = "own pass"


def need(reads: str, whole_batch: bool, whole: bool, shuffled: bool, moved: bool, old_known: bool) -> Need:
    """What an optimizer step needs before its coefficients can be made.

    Args: reads, what the rule's gradient is a function of (`Rule.reads`; "moved" for anchor "ratio", "policy" for the
        others); whole_batch, whether it looks at all groups of the step; whole, whether micro-batches hold whole
        groups; shuffled, whether rows were then shuffled; moved, whether the policy has moved since it generated;
        old_known, whether ℓ_old of all rows is known.

    >>> need("moved", whole_batch=False, whole=False, shuffled=False, moved=False, old_known=False)
    <Need.NOTHING: 'nothing'>
    >>> need("policy", whole_batch=False, whole=True, shuffled=False, moved=True, old_known=True)
    <Need.TRAINING_PASS: 'training pass'>
    """
    if reads == SCORES or (reads == MOVED and not moved):
        return Need.NOTHING
    if whole and not shuffled and not whole_batch:
        return Need.TRAINING_PASS
    if not moved and old_known:
        return Need.OLD
    return Need.OWN_PASS


def reads_of(settings: TargetSettings, rule: Rule | None) -> tuple[str, bool]:
    """Of what the coefficients are a function, and whether of the whole batch: the rule's own, or the anchor's.

    The deviation of a batch, under score scale "batch_std", is known from the scores when a round begins.

    >>> reads_of(TargetSettings("ratio"), None), reads_of(TargetSettings("policy"), None)
    (('moved', False), ('policy', False))
    """
    if rule is not None:
        return rule.reads, rule.whole_batch
    return (MOVED if settings.anchor == "ratio" else POLICY), False


@dataclass
class StepWork:
    """What the trainer knows of the optimizer step that it is in, and of its micro-batch."""

    # The round and the optimizer step whose rows have their coefficients, or get them in their training pass.
    ready_for: tuple[int, int] | None = None
    need: Need = Need.NOTHING
    # The advantages as they were handed out, to see whether somebody changes them.
    given: Given | None = None
    # The mean loss of the groups, to report: of the step, or of the micro-batch where that holds whole ones.
    loss_value: float | None = None
    # Tokens of a micro-batch of the step, on average over all of them and all processes.
    mean_tokens: float = 1.0
    # Of the log-probabilities, and so of the advantages.
    dtype: torch.dtype = torch.float32
    # The forward pass of the micro-batch, between it and the loss.
    outputs: Any = None
