"""One step of the transformer's optimiser, beside the Newton-Schulz products it cannot avoid and its clear twin."""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.helpers.timing import BACKENDS, load, normal, ratio
from tpo_torch.muon import CUBIC, ITERATIONS, LINEAR, QUINTIC, Muon
from tpo_torch.shared.transformer import RULES, CausalTransformer

VOCAB, PLACES = 2, 20
# The products of one network are too small to share.
THREADS = 1
REPEATS = 25
# One matrix of the feed-forward layers.
SHAPE = (64, 256)


def optimizer(seeds: int) -> Muon:
    """The optimiser of so many networks, each parameter with a gradient."""
    generators = [torch.Generator().manual_seed(seed) for seed in range(seeds)]
    net = CausalTransformer(generators, VOCAB, PLACES)
    for p in net.parameters():
        p.grad = torch.randn(p.shape, generator=generators[0])
    return Muon(net.named_parameters(), RULES)


class Products:
    """The products of one step alone, each shape in one batch, on matrices that are wide already."""

    def __init__(self, made: Muon) -> None:
        shapes: dict[tuple[int, ...], int] = {}
        (group,) = made.param_groups
        for p, rule in zip(group["params"], group["rules"], strict=True):
            if rule == "muon":
                shape = tuple(sorted(p.shape[-2:]))
                shapes[shape] = shapes.get(shape, 0) + p.shape[:-2].numel()
        self.batches = [torch.randn(count, *shape) / np.prod(shape) ** 0.5 for shape, count in shapes.items()]

    def __call__(self) -> None:
        for x in self.batches:
            for _ in range(ITERATIONS):
                gram = torch.bmm(x, x.mT)
                x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=CUBIC, alpha=QUINTIC), x, beta=LINEAR)


class Clear:
    """The same step by the reference functions, a parameter after the other, in float64."""

    def __init__(self, made: Muon) -> None:
        self.muon = load("numpy", "muon")
        (group,) = made.param_groups
        self.parameters = [
            (rule, p.detach().double().numpy(), p.grad.double().numpy())
            for p, rule in zip(group["params"], group["rules"], strict=True)
        ]

    def __call__(self) -> None:
        for rule, p, g in self.parameters:
            if rule == "muon":
                p += self.muon.muon_step(g, p, 1)[0]
            else:
                p += self.muon.nesterov_adam_step(g, p, p**2, 1)[0]


class Step:
    """One and twenty networks of 101,634 parameters."""

    params = (1, 20)
    param_names = ("seeds",)

    def setup(self, seeds: int) -> None:
        torch.set_num_threads(THREADS)
        made = optimizer(seeds)
        self.step, self.products, self.clear = made.step, Products(made), Clear(made)

    def time_step(self, seeds: int) -> None:
        self.step()

    def track_step_over_products(self, seeds: int) -> float:
        return ratio(self.step, self.products, REPEATS)

    def track_step_over_reference(self, seeds: int) -> float:
        return ratio(self.step, self.clear)

    track_step_over_products.unit = track_step_over_reference.unit = "ratio"


class Rules:
    """Each rule alone, on one matrix."""

    params = BACKENDS
    param_names = ("backend",)

    def setup(self, backend: str) -> None:
        self.module = load(backend, "muon")
        self.gradient, self.moment = normal(backend, 0, SHAPE), normal(backend, 1, SHAPE)

    def time_muon_step(self, backend: str) -> None:
        self.module.muon_step(self.gradient, self.moment, 1)

    def time_nesterov_adam_step(self, backend: str) -> None:
        self.module.nesterov_adam_step(self.gradient, self.moment, self.moment**2, 1)
