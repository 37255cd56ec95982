"""A user's own task: one Python file, which is imported, that is, run. Only load files you would run yourself.

The file defines `dataset(split, size, seed)`, a list of dicts with a "prompt" (a string or chat messages) and whatever
columns its reward reads; and `reward(completions, **columns)`, a number, or None, for each completion, which comes as a
string. It may define `correct(completions, **columns)`, a bool for each, without which a reward of at least 1 counts as
right; and `solution(row)`, a right answer in full text. Parameters of `dataset` after the first three are options.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from tpo_ref.checks import unknown
from tpo_ref.study import user_files
from tpo_torch.llm.tasks.answers import text_of
from tpo_torch.llm.tasks.rows import NUMBER, PROMPT, TAKEN, Rows, checked
from tpo_torch.llm.tasks.task import EVALUATION, TRAIN, RewardFunction, Row, Task, seed_of, whole

TASK = "the task"
REQUIRED = {"dataset": "dataset(split, size, seed)", "reward": "reward(completions, **columns)"}
OPTIONAL = {"correct": "correct(completions, **columns)", "solution": "solution(row)"}
SHARED = ("split", "size", "seed")


def load(
    path: str | Path, train_size: int | None = None, eval_size: int | None = None, seed: int = 0, **options: Any
) -> Task:
    """The task which a file defines; the file is imported, so it must be code you trust.

    Args: path of the .py file; train_size, eval_size, given to `dataset` as `size`, None for as many as it likes; seed;
        options, passed on to `dataset`.
    Returns: the task, named as the file.
    Raises: FileNotFoundError; TypeError, ValueError for a function that is missing or takes or returns the wrong thing,
        an unknown option, or a prompt in both splits, and for whatever the file itself raises, with its line.
    """
    seed_of(seed)
    for name, size in (("train_size", train_size), ("eval_size", eval_size)):
        if size is not None:
            whole(name, size, 1)
    path = Path(path)
    module = user_files.imported(path, TASK)
    functions = {name: _function(path, module, name) for name in (*REQUIRED, *OPTIONAL)}
    make, reward = functions["dataset"], functions["reward"]
    assert make is not None
    assert reward is not None
    _check_options(path, make, options)
    sizes = {TRAIN: train_size, EVALUATION: eval_size}
    train, evaluation = (
        checked(f"{path}: dataset({split!r}, …)", user_files.called(path, make, split, size, seed, **options))
        for split, size in sizes.items()
    )
    for split, part in ((TRAIN, train), (EVALUATION, evaluation)):
        for name in ("reward", "correct"):
            _check_columns(path, name, functions[name], split, part)
    rows = Rows(train.returned + evaluation.returned, train.prompts + evaluation.prompts)
    first, last = len(train.returned), len(rows.returned)
    reward_function = _reward(path, reward, rows)
    return Task(
        name=path.stem,
        train=rows.dataset(0, first),
        evaluation=rows.dataset(first, last),
        rewards=(reward_function,),
        correct=_correct(path, functions["correct"], reward_function, rows),
        solution=_solution(path, functions["solution"], rows),
    )


def check(path: Path) -> None:
    """FileNotFoundError unless the file is there; its options are known only once it is imported."""
    user_files.check_file(path, TASK)


def _function(path: Path, module: ModuleType, name: str) -> Callable[..., Any] | None:
    function = getattr(module, name, None)
    signature = {**REQUIRED, **OPTIONAL}[name]
    if function is None:
        if name in OPTIONAL:
            return None
        raise ValueError(f"{path}: found no function {name!r}; define {signature}")
    if not callable(function):
        raise TypeError(f"{path}: {name} is of type {type(function).__name__}, expected a function; define {signature}")
    kinds = {p.kind for p in inspect.signature(function).parameters.values()}
    if "**" in signature and inspect.Parameter.VAR_KEYWORD not in kinds:
        raise TypeError(f"{path}: {name} takes no **columns, but is given every column by name; define {signature}")
    return function  # type: ignore[no-any-return]


def _check_columns(path: Path, name: str, function: Callable[..., Any] | None, split: str, rows: Rows) -> None:
    """ValueError for a column that a function must be given, and that the rows of a split have not."""
    if function is None:
        return
    columns = [column for column in rows.returned[0] if column != PROMPT]
    # The first parameter is the completions, by whatever name; a reward may ask for what TRL gives, too.
    parameters = list(inspect.signature(function).parameters.values())[1:]
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    for parameter in parameters:
        asked = parameter.kind in kinds and parameter.default is inspect.Parameter.empty
        if asked and parameter.name not in (*columns, *(TAKEN if name == "reward" else ())):
            raise unknown(
                f"{path}: {name} takes a column which dataset({split!r}, …) does not give", parameter.name, columns
            )


def _check_options(path: Path, make: Callable[..., Any], options: dict[str, Any]) -> None:
    parameters = inspect.signature(make).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return
    names = list(parameters)[len(SHARED) :]
    for option in options:
        if option not in names:
            raise unknown(f"option of {path}", option, (*names, "train_size", "eval_size", "seed"))


def _reward(path: Path, function: Callable[..., Any], rows: Rows) -> RewardFunction:
    def reward(completions: Sequence[Any], **columns: Any) -> list[float | None]:
        answer = user_files.called(path, function, [text_of(each) for each in completions], **rows.columns(columns))
        values = _one_each(path, "reward", answer, len(completions), _is_number, "a number or None")
        return [None if value is None else float(value) for value in values]

    reward.__name__ = f"{path.stem}_reward"
    return reward


def _correct(
    path: Path, function: Callable[..., Any] | None, reward: RewardFunction, rows: Rows
) -> Callable[..., list[bool]]:
    def correct(completions: Sequence[Any], **columns: Any) -> list[bool]:
        if function is None:
            rewards = reward(completions, **columns)
            return [value is not None and math.isfinite(value) and value >= 1 for value in rewards]
        answer = user_files.called(path, function, [text_of(each) for each in completions], **rows.columns(columns))
        return _one_each(path, "correct", answer, len(completions), lambda value: isinstance(value, bool), "a bool")

    return correct


def _solution(path: Path, function: Callable[..., Any] | None, rows: Rows) -> Callable[[Row], str] | None:
    if function is None:
        return None

    def solution(row: Row) -> str:
        text = user_files.called(path, function, copy.deepcopy(rows.returned[row[NUMBER]]))
        if not isinstance(text, str):
            raise TypeError(f"{path}: solution returned {text!r}, expected the text of a right answer")
        return text

    return solution


def _is_number(value: Any) -> bool:
    return value is None or (hasattr(value, "__float__") and not isinstance(value, str))


def _one_each(path: Path, name: str, answer: Any, count: int, fits: Callable[[Any], bool], what: str) -> list[Any]:
    # Arrays and tensors give plain numbers and bools.
    plain = answer.tolist() if hasattr(answer, "tolist") else answer
    is_list = isinstance(plain, Iterable) and not isinstance(plain, (str, bytes, Mapping))
    values = list(plain) if is_list else []
    if not is_list or len(values) != count:
        content = f"{len(values)} values" if is_list else type(answer).__name__
        raise TypeError(f"{path}: {name} returned {content}, expected a list of {count}, {what} for each completion")
    if not all(fits(value) for value in values):
        bad = next(value for value in values if not fits(value))
        raise TypeError(f"{path}: {name} returned {bad!r} for a completion, expected {what}")
    return [value.item() if hasattr(value, "item") else value for value in values]
