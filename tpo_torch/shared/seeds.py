"""The checks of every run at its edge: the device and the seeds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch


def usable(device: str) -> torch.device:
    """Return the device, once a tensor lies there; ValueError for one that is unknown, absent or cannot hold data."""
    try:
        candidate = torch.device(device)
        torch.ones(1, device=candidate).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device: got {device!r}, expected cpu, cuda or another that holds data ({reason})") from error
    return candidate


def distinct(seeds: Sequence[int]) -> tuple[int, ...]:
    """Return the seeds as integers; ValueError unless they are whole numbers from 0, at least one, each once."""
    wrong = [seed for seed in seeds if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0]
    if wrong:
        raise ValueError(f"seeds: got {wrong[0]!r}, expected whole numbers from 0")
    if len(seeds) == 0 or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds: got {list(seeds)}, expected at least one, each once")
    return tuple(int(seed) for seed in seeds)
