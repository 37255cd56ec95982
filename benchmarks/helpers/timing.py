"""What the benchmarks share: both backends as a parameter, groups of one size, ratios of two timings in one run."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np

BACKENDS = ("numpy", "torch")
PACKAGES = {"numpy": "tpo_ref", "torch": "tpo_torch"}
# One training step of a large run: 4,096 groups of 16 candidates.
SHAPE = (4096, 16)
REPEATS = 7


def load(backend: str, stem: str) -> Any:
    """The module of a stem in a backend."""
    return importlib.import_module(f"{PACKAGES[backend]}.{stem}")


def normal(backend: str, seed: int, shape: tuple[int, ...] = SHAPE) -> Any:
    """Standard normal numbers as the backend's array."""
    x = np.random.default_rng(seed).normal(size=shape)
    if backend == "numpy":
        return x
    import torch

    return torch.as_tensor(x)


def best_seconds(f: Callable[[], Any], repeats: int = REPEATS) -> float:
    """The shortest of several timings: on a shared machine, noise only adds."""
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        f()
        best = min(best, time.perf_counter() - start)
    return best


def ratio(fast: Callable[[], Any], reference: Callable[[], Any], repeats: int = REPEATS) -> float:
    """Time of `fast` over time of `reference`, interleaved in one run so that a slow spell hits both."""
    pairs = [(best_seconds(fast, 1), best_seconds(reference, 1)) for _ in range(repeats)]
    return min(p[0] for p in pairs) / min(p[1] for p in pairs)
