"""Reasoning Gym: generated problems with upstream's own scorer, graph colouring and Knights & Knaves among them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

from tpo_ref.checks import unknown
from tpo_torch.llm.tasks import registry
from tpo_torch.llm.tasks.answers import embedded, same_numbers, short, tagged, text_of
from tpo_torch.llm.tasks.guard import refusal
from tpo_torch.llm.tasks.task import RewardFunction, Row, Task, columns_of, flag, held_out, messages, seed_of, whole

INSTRUCTION = "Give the final answer between <answer> and </answer>."
# The paper names the tasks, not how many problems; ours are chosen (deviation D64).
TRAIN_SIZE, EVAL_SIZE = 2_000, 200
# Item i of a dataset is made from Random(seed + i). Evaluation starts so far behind training that they never meet, and
# that it does not change with the size of the training set.
EVALUATION_OFFSET = 1_000_000
# Repeated problems are skipped, until so many times the evaluation's size has been made.
TRIES = 20
ENTRIES_KEPT = 4_096
# Options of a dataset which `load` sets itself, from options of its own that say which split.
SET_BY_LOAD = frozenset({"seed", "size"})

Entry = dict[str, Any]
Score = Callable[[Any, int, int], float]


def load(
    name: str,
    train_size: int = TRAIN_SIZE,
    eval_size: int = EVAL_SIZE,
    seed: int = 0,
    partial: bool = True,
    instruction: str = INSTRUCTION,
    system: str | None = None,
    **options: Any,
) -> Task:
    """A Reasoning Gym dataset as a task, train and evaluation drawn from seeds that never meet.

    Paper: Fig. 9 (two of its three tasks)

    Args: name, as upstream calls the dataset; train_size, eval_size, how many problems; seed; partial, pay upstream's
        score in [0, 1], else 1 only for a full score; instruction, put below each question; system, a system message;
        options, the dataset's own, such as min_num_vertices, edge_probability, num_colors of graph_color.
    Returns: the task, with the columns "prompt", "seed" and "index", from which the scorer makes the problem again.
    Raises: ValueError for an unknown dataset or option, with the nearest; one that `guard.refusal` names; values that
        upstream refuses; or too few different problems for the evaluation.
    """
    from datasets import Dataset

    check(name, options)
    for option, value in (("train_size", train_size), ("eval_size", eval_size)):
        whole(option, value, 1)
    seed_of(seed)
    flag("partial", partial)
    if train_size > EVALUATION_OFFSET:
        raise ValueError(f"train_size: got {train_size}, expected at most {EVALUATION_OFFSET}, where evaluation begins")
    later = seed + EVALUATION_OFFSET
    sources = {seed: _create(name, seed, train_size, options), later: _create(name, later, TRIES * eval_size, options)}
    train = [_row(sources[seed], seed, i, instruction, system) for i in range(train_size)]
    candidates = (_row(sources[later], later, i, instruction, system) for i in range(TRIES * eval_size))
    evaluation, dropped = held_out(name, train, candidates, eval_size)

    @lru_cache(ENTRIES_KEPT)
    def entry(seed: int, index: int) -> Entry:
        problem: Entry = sources[seed][index]
        return problem

    def score(completion: Any, seed: int, index: int) -> float:
        return _score(sources[seed], text_of(completion), entry(seed, index))

    return Task(
        name=name,
        train=Dataset.from_list(train),
        evaluation=Dataset.from_list(evaluation),
        rewards=(_reward(name, score, partial),),
        correct=lambda completions, **columns: [s >= 1 for s in _scores(score, completions, columns)],
        solution=_solution(name, entry) if _answer(name, entry(seed, 0)) is not None else None,
        dropped=dropped,
    )


def check(name: str, options: Iterable[str]) -> None:
    """ValueError for an unknown dataset or option, with the nearest, or a dataset that `guard.refusal` names."""
    dataset = registry.dataset_of(name)
    reason = refusal(name, dataset.source)
    if reason is not None:
        raise ValueError(f"gym:{name}: {reason}; choose another dataset, or write the task as a file of your own")
    names = [option for option in dataset.options if option not in SET_BY_LOAD]
    for option in options:
        if option not in names:
            shared = ("train_size", "eval_size", "seed", "partial", "instruction", "system")
            raise unknown(f"option of {name}", option, (*names, *shared))


def _create(name: str, seed: int, size: int, options: dict[str, Any]) -> Any:
    # Imported where needed: Reasoning Gym takes most of a second, which a task of another kind should not cost.
    import reasoning_gym

    try:
        return reasoning_gym.create_dataset(name, seed=seed, size=size, **options)
    except (AssertionError, TypeError, ValueError) as error:
        raise ValueError(f"{name}: Reasoning Gym refuses the options {options} ({error}); change them") from error


def _row(source: Any, seed: int, index: int, instruction: str, system: str | None) -> Row:
    return {"prompt": messages(source[index]["question"], instruction, system), "seed": seed, "index": index}


def _score(source: Any, text: str, entry: Entry) -> float:
    """Upstream's score of the tagged answer; 0 where upstream fails on it: a model can write anything.

    Nothing either where the right answer is only part of a longer word (deviation D68), unless upstream takes the
    answer for the same number, to its tolerance.
    """
    said, right = short(tagged(text)), entry["answer"]
    try:
        score = float(source.score_answer(said, entry))
    except Exception:
        return 0.0
    if not math.isfinite(score):
        return 0.0
    if isinstance(right, str) and said is not None and embedded(right, said):
        return score if score >= 1 and same_numbers(right, said) else 0.0
    return score


def _scores(score: Score, completions: Sequence[Any], columns: dict[str, Any]) -> list[float]:
    seeds, indices = columns_of(columns, "seed", "index")
    return [score(*each) for each in zip(completions, seeds, indices, strict=True)]


def _reward(name: str, score: Score, partial: bool) -> RewardFunction:
    def reward(completions: Sequence[Any], **columns: Any) -> list[float | None]:
        return [s if partial else float(s >= 1) for s in _scores(score, completions, columns)]

    reward.__name__ = f"{name}_score" if partial else f"{name}_exact"
    return reward


def _solution(name: str, entry: Callable[[int, int], Entry]) -> Callable[[Row], str]:
    return lambda row: f"<answer>{_answer(name, entry(row['seed'], row['index']))}</answer>"


def _answer(name: str, entry: Entry) -> str | None:
    """The right answer: upstream's, or for a graph, which has many, the valid colouring it was accepted by."""
    if name == "graph_color":
        return json.dumps(entry["metadata"]["possible_answer"])
    return None if entry["answer"] is None else str(entry["answer"])
