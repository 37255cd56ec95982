"""What a task is, and how its two splits are kept apart."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset

Message = dict[str, str]
Row = dict[str, Any]
# TRL's signature, every argument by keyword: (prompts, completions, completion_ids, **columns) -> a reward each.
RewardFunction = Callable[..., list[float | None]]

LARGEST_SEED = 2**32 - 1
TRAIN, EVALUATION = "train", "evaluation"


@dataclass(frozen=True)
class Task:
    """Prompts to train on, prompts to evaluate on, and what an answer is worth.

    Args: name; train, evaluation, data sets with a column "prompt" of chat messages, so that the trainer applies the
        model's own chat template, and plain columns which the functions below read by name; rewards, functions in
        TRL's signature; correct(completions, **columns), whether each answer is exactly right; solution(row), a right
        answer in full text for a supervised warm-up, None where the task has none; dropped, how many prompts were left
        out of the evaluation because they are in the training set, or came twice.
    Raises: ValueError for a split without prompts, or a prompt in both splits.
    """

    name: str
    train: Dataset
    evaluation: Dataset
    rewards: tuple[RewardFunction, ...]
    correct: Callable[..., list[bool]]
    solution: Callable[[Row], str] | None = None
    dropped: int = 0

    def __post_init__(self) -> None:
        for split in (TRAIN, EVALUATION):
            data = getattr(self, split)
            if not len(data) or "prompt" not in data.column_names:
                what = f"{len(data)} rows with the columns {data.column_names}"
                raise ValueError(f"{self.name}, {split}: got {what}, expected rows with a column 'prompt'")
        shared = {key(p) for p in self.train["prompt"]} & {key(p) for p in self.evaluation["prompt"]}
        if shared:
            raise ValueError(
                f"{self.name}: got {len(shared)} prompts that are in both splits, such as {min(shared)}; "
                "expected none, or the evaluation shows memory: draw the splits from different problems"
            )


def messages(question: str, instruction: str, system: str | None) -> list[Message]:
    """A chat: the system's message where there is one, then the question with the instruction below it.

    >>> messages("1 + 1?", "Be brief.", None)
    [{'role': 'user', 'content': '1 + 1?\\n\\nBe brief.'}]
    """
    text = f"{question.strip()}\n\n{instruction}" if instruction else question.strip()
    first = [{"role": "system", "content": system}] if system else []
    return [*first, {"role": "user", "content": text}]


def key(prompt: Any) -> str:
    """A prompt as one string, so that prompts can be compared."""
    return json.dumps(prompt, sort_keys=True)


def digest(task: Task) -> str:
    """SHA-256 of the prompts of a task in their order: equal where two processes, or two starts, see the same task."""
    prompts = [[key(prompt) for prompt in split["prompt"]] for split in (task.train, task.evaluation)]
    return hashlib.sha256(json.dumps(prompts).encode()).hexdigest()


def held_out(name: str, train: Iterable[Row], candidates: Iterable[Row], size: int | None) -> tuple[list[Row], int]:
    """The first candidates that are neither in the training set nor repeated.

    Args: name, of the task, for messages; train, candidates, rows with a "prompt"; size, how many to keep, None for all
        there are; candidates are taken one by one, and only as many as needed.
    Returns: the rows kept, and how many were dropped on the way.
    Raises: ValueError, with what to do, where fewer than `size` are left, or none.
    """
    seen = {key(row["prompt"]) for row in train}
    kept: list[Row] = []
    dropped = 0
    for row in candidates:
        name_of_prompt = key(row["prompt"])
        if name_of_prompt in seen:
            dropped += 1
            continue
        seen.add(name_of_prompt)
        kept.append(row)
        if len(kept) == size:
            break
    if len(kept) < (size or 1):
        raise ValueError(
            f"{name}: got {len(kept)} evaluation prompts that are not in the training set ({dropped} were dropped), "
            f"expected {size or 'at least 1'}; lower train_size or eval_size, or give the task more or larger problems"
        )
    return kept, dropped


def columns_of(columns: Mapping[str, Any], *names: str) -> list[list[Any]]:
    """The named columns; KeyError naming what is missing: a reward without its columns is a fault, not a wrong answer.

    >>> columns_of({"seed": [1]}, "index")
    Traceback (most recent call last):
    ...
    KeyError: "index: got the columns ['seed'], expected the task's own; keep remove_unused_columns off"
    """
    for name in names:
        if name not in columns:
            what = f"{name}: got the columns {sorted(columns)}, expected the task's own; keep remove_unused_columns off"
            raise KeyError(what)
    return [list(columns[name]) for name in names]


def seed_of(seed: Any) -> int:
    """A seed; ValueError for what is none, or more than the generators and a data set's column take."""
    if whole("seed", seed, 0) > LARGEST_SEED:
        raise ValueError(f"seed: got {seed}, expected at most {LARGEST_SEED}")
    return int(seed)


def flag(name: str, x: Any) -> bool:
    """True or False; TypeError for anything else, such as the text 'no', which would count as True."""
    if not isinstance(x, bool):
        raise TypeError(f"{name}: got {x!r}, expected true or false")
    return x


def whole(name: str, x: Any, least: int) -> int:
    """A whole number, `least` or above; ValueError saying what was given."""
    if isinstance(x, bool) or not isinstance(x, int) or x < least:
        raise ValueError(f"{name}: got {x!r}, expected a whole number, {least} or above")
    return x
