"""Rows exactly as a user's file returned them: the data set carries their numbers, everything else is looked up here.

A table has one type for each column, so that a row put into it may come back changed: 7 as 7.0 beside 2.5, a missing
key as None, a tuple as a list.
"""

from __future__ import annotations

import copy
import json
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tpo_torch.llm.tasks.task import Row, columns_of

if TYPE_CHECKING:
    from datasets import Dataset

PROMPT = "prompt"
# The data set's column of row numbers.
NUMBER = "row"
# What TRL hands to a reward function beside the columns.
TAKEN = ("prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric", "environments")
ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Rows:
    """The rows of all splits in one list, and their prompts as chat messages.

    Args: returned, as the file returned them; prompts, of the same length.
    """

    returned: list[Row]
    prompts: list[Any]

    def dataset(self, start: int, stop: int) -> Dataset:
        """The rows from `start` up to `stop` as a data set with the columns "prompt" and "row", their numbers."""
        from datasets import Dataset

        numbers = list(range(start, stop))
        return Dataset.from_dict({PROMPT: numbers, NUMBER: numbers}).with_transform(Prompts(self.prompts))

    def columns(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """What a function of the file is called with: the columns of the rows that are named, and TRL's own arguments.

        Copies, so that a function which changes a value does not change what it is given the next time.

        >>> rows = Rows([{"prompt": "a", "n": 7}, {"prompt": "b", "n": 2.5}], [[], []])
        >>> rows.columns({"row": [1, 0, 0]})
        {'n': [2.5, 7, 7]}
        """
        (numbers,) = columns_of(given, NUMBER)
        rows = [copy.deepcopy(self.returned[number]) for number in numbers]
        own = (
            {name: [row[name] for row in rows] for name in self.returned[numbers[0]] if name != PROMPT} if rows else {}
        )
        return {name: value for name, value in given.items() if name != NUMBER} | own


@dataclass(frozen=True)
class Prompts:
    """What turns the numbers in a data set's column "prompt" into chat messages, when a row is read.

    Args: prompts, of all rows.
    """

    prompts: list[Any]

    def __call__(self, batch: Mapping[str, Sequence[int]]) -> dict[str, list[Any]]:
        """The columns of a batch."""
        numbers = {name: list(values) for name, values in batch.items()}
        if PROMPT in numbers:
            return numbers | {PROMPT: [copy.deepcopy(self.prompts[number]) for number in numbers[PROMPT]]}
        return numbers


def checked(where: str, rows: Any) -> Rows:
    """The rows of a split, if each can be handed on as it is.

    Args: where, the file and the split, for messages; rows, whatever the file returned.
    Raises: TypeError, ValueError naming the row, and its column: for what is no list of dicts with a "prompt", for rows
        that differ in their columns, for names that a function cannot be called with, for values that cannot be copied.
    """
    if not isinstance(rows, Sequence) or isinstance(rows, (str, bytes)) or not rows:
        content = f"{len(rows)} items" if isinstance(rows, Sequence) else type(rows).__name__
        raise TypeError(f"{where} returned {content}, expected a list of at least one dict, each with a 'prompt'")
    prompts = []
    for number, row in enumerate(rows):
        place = f"{where}, row {number}"
        if not isinstance(row, dict):
            raise TypeError(f"{place}: got {type(row).__name__}, expected a dict with a 'prompt'")
        prompts.append(_chat(place, row.get(PROMPT)))
        _check_names(place, row, rows[0])
    return Rows([_copy(f"{where}, row {number}", row) for number, row in enumerate(rows)], prompts)


def _check_names(place: str, row: Row, first: Row) -> None:
    for name in row:
        if not isinstance(name, str):
            raise TypeError(f"{place}: got the column {name!r}, expected a name; a function cannot be called with it")
        if name in TAKEN:
            raise ValueError(f"{place}: got the column {name!r}, which is an argument that TRL gives; rename it")
    if row.keys() != first.keys():
        name = min(row.keys() ^ first.keys())
        which, other = ("no", "has it") if name in first else ("the", "has none")
        raise ValueError(
            f"{place}: got {which} column {name!r}, but row 0 {other}; "
            "give every row of a split the same columns, None where there is nothing"
        )


def _copy(place: str, row: Row) -> Row:
    try:
        return copy.deepcopy(row)
    except Exception:
        for name, value in row.items():
            try:
                copy.deepcopy(value)
            except Exception as error:
                reason = (str(error).splitlines() or [""])[0]
                raise TypeError(
                    f"{place}, column {name!r}: got {type(value).__name__}, which cannot be copied "
                    f"({type(error).__name__}: {reason}); give plain data"
                ) from error
        raise


def _chat(place: str, prompt: Any) -> list[dict[str, Any]]:
    if isinstance(prompt, str):
        messages: list[Any] = [{"role": "user", "content": str(prompt)}]
    else:
        messages = list(prompt) if isinstance(prompt, Sequence) and not isinstance(prompt, bytes) else []
    if not messages or not all(isinstance(m, dict) and m.get("role") in ROLES and "content" in m for m in messages):
        raise TypeError(
            f"{place}: got the prompt {reprlib.repr(prompt)}, expected a string or messages {{'role', 'content'}} "
            f"with a role of {', '.join(ROLES)}"
        )
    try:
        json.dumps(messages, ensure_ascii=False).encode()
        plain = all(isinstance(message["content"], (str, list)) for message in messages)
    except (TypeError, ValueError, RecursionError):
        plain = False
    if not plain:
        raise TypeError(
            f"{place}: got the prompt {reprlib.repr(prompt)}, expected text that UTF-8 can hold, or parts with text"
        )
    return messages
