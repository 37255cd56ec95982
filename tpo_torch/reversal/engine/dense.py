"""Every candidate computed, prompts shared: static shapes and no value read, for accelerators and any number of seeds.

A node is one token after one prefix. A prompt's nodes stand in one block of L = H + K(H − 1) slots: its H tokens, then
position after position the K candidates' tokens but the last. A candidate sees the prompt and its own earlier tokens.
A prompt x₁x₂ with two answers a₁a₂ and b₁b₂ (H = 2, K = 2):

    slot      0   1   2   3
    token     x₁  x₂  a₁  b₁
    position  0   1   2   2        a₁ sees x₁ x₂ a₁, b₁ sees x₁ x₂ b₁; x₂ predicts a₁ and b₁, a₁ predicts a₂
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
    """The blocks of a training pass.

    Args: tokens (S, B, L); horizon H; answers K.
    """

    def __init__(self, tokens: Tensor, horizon: int, answers: int) -> None:
        self.seeds, self.batch, self.slots = tokens.shape
        # The last token of the prompt is the first that predicts.
        self.first_predicting = horizon - 1
        self.tokens = tokens.flatten(1)
        self.places = _places(horizon, answers, tokens.device).expand_as(tokens).flatten(1)
        self.sees = _sees(horizon, answers, tokens.device)

    def attend(self, layer: int, q: Tensor, kv: Tensor) -> Tensor:
        """Attention within each block; q may hold the predicting nodes only."""
        last = q.shape[1] < kv.shape[1]
        query, key, value = _heads(q, kv, self.seeds * self.batch)
        return _attention(query, key, value, self.sees[self.first_predicting :] if last else self.sees).reshape(q.shape)

    def narrow(self, x: Tensor) -> Tensor:
        """From the last token of the prompt on."""
        return x.view(self.seeds, self.batch, self.slots, -1)[:, :, self.first_predicting :].flatten(1, 2)


class _CachedStep:
    """One more token of every prefix, whose keys and values are added to the caches.

    Args: tokens (S, B, n), the new nodes; places (n,), their positions; sees (n, slots so far) bool; caches, of each
        layer its keys and values (S·B, heads, slots so far, width of a head); last, how many nodes of a block predict.
    """

    def __init__(self, tokens: Tensor, places: Tensor, sees: Tensor, caches: list[list[Tensor]], last: int) -> None:
        self.seeds, batch, self.new = tokens.shape
        self.blocks, self.last = self.seeds * batch, last
        self.tokens = tokens.flatten(1)
        self.places = places.expand_as(tokens).flatten(1)
        self.sees, self.caches = sees, caches

    def attend(self, layer: int, q: Tensor, kv: Tensor) -> Tensor:
        """Attention to the caches, to which the new keys and values are added first."""
        query, key, value = _heads(q, kv, self.blocks)
        cache = self.caches[layer]
        cache[:] = [key, value] if not cache else [torch.cat(pair, 2) for pair in zip(cache, (key, value), strict=True)]
        return _attention(query, cache[0], cache[1], self.sees[-query.shape[2] :]).reshape(q.shape)

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
    sees, places = _sees(horizon, answers, device), _places(horizon, answers, device)
    # Before the first token all candidates share one prediction.
    step = _CachedStep(prompts, places[:horizon], sees[:horizon, :horizon], caches, last=1)
    tokens, others, blocks = [], [], [prompts]
    for t in range(horizon):
        policy = net.decode(maps, step).view(seeds, batch, -1, net.vocab)
        tokens.append(sample(policy.expand(-1, -1, answers, -1), uniforms[..., t]))
        others.append(sample(policy[:, :, :1].expand(-1, -1, draws.more.shape[-1], -1), draws.more[:, :, t]))
        if t < horizon - 1:
            low, high = horizon + t * answers, horizon + (t + 1) * answers
            step = _CachedStep(tokens[-1], places[low:high], sees[low:high, :high], caches, last=answers)
            blocks.append(tokens[-1])
    layout = DenseLayout(torch.cat(blocks, -1), horizon, answers)
    return Rollout(
        torch.stack(tokens, -1),
        torch.stack(others, 2),
        layout,
        functools.partial(_policies_before, (seeds, batch, answers, horizon)),
    )


def _policies_before(shape: tuple[int, int, int, int], policy: Tensor) -> Tensor:
    """Log-probabilities (S, B, K, H, V) before each token: one distribution for all candidates, then one for each."""
    seeds, batch, answers, horizon = shape
    nodes = policy.view(seeds, batch, -1, 1, policy.shape[-1])
    later = nodes[:, :, 1:].reshape(seeds, batch, horizon - 1, answers, policy.shape[-1])
    return torch.cat([nodes[:, :, :1].expand(-1, -1, -1, answers, -1), later], 2).transpose(2, 3)


def _heads(q: Tensor, kv: Tensor, blocks: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values (blocks, heads, nodes, width of a head) from q (S, M, D) and kv (S, N, 2D)."""
    query, key, value = (
        x.reshape(blocks, -1, HEADS, HEAD_WIDTH).transpose(1, 2) for x in (q, kv[..., :WIDTH], kv[..., WIDTH:])
    )
    return query, key, value


def _attention(query: Tensor, key: Tensor, value: Tensor, sees: Tensor) -> Tensor:
    """What the queries (S·B, heads, nodes, width of a head) read, the heads side by side again: (S·B, nodes, D).

    Written out, since fused kernels add their gradients in an order of their own; sees (nodes, slots) bool.
    """
    scores = torch.where(sees, SCALE * (query @ key.mT), -math.inf)
    return (torch.softmax(scores, -1) @ value).transpose(1, 2).flatten(2)


def _made_once(make: Callable[[int, int], Tensor]) -> Callable[[int, int, torch.device], Tensor]:
    """`make` with its tensor kept per shape and device: nothing is copied to a device in the middle of an episode."""
    return functools.cache(lambda horizon, answers, device: make(horizon, answers).to(device))


def _make_places(horizon: int, answers: int) -> Tensor:
    """The position (L,) of each slot's token in its sequence."""
    return torch.cat([torch.arange(horizon), torch.arange(horizon, 2 * horizon - 1).repeat_interleave(answers)])


def _make_sees(horizon: int, answers: int) -> Tensor:
    """Which slots each slot sees, (L, L) bool: not later ones, and no other candidate's."""
    places = _make_places(horizon, answers)
    # Which candidate a slot belongs to, -1 for the prompt.
    candidate = torch.cat([torch.full((horizon,), -1), torch.arange(answers).repeat(horizon - 1)])
    own_or_prompt = (candidate.unsqueeze(1) == candidate) | (candidate == -1)
    return own_or_prompt & (places.unsqueeze(1) >= places)


_places, _sees = _made_once(_make_places), _made_once(_make_sees)
