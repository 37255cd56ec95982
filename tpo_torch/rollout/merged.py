"""Each distinct prefix computed once, for one seed on a CPU: prompts and answers that begin alike share their nodes.

The nodes form a tree. Every linear map works on the N distinct nodes; attention alone spreads them, over blocks of
slots that hold a prompt and some of what follows it. A node that stands in several takes its output from one of them.
Merging changes no value: a shared node receives the sum of the gradients that its copies would have got.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tpo_torch.rollout import Draws, Rollout, sample
from tpo_torch.transformer import HEAD_WIDTH, HEADS, LAYERS, CausalTransformer

SCALE = 1 / math.sqrt(HEAD_WIDTH)
# Ends of answers per block of attention: fewer make more blocks that each repeat the prompt, more make wider ones. The
# choice is by estimated cost, in which a slot weighs as much as so many entries of the attention matrix.
LEAVES = (1, 2, 4, 8)
SLOT_COST = 30


@dataclass(frozen=True)
class Nodes:
    """Distinct nodes and their slots: tokens, places (N,); block and column (N,) of the slot whose output is theirs.

    slots (P, L), the node of each slot, any node in an empty one, which no node sees; sees (P, L, slots so far) bool.
    The first `hidden` nodes and the first `quiet` columns predict nothing.
    """

    tokens: Tensor
    places: Tensor
    block: Tensor
    column: Tensor
    slots: Tensor
    sees: Tensor
    hidden: int = 0
    quiet: int = 0


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
        self.masks = [m.repeat(HEADS, 1, 1) for m in (mask, mask[:, nodes.quiet :])]
        narrow = (nodes.slots[:, nodes.quiet :] - nodes.hidden).clamp(min=0)
        self.keys = _spread(nodes.slots, 2 * HEADS)
        self.queries = [_spread(nodes.slots, HEADS), _spread(narrow, HEADS)]
        all_own = nodes.block * nodes.slots.shape[1] + nodes.column
        own = (nodes.block * narrow.shape[1] + nodes.column - nodes.quiet)[nodes.hidden :]
        self.back = [_collect(all_own, nodes.slots.numel()), _collect(own, narrow.numel())]

    def attend(self, layer: int, q: Tensor, kv: Tensor) -> Tensor:
        """Attention within each block; in the last layer only the predicting nodes ask."""
        last = layer == LAYERS - 1
        cache = None if self.caches is None else self.caches[layer]
        read: Tensor = _Attention.apply(  # type: ignore[no-untyped-call]
            q, kv, self.queries[last], self.keys, self.back[last], self.masks[last], cache
        )
        return read

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
        read = torch.bmm(weights, v)
        ctx.save_for_backward(query, both, weights, queries, keys, back)
        ctx.kv_shape = kv.shape
        return read.view(-1, HEAD_WIDTH).index_select(0, back).view(q.shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, both, weights, queries, keys, back = ctx.saved_tensors
        k, v = both
        d_read = torch.zeros_like(query)
        d_read.view(-1, HEAD_WIDTH).index_copy_(0, back, grad.reshape(-1, HEAD_WIDTH))
        d_both = torch.empty_like(both)
        torch.bmm(weights.mT, d_read, out=d_both[1])
        d_scores = torch._softmax_backward_data(torch.bmm(d_read, v.mT), weights, -1, weights.dtype)
        d_query = torch.bmm(d_scores, k).mul_(SCALE)
        torch.bmm(d_scores.mT, query, out=d_both[0]).mul_(SCALE)
        d_q = _summed(d_query, queries, grad.numel()).view(grad.shape)
        d_kv = _summed(d_both, keys, ctx.kv_shape.numel()).view(ctx.kv_shape)
        return d_q, d_kv, None, None, None, None, None


def _summed(grad: Tensor, index: Tensor, size: int) -> Tensor:
    """Rows of one head's width, added where they came from."""
    rows = grad.new_zeros(size // HEAD_WIDTH, HEAD_WIDTH)
    return rows.index_add_(0, index, grad.view(-1, HEAD_WIDTH))


def _spread(slots: Tensor, parts: int) -> Tensor:
    """Rows that fill (parts, P, slots), of nodes cut into parts of one head's width."""
    return (slots * parts + torch.arange(parts).view(-1, 1, 1)).flatten()


def _collect(own: Tensor, slots: int) -> Tensor:
    """Rows of (heads, P, slots) that put the nodes together again."""
    return (own.unsqueeze(1) + torch.arange(HEADS) * slots).flatten()


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
    trunk, node = _trunk(prompts, net.vocab)
    policy = net.decode(maps, MergedLayout(trunk, dtype, caches))[0]
    # The column in which each prompt keeps each node of the level above, and what those columns see.
    column, sees = torch.zeros(batch, len(policy), dtype=torch.int64), trunk.sees[:, -1:]
    node = node.unsqueeze(1).expand(-1, answers)
    levels, tokens, others, predicting, before = [], [], [], [], 0
    for t in range(horizon):
        tokens.append(sample(policy[node], uniforms[..., t]))
        # Further tokens are drawn only where a prompt has one answer.
        others.append(sample(policy[node[:, :1]], more[:, t]))
        predicting.append(node + before)
        if t == horizon - 1:
            break
        before += len(policy)
        kept, parent, node = _distinct(len(policy), node, tokens[-1], net.vocab)
        level, column = _level(kept, horizon + t, parent, node, column, sees)
        sees = level.sees
        levels.append((level, parent))
        policy = net.decode(maps, MergedLayout(level, dtype, caches))[0]
    layout = MergedLayout(_joined(trunk, levels), dtype)
    return Rollout(
        torch.stack(tokens, -1).unsqueeze(0),
        torch.stack(others, 1).unsqueeze(0),
        layout,
        torch.stack(predicting, -1).unsqueeze(0),
    )


def _distinct(parents: int, parent: Tensor, token: Tensor, vocab: int) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens and parents (n,) of the distinct pairs, ordered by parent, and the pair of each row."""
    code = parent * vocab + token
    present = torch.zeros(parents * vocab, dtype=torch.bool)
    present[code.flatten()] = True
    kept = present.nonzero().squeeze(1)
    return kept % vocab, kept // vocab, (present.cumsum(0) - 1)[code]


def _trunk(prompts: Tensor, vocab: int) -> tuple[Nodes, Tensor]:
    """The nodes of all prompts, and the distinct prompt of each row (B,)."""
    horizon = prompts.shape[1]
    row, nodes, tokens, count = torch.zeros(len(prompts), dtype=torch.int64), [], [], 1
    for j in range(horizon):
        kept, _, row = _distinct(count, row, prompts[:, j], vocab)
        nodes.append(row)
        tokens.append(kept)
        count = len(kept)
    sizes = torch.tensor([len(kept) for kept in tokens])
    slots = torch.stack(nodes, 1) + _starts(sizes)
    # A node that several prompts share takes its output from the first of them.
    block = _first(slots, int(sizes.sum()))
    column = torch.arange(horizon).repeat_interleave(sizes)
    sees = torch.ones(horizon, horizon, dtype=torch.bool).tril().expand(len(prompts), -1, -1)
    return Nodes(torch.cat(tokens), column, block, column, slots, sees, len(block) - count, horizon - 1), row


def _level(
    tokens: Tensor, place: int, parent: Tensor, node: Tensor, above: Tensor, sees: Tensor
) -> tuple[Nodes, Tensor]:
    """The nodes one step deeper, and the column (B, n) in which each prompt keeps each of them, if it does.

    tokens and parent (n,); node (B, K), the candidates'; above (B, m), columns of the level above, which see `sees`.
    """
    blocks, _, width = sees.shape
    held = torch.zeros(blocks, len(tokens), dtype=torch.bool)
    held[torch.arange(blocks).unsqueeze(1), node] = True
    column = held.cumsum(1) - 1
    wide = int(column[:, -1].max()) + 1
    block, member = held.nonzero().unbind(1)
    at = column[block, member]
    # Every slot sees itself, an empty one too: a row of a softmax needs something to see.
    eye = torch.eye(wide, dtype=torch.bool).expand(blocks, -1, -1)
    deeper = torch.cat([torch.zeros(blocks, wide, width, dtype=torch.bool), eye], -1)
    deeper[block, at, :width] = sees[block, above[block, parent[member]]]
    slots = torch.zeros(blocks, wide, dtype=torch.int64)
    slots[block, at] = member
    first = held.to(torch.uint8).argmax(0)
    own = column[first, torch.arange(len(tokens))]
    return Nodes(tokens, torch.full_like(tokens, place), first, own, slots, deeper), column


def _joined(trunk: Nodes, levels: list[tuple[Nodes, Tensor]]) -> Nodes:
    """All levels, each with its nodes' parents (n,), as one set of nodes for a pass without caches.

    They stand in blocks of a few leaves, the last nodes of answers. The nodes of a level are ordered by parent, so the
    leaves of one prompt are neighbours, and neighbours share most of their ancestors.
    """
    horizon = trunk.slots.shape[1]
    ancestors = [torch.arange(len(levels[-1][0].tokens) if levels else len(trunk.tokens) - trunk.hidden)]
    for _, parent in reversed(levels):
        ancestors.insert(0, parent[ancestors[0]])
    prompt = ancestors.pop(0)
    counts = torch.bincount(prompt)
    rank = torch.arange(len(prompt)) - _starts(counts)[prompt]
    of_prompt, widest = torch.arange(len(counts)), []
    for _, parent in levels:
        of_prompt = of_prompt[parent]
        widest.append(int(torch.bincount(of_prompt).max()))
    fresh = _changes(prompt) | (rank % _leaves(counts, horizon, widest) == 0)
    leaf_block = fresh.cumsum(0) - 1
    blocks = int(leaf_block[-1]) + 1
    trunk_slots = trunk.slots[trunk.block[trunk.hidden :][prompt[fresh]]]
    parts = [trunk, *(level for level, _ in levels)]
    offsets = _starts(torch.tensor([len(part.tokens) for part in parts])).tolist()
    slots, width = [trunk_slots], horizon
    block, column, seen = [_first(trunk_slots, len(trunk.tokens))], [trunk.column], []
    for part, ancestor, offset in zip(parts[1:], ancestors, offsets[1:], strict=True):
        new = fresh | _changes(ancestor)
        # Each block numbers the distinct nodes of this level that its leaves descend from.
        number = new.cumsum(0) - 1
        number = number - number[fresh][leaf_block]
        wide = int(number.max()) + 1
        held = torch.zeros(blocks, wide, dtype=torch.int64)
        held[leaf_block, number] = ancestor
        slots.append(held + offset)
        own = torch.full((len(part.tokens),), blocks * wide).scatter_reduce_(
            0, ancestor, leaf_block * wide + number, "amin"
        )
        block.append(own // wide)
        column.append(own % wide + width)
        seen.append((leaf_block, number + width))
        width += wide
    sees = torch.zeros(blocks, width, width, dtype=torch.bool)
    sees[:, :horizon, :horizon] = trunk.sees[0]
    sees[:, horizon:, :horizon] = True
    sees.diagonal(dim1=1, dim2=2).fill_(True)
    for i, (rows, own_column) in enumerate(seen):
        for _, above in seen[:i]:
            sees[rows, own_column, above] = True
    return Nodes(
        torch.cat([part.tokens for part in parts]),
        torch.cat([part.places for part in parts]),
        torch.cat(block),
        torch.cat(column),
        torch.cat(slots, 1),
        sees,
        trunk.hidden,
        trunk.quiet,
    )


def _leaves(counts: Tensor, horizon: int, widest: list[int]) -> int:
    """How many leaves per block cost least, given those of each prompt (P,) and the most nodes at each level."""

    def cost(leaves: int) -> int:
        blocks = int(((counts + leaves - 1) // leaves).sum())
        width = horizon + sum(min(leaves, wide) for wide in widest)
        return blocks * width * (width + SLOT_COST)

    return min(LEAVES, key=cost)


def _starts(counts: Tensor) -> Tensor:
    return counts.cumsum(0) - counts


def _changes(x: Tensor) -> Tensor:
    """Where a sorted x (n,) differs from the entry before, the first entry included."""
    return torch.cat([torch.ones(1, dtype=torch.bool), x[1:] != x[:-1]])


def _first(slots: Tensor, nodes: int) -> Tensor:
    """The first block (nodes,) of `slots` (P, L) that holds each node."""
    holder = torch.arange(len(slots)).repeat_interleave(slots.shape[1])
    return torch.full((nodes,), len(slots)).scatter_reduce_(0, slots.flatten(), holder, "amin")
