"""Each distinct prefix computed once, for one seed on a CPU: prompts and answers that begin alike share their nodes.

The nodes form a tree, drawn in `tree`. Every linear map works on the N distinct nodes; attention alone spreads them
over P blocks of slots, which hold a prompt and some of what follows it. A node that stands in several blocks takes its
output from one of them. Merging changes no value: a shared node receives the sum of the gradients that its copies would
have got. In shapes, `heads × P` is one axis, head by head; a row is the part of a node that one head reads, as wide as
a head.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tpo_torch.reversal.engine import Draws, Rollout, sample
from tpo_torch.reversal.engine.tree import Level, LevelAbove, Nodes, distinct, joined, level_below, trunk_of
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


class _Asking(NamedTuple):
    """The nodes that ask in a layer, spread over blocks, and where their answers are.

    Args: mask (heads × P, slots, columns), 0 where a slot sees a column, else −∞; queries (heads × P × slots,), the row
        of the queries that each slot takes; outputs (nodes × heads,), the slot that each row of the output comes from.
    """

    mask: Tensor
    queries: Tensor
    outputs: Tensor


class MergedLayout:
    """A pass over distinct nodes; with caches, one per layer, keys and values are added to those of earlier passes."""

    def __init__(self, nodes: Nodes, dtype: torch.dtype, caches: list[Cache] | None = None) -> None:
        self.tokens, self.places = nodes.tokens.unsqueeze(0), nodes.places.unsqueeze(0)
        self.silent_nodes, self.blocks, self.caches = nodes.silent_nodes, len(nodes.slots), caches
        mask = torch.zeros(nodes.sees.shape, dtype=dtype).masked_fill_(~nodes.sees, -math.inf)
        self.keys = _rows_in_slots(nodes.slots, 2 * HEADS)
        every = _asking(nodes, mask, 0, 0)
        # While sampling below the trunk every node predicts, and both are the same.
        silent = nodes.silent_nodes or nodes.silent_columns
        predicting = _asking(nodes, mask, nodes.silent_nodes, nodes.silent_columns) if silent else every
        # By layer: in the last one only the predicting nodes have queries.
        self.asking = [*[every] * (LAYERS - 1), predicting]

    def attend(self, layer: int, q: Tensor, kv: Tensor) -> Tensor:
        """Attention within each block; in the last layer only the predicting nodes have queries."""
        cache = None if self.caches is None else self.caches[layer]
        output: Tensor = _Attention.apply(q, kv, self.keys, self.asking[layer], cache)  # type: ignore[no-untyped-call]
        return output

    def narrow(self, x: Tensor) -> Tensor:
        """The nodes from the prompts' last tokens on."""
        return x[:, self.silent_nodes :]


