"""The dense reference of the exactness check: whole groups in one forward pass, and the paper's formulas.

The reference starts from what anybody outside the trainer sees: tokens of prompts and completions, rewards, and the
settings. It imports torch and nothing of ours, so that an error of the trainer cannot be repeated here, which
`tests/llm/test_exactness.py` checks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class DenseSettings:
    """The settings of the loss, and the two tokens that bound a completion."""

    # The id of the token that fills a row up.
    pad: int
    # The id of the token that ends a completion.
    eos: int
    # Whether a completion without an end is left out.
    mask_truncated: bool
    # What the scores tilt: "policy", "ratio", "length" or "tempered".
    anchor: str
    # The temperature of the scores.
    eta: float
    # The noise of the scores, in the unit of the rewards.
    tau: float
    # T of the anchor "tempered".
    anchor_temperature: float
    # Whether the loss is divided by the mean length of a round's completions.
    divide_by_length: bool
    # What rewards are measured in: "group_std", "none", "group_mean" or "batch_std".
    score_scale: str = "group_std"
    # "forward", the cross-entropy to the target, or "reverse", the divergence from policy to target.
    divergence: str = "forward"
    # Another update rule, whose losses `dense_rules` has; empty for the target's.
    rule: str = ""


@dataclass(frozen=True)
class Completion:
    """One answer to one prompt, and its reward."""

    # Token ids with the padding on their left: positions count from there, and rotary angles are rounded by position.
    prompt: tuple[int, ...]
    # Token ids up to and including the end.
    tokens: tuple[int, ...]
    reward: float


def padding(row: Sequence[int], pad: int) -> int:
    """Count the padding tokens on the left of a prompt.

    >>> padding([0, 0, 5, 0], pad=0)
    2
    """
    return next((i for i, token in enumerate(row) if token != pad), len(row))


def completion_tokens(row: Sequence[int], eos: int) -> tuple[int, ...]:
    """Return the tokens that count: up to and including the first end, all of a row that has none.

    >>> completion_tokens([5, 0, 1, 0, 0], eos=1), completion_tokens([5, 0, 6], eos=1)
    ((5, 0, 1), (5, 0, 6))
    """
    length = next((i + 1 for i, token in enumerate(row) if token == eos), len(row))
    return tuple(row[:length])


def takes_part(completion: Completion, settings: DenseSettings) -> bool:
    """Whether a completion is in its group: it has a token, and an end where one is asked for.

    A policy may choose the padding token as its last one; TRL counts that as an end too.
    """
    last = completion.tokens[-1:]
    return bool(last) and (not settings.mask_truncated or last[0] in (settings.eos, settings.pad))


def log_probabilities(model: nn.Module, completions: Sequence[Completion], pad: int) -> Tensor:
    """Sum the log-probabilities of the tokens of each completion, (N,) nats, in one forward pass."""
    whole = [torch.tensor(c.prompt + c.tokens) for c in completions]
    ids = nn.utils.rnn.pad_sequence(whole, batch_first=True)
    place = torch.arange(ids.shape[1])
    firsts = torch.tensor([padding(c.prompt, pad) for c in completions]).unsqueeze(-1)
    starts = torch.tensor([len(c.prompt) for c in completions]).unsqueeze(-1)
    ends = torch.tensor([len(row) for row in whole]).unsqueeze(-1)
    attention = (place >= firsts) & (place < ends)
    logits = model(input_ids=ids, attention_mask=attention.long()).logits
    # The logits at a place are those of the next token.
    by_token = torch.log_softmax(logits[:, :-1], -1).gather(-1, ids[:, 1:].unsqueeze(-1)).squeeze(-1)
    counted = (place >= starts) & (place < ends)
    return (by_token * counted[:, 1:]).sum(-1)


def mean_length(groups: Sequence[Sequence[Completion]], settings: DenseSettings) -> float:
    """Return the mean number of tokens of the completions of a round that are in their groups, at least 1."""
    lengths = [len(completion.tokens) for group in groups for completion in group if takes_part(completion, settings)]
    return sum(lengths) / len(lengths) if lengths else 1.0


def scaled(rewards: Tensor, batch_deviation: float, settings: DenseSettings) -> Tensor:
    """Return the rewards of one group less their mean, in the unit of the score scale; (K,)."""
    difference = rewards - rewards.mean()
    if rewards.max() <= rewards.min():
        return torch.zeros_like(rewards)
    if settings.score_scale == "group_std":
        return difference / (difference.square().mean() + settings.tau**2).sqrt()
    if settings.score_scale == "batch_std":
        return difference / math.hypot(batch_deviation, settings.tau)
    if settings.score_scale == "group_mean":
        return difference / rewards.mean()
    if settings.score_scale == "none":
        return difference
    raise ValueError(f"score_scale: got {settings.score_scale!r}, expected a name")


def group_loss(
    logp: Tensor,
    logp_old: Tensor,
    rewards: Tensor,
    lengths: Tensor,
    settings: DenseSettings,
    batch_deviation: float = 1.0,
) -> Tensor:
    """Return −Σ q log p of one group, q ∝ p_old exp(u/η), as the paper writes it, or for other settings; all (K,).

    A group without members has the loss 0.
    """
    if not len(logp):
        return logp.sum()
    u = scaled(rewards, batch_deviation, settings)
    if settings.anchor == "ratio":
        x, x_old = logp - logp_old, torch.zeros_like(logp_old)
    elif settings.anchor == "length":
        x, x_old = logp / lengths, logp_old / lengths
    elif settings.anchor == "tempered":
        x, x_old = logp / settings.anchor_temperature, logp_old / settings.anchor_temperature
    elif settings.anchor == "policy":
        x, x_old = logp, logp_old
    else:
        raise ValueError(f"anchor: got {settings.anchor!r}, expected 'policy', 'ratio', 'length' or 'tempered'")
    log_q = torch.log_softmax(torch.log_softmax(x_old, -1) + u / settings.eta, -1)
    log_p = torch.log_softmax(x, -1)
    if settings.divergence == "reverse":
        return (log_p.exp() * (log_p - log_q)).sum()
    if settings.divergence == "forward":
        return -(log_q.exp() * log_p).sum()
    raise ValueError(f"divergence: got {settings.divergence!r}, expected 'forward' or 'reverse'")


def batch_deviation(groups: Sequence[Sequence[Completion]], settings: DenseSettings) -> float:
    """Return the standard deviation of the rewards of a round, over the completions that are in their groups."""
    rewards = [completion.reward for group in groups for completion in group if takes_part(completion, settings)]
    return float(torch.tensor(rewards, dtype=torch.float64).std(correction=0)) if rewards else 1.0


def group_rows(
    model: nn.Module,
    groups: Sequence[Sequence[Completion]],
    logp_old: Sequence[Tensor],
    settings: DenseSettings,
) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Return what the loss of each group is a function of, all groups in one forward pass.

    Args: groups, the completions of each prompt, equally many; logp_old, ℓ_old of the same completions, (K,) per group.
    Returns: log-probabilities now and at the snapshot, rewards and lengths of those that take part, (K,) each.
    """
    logp = log_probabilities(model, [completion for group in groups for completion in group], settings.pad)
    rows = []
    for group, now, old in zip(groups, logp.view(len(groups), -1), logp_old, strict=True):
        members = torch.tensor([takes_part(completion, settings) for completion in group])
        rewards = torch.tensor([completion.reward for completion in group], dtype=torch.float64)
        lengths = torch.tensor([len(completion.tokens) for completion in group])
        rows.append((now[members], old[members], rewards[members], lengths[members]))
    return rows


def gradient(model: nn.Module, losses: Sequence[Tensor]) -> dict[str, Tensor]:
    """Differentiate the mean over groups by autograd; by name of the parameter."""
    model.zero_grad()
    torch.autograd.backward(torch.stack(list(losses)).mean())
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
