"""The tree of distinct prefixes: which nodes there are, and how they stand in blocks of slots for attention."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

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


def distinct(parents: int, parent: Tensor, token: Tensor, vocab: int) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens and parents (n,) of the distinct pairs, ordered by parent, and the pair of each row."""
    code = parent * vocab + token
    present = torch.zeros(parents * vocab, dtype=torch.bool)
    present.index_fill_(0, code.flatten(), True)
    pairs = present.nonzero().squeeze(1)
    return pairs % vocab, pairs // vocab, (present.cumsum(0) - 1)[code]


def trunk_of(prompts: Tensor, vocab: int) -> tuple[Nodes, Tensor]:
    """The nodes of all prompts, and the distinct prompt of each row (B,)."""
    horizon = prompts.shape[1]
    row, nodes, tokens, count = torch.zeros(len(prompts), dtype=torch.int64), [], [], 1
    for j in range(horizon):
        token, _, row = distinct(count, row, prompts[:, j], vocab)
        nodes.append(row)
        tokens.append(token)
        count = len(token)
    sizes = torch.tensor([len(token) for token in tokens])
    slots = torch.stack(nodes, 1) + _starts(sizes)
    # A node that several prompts share takes its output from the first of them.
    block = _first(slots, int(sizes.sum()))
    column = torch.arange(horizon).repeat_interleave(sizes)
    sees = torch.ones(horizon, horizon, dtype=torch.bool).tril().expand(len(prompts), -1, -1)
    return Nodes(torch.cat(tokens), column, block, column, slots, sees, len(block) - count, horizon - 1), row


class Above(NamedTuple):
    """A level seen from below: the column (B, n) where each prompt keeps each node, and what columns see (B, m, w)."""

    column: Tensor
    sees: Tensor


def level_below(tokens: Tensor, place: int, parent: Tensor, node: Tensor, above: Above) -> tuple[Nodes, Above]:
    """The nodes one step deeper, for a pass whose caches hold the levels above, and the same seen from below.

    tokens and parent (n,) of the nodes; node (B, K), those of the candidates.
    """
    blocks, _, width = above.sees.shape
    membership = torch.zeros(blocks, len(tokens), dtype=torch.bool)
    membership[torch.arange(blocks).unsqueeze(1), node] = True
    column = membership.cumsum(1) - 1
    wide = int(column[:, -1].max()) + 1
    block, member = membership.nonzero().unbind(1)
    at = column[block, member]
    # Every slot sees itself, an empty one too: a row of a softmax needs something to see.
    eye = torch.eye(wide, dtype=torch.bool).expand(blocks, -1, -1)
    deeper = torch.cat([torch.zeros(blocks, wide, width, dtype=torch.bool), eye], -1)
    deeper[block, at, :width] = above.sees[block, above.column[block, parent[member]]]
    slots = torch.zeros(blocks, wide, dtype=torch.int64)
    slots[block, at] = member
    first = membership.to(torch.uint8).argmax(0)
    own = column[first, torch.arange(len(tokens))]
    return Nodes(tokens, torch.full_like(tokens, place), first, own, slots, deeper), Above(column, deeper)


def joined(trunk: Nodes, levels: list[tuple[Tensor, Tensor]]) -> Nodes:
    """The trunk and all levels below it, tokens and parents (n,) each, as one set of nodes for a pass without caches.

    They stand in blocks of a few leaves, the last nodes of answers. The nodes of a level are ordered by parent, so the
    leaves of one prompt are neighbours, and neighbours share most of their ancestors.
    """
    horizon = trunk.slots.shape[1]
    ancestors = [torch.arange(len(levels[-1][0]) if levels else len(trunk.tokens) - trunk.hidden)]
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
    tokens = [trunk.tokens, *(token for token, _ in levels)]
    sizes = torch.tensor([len(part) for part in tokens])
    offsets = _starts(sizes).tolist()
    slots, width = [trunk_slots], horizon
    block, column, leaf_columns = [_first(trunk_slots, len(trunk.tokens))], [trunk.column], []
    for size, ancestor, offset in zip(sizes[1:].tolist(), ancestors, offsets[1:], strict=True):
        new = fresh | _changes(ancestor)
        # Each block numbers the distinct nodes of this level that its leaves descend from.
        number = new.cumsum(0) - 1
        number = number - number[fresh][leaf_block]
        wide = int(number.max()) + 1
        nodes = torch.zeros(blocks, wide, dtype=torch.int64)
        nodes[leaf_block, number] = ancestor
        slots.append(nodes + offset)
        own = torch.full((size,), blocks * wide).scatter_reduce_(0, ancestor, leaf_block * wide + number, "amin")
        block.append(own // wide)
        column.append(own % wide + width)
        leaf_columns.append(number + width)
        width += wide
    sees = torch.zeros(blocks, width, width, dtype=torch.bool)
    sees[:, :horizon, :horizon] = trunk.sees[0]
    sees[:, horizon:, :horizon] = True
    sees.diagonal(dim1=1, dim2=2).fill_(True)
    # What a parent sees its children see, level after level.
    for parent, own_column in itertools.pairwise(leaf_columns):
        sees[leaf_block, own_column] |= sees[leaf_block, parent]
    return Nodes(
        torch.cat(tokens),
        torch.cat([trunk.places, torch.arange(horizon, horizon + len(levels)).repeat_interleave(sizes[1:])]),
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
