"""Data as easy as MNIST, a hundredth of its size, and settings that train on it in a second."""

from __future__ import annotations

import numpy as np

from tpo_torch.mnist.settings import MnistSettings
from tpo_torch.shared.data import Mnist

CLASSES = 10
# 60 updates of 20 images, evaluated three times, the mechanism in the middle.
SMALL = MnistSettings(updates=60, batch=20, eval_every=20, hidden=16, mechanism_update=40)


def digits(seed: int = 0, train: int = 300, test: int = 200, pixels: int = 64) -> Mnist:
    """Ten random prototypes with noise: as easy as MNIST, a hundredth of its size."""
    rng = np.random.default_rng(seed)
    prototypes = rng.integers(0, 180, (CLASSES, pixels))
    parts = []
    for n in (train, test):
        labels = rng.integers(0, CLASSES, n).astype(np.uint8)
        parts += [(prototypes[labels] + rng.integers(0, 76, (n, pixels))).astype(np.uint8), labels]
    return Mnist(*parts)


DATA = digits()
