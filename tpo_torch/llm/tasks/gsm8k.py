"""GSM8K: school problems, whose answer is a number after ####."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from tpo_torch.llm.tasks.answers import hashed, last_number, number, text_of
from tpo_torch.llm.tasks.task import RewardFunction, Row, Task, columns_of, flag, held_out, messages, seed_of, whole
from tpo_torch.shared.data import load_gsm8k

INSTRUCTION = 'Think step by step, then write the final answer as a number after "####".'


def load(
    train_size: int | None = None,
    eval_size: int | None = None,
    seed: int = 0,
    strict: bool = True,
    instruction: str = INSTRUCTION,
    system: str | None = None,
    folder: str | None = None,
) -> Task:
    """GSM8K with its official splits, found as `tpo_torch.shared.data.load_gsm8k` finds them.

    Paper: Fig. 9 (one of its three tasks)

    Args: train_size, eval_size, how many problems, drawn without replacement by `seed`, None for all in their order;
        strict, pay what stands after the last #### only if it is the right string (deviation D65), else the last number
        if it is the right one; instruction, put below each question; system, a system message; folder of the files.
    Returns: the task, with the columns "prompt", "answer" (the number as a string) and "rationale" (worked solution).
    Raises: ValueError for sizes that are not there; tpo_torch.shared.data.DataError where the files are missing.
    """
    from datasets import Dataset

    flag("strict", strict)
    problems = load_gsm8k(None if folder is None else Path(folder).expanduser())
    generator = np.random.default_rng(seed_of(seed))
    train = _rows(_sample("train_size", problems.train, train_size, generator), instruction, system)
    # The whole test set stands behind a smaller one, in case a problem of it is dropped.
    candidates = _sample("eval_size", problems.test, eval_size, generator, spare=True)
    evaluation, dropped = held_out("gsm8k", train, _rows(candidates, instruction, system), eval_size)
    return Task(
        name="gsm8k",
        train=Dataset.from_list(train),
        evaluation=Dataset.from_list(evaluation),
        rewards=(_reward(strict),),
        correct=lambda completions, **columns: _right(completions, columns, strict),
        solution=lambda row: str(row["rationale"]),
        dropped=dropped,
    )


def _sample(
    name: str, rows: Sequence[Row], size: int | None, generator: np.random.Generator, spare: bool = False
) -> Sequence[Row]:
    if size is None:
        return rows
    if whole(name, size, 1) > len(rows):
        raise ValueError(f"{name}: got {size}, expected at most the {len(rows)} problems there are, or None for all")
    order = generator.permutation(len(rows))
    return [rows[i] for i in (order if spare else order[:size])]


def _rows(problems: Sequence[Row], instruction: str, system: str | None) -> list[Row]:
    return [
        {
            "prompt": messages(row["question"], instruction, system),
            "answer": row["answer"].rpartition("####")[2].strip().replace(",", ""),
            "rationale": row["answer"],
        }
        for row in problems
    ]


def _reward(strict: bool) -> RewardFunction:
    def reward(completions: Sequence[Any], **columns: Any) -> list[float | None]:
        return [float(right) for right in _right(completions, columns, strict)]

    reward.__name__ = "gsm8k_strict" if strict else "gsm8k_last_number"
    return reward


def _right(completions: Sequence[Any], columns: dict[str, Any], strict: bool) -> list[bool]:
    (answers,) = columns_of(columns, "answer")
    pairs = zip(completions, answers, strict=True)
    if strict:
        return [hashed(text_of(completion)) == answer for completion, answer in pairs]
    return [_same(last_number(text_of(completion)), number(answer)) for completion, answer in pairs]


def _same(found: Decimal | None, right: Decimal | None) -> bool:
    return right is not None and found == right
