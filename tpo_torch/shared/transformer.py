"""The causal transformer of the sequence tasks; every parameter has a leading seed axis, layers come second."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from tpo_torch import checks
from tpo_torch.shared.nets import lecun_normal

# Two heads, where the paper says four: the published curves come from the authors' program (deviation D56).
WIDTH, HEADS, HIDDEN, LAYERS = 64, 2, 256, 2
HEAD_WIDTH = WIDTH // HEADS
SCALE = 1 / math.sqrt(HEAD_WIDTH)
NORM_EPSILON = 1e-6
POSITION_SCALE = 0.02
# tanh-GELU is x·σ(2√(2/π)(x + 0.044715 x³)).
GELU_LINEAR = 2 * math.sqrt(2 / math.pi)
GELU_CUBIC = 0.044715 * GELU_LINEAR

# Muon takes the arrays that have exactly two axes as Flax stores them: attention weights have a third, their biases are
# heads × width of a head; all others take Adam. Explicit, so that a reshaped parameter cannot change its rule unseen.
RULES: dict[str, str] = {
    "embedding": "muon",
    "positions": "muon",
    "attention_norm_scale": "adam",
    "attention_norm_shift": "adam",
    "attention_in_weight": "adam",
    "attention_in_bias": "muon",
    "attention_out_weight": "adam",
    "attention_out_bias": "adam",
    "ffn_norm_scale": "adam",
    "ffn_norm_shift": "adam",
    "ffn_in_weight": "muon",
    "ffn_in_bias": "adam",
    "ffn_out_weight": "muon",
    "ffn_out_bias": "adam",
    "final_norm_scale": "adam",
    "final_norm_shift": "adam",
    "head_weight": "muon",
    "head_bias": "adam",
}


class Linear(NamedTuple):
    """A weight (S, in, out) and a bias (S, 1, out)."""

    weight: Tensor
    bias: Tensor


class Block(NamedTuple):
    """The linear maps of a layer; those behind a LayerNorm have its scale and shift folded in."""

    query: Linear
    key_value: Linear
    attention_out: Linear
    ffn_in: Linear
    ffn_out: Linear


class Layout(Protocol):
    """Which nodes a forward pass computes, and which of them see which: see `tpo_torch.reversal.engine`.

    A node is one token after one prefix. tokens and places (S, N) say what the N nodes are.
    """

    tokens: Tensor
    places: Tensor

    def attend(self, layer: int, q: Tensor, kv: Tensor) -> Tensor:
        """Attention of one layer: each asking node's mean of the values it sees, by softmax(q·k/√width).

        Args: layer, its index; q (S, M, D), the queries of M nodes; kv (S, N, 2D), the keys, then the values, of all
            N nodes. Returns: (S, M, D).
        """
        ...

    def narrow(self, x: Tensor) -> Tensor:
        """Of all nodes (S, N, C), those that predict a token, (S, M, C)."""
        ...


class CausalTransformer(nn.Module):
    """A pre-LayerNorm decoder with learned positions, one network per seed.

    Paper: Sec. 5 (its transformer)

    Args: generators, one per seed, on the CPU and already seeded: a seed's network depends on its own generator only;
        vocab, tokens V; places, positions, 2H for prompts and answers of H tokens.
    Raises: ValueError for no generator; TypeError, ValueError for a vocab or places below 1.

    >>> net = CausalTransformer([torch.Generator().manual_seed(0)], vocab=2, places=20)
    >>> sum(p.numel() for p in net.parameters())
    101634
    """

    embedding: Tensor
    positions: Tensor
    final_norm_scale: Tensor
    final_norm_shift: Tensor
    head_weight: Tensor
    head_bias: Tensor

    def __init__(self, generators: Sequence[torch.Generator], vocab: int, places: int) -> None:
        super().__init__()
        if len(generators) == 0:
            raise ValueError("generators: got none, expected one per seed")
        self.vocab, self.places = checks.whole("vocab", vocab, 1), checks.whole("places", places, 1)
        initial = [_initial(generator, self.vocab, self.places) for generator in generators]
        for name in RULES:
            self.register_parameter(name, nn.Parameter(torch.stack([tensors[name] for tensors in initial])))

    def forward(self, layout: Layout) -> Tensor:
        """Log-probabilities (S, M, V) of the next token at the M nodes of a layout that predict one."""
        return self.decode(self.maps(), layout)

    def maps(self) -> tuple[list[Block], Linear]:
        """Every linear map, LayerNorms folded in, to be made once for many calls of `decode`."""
        p = {name: parameter.unbind(1) for name, parameter in self.named_parameters() if name in PER_LAYER}
        blocks = []
        for i in range(LAYERS):
            at = {name: tensors[i] for name, tensors in p.items()}
            attention_in = _folded(
                at["attention_norm_scale"],
                at["attention_norm_shift"],
                Linear(at["attention_in_weight"], at["attention_in_bias"].flatten(1)),
            )
            ffn_in = Linear(at["ffn_in_weight"], at["ffn_in_bias"])
            blocks.append(
                Block(
                    Linear(*(x[..., :WIDTH] for x in attention_in)),
                    Linear(*(x[..., WIDTH:] for x in attention_in)),
                    Linear(at["attention_out_weight"], at["attention_out_bias"].unsqueeze(1)),
                    _folded(at["ffn_norm_scale"], at["ffn_norm_shift"], ffn_in),
                    Linear(at["ffn_out_weight"], at["ffn_out_bias"].unsqueeze(1)),
                )
            )
        head = Linear(self.head_weight, self.head_bias)
        return blocks, _folded(self.final_norm_scale, self.final_norm_shift, head)

    def decode(self, maps: tuple[list[Block], Linear], layout: Layout) -> Tensor:
        """`forward` with maps that are already made."""
        blocks, head = maps
        x = _rows(self.embedding, layout.tokens) + _rows(self.positions, layout.places)
        for i, block in enumerate(blocks):
            # Behind the last attention only the nodes that predict are still needed.
            x = _layer(x, i, block, layout, last=i == LAYERS - 1)
        return torch.log_softmax(_linear(_normed(x), head), -1)


def _layer(x: Tensor, index: int, block: Block, layout: Layout, last: bool) -> Tensor:
    h = _normed(x)
    kv = _linear(h, block.key_value)
    if last:
        x, h = layout.narrow(x), layout.narrow(h)
    q = _linear(h, block.query)
    x = x + _linear(layout.attend(index, q, kv), block.attention_out)
    return x + _linear(gelu(_linear(_normed(x), block.ffn_in)), block.ffn_out)


def _linear(x: Tensor, linear: Linear) -> Tensor:
    return torch.baddbmm(linear.bias, x, linear.weight)


def _normed(x: Tensor) -> Tensor:
    normed: Tensor = torch.layer_norm(x, x.shape[-1:], eps=NORM_EPSILON)
    return normed


def _folded(scale: Tensor, shift: Tensor, linear: Linear) -> Linear:
    """(x·scale + shift) W + b as x W' + b': the work moves from the nodes to the parameters."""
    bias = torch.baddbmm(linear.bias.unsqueeze(1), shift.unsqueeze(1), linear.weight)
    return Linear(scale.unsqueeze(-1) * linear.weight, bias)


def _rows(table: Tensor, index: Tensor) -> Tensor:
    """Rows (S, N, D) of each seed's table (S, R, D)."""
    seeds, rows, width = table.shape
    if table.device.type != "cpu":
        # As a product: the gradient of a lookup adds rows in whatever order they arrive there.
        return torch.bmm((index.unsqueeze(-1) == torch.arange(rows, device=index.device)).to(table.dtype), table)
    if seeds > 1:
        index = index + torch.arange(seeds).unsqueeze(1) * rows
    return functional.embedding(index, table.reshape(seeds * rows, width))


