"""Answers sampled from a transformer with a key/value cache, and the layout on which it is trained afterwards.

`dense` keeps every candidate and has static shapes, for accelerators; `merged` computes each distinct prefix once, for
CPUs. Both draw the same tokens from the same uniforms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tpo_torch.shared.transformer import Layout


@dataclass(frozen=True)
class Draws:
    """Everything random in an episode: prompts (S, B, H), uniforms (S, B, K, H) and (S, B, H, C) in [0, 1)."""

    prompts: Tensor
    uniforms: Tensor
    more: Tensor

    def to(self, device: torch.device) -> Draws:
        """The same draws on a device."""
        parts = (self.prompts, self.uniforms, self.more)
        return Draws(*(part.to(device, non_blocking=True) for part in parts))


@dataclass(frozen=True)
class Rollout:
    """Sampled answers, and how to find what a policy says of them.

    answers (S, B, K, H), tokens; others (S, B, H, C), tokens drawn beside the answer's own after each of its prefixes
    (K = 1 where C > 0); layout, the nodes of a training pass; before, which takes the pass's log-probabilities
    (S, M, V) to those (S, B, K, H, V) that stand before each token of the answers.
    """

    answers: Tensor
    others: Tensor
    layout: Layout
    before: Callable[[Tensor], Tensor]

    def logp(self, policy: Tensor) -> Tensor:
        """Log-probabilities (S, B, K, H) of the answers' tokens under a policy (S, M, V)."""
        return _pick(self.before(policy), self.answers.unsqueeze(-1)).squeeze(-1)

    def candidate_logp(self, policy: Tensor) -> Tensor:
        """Log-probabilities (S, B, H, 1 + C): the answer's own token first, then the others after the same prefix."""
        return _pick(self.before(policy)[:, :, 0], self.candidates())

    def candidates(self) -> Tensor:
        """Tokens (S, B, H, 1 + C) after each prefix: the answer's own first, then the others."""
        return torch.cat([self.answers[:, :, 0].unsqueeze(-1), self.others], -1)


def _pick(policy: Tensor, tokens: Tensor) -> Tensor:
    """Log-probabilities (…, C) of tokens (…, C) under (…, V)."""
    if policy.device.type == "cpu":
        return policy.gather(-1, tokens)
    # As a product: the gradient of a lookup adds what repeats in whatever order it arrives there.
    is_token = tokens.unsqueeze(-1) == torch.arange(policy.shape[-1], device=policy.device)
    return torch.where(is_token, policy.unsqueeze(-2), 0.0).sum(-1)


def draw(
    generators: Sequence[torch.Generator], vocab: int, horizon: int, batch: int, answers: int, others: int = 0
) -> Draws:
    """The draws of one episode, each seed's from its own generator on the CPU: a seed means the same on every device.

    Args: vocab V; horizon H; batch B; answers K per prompt; others C, further tokens per prefix.

    >>> draw([torch.Generator().manual_seed(0)], vocab=2, horizon=3, batch=4, answers=5).uniforms.shape
    torch.Size([1, 4, 5, 3])
    """
    parts = [
        (
            torch.randint(vocab, (batch, horizon), generator=g),
            torch.rand((batch, answers, horizon), generator=g),
            torch.rand((batch, horizon, others), generator=g),
        )
        for g in generators
    ]
    prompts, uniforms, more = (torch.stack(part) for part in zip(*parts, strict=True))
    return Draws(prompts, uniforms, more)


def sample(policy: Tensor, uniforms: Tensor) -> Tensor:
    """Tokens by inverse CDF: the number of w < V − 1 with π_0 + … + π_w ≤ uniform.

    Args: policy (…, V), log-probabilities; uniforms (…) in [0, 1). Returns: (…), int64.

    >>> sample(torch.log(torch.tensor([[0.25, 0.75]])), torch.tensor([0.3]))
    tensor([1])
    """
    # The last token needs no bound: a rounded total below 1 cannot send a token out of range.
    return (policy.exp().cumsum(-1)[..., :-1] <= uniforms.unsqueeze(-1)).sum(-1)
