"""The state of a run between two blocks of updates: parameters, moments, generators, curves so far, and its run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tpo_ref.study import npz
from tpo_ref.study.protocol import Arrays

# What torch.optim.Adam keeps for each parameter.
MOMENTS = ("step", "exp_avg", "exp_avg_sq")
IDENTITY = "identity"
CURVE = "curve:"


@dataclass(frozen=True)
class Stack:
    """Seeds that train together: their network, its optimiser, one generator a seed."""

    net: nn.Module
    optimizer: torch.optim.Optimizer
    generators: Sequence[torch.Generator]


def save(path: Path, identity: Mapping[str, Any], stacks: Sequence[Stack], curves: Arrays) -> None:
    """Write everything that a run needs to continue bit for bit, atomically, as npz without pickle.

    Args: identity, JSON values that tell this run from others; stacks, their generators on the CPU; curves, arrays of
        any shape.
    Raises: OSError when the folder is read-only or full; the previous checkpoint then remains.
    """
    arrays: dict[str, NDArray[Any]] = {IDENTITY: np.array(json.dumps(identity))}
    for number, stack in enumerate(stacks):
        state = stack.optimizer.state_dict()["state"]
        for i, parameter in enumerate(stack.net.parameters()):
            arrays[f"{number}:parameter:{i}"] = parameter.detach().cpu().numpy()
            for name, value in state[i].items():
                arrays[f"{number}:{name}:{i}"] = value.cpu().numpy()
        for i, generator in enumerate(stack.generators):
            arrays[f"{number}:generator:{i}"] = generator.get_state().numpy()
    npz.write(path, arrays | {f"{CURVE}{name}": curve for name, curve in curves.items()})


def load(path: Path, identity: Mapping[str, Any], stacks: Sequence[Stack]) -> dict[str, NDArray[Any]]:
    """Put a saved state into networks, optimisers and generators, and return the curves so far.

    Args: as `save`.
    Raises: FileNotFoundError; ValueError for a truncated file, or one of another run, naming what differs.
    """
    arrays = npz.read(path)
    _same_run(path, arrays, identity)
    names = {name for number, stack in enumerate(stacks) for name in _names(number, stack)}
    if not names <= set(arrays):
        raise ValueError(f"{path}: lacks {', '.join(sorted(names - set(arrays)))}; delete it and run again")
    for number, stack in enumerate(stacks):
        state = stack.optimizer.state_dict()
        with torch.no_grad():
            for i, parameter in enumerate(stack.net.parameters()):
                values = torch.from_numpy(arrays[f"{number}:parameter:{i}"])
                if values.shape != parameter.shape:
                    raise ValueError(f"{path}: holds a parameter of another shape; delete it and run again")
                parameter.copy_(values)
                moments = _moments(stack.optimizer, parameter)
                state["state"][i] = {name: torch.from_numpy(arrays[f"{number}:{name}:{i}"]) for name in moments}
        stack.optimizer.load_state_dict(state)
        for i, generator in enumerate(stack.generators):
            generator.set_state(torch.from_numpy(arrays[f"{number}:generator:{i}"]))
    return {name.removeprefix(CURVE): curve for name, curve in arrays.items() if name.startswith(CURVE)}


def _moments(optimizer: torch.optim.Optimizer, parameter: torch.Tensor) -> Iterable[str]:
    """Return the names of what the optimiser keeps for a parameter, which Adam makes in its first step."""
    return optimizer.state[parameter] or MOMENTS


def _names(number: int, stack: Stack) -> Iterator[str]:
    for i, parameter in enumerate(stack.net.parameters()):
        yield from (f"{number}:{name}:{i}" for name in ("parameter", *_moments(stack.optimizer, parameter)))
    yield from (f"{number}:generator:{i}" for i in range(len(stack.generators)))


def _same_run(path: Path, arrays: Arrays, identity: Mapping[str, Any]) -> None:
    if IDENTITY not in arrays:
        raise ValueError(f"{path}: is no checkpoint of a run; choose another path, or delete it")
    try:
        record = json.loads(str(arrays[IDENTITY]))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: does not say which run it belongs to ({error}); delete it and run again") from error
    now = json.loads(json.dumps(identity))
    differing = [
        f"{name} = {record.get(name)!r} there, {now.get(name)!r} here"
        for name in sorted(record.keys() | now.keys())
        if record.get(name) != now.get(name)
    ]
    if differing:
        raise ValueError(f"{path}: is the checkpoint of another run ({'; '.join(differing)}); delete it or move it")