def gelu(x: Tensor) -> Tensor:
    """tanh-GELU; on the CPU through σ, which costs a third of tanh there.

    Paper: Sec. 5 (its transformer)

    0.5 x (1 + tanh(√(2/π)(x + 0.044715 x³))).

    Args: x, any shape. Returns: the same shape.

    >>> gelu(torch.tensor([-1.0, 0.0, 1.0]))
    tensor([-0.1588,  0.0000,  0.8412])
    """
    if x.device.type != "cpu":
        return functional.gelu(x, approximate="tanh")
    if not torch.is_grad_enabled():
        return x * _gate(x)
    return _Gelu.apply(x)  # type: ignore[no-any-return, no-untyped-call]


def _gate(x: Tensor) -> Tensor:
    return torch.addcmul(x.new_tensor(GELU_LINEAR), x, x, value=GELU_CUBIC).mul_(x).sigmoid_()


class _Gelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        gate = _gate(x)
        ctx.save_for_backward(x, gate)
        return x * gate

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        x, gate = ctx.saved_tensors
        # d/dx x·σ(f) = σ(f)(1 + x f'(x)(1 − σ(f))).
        slope = torch.addcmul(x.new_tensor(GELU_LINEAR), x, x, value=3 * GELU_CUBIC).mul_(x)
        slope = slope.addcmul_(slope, gate, value=-1)
        return torch.addcmul(gate, gate, slope, out=slope).mul_(grad)


def _initial(generator: torch.Generator, vocab: int, places: int) -> dict[str, Tensor]:
    """One seed's parameters, in the order of RULES."""

    def normal(rows: int, columns: int, scale: float) -> Tensor:
        return scale * torch.randn(rows, columns, generator=generator)

    def layers(*shape: int, fill: float = 0.0) -> Tensor:
        return torch.full((LAYERS, *shape), fill)

    def weights(fan_in: int, *fan_outs: int) -> Tensor:
        layers = [[lecun_normal(fan_in, o, generator) for o in fan_outs] for _ in range(LAYERS)]
        return torch.stack([torch.cat(layer, -1) for layer in layers])

    return {
        "embedding": normal(vocab, WIDTH, 1 / math.sqrt(WIDTH)),
        "positions": normal(places, WIDTH, POSITION_SCALE),
        "attention_norm_scale": layers(WIDTH, fill=1.0),
        "attention_norm_shift": layers(WIDTH),
        "attention_in_weight": weights(WIDTH, WIDTH, WIDTH, WIDTH),
        "attention_in_bias": layers(3, HEADS, HEAD_WIDTH),
        "attention_out_weight": weights(WIDTH, WIDTH),
        "attention_out_bias": layers(WIDTH),
        "ffn_norm_scale": layers(WIDTH, fill=1.0),
        "ffn_norm_shift": layers(WIDTH),
        "ffn_in_weight": weights(WIDTH, HIDDEN),
        "ffn_in_bias": layers(HIDDEN),
        "ffn_out_weight": weights(HIDDEN, WIDTH),
        "ffn_out_bias": layers(WIDTH),
        "final_norm_scale": torch.ones(WIDTH),
        "final_norm_shift": torch.zeros(WIDTH),
        "head_weight": lecun_normal(WIDTH, vocab, generator),
        "head_bias": torch.zeros(vocab),
    }


PER_LAYER = tuple(name for name in RULES if name.startswith(("attention", "ffn")))
