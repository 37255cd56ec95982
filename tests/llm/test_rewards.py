"""Reward functions that fail, or return what are no rewards: said by name, on every process, and nothing hangs."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import tiny_llm

from tpo_torch.llm import ResumableGRPOTrainer, TargetPOTrainer
from tpo_torch.llm.rewards import RewardError

pytestmark = tiny_llm.FILTERS

# Eight completions of two prompts.
COUNT = 8


def rewards_of(folder: Path, *functions: Any, kind: Any = TargetPOTrainer, **options: Any) -> Any:
    """A trainer after one optimizer step with these reward functions."""
    return tiny_llm.train(folder, kind=kind, reward_funcs=list(functions), **options)[0]


def gives(values: Any) -> Callable[..., Any]:
    """A reward function that returns the same, whatever was completed."""

    def given(completions: list[str], **_: Any) -> Any:
        assert len(completions) == COUNT
        return values

    return given


def awaited(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    async def later(**kwargs: Any) -> Any:
        return function(**kwargs)

    return later


class Scorer:
    """A callable object, which TRL calls by its class."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.__name__ = "scorer"

    def __call__(self, **kwargs: Any) -> Any:
        return self.function(**kwargs)


class AsyncScorer(Scorer):
    async def __call__(self, **kwargs: Any) -> Any:
        return self.function(**kwargs)


def raises(completions: list[str], **_: Any) -> list[float]:
    raise KeyError("answer")


FORMS = {"function": lambda f: f, "coroutine": awaited, "object": Scorer, "asynchronous object": AsyncScorer}


@pytest.mark.parametrize(
    ("form", "kind"), [*((form, TargetPOTrainer) for form in FORMS), ("function", ResumableGRPOTrainer)]
)
def test_a_function_that_raises_is_named_and_its_error_kept(form: str, kind: Any, tmp_path: Path) -> None:
    function = FORMS[form](raises)
    with pytest.raises(
        RewardError,
        match=rf"^at optimizer step 0, process 0: reward function '{function.__name__}': KeyError: 'answer'$",
    ) as caught:
        rewards_of(tmp_path, tiny_llm.reward, function, kind=kind)
    assert isinstance(caught.value.__cause__, KeyError)


def test_every_function_that_failed_is_named(tmp_path: Path) -> None:
    with pytest.raises(RewardError, match=r"'raises': KeyError.*; process 0: reward function 'given': ValueError"):
        rewards_of(tmp_path, raises, tiny_llm.reward, gives([1.0]))


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., torch.Tensor]:
    """What one trainer, made once, finds the rewards of a round to be under other reward functions."""
    trainer = rewards_of(tmp_path_factory.mktemp("scored"), awaited(tiny_llm.reward))

    def of(function: Any) -> torch.Tensor:
        trainer.reward_funcs, trainer.reward_func_names = [function], [function.__name__]
        texts = ["a b"] * COUNT
        found: torch.Tensor = trainer._calculate_rewards([{"prompt": "a"}] * COUNT, texts, texts, [[2, 3]] * COUNT)
        return found

    return of


@pytest.mark.parametrize("form", ["function", "coroutine"])
@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([1.0] * 7, "ValueError: got 7 rewards, expected 8, one per completion"),
        ([], "ValueError: got 0 rewards, expected 8"),
        (None, "TypeError: got NoneType, expected a list of numbers"),
        (1.0, "TypeError: got float, expected a list of numbers"),
        ("12345678", "TypeError: got str, expected a list of numbers"),
        (dict.fromkeys(range(8)), "TypeError: got dict, expected a list of numbers"),
        (["1.0"] * 8, r"TypeError: got \['1.0', '1.0', '1.0'\]…, expected a number or None for each"),
        ([1j] * 8, "TypeError: got .*1j.*, expected a number or None for each"),
        ([[1.0]] * 8, "TypeError: got .*, expected a number or None for each"),
        (torch.ones(8, 2), "TypeError: got .*, expected a number or None for each"),
        ([10**400] * 8, "OverflowError"),
    ],
)
def test_what_is_no_reward_is_refused(form: str, values: Any, words: str, scored: Callable[..., Any]) -> None:
    with pytest.raises(RewardError, match=rf"reward function 'given': {words}"):
        scored(FORMS[form](gives(values)))


