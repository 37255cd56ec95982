"""The tree of distinct prefixes: which nodes there are, and how they stand in blocks of slots for attention.

A node is one token after one prefix. The nodes of the prompts are the trunk; the distinct t-th tokens of the answers
are level t below it. The last token of an answer has no node, since nothing is predicted after it.

Two prompts of two tokens, three answers to each; numbers of nodes in brackets:

    0 [0] ─┬─ 0 [1] ─── 1 [3]       prompt 00, answers 1., 1., 1.
           └─ 1 [2] ─┬─ 0 [4]       prompt 01, answers 0., 1., 0.
                     └─ 1 [5]
    trunk               level 1

Six prompt and answer sequences of three tokens are six nodes instead of eighteen:

>>> prompts, first = torch.tensor([[0, 1], [0, 0]]), torch.tensor([[0, 1, 0], [1, 1, 1]])
>>> trunk, prompt = trunk_of(prompts, vocab=2)
>>> trunk.tokens.tolist(), prompt.tolist()
([0, 0, 1], [1, 0])
>>> tokens, parents, candidate = distinct(2, prompt.unsqueeze(1).expand(2, 3), first, vocab=2)
>>> tokens.tolist(), parents.tolist(), candidate.tolist()
([1, 0, 1], [0, 1, 1], [[1, 2, 1], [0, 0, 0]])

For attention the nodes stand in blocks: a prompt, then some of what follows it. A node may stand in several blocks, as
[0] does here, and takes its output from the first of them.

>>> nodes = joined(trunk, [Level(tokens, parents)])
>>> nodes.slots.tolist()
[[0, 1, 3, 3], [0, 2, 4, 5]]
>>> nodes.home_block.tolist(), nodes.home_column.tolist()
([0, 0, 1, 0, 1, 1], [0, 1, 1, 2, 2, 3])
>>> print("\\n".join("".join("x" if seen else "." for seen in row) for row in nodes.sees[1].tolist()))
x...
xx..
xxx.
xx.x

The last slot of the first block is empty: any node may fill it, since no other slot sees it and nothing takes its
output.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

# Leaves, the last nodes of answers, per block of attention: fewer make more blocks that each repeat the prompt, more
# make wider ones. The choice is by estimated cost, in which a slot weighs as much as so many entries of the attention
# matrix.
LEAVES = (1, 2, 4, 8)
SLOT_COST = 30


@dataclass(frozen=True)
class Nodes:
    """N distinct nodes and P blocks of L slots; C columns are those of the slots, after what caches hold.

    Args: tokens and places (N,), int64; home_block and home_column (N,), the slot whose output is the node's; slots
        (P, L), the node in each slot, any one in an empty slot; sees (P, L, C) bool, which columns each slot sees;
        silent_nodes and silent_columns, how many of the first nodes and columns predict nothing.
    """

    tokens: Tensor
    places: Tensor
    home_block: Tensor
    home_column: Tensor
    slots: Tensor
    sees: Tensor
    silent_nodes: int = 0
    silent_columns: int = 0


class Level(NamedTuple):
    """The distinct nodes of one level: their tokens (n,), and their parents (n,), numbered within the level above."""

    tokens: Tensor
    parents: Tensor


class LevelAbove(NamedTuple):
    """A level seen from the one below, n nodes in B blocks of m slots.

    Args: column (B, n), where each prompt keeps each node; sees (B, m, C) bool, which columns those slots see.
    """

    column: Tensor
    sees: Tensor


class _Cut(NamedTuple):
    """The n leaves in their order, cut into blocks: starts (n,) bool, whether a block begins there; block (n,)."""

    starts: Tensor
    block: Tensor


class _Placed(NamedTuple):
    """One level in the blocks: slots (P, l), nodes; home_block, home_column (size,); leaf_column (n,), each leaf's."""

    slots: Tensor
    home_block: Tensor
    home_column: Tensor
    leaf_column: Tensor


