"""Forward passes that leave no trace: random generators, buffers and counters as they were."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


@contextmanager
def same_generators(model: nn.Module) -> Iterator[None]:
    """Put random generators back in the end: those of Python, NumPy and torch, and those that modules hold.

    >>> with same_generators(nn.Identity()):
    ...     first = torch.rand(3)
    >>> bool((torch.rand(3) == first).all())
    True
    """
    kept = [(put, get()) for get, put in _generators(model)]
    try:
        yield
    finally:
        for put, state in kept:
            put(state)


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Put generators, buffers and the numbers that modules hold as attributes back in the end.

    >>> model = nn.BatchNorm1d(2)
    >>> with unchanged(model):
    ...     _ = model(torch.rand(3, 2))
    >>> model.running_mean.tolist(), int(model.num_batches_tracked)
    ([0.0, 0.0], 0)
    """
    # Copies in main memory: the weights of some quantised models are buffers.
    buffers = [
        (module, name, buffer, buffer.detach().to("cpu", copy=True))
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    numbers = [
        (module, name, value)
        for module in model.modules()
        for name, value in vars(module).items()
        if type(value) in (int, float)
    ]
    with same_generators(model), torch.no_grad():
        try:
            yield
        finally:
            for module, name, buffer, content in buffers:
                module._buffers[name] = buffer
                # One that is expanded cannot be written to, nor has it been.
                if not torch.equal(buffer.to("cpu"), content):
                    buffer.copy_(content)
            for module, name, value in numbers:
                if vars(module).get(name) is not value:
                    setattr(module, name, value)


def generators_moved(model: nn.Module, call: Callable[[], Any]) -> bool:
    """Whether a call draws from the random generators."""
    before = [get() for get, _ in _generators(model)]
    call()
    return not all(_equal(state, get()) for state, (get, _) in zip(before, _generators(model), strict=True))


def _generators(model: nn.Module) -> list[tuple[Callable[[], Any], Callable[[Any], Any]]]:
    """How to read and how to set the state of each generator."""
    pairs: list[tuple[Callable[[], Any], Callable[[Any], Any]]] = [
        (random.getstate, random.setstate),
        (np.random.get_state, np.random.set_state),
        (torch.get_rng_state, torch.set_rng_state),
    ]
    accelerator = torch.accelerator.current_accelerator()
    device: Any = None if accelerator is None else torch.get_device_module(accelerator)
    if device is not None and device.is_initialized():
        pairs.append((device.get_rng_state_all, device.set_rng_state_all))
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, torch.Generator):
                pairs.append((value.get_state, value.set_state))
            elif isinstance(value, random.Random):
                pairs.append((value.getstate, value.setstate))
            elif isinstance(value, np.random.Generator):
                pairs.append(
                    (partial(getattr, value.bit_generator, "state"), partial(setattr, value.bit_generator, "state"))
                )
    return pairs


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(map(_equal, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(value, b[key]) for key, value in a.items())
    return bool(a == b)
