"""Tasks for language models: prompts, rewards, exact accuracy, worked answers; by name, or from a file of your own."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tpo_ref.checks import unknown
from tpo_torch.llm.tasks import gsm8k, gym, own
from tpo_torch.llm.tasks.task import Task

__all__ = ["NAMES", "Task", "check", "load"]

GYM = "gym:"
NAMES = ("gsm8k", "graph_color", "knights_knaves", f"{GYM}NAME", "PATH.py")


def load(name_or_path: str | Path, **options: Any) -> Task:
    """The task of that name, or the one which a Python file defines.

    Args: name_or_path, "gsm8k", "graph_color", "knights_knaves", "gym:NAME" for a dataset of Reasoning Gym, or the path
        of a .py file, which is imported and so must be code you trust (`tpo_torch.llm.tasks.own`); options, of the
        loader: train_size, eval_size, seed, and what `gsm8k.load`, `gym.load`, `own.load` take beside.
    Returns: the task.
    Raises: ValueError for an unknown name or option, with the nearest; and what the loaders raise.

    >>> load("gsm8k", train_sise=10)
    Traceback (most recent call last):
    ...
    ValueError: option of gsm8k: got 'train_sise', did you mean 'train_size'...
    """
    check(name_or_path, **options)
    return _loader(str(name_or_path))(**options)


def check(name_or_path: str | Path, **options: Any) -> None:
    """The task and its options, as far as they can be refused before data are made; ValueError, FileNotFoundError.

    Options of a user's own file, and values, are checked by `load`.
    """
    name = str(name_or_path)
    parameters = inspect.signature(_loader(name)).parameters
    if all(p.kind is not inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        for option in options:
            if option not in parameters:
                raise unknown(f"option of {name}", option, parameters)
    elif name.endswith(".py"):
        own.check(Path(name))
    else:
        gym.check(name.removeprefix(GYM), [option for option in options if option not in parameters])


def _loader(name: str) -> Callable[..., Task]:
    if name.endswith(".py"):
        return partial(own.load, name)
    if name.startswith(GYM):
        return partial(gym.load, name.removeprefix(GYM))
    if name == "gsm8k":
        return gsm8k.load
    if name in NAMES:
        return partial(gym.load, name)
    raise unknown("task", name, NAMES)