def distinct(parents: int, parent: Tensor, token: Tensor, vocab: int) -> tuple[Tensor, Tensor, Tensor]:
    """The distinct pairs of parent and token.

    Args: parents, how many there are; parent and token, of one shape.
    Returns: tokens (n,) and parents (n,) of the distinct pairs, ordered by parent; which pair each entry is.
    """
    code = parent * vocab + token
    present = torch.zeros(parents * vocab, dtype=torch.bool)
    present.index_fill_(0, code.flatten(), True)
    pairs = present.nonzero().squeeze(1)
    return pairs % vocab, pairs // vocab, (present.cumsum(0) - 1)[code]


def trunk_of(prompts: Tensor, vocab: int) -> tuple[Nodes, Tensor]:
    """The nodes of all prompts (B, H), one block for each, and which distinct prompt each row is (B,)."""
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
    block = _first_block(slots, int(sizes.sum()))
    column = torch.arange(horizon).repeat_interleave(sizes)
    sees = torch.ones(horizon, horizon, dtype=torch.bool).tril().expand(len(prompts), -1, -1)
    trunk = Nodes(
        tokens=torch.cat(tokens),
        places=column,
        home_block=block,
        home_column=column,
        slots=slots,
        sees=sees,
        silent_nodes=len(block) - count,
        silent_columns=horizon - 1,
    )
    return trunk, row


def level_below(level: Level, place: int, candidates: Tensor, above: LevelAbove) -> tuple[Nodes, LevelAbove]:
    """The nodes one step deeper, for a pass whose caches hold the levels above.

    Args: level of n nodes; place of their tokens in a sequence; candidates (B, K), the node of each; above, the level
        before.
    Returns: the nodes, in one block for each prompt; and this level as the next one sees it.
    """
    blocks, _, width = above.sees.shape
    membership = torch.zeros(blocks, len(level.tokens), dtype=torch.bool)
    membership[torch.arange(blocks).unsqueeze(1), candidates] = True
    column = membership.cumsum(1) - 1
    widest = int(column[:, -1].max()) + 1
    block, member = membership.nonzero().unbind(1)
    own = column[block, member]
    # Every slot sees itself, an empty one too: a row of a softmax needs something to see.
    itself = torch.eye(widest, dtype=torch.bool).expand(blocks, -1, -1)
    sees = torch.cat([torch.zeros(blocks, widest, width, dtype=torch.bool), itself], -1)
    sees[block, own, :width] = above.sees[block, above.column[block, level.parents[member]]]
    slots = torch.zeros(blocks, widest, dtype=torch.int64)
    slots[block, own] = member
    home = membership.to(torch.uint8).argmax(0)
    home_column = column[home, torch.arange(len(level.tokens))]
    nodes = Nodes(level.tokens, torch.full_like(level.tokens, place), home, home_column, slots, sees)
    return nodes, LevelAbove(column, sees)


def joined(trunk: Nodes, levels: list[Level]) -> Nodes:
    """The trunk and all levels below it as one set of nodes, for a pass without caches.

    They stand in blocks of a few leaves. The nodes of a level are ordered by parent, so the leaves of one prompt are
    neighbours, and neighbours share most of their ancestors.
    """
    horizon = trunk.slots.shape[1]
    leaves = len(levels[-1].tokens) if levels else len(trunk.tokens) - trunk.silent_nodes
    prompt, *ancestors = _lineage(levels, leaves)
    cut = _cut(prompt, levels, horizon)
    trunk_slots = trunk.slots[trunk.home_block[trunk.silent_nodes :][prompt[cut.starts]]]
    tokens = [trunk.tokens, *(level.tokens for level in levels)]
    sizes = torch.tensor([len(part) for part in tokens])
    placed: list[_Placed] = []
    width = horizon
    for size, ancestor, first_node in zip(sizes[1:].tolist(), ancestors, _starts(sizes).tolist()[1:], strict=True):
        placed.append(_place(ancestor, cut, size, first_node, width))
        width += placed[-1].slots.shape[1]
    depths = torch.arange(horizon, horizon + len(levels)).repeat_interleave(sizes[1:])
    return Nodes(
        tokens=torch.cat(tokens),
        places=torch.cat([trunk.places, depths]),
        home_block=torch.cat([_first_block(trunk_slots, len(trunk.tokens)), *(part.home_block for part in placed)]),
        home_column=torch.cat([trunk.home_column, *(part.home_column for part in placed)]),
        slots=torch.cat([trunk_slots, *(part.slots for part in placed)], 1),
        sees=_sees(trunk, [part.leaf_column for part in placed], cut.block, width),
        silent_nodes=trunk.silent_nodes,
        silent_columns=trunk.silent_columns,
    )


