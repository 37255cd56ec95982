"""Each distinct prefix computed once, for one seed on a CPU: prompts and answers that begin alike share their nodes.

The nodes form a tree. Every linear map works on the N distinct nodes; attention alone spreads them, over blocks of
slots that hold a prompt and some of what follows it. A node that stands in several takes its output from one of them.
Merging changes no value: a shared node receives the sum of the gradients that its copies would have got.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor

from tpo_torch.reversal.engine import Draws, Rollout, sample
from tpo_torch.reversal.engine.tree import Above, Nodes, distinct, joined, level_below, trunk_of
from tpo_torch.shared.transformer import HEAD_WIDTH, HEADS, LAYERS, SCALE, CausalTransformer, Layout


class Cache:
    """Keys and values of one layer, (2, heads × P, slots so far, width of a head), in a buffer filled in place."""

    def __init__(self, blocks: int, capacity: int, dtype: torch.dtype) -> None:
        self.buffer = torch.empty(2, HEADS * blocks, capacity, HEAD_WIDTH, dtype=dtype)
        self.used = 0

    def extended(self, kv: Tensor) -> Tensor:
        """Everything so far, the new kv (2, heads × P, slots, width) included."""
        start, self.used = self.used, self.used + kv.shape[2]
        self.buffer[:, :, start : self.used] = kv
        return self.buffer[:, :, : self.used]


class MergedLayout:
    """A pass over distinct nodes; with caches, one per layer, keys and values are added to those of earlier passes."""

    def __init__(self, nodes: Nodes, dtype: torch.dtype, caches: list[Cache] | None = None) -> None:
        self.tokens, self.places = nodes.tokens.unsqueeze(0), nodes.places.unsqueeze(0)
        self.hidden, self.blocks, self.caches = nodes.hidden, len(nodes.slots), caches
        mask = torch.zeros(nodes.sees.shape, dtype=dtype).masked_fill_(~nodes.sees, -math.inf)
        self.keys = _spread(nodes.slots, 2 * HEADS)
        every = _asking(nodes, mask, 0, 0)
        # While sampling below the trunk every node predicts, and both are the same.
        last = _asking(nodes, mask, nodes.hidden, nodes.quiet) if nodes.hidden or nodes.quiet else every
        self.masks, self.queries, self.back = zip(every, last, strict=True)

    def attend(self, layer: int, q: Tensor, kv: Tensor) -> Tensor:
        """Attention within each block; in the last layer only the predicting nodes have queries."""
        last = layer == LAYERS - 1
        cache = None if self.caches is None else self.caches[layer]
        output: Tensor = _Attention.apply(  # type: ignore[no-untyped-call]
            q, kv, self.queries[last], self.keys, self.back[last], self.masks[last], cache
        )
        return output

    def narrow(self, x: Tensor) -> Tensor:
        """The nodes from the prompts' last tokens on."""
        return x[:, self.hidden :]


