"""One update of the MNIST bandit, twenty seeds together, beside the matrix products it cannot do without."""

from __future__ import annotations

import itertools

import numpy as np
import torch

from benchmarks.helpers.timing import ratio
from tpo_torch.mnist.methods import Method
from tpo_torch.mnist.runs import MnistTraining
from tpo_torch.mnist.settings import MnistSettings
from tpo_torch.mnist.table import METHODS
from tpo_torch.shared.data import CLASSES, Mnist

SEEDS = 20
PIXELS = 784
THREADS = 2
# Many short timings: on a shared machine the best of them has met no one else.
UPDATES = 4
REPEATS = 25


def noise(images: int = 60_000, tests: int = 10_000) -> Mnist:
    """Images of the size of MNIST that need no download; their content does not change the time of an update."""
    rng = np.random.default_rng(0)
    parts = [
        (rng.integers(0, 256, (n, PIXELS), np.uint8), rng.integers(0, CLASSES, n, np.uint8)) for n in (images, tests)
    ]
    return Mnist(*parts[0], *parts[1])


class Products:
    """The matrix products of one update, alone: forward, weight gradients, input gradients but the pixels'."""

    def __init__(self, settings: MnistSettings) -> None:
        widths = (PIXELS, settings.hidden, settings.hidden, CLASSES)
        pairs = list(itertools.pairwise(widths))
        self.layers = [
            (
                torch.randn(SEEDS, settings.batch, i),
                torch.randn(SEEDS, i, o),
                torch.randn(SEEDS, settings.batch, o),
            )
            for i, o in pairs
        ]

    def __call__(self) -> None:
        for number, (x, weight, grad) in enumerate(self.layers):
            torch.bmm(x, weight)
            torch.bmm(x.mT, grad)
            if number > 0:
                torch.bmm(grad, weight.mT)


class Update:
    """Twenty seeds, batch 100; the ratio has the target 2.5 on two threads."""

    params = METHODS
    param_names = ("method",)

    def setup(self, method: str) -> None:
        torch.set_num_threads(THREADS)
        settings = MnistSettings()
        self.training = MnistTraining(method, settings, range(SEEDS), noise(), "cpu")
        self.products = Products(settings)
        self.train()

    def train(self) -> None:
        self.training.train(UPDATES)
        self.training.update = 0

    def multiply(self) -> None:
        for _ in range(UPDATES):
            self.products()

    def time_updates(self, method: str) -> None:
        self.train()

    def track_step_over_matmuls(self, method: str) -> float:
        return ratio(self.train, self.multiply, REPEATS)

    track_step_over_matmuls.unit = "ratio"


class GeneralForm:
    """TPO over all ten classes, as any rule runs, over its fast form, which looks at the sampled action alone."""

    def setup(self) -> None:
        torch.set_num_threads(THREADS)
        settings = MnistSettings()
        self.fast, self.general = (MnistTraining("tpo", settings, range(SEEDS), noise(), "cpu") for _ in range(2))
        self.general.method = Method(self.fast.method.rule, "classes")

    def train(self, training: MnistTraining) -> None:
        training.train(UPDATES)
        training.update = 0

    def track_general_over_fast(self) -> float:
        return ratio(lambda: self.train(self.general), lambda: self.train(self.fast), REPEATS)

    track_general_over_fast.unit = "ratio"


class Evaluation:
    """Greedy error of twenty seeds on 10,000 test images."""

    def setup(self) -> None:
        torch.set_num_threads(THREADS)
        self.training = MnistTraining("ce", MnistSettings(), range(SEEDS), noise(), "cpu")

    def time_test_error(self) -> None:
        self.training.evaluate()
