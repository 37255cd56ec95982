"""Which submodule makes two forward passes differ: the first whose outputs differ where its inputs are equal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

# Integers of the width of a number, as which its bits are summed: exactly, and in any order.
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

# Of a pass: for each submodule and each of its calls, in the order in which they end, hashes of inputs and outputs.
Trace = dict[tuple[str, int], tuple[Any, Any]]


def culprit(model: nn.Module, forward: Callable[[], Any], passes: int = 2) -> str | None:
    """Name the innermost submodule that differs first on equal inputs, and its class; None where none does.

    Args: forward, calls the model, each time on the same rows; passes, how often, the first held to each other.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5), nn.Linear(2, 2))
    >>> culprit(model, lambda: model(torch.ones(8, 2)))
    '1 (Dropout)'
    """
    first = trace(model, forward)
    others = [trace(model, forward) for _ in range(passes - 1)]
    for call, (given, made) in first.items():
        for other in others:
            if call in other and other[call][0] == given and other[call][1] != made:
                name = call[0]
                return f"{name or 'the model itself'} ({type(model.get_submodule(name)).__name__})"
    return None


def trace(model: nn.Module, forward: Callable[[], Any]) -> Trace:
    """Run a pass and hash what goes into every submodule and comes out of it."""
    calls: Trace = {}
    counts: Counter[str] = Counter()
    # Before the pass through a module, since it may write over its inputs.
    open_calls: list[Any] = []

    def before(_: nn.Module, args: Any, kwargs: Any) -> None:
        open_calls.append(_hash((args, kwargs)))

    def after(name: str) -> Callable[..., None]:
        def note(_: nn.Module, __: Any, outputs: Any) -> None:
            calls[name, counts[name]] = (open_calls.pop(), _hash(outputs))
            counts[name] += 1

        return note

    hooks = []
    for name, module in model.named_modules():
        hooks += [
            module.register_forward_pre_hook(before, with_kwargs=True),
            module.register_forward_hook(after(name)),
        ]
    try:
        forward()
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _hash(value: Any) -> tuple[Any, ...]:
    return tuple(_hash_of(tensor) for tensor in _tensors(value))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for entry in value:
            yield from _tensors(entry)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _hash_of(x: Tensor) -> tuple[Any, ...]:
    """Sums of the bits by row and by column, weighted by their place, without a copy of the size of the tensor."""
    if isinstance(x, DTensor):
        x = x.to_local()
    x = torch.view_as_real(x) if x.is_complex() else x
    table = x.detach().reshape(-1, x.shape[-1] if x.ndim and x.numel() else 1).contiguous()
    bits = table.view(BITS[table.element_size()])
    sums = (bits.sum(axis, dtype=torch.int64) for axis in (0, 1))
    return (*x.shape, *(int((total * (2 * torch.arange(len(total), device=x.device) + 1)).sum()) for total in sums))