class _Attention(torch.autograd.Function):
    """Spread over the slots, attend, collect: by hand, since autograd would copy each of the spread parts twice more.

    A slot from which no output is taken gets no gradient, so an empty one adds exactly nothing to the node it holds.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, kv: Tensor, keys: Tensor, asking: _Asking, cache: Cache | None) -> Tensor:
        blocks = len(asking.mask)
        both = kv.view(-1, HEAD_WIDTH).index_select(0, keys).view(2, blocks, -1, HEAD_WIDTH)
        k, v = both if cache is None else cache.extended(both)
        query = q.view(-1, HEAD_WIDTH).index_select(0, asking.queries).view(blocks, -1, HEAD_WIDTH)
        weights = torch.softmax(torch.baddbmm(asking.mask, query, k.mT, alpha=SCALE), -1)
        output = torch.bmm(weights, v)
        ctx.save_for_backward(query, both, weights, asking.queries, keys, asking.outputs)
        ctx.kv_shape = kv.shape
        return output.view(-1, HEAD_WIDTH).index_select(0, asking.outputs).view(q.shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, both, weights, queries, keys, outputs = ctx.saved_tensors
        k, v = both
        d_output = torch.zeros_like(query)
        d_output.view(-1, HEAD_WIDTH).index_copy_(0, outputs, grad.reshape(-1, HEAD_WIDTH))
        d_both = torch.empty_like(both)
        torch.bmm(weights.mT, d_output, out=d_both[1])
        d_scores = torch._softmax_backward_data(torch.bmm(d_output, v.mT), weights, -1, weights.dtype)
        d_query = torch.bmm(d_scores, k).mul_(SCALE)
        torch.bmm(d_scores.mT, query, out=d_both[0]).mul_(SCALE)
        d_q = _summed(d_query, queries, grad.numel()).view(grad.shape)
        d_kv = _summed(d_both, keys, ctx.kv_shape.numel()).view(ctx.kv_shape)
        return d_q, d_kv, None, None, None


def _summed(grad: Tensor, index: Tensor, size: int) -> Tensor:
    """Rows of `grad`, added at the rows `index` that they came from; size, the number of entries of the result."""
    rows = grad.new_zeros(size // HEAD_WIDTH, HEAD_WIDTH)
    return rows.index_add_(0, index, grad.view(-1, HEAD_WIDTH))


def _asking(nodes: Nodes, mask: Tensor, silent_nodes: int, silent_columns: int) -> _Asking:
    """The nodes and columns after so many silent ones; mask (P, slots, columns)."""
    slots = (nodes.slots[:, silent_columns:] - silent_nodes).clamp(min=0)
    home = (nodes.home_block * slots.shape[1] + nodes.home_column - silent_columns)[silent_nodes:]
    outputs = (home.unsqueeze(1) + torch.arange(HEADS) * slots.numel()).flatten()
    return _Asking(mask[:, silent_columns:].repeat(HEADS, 1, 1), _rows_in_slots(slots, HEADS), outputs)


def _rows_in_slots(slots: Tensor, parts: int) -> Tensor:
    """For slots (P, L) of nodes that have so many rows each: the row in every slot, for (parts, P, L)."""
    return (slots * parts + torch.arange(parts).view(-1, 1, 1)).flatten()


class _OneAnswerStep:
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


class _Sampler:
    """The policy after the prefixes sampled so far, which grow token by token.

    policy (n, V) holds log-probabilities, row (B, K) says which of them each candidate is drawn from, and predicting
    (B, K) which of all predicting nodes of the tree that is; trunk and levels are the tree.
    """

    def __init__(self, net: CausalTransformer, prompts: Tensor, answers: int) -> None:
        batch, horizon = prompts.shape
        self.net, self.maps, self.dtype = net, net.maps(), net.embedding.dtype
        widest = [min(answers, net.vocab ** (t + 1)) for t in range(horizon - 1)]
        self.caches = [Cache(batch, horizon + sum(widest), self.dtype) for _ in range(LAYERS)]
        self.trunk, prompt = trunk_of(prompts, net.vocab)
        self.levels: list[Level] = []
        self.policy = net.decode(self.maps, MergedLayout(self.trunk, self.dtype, self.caches))[0]
        self.node = self.row = self.predicting = prompt.unsqueeze(1).expand(-1, answers)
        # Nodes of the last level, and predicting nodes of those before.
        self.count, self.before = len(self.policy), 0
        self.above = LevelAbove(torch.zeros(batch, self.count, dtype=torch.int64), self.trunk.sees[:, -1:])

    def append(self, tokens: Tensor) -> None:
        """Lengthen every prefix by the token (B, K) that was drawn after it."""
        place = self.trunk.slots.shape[1] + len(self.levels)
        token, parent, self.node = distinct(self.count, self.node, tokens, self.net.vocab)
        level = Level(token, parent)
        self.levels.append(level)
        self.before, self.count = self.before + self.count, len(token)
        self.predicting = self.node + self.before
        step: Layout
        if tokens.shape[1] == 1:
            # Prefixes of different prompts are not merged while sampling: finding them would cost more than it saves.
            self.row, step = torch.arange(len(tokens)).unsqueeze(1), _OneAnswerStep(tokens[:, 0], place, self.caches)
        else:
            self.row = self.node
            nodes, self.above = level_below(level, place, self.node, self.above)
            step = MergedLayout(nodes, self.dtype, self.caches)
        self.policy = self.net.decode(self.maps, step)[0]


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
    answers, horizon = uniforms.shape[1:]
    sampler = _Sampler(net, prompts, answers)
    tokens, others, predicting = [], [], []
    for t in range(horizon):
        tokens.append(sample(sampler.policy[sampler.row], uniforms[..., t]))
        if more.shape[-1] > 0:
            # Further tokens are drawn only where a prompt has one answer.
            others.append(sample(sampler.policy[sampler.row[:, :1]], more[:, t]))
        predicting.append(sampler.predicting)
        if t < horizon - 1:
            sampler.append(tokens[-1])
    return Rollout(
        torch.stack(tokens, -1).unsqueeze(0),
        torch.stack(others, 1).unsqueeze(0) if others else torch.zeros(draws.more.shape, dtype=torch.int64),
        MergedLayout(joined(sampler.trunk, sampler.levels), sampler.dtype),
        functools.partial(_policies_before, torch.stack(predicting, -1)),
    )


def _policies_before(predicting: Tensor, policy: Tensor) -> Tensor:
    """Log-probabilities (1, B, K, H, V) before each token: of all (1, M, V), those at the nodes (B, K, H)."""
    return policy[0].index_select(0, predicting.flatten()).view(1, *predicting.shape, -1)
