"""The state of a run between two blocks of updates: parameters, moments, generators, curves so far, and its run."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tpo_ref.study import partial, sources
from tpo_ref.study.context import Context
from tpo_ref.study.protocol import Arrays, Settings

# What torch.optim.Adam keeps for each parameter: a number, and arrays of its shape.
STEP, ADAM = "step", ("exp_avg", "exp_avg_sq")
CURVE = "curve:"
# Libraries whose versions decide the numbers of a run.
LIBRARIES = ("numpy", "torch")
# What stores and describes a run, and computes nothing in it.
STORES = tuple(
    f"tpo_ref.study.{name}"
    for name in (
        "choices",
        "context",
        "errors",
        "files",
        "npz",
        "origins",
        "partial",
        "protocol",
        "reading",
        "sources",
        "styles",
    )
)


@dataclass(frozen=True)
class Stack:
    """Seeds that train together: their network, its optimiser, one generator a seed."""

    net: nn.Module
    optimizer: torch.optim.Optimizer
    generators: Sequence[torch.Generator]


def identity(
    module: str, method: str, settings: Settings, seeds: Sequence[int], device: torch.device, data: str | None = None
) -> dict[str, object]:
    """What a state has to share with the run that goes on from it.

    Args: module, the name of the one that runs, whose code and imports count; data, the digest of the data.
    """
    return {
        "module": module,
        "method": method,
        "settings": dataclasses.asdict(settings),
        "seeds": list(seeds),
        "device": device.type,
        "data": data,
        partial.CODE: sources.code([module], LIBRARIES, without=STORES),
    }


class Saver:
    """Writes the state of a run now and then, and the newest when the user interrupts it; as a context manager.

    Args: context, whose checkpoint is the file, None for a run that saves nothing; identity, of the run.
    """

    def __init__(self, context: Context, identity: Mapping[str, object]) -> None:
        self._context, self._identity = context, identity
        self._state: dict[str, NDArray[Any]] | None = None

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            self.write()

    def keep(self, stacks: Sequence[Stack], curves: Arrays) -> None:
        """Note the state between two blocks, which `write` then writes."""
        if self._context.checkpoint is not None:
            self._state = collect(stacks, curves)

    def write(self) -> None:
        """Write the state noted last, unless that is done; OSError as `partial.write`."""
        if self._context.checkpoint is not None and self._state is not None:
            save(self._context.checkpoint, self._identity, self._state, self._context)
            self._state = None


def collect(stacks: Sequence[Stack], curves: Arrays) -> dict[str, NDArray[Any]]:
    """Copy everything that a run needs to continue bit for bit; curves, arrays of any shape."""
    arrays: dict[str, NDArray[Any]] = {}
    for number, stack in enumerate(stacks):
        arrays |= {name: _numpy(value) for name, value in _state(number, stack)}
    return arrays | {f"{CURVE}{name}": np.array(curve) for name, curve in curves.items()}


def save(
    path: Path, identity: Mapping[str, object], arrays: Mapping[str, NDArray[Any]], context: Context | None = None
) -> None:
    """Write a collected state, atomically, without pickle.

    Args: identity, JSON values that tell this run from others; context, which knows how the state was made.
    Raises: OSError when the folder is read-only or full; the previous checkpoint then remains.
    """
    partial.write(path, identity, arrays, () if context is None else context.parts())


def load(path: Path, identity: Mapping[str, object], stacks: Sequence[Stack]) -> dict[str, NDArray[Any]]:
    """Put a saved state into networks, optimisers and generators, and return the curves so far.

    Args: as `save`, and stacks, which remain as they are when the file is refused.
    Raises: FileNotFoundError; ValueError for a damaged file, or one of another run or other code, naming what differs.
    """
    arrays = dict(partial.read(path, identity).arrays)
    curves = {name.removeprefix(CURVE): arrays.pop(name) for name in list(arrays) if name.startswith(CURVE)}
    expected = {name: _numpy(value) for number, stack in enumerate(stacks) for name, value in _state(number, stack)}
    same(path, arrays, expected)
    for number, stack in enumerate(stacks):
        state = stack.optimizer.state_dict()
        with torch.no_grad():
            for i, parameter in enumerate(stack.net.parameters()):
                parameter.copy_(torch.from_numpy(arrays[f"{number}:parameter:{i}"]))
                moments = _moments(stack.optimizer, parameter)
                state["state"][i] = {name: torch.from_numpy(arrays[f"{number}:{name}:{i}"]) for name in moments}
        stack.optimizer.load_state_dict(state)
        for i, generator in enumerate(stack.generators):
            generator.set_state(torch.from_numpy(arrays[f"{number}:generator:{i}"]))
    return curves


def same(path: Path, arrays: Arrays, expected: Arrays) -> None:
    """ValueError with the path unless the arrays of a file have the names, shapes and types that are expected."""
    kinds, own = ({name: (x.shape, x.dtype) for name, x in group.items()} for group in (arrays, expected))
    differing = sorted(name for name in kinds.keys() | own.keys() if kinds.get(name) != own.get(name))
    if differing:
        raise ValueError(
            f"{path}: lacks {', '.join(differing)} as this run has it, or has more than that; {partial.REMEDY}"
        )


def _state(number: int, stack: Stack) -> Iterator[tuple[str, Tensor]]:
    """The tensors that a stack is made of, by name."""
    for i, parameter in enumerate(stack.net.parameters()):
        yield f"{number}:parameter:{i}", parameter
        moments = _moments(stack.optimizer, parameter)
        yield from ((f"{number}:{name}:{i}", value) for name, value in moments.items())
    yield from ((f"{number}:generator:{i}", generator.get_state()) for i, generator in enumerate(stack.generators))


def _moments(optimizer: torch.optim.Optimizer, parameter: Tensor) -> Mapping[str, Tensor]:
    """What an optimiser keeps for a parameter; zeros where it is Adam before the first step, which makes it then."""
    own: Mapping[str, Tensor] = optimizer.state.get(parameter) or {}
    zeros = torch.zeros_like(parameter, requires_grad=False)
    return own or {name: torch.zeros(()) if name == STEP else zeros for name in (STEP, *ADAM)}


def _numpy(value: Tensor) -> NDArray[Any]:
    return value.detach().cpu().numpy().copy()
