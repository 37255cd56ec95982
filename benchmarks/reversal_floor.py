"""The products that an episode of token reversal cannot do without, alone, at the shapes the episode has."""

from __future__ import annotations

import torch
from torch import Tensor

from tpo_torch.muon import ITERATIONS
from tpo_torch.rollout import merged
from tpo_torch.runs.reversal_training import Training
from tpo_torch.transformer import HEAD_WIDTH, HIDDEN, LAYERS, RULES, WIDTH

# Forward, gradient of the weight, gradient of the input.
PASSES = 3

Product = tuple[Tensor, Tensor]


class Floor:
    """All products of one episode of a training with merged rollouts; calling it multiplies them once.

    Counted: linear maps at distinct nodes, in the last layer only where a token is predicted; attention in its blocks;
    the iterations of Muon. The sampling pass goes forward once, level by level; each epoch forward and back.
    """

    def __init__(self, training: Training) -> None:
        self.products: list[Product] = []
        layouts = self._layouts(training)
        for layout in layouts[:-1]:
            self._pass(training, layout, 1, back=False)
        self._pass(training, layouts[-1], training.settings.epochs or training.method.epochs, back=True)

    def __call__(self) -> None:
        for x, y in self.products:
            torch.bmm(x, y)

    @property
    def multiply_adds(self) -> int:
        """How many, over all products."""
        return sum(x.shape[0] * x.shape[1] * x.shape[2] * y.shape[2] for x, y in self.products)

    def _layouts(self, training: Training) -> list[merged.MergedLayout]:
        """The layouts of an episode: those of the sampling steps, then that of the training passes."""
        seen: list[merged.MergedLayout] = []
        make = merged.MergedLayout.__init__

        def noted(self: merged.MergedLayout, *args: object) -> None:
            make(self, *args)  # type: ignore[arg-type]
            seen.append(self)

        merged.MergedLayout.__init__ = noted  # type: ignore[method-assign,assignment]
        try:
            merged.generate(training.net, training.draw())
        finally:
            merged.MergedLayout.__init__ = make  # type: ignore[method-assign]
        return seen

    def _pass(self, training: Training, layout: merged.MergedLayout, times: int, back: bool) -> None:
        shapes: list[tuple[int, int, int, int]] = []
        nodes = layout.tokens.shape[1]
        for layer in range(LAYERS):
            last = layer == LAYERS - 1
            asking = nodes - layout.hidden if last else nodes
            blocks, slots, keys = layout.masks[last].shape
            shapes += [
                (1, nodes, WIDTH, 2 * WIDTH),
                (1, asking, WIDTH, WIDTH),
                (blocks, slots, HEAD_WIDTH, keys),
                (blocks, slots, keys, HEAD_WIDTH),
                (1, asking, WIDTH, WIDTH),
                (1, asking, WIDTH, HIDDEN),
                (1, asking, HIDDEN, WIDTH),
            ]
        shapes.append((1, nodes - layout.hidden, WIDTH, training.net.vocab))
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

    def _optimizer(self, training: Training) -> None:
        for name, p in training.net.named_parameters():
            if RULES[name] == "muon":
                low, high = sorted(p.shape[-2:])
                x, gram = (
                    torch.randn(p.numel() // (low * high), low, high),
                    torch.randn(p.numel() // (low * high), low, low),
                )
                self.products += ITERATIONS * [(x, x.mT), (gram, gram), (gram, x)]
