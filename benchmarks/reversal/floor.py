"""The products that an episode of token reversal cannot do without, alone, at the shapes the episode has."""

from __future__ import annotations

from typing import Any
from unittest import mock

import torch
from torch import Tensor

from tpo_torch.muon import ITERATIONS
from tpo_torch.reversal.engine import merged
from tpo_torch.reversal.engine.training import ReversalTraining
from tpo_torch.shared.transformer import HEAD_WIDTH, HEADS, HIDDEN, LAYERS, RULES, WIDTH, CausalTransformer

# Forward, gradient of the weight, gradient of the input.
PASSES = 3

Product = tuple[Tensor, Tensor]


class Floor:
    """All products of one episode of a training with merged rollouts; calling it multiplies them once.

    Counted: linear maps at distinct nodes, in the last layer only where a token is predicted; attention in its blocks;
    the iterations of Muon. The sampling pass goes forward once, level by level; each epoch forward and back.
    """

    def __init__(self, training: ReversalTraining) -> None:
        self.products: list[Product] = []
        layouts = self._layouts(training)
        for layout, keys in layouts[:-1]:
            self._pass(training, layout, keys, 1, back=False)
        self._pass(training, layouts[-1][0], 0, training.settings.epochs or training.sampling.epochs, back=True)

    def __call__(self) -> None:
        for x, y in self.products:
            torch.bmm(x, y)

    @property
    def multiply_adds(self) -> int:
        """How many, over all products."""
        return sum(x.shape[0] * x.shape[1] * x.shape[2] * y.shape[2] for x, y in self.products)

    def _layouts(self, training: ReversalTraining) -> list[tuple[Any, int]]:
        """The layouts of an episode, each with how many keys are cached: of the sampling steps, then of training."""
        seen: list[tuple[Any, int]] = []
        decode = CausalTransformer.decode

        def noted(net: CausalTransformer, maps: Any, layout: Any) -> Tensor:
            policy = decode(net, maps, layout)
            caches = getattr(layout, "caches", None)
            seen.append((layout, caches[0].used if caches else 0))
            return policy

        with mock.patch.object(CausalTransformer, "decode", noted):
            rollout = merged.generate(training.net, training.draw())
        return [*seen, (rollout.layout, 0)]

    def _pass(self, training: ReversalTraining, layout: Any, cached: int, times: int, back: bool) -> None:
        shapes: list[tuple[int, int, int, int]] = []
        nodes, silent = layout.tokens.shape[1], getattr(layout, "silent_nodes", 0)
        for layer in range(LAYERS):
            last = layer == LAYERS - 1
            asking = nodes - silent if last else nodes
            # Without a mask each node asks alone, for what is cached of its prompt.
            alone = (HEADS * nodes, 1, cached)
            blocks, slots, keys = layout.asking[layer].mask.shape if hasattr(layout, "asking") else alone
            shapes += [
                (1, nodes, WIDTH, 2 * WIDTH),
                (1, asking, WIDTH, WIDTH),
                (blocks, slots, HEAD_WIDTH, keys),
                (blocks, slots, keys, HEAD_WIDTH),
                (1, asking, WIDTH, WIDTH),
                (1, asking, WIDTH, HIDDEN),
                (1, asking, HIDDEN, WIDTH),
            ]
        shapes.append((1, nodes - silent, WIDTH, training.net.vocab))
        for _ in range(times):
            for shape in shapes:
                self._add(*shape, back=back)
            if back:
                self._optimizer(training)

    def _add(self, batch: int, rows: int, inner: int, columns: int, back: bool) -> None:
        x, y, grad = (
            torch.randn(batch, rows, inner),
            torch.randn(batch, inner, columns),
            torch.randn(batch, rows, columns),
        )
        self.products += [(x, y), (x.mT, grad), (grad, y.mT)][: PASSES if back else 1]

    def _optimizer(self, training: ReversalTraining) -> None:
        for name, p in training.net.named_parameters():
            if RULES[name] == "muon":
                low, high = sorted(p.shape[-2:])
                x, gram = (
                    torch.randn(p.numel() // (low * high), low, high),
                    torch.randn(p.numel() // (low * high), low, low),
                )
                self.products += ITERATIONS * [(x, x.mT), (gram, gram), (gram, x)]
