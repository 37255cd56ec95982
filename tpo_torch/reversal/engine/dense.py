"""Every candidate computed, prompts shared: static shapes and no value read, for accelerators and any number of seeds.

A prompt's nodes stand in one block of L = H + K(H − 1) slots: its H tokens, then level after level the K candidates'
tokens but the last. A candidate sees the prompt and its own earlier tokens.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from tpo_torch.reversal.engine import Draws, Rollout, sample
from tpo_torch.shared.transformer import HEAD_WIDTH, HEADS, LAYERS, SCALE, WIDTH, CausalTransformer


class DenseLayout:
    """Blocks of a training pass: tokens (S, B·L), and who sees whom (L, L), the same in every block."""

    def __init__(self, tokens: Tensor, horizon: int, answers: int) -> None:
        self.seeds, self.batch, self.slots = tokens.shape
        self.first = horizon - 1
        self.tokens = tokens.flatten(1)
        level = _levels(horizon, answers, tokens.device)
        self.places = level.expand_as(tokens).flatten(1)
        self.sees = _sees(horizon, answers, tokens.device)

    def attend(self, layer: int, q: Tensor, kv: Tensor) -> Tensor:
        """Attention within each block; q may hold the predicting nodes only."""
        last = q.shape[1] < kv.shape[1]
        query, key, value = _heads(q, kv, self.seeds * self.batch)
        return _read(query, key, value, self.sees[self.first :] if last else self.sees).reshape(q.shape)

    def narrow(self, x: Tensor) -> Tensor:
        """From the last token of the prompt on."""
        return x.view(self.seeds, self.batch, self.slots, -1)[:, :, self.first :].flatten(1, 2)


class _Step:
    """One cached step: new nodes (S, B·n), which see what the caches hold and what `sees` (n, slots so far) allows."""

    def __init__(self, tokens: Tensor, place: Tensor, sees: Tensor, caches: list[list[Tensor]], last: int) -> None:
        self.seeds, batch, self.new = tokens.shape
        self.blocks, self.last = self.seeds * batch, last
        self.tokens = tokens.flatten(1)
        self.places = place.expand_as(tokens).flatten(1)
        self.sees, self.caches = sees, caches

    def attend(self, layer: int, q: Tensor, kv: Tensor) -> Tensor:
        """Attention to the caches, to which the new keys and values are added first."""
        query, key, value = _heads(q, kv, self.blocks)
        cache = self.caches[layer]
        cache[:] = [key, value] if not cache else [torch.cat(pair, 2) for pair in zip(cache, (key, value), strict=True)]
        return _read(query, cache[0], cache[1], self.sees[-query.shape[2] :]).reshape(q.shape)

    def narrow(self, x: Tensor) -> Tensor:
        """The last nodes of each block."""
        return x.view(self.seeds, -1, self.new, x.shape[-1])[:, :, -self.last :].flatten(1, 2)


@torch.no_grad()
def generate(net: CausalTransformer, draws: Draws) -> Rollout:
    """Sample every candidate of every prompt.

    Args: net, of S seeds; draws, on the net's device.
    Returns: answers, and the layout on which their log-probabilities can be trained.
    """
    prompts, uniforms = draws.prompts, draws.uniforms
    seeds, batch, answers, horizon = uniforms.shape
    device = prompts.device
    maps = net.maps()
    caches: list[list[Tensor]] = [[] for _ in range(LAYERS)]
    every, level = _sees(horizon, answers, device), _levels(horizon, answers, device)
    # Before the first token all candidates share one prediction.
    step = _Step(prompts, level[:horizon], every[:horizon, :horizon], caches, last=1)
    tokens, others, blocks = [], [], [prompts]
    for t in range(horizon):
        policy = net.decode(maps, step).view(seeds, batch, -1, net.vocab)
        tokens.append(sample(policy.expand(-1, -1, answers, -1), uniforms[..., t]))
        others.append(sample(policy[:, :, :1].expand(-1, -1, draws.more.shape[-1], -1), draws.more[:, :, t]))
        if t < horizon - 1:
            low, high = horizon + t * answers, horizon + (t + 1) * answers
            step = _Step(tokens[-1], level[low:high], every[low:high, :high], caches, last=answers)
            blocks.append(tokens[-1])
    layout = DenseLayout(torch.cat(blocks, -1), horizon, answers)
    return Rollout(
        torch.stack(tokens, -1),
        torch.stack(others, 2),
        layout,
        functools.partial(_before, (seeds, batch, answers, horizon)),
    )


def _before(shape: tuple[int, int, int, int], policy: Tensor) -> Tensor:
    """What stands before each token: one distribution for all candidates, then one for each."""
    seeds, batch, answers, horizon = shape
    every = policy.view(seeds, batch, -1, 1, policy.shape[-1])
    later = every[:, :, 1:].reshape(seeds, batch, horizon - 1, answers, policy.shape[-1])
    return torch.cat([every[:, :, :1].expand(-1, -1, -1, answers, -1), later], 2).transpose(2, 3)


def _heads(q: Tensor, kv: Tensor, blocks: int) -> tuple[Tensor, Tensor, Tensor]:
    """q (S, M, D) and kv (S, N, 2D) as (blocks, heads, nodes, width of a head)."""
    query, key, value = (
        x.reshape(blocks, -1, HEADS, HEAD_WIDTH).transpose(1, 2) for x in (q, kv[..., :WIDTH], kv[..., WIDTH:])
    )
    return query, key, value


def _read(query: Tensor, key: Tensor, value: Tensor, sees: Tensor) -> Tensor:
    """Attention of (S·B, heads, nodes, width of a head), with the heads side by side again: (S·B, nodes, D).

    Written out, since the order in which fused kernels add their gradients is theirs.
    """
    scores = torch.where(sees, SCALE * (query @ key.mT), -math.inf)
    return (torch.softmax(scores, -1) @ value).transpose(1, 2).flatten(2)


def _constant(make: Callable[[int, int], Tensor]) -> Callable[[int, int, torch.device], Tensor]:
    """Made once per shape and device: nothing is copied to a device in the middle of an episode."""
    return functools.cache(lambda horizon, answers, device: make(horizon, answers).to(device))


def _make_levels(horizon: int, answers: int) -> Tensor:
    """The place (L,) of each slot's token in its sequence."""
    return torch.cat([torch.arange(horizon), torch.arange(horizon, 2 * horizon - 1).repeat_interleave(answers)])


def _make_sees(horizon: int, answers: int) -> Tensor:
    """Which slots each slot sees, (L, L) bool: not later ones, and no other candidate's."""
    level = _make_levels(horizon, answers)
    prompt = torch.full((horizon,), -1)
    owner = torch.cat([prompt, torch.arange(answers).repeat(horizon - 1)])
    same = (owner.unsqueeze(1) == owner) | (owner == -1)
    return same & (level.unsqueeze(1) >= level)


_levels, _sees = _constant(_make_levels), _constant(_make_sees)