@pytest.mark.parametrize(
    "values",
    [
        np.arange(8.0),
        np.arange(8),
        torch.arange(8.0),
        list(torch.arange(8.0)),
        tuple(range(8)),
        range(8),
        [Decimal(i) for i in range(8)],
        [np.float32(i) for i in range(8)],
    ],
    ids=lambda x: type(x).__name__,
)
def test_numbers_of_any_kind_are_rewards(values: Any, scored: Callable[..., Any]) -> None:
    assert scored(gives(values))[:, 0].tolist() == list(range(8))


@pytest.mark.parametrize("kind", [TargetPOTrainer, ResumableGRPOTrainer])
def test_infinite_and_missing_rewards_are_counted_and_take_no_part(kind: Any, tmp_path: Path) -> None:
    nan, inf = math.nan, math.inf
    first = [1.0, None, nan, inf, 0.5, -inf, None, 2.0]
    second = [0.0, None, nan, 1.0, None, 3.0, 1.0, 1.0]
    watched: list[torch.Tensor] = []

    class Noted(kind):  # type: ignore[misc, valid-type]
        def _calculate_rewards(self, *args: Any) -> torch.Tensor:
            watched.append(super()._calculate_rewards(*args))
            return watched[-1]

    trainer = rewards_of(tmp_path, gives(first), gives(second), kind=Noted)
    wanted = torch.tensor(
        [[1.0, 0.0], [nan, nan], [nan, nan], [nan, nan], [0.5, nan], [nan, nan], [nan, 1.0], [2.0, 1.0]]
    )
    assert torch.equal(watched[0].nan_to_num(-9.0), wanted.nan_to_num(-9.0))
    line = trainer.state.log_history[0]
    assert (line["rewards/infinite"], line["rewards/missing"]) == (2 / COUNT, 4 / COUNT)
    if kind is TargetPOTrainer:
        assert trainer._round.valid.tolist() == [True, False, False, False, True, False, True, True]
        assert trainer._round.scores.tolist() == [1, 0, 0, 0, 0.5, 0, 1, 3]
        assert line["group/invalid"] == 4 / COUNT


def test_a_reward_too_large_for_single_precision_is_infinite(tmp_path: Path) -> None:
    trainer = rewards_of(tmp_path, gives([1e39, *range(7)]))
    assert trainer._round.valid.tolist() == [False] + [True] * 7


def test_the_functions_are_as_they_were_afterwards(tmp_path: Path) -> None:
    first, second = tiny_llm.reward, awaited(gives([1.0] * COUNT))
    trainer = rewards_of(tmp_path, first, second)
    assert trainer.reward_funcs == [first, second]


def test_no_reward_at_all_moves_nothing(tmp_path: Path) -> None:
    policy = tiny_llm.model(dtype=torch.float32)
    before = tiny_llm.weights(policy)
    trainer, _ = tiny_llm.train(tmp_path, policy, reward_funcs=gives([None] * COUNT))
    assert all(torch.equal(before[name], x) for name, x in tiny_llm.weights(trainer.model).items())
    line = trainer.state.log_history[0]
    assert line["rewards/missing"] == line["group/invalid"] == 1
    assert line["tpo/cross_entropy"] is None
    assert line["loss"] == 0


def test_rewards_see_the_columns_of_the_data_and_the_state(tmp_path: Path) -> None:
    seen: dict[str, Any] = {}

    def looks(
        completions: list[str], prompts: list[str], level: list[int], trainer_state: Any, **_: Any
    ) -> list[float]:
        seen.update(prompts=prompts, level=level, step=trainer_state.global_step)
        return [float(x) for x in level]

    data = tiny_llm.prompts().add_column("level", list(range(8)))
    trainer = rewards_of(tmp_path, looks, train_dataset=data)
    assert [tiny_llm.PROMPTS[i] for i in seen["level"]] == seen["prompts"]
    assert seen["step"] == 0
    assert trainer.state.log_history[0]["group/zero_variance"] == 1