def _lineage(levels: list[Level], leaves: int) -> list[Tensor]:
    """What each leaf descends from, each (leaves,): its prompt, its node at each level, last the leaf itself."""
    nodes = [torch.arange(leaves)]
    for level in reversed(levels):
        nodes.insert(0, level.parents[nodes[0]])
    return nodes


def _cut(prompt: Tensor, levels: list[Level], horizon: int) -> _Cut:
    """Cut the leaves, in the order of their prompts (n,), into blocks of one prompt and the cheapest size."""
    counts = torch.bincount(prompt)
    rank = torch.arange(len(prompt)) - _starts(counts)[prompt]
    prompt_of_node, widest = torch.arange(len(counts)), []
    for level in levels:
        prompt_of_node = prompt_of_node[level.parents]
        widest.append(int(torch.bincount(prompt_of_node).max()))
    starts = _changes(prompt) | (rank % _leaves_per_block(counts, horizon, widest) == 0)
    return _Cut(starts, starts.cumsum(0) - 1)


def _leaves_per_block(counts: Tensor, horizon: int, widest: list[int]) -> int:
    """How many leaves per block cost least, given those of each prompt (P,) and the most nodes at each level."""

    def cost(leaves: int) -> int:
        blocks = int(((counts + leaves - 1) // leaves).sum())
        width = horizon + sum(min(leaves, wide) for wide in widest)
        return blocks * width * (width + SLOT_COST)

    return min(LEAVES, key=cost)


def _place(ancestor: Tensor, cut: _Cut, size: int, first_node: int, first_column: int) -> _Placed:
    """Place one level of `size` nodes in the blocks; ancestor (n,) is each leaf's node there."""
    # Each block numbers the distinct nodes of this level that its leaves descend from.
    number = (cut.starts | _changes(ancestor)).cumsum(0) - 1
    number = number - number[cut.starts][cut.block]
    blocks, widest = int(cut.block[-1]) + 1, int(number.max()) + 1
    nodes = torch.zeros(blocks, widest, dtype=torch.int64)
    nodes[cut.block, number] = ancestor
    home = torch.full((size,), blocks * widest).scatter_reduce_(0, ancestor, cut.block * widest + number, "amin")
    return _Placed(nodes + first_node, home // widest, home % widest + first_column, number + first_column)


def _sees(trunk: Nodes, leaf_columns: list[Tensor], block: Tensor, width: int) -> Tensor:
    """Which columns each slot sees (P, width, width), given the block and the columns (n,) of each leaf's ancestors."""
    horizon = trunk.slots.shape[1]
    sees = torch.zeros(int(block[-1]) + 1, width, width, dtype=torch.bool)
    sees[:, :horizon, :horizon] = trunk.sees[0]
    sees[:, horizon:, :horizon] = True
    sees.diagonal(dim1=1, dim2=2).fill_(True)
    # What a parent sees its children see, level after level.
    for parent, child in itertools.pairwise(leaf_columns):
        sees[block, child] |= sees[block, parent]
    return sees


def _starts(counts: Tensor) -> Tensor:
    """Where each of several runs of so many entries begins."""
    return counts.cumsum(0) - counts


def _changes(x: Tensor) -> Tensor:
    """Where a sorted x (n,) differs from the entry before, the first entry included."""
    return torch.cat([torch.ones(1, dtype=torch.bool), x[1:] != x[:-1]])


def _first_block(slots: Tensor, nodes: int) -> Tensor:
    """The first block (nodes,) of `slots` (P, L) that holds each node."""
    holder = torch.arange(len(slots)).repeat_interleave(slots.shape[1])
    return torch.full((nodes,), len(slots)).scatter_reduce_(0, slots.flatten(), holder, "amin")