class _Attention(torch.autograd.Function):
    """Spread, attend, collect: by hand, since autograd would copy each of the three spread parts twice more.

    A slot nobody collects gets no gradient, so an empty one adds exactly nothing to the node it holds.
    """

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, kv: Tensor, queries: Tensor, keys: Tensor, back: Tensor, mask: Tensor, cache: Cache | None
    ) -> Tensor:
        blocks = len(mask)
        both = kv.view(-1, HEAD_WIDTH).index_select(0, keys).view(2, blocks, -1, HEAD_WIDTH)
        k, v = both if cache is None else cache.extended(both)
        query = q.view(-1, HEAD_WIDTH).index_select(0, queries).view(blocks, -1, HEAD_WIDTH)
        weights = torch.softmax(torch.baddbmm(mask, query, k.mT, alpha=SCALE), -1)
        output = torch.bmm(weights, v)
        ctx.save_for_backward(query, both, weights, queries, keys, back)
        ctx.kv_shape = kv.shape
        return output.view(-1, HEAD_WIDTH).index_select(0, back).view(q.shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, both, weights, queries, keys, back = ctx.saved_tensors
        k, v = both
        d_output = torch.zeros_like(query)
        d_output.view(-1, HEAD_WIDTH).index_copy_(0, back, grad.reshape(-1, HEAD_WIDTH))
        d_both = torch.empty_like(both)
        torch.bmm(weights.mT, d_output, out=d_both[1])
        d_scores = torch._softmax_backward_data(torch.bmm(d_output, v.mT), weights, -1, weights.dtype)
        d_query = torch.bmm(d_scores, k).mul_(SCALE)
        torch.bmm(d_scores.mT, query, out=d_both[0]).mul_(SCALE)
        d_q = _summed(d_query, queries, grad.numel()).view(grad.shape)
        d_kv = _summed(d_both, keys, ctx.kv_shape.numel()).view(ctx.kv_shape)
        return d_q, d_kv, None, None, None, None, None


def _summed(grad: Tensor, index: Tensor, size: int) -> Tensor:
    """Rows of one head's width, added where they came from."""
    rows = grad.new_zeros(size // HEAD_WIDTH, HEAD_WIDTH)
    return rows.index_add_(0, index, grad.view(-1, HEAD_WIDTH))


def _asking(nodes: Nodes, mask: Tensor, hidden: int, quiet: int) -> tuple[Tensor, Tensor, Tensor]:
    """For the nodes and columns after the first `hidden` and `quiet`: mask, rows of queries, rows of the way back."""
    slots = (nodes.slots[:, quiet:] - hidden).clamp(min=0)
    own = (nodes.block * slots.shape[1] + nodes.column - quiet)[hidden:]
    return mask[:, quiet:].repeat(HEADS, 1, 1), _spread(slots, HEADS), _collect(own, slots.numel())


def _spread(slots: Tensor, parts: int) -> Tensor:
    """Rows that fill (parts, P, slots), of nodes cut into parts of one head's width."""
    return (slots * parts + torch.arange(parts).view(-1, 1, 1)).flatten()


def _collect(own: Tensor, slots: int) -> Tensor:
    """Rows of (heads, P, slots) that put the nodes together again."""
    return (own.unsqueeze(1) + torch.arange(HEADS) * slots).flatten()


class _Alone:
    """One more token for each of B prompts that have one answer each: no two nodes are merged, none is spread."""

    def __init__(self, tokens: Tensor, place: int, caches: list[Cache]) -> None:
        self.tokens, self.places = tokens.unsqueeze(0), torch.full((1, len(tokens)), place)
        self.caches = caches

    def attend(self, layer: int, q: Tensor, kv: Tensor) -> Tensor:
        """Each node sees what the caches hold of its prompt, and itself."""
        new = kv.view(-1, 2, HEADS, HEAD_WIDTH).permute(1, 2, 0, 3).reshape(2, -1, 1, HEAD_WIDTH)
        k, v = self.caches[layer].extended(new).unbind(0)
        query = q.view(-1, HEADS, HEAD_WIDTH).transpose(0, 1).reshape(-1, 1, HEAD_WIDTH)
        output = torch.bmm(torch.softmax(torch.bmm(query, k.mT).mul_(SCALE), -1), v)
        return output.view(HEADS, -1, HEAD_WIDTH).transpose(0, 1).reshape(q.shape)

    def narrow(self, x: Tensor) -> Tensor:
        """Every node predicts."""
        return x


@torch.no_grad()
def generate(net: CausalTransformer, draws: Draws) -> Rollout:
    """Sample every candidate of every prompt, computing each distinct prefix once.

    Args: net, of one seed, on the CPU; draws, of one seed.
    Returns: answers, and the layout on which their log-probabilities can be trained.
    Raises: ValueError for more than one seed.
    """
    if len(draws.prompts) != 1:
        raise ValueError(f"draws: got {len(draws.prompts)} seeds, expected 1; use dense.generate for several")
    prompts, uniforms, more = draws.prompts[0], draws.uniforms[0], draws.more[0]
    batch, answers, horizon = uniforms.shape
    maps, dtype = net.maps(), net.embedding.dtype
    widest = [min(answers, net.vocab ** (t + 1)) for t in range(horizon - 1)]
    caches = [Cache(batch, horizon + sum(widest), dtype) for _ in range(LAYERS)]
    trunk, node = trunk_of(prompts, net.vocab)
    policy = net.decode(maps, MergedLayout(trunk, dtype, caches))[0]
    node = node.unsqueeze(1).expand(-1, answers)
    # The node of each row in `policy`; where there is one answer per prompt, rows are not merged while sampling.
    row, alone = node, answers == 1
    above = Above(torch.zeros(batch, len(policy), dtype=torch.int64), trunk.sees[:, -1:])
    levels: list[tuple[Tensor, Tensor]] = []
    tokens, others, predicting, offset, count = [], [], [], 0, len(policy)
    for t in range(horizon):
        tokens.append(sample(policy[row], uniforms[..., t]))
        if more.shape[-1] > 0:
            # Further tokens are drawn only where a prompt has one answer.
            others.append(sample(policy[row[:, :1]], more[:, t]))
        predicting.append(node + offset)
        if t == horizon - 1:
            break
        offset += count
        token, parent, node = distinct(count, node, tokens[-1], net.vocab)
        levels.append((token, parent))
        count = len(token)
        step: Layout
        if alone:
            row, step = torch.arange(batch).unsqueeze(1), _Alone(tokens[-1][:, 0], horizon + t, caches)
        else:
            row = node
            level, above = level_below(token, horizon + t, parent, node, above)
            step = MergedLayout(level, dtype, caches)
        policy = net.decode(maps, step)[0]
    return Rollout(
        torch.stack(tokens, -1).unsqueeze(0),
        torch.stack(others, 1).unsqueeze(0) if others else torch.zeros(draws.more.shape, dtype=torch.int64),
        MergedLayout(joined(trunk, levels), dtype),
        functools.partial(_before, torch.stack(predicting, -1)),
    )


def _before(predicting: Tensor, policy: Tensor) -> Tensor:
    """What stands before each token: the distribution of its prefix's node, `predicting` (B, K, H)."""
    return policy[0].index_select(0, predicting.flatten()).view(1, *predicting.shape, -1)
