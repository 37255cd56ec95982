"""Rows in which not every token is the policy's: tools, environments and rollouts by another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers import kinds, tiny_llm
from helpers.tiny_llm import LAYOUTS
from trl import GRPOTrainer

pytestmark = [
    *kinds.FILTERS,
    pytest.mark.filterwarnings("ignore:You are using 'environment_factory', which is an experimental:UserWarning"),
]

# Double precision over two layers, relative to the largest entry of the gradient.
EXACT = 1e-10
WHOLE, CUT = LAYOUTS["whole groups in one micro-batch"], LAYOUTS["half a group per micro-batch"]
# Each way of cutting a group, and a policy that has moved.
CUTS = {
    "whole": WHOLE,
    "split": CUT,
    "shuffled": CUT | {"shuffle_rows": True},
    "split, two epochs": CUT | {"num_iterations": 2},
}
OTHERS = {"anchor": "ratio", "max_completion_length": 24, "max_tool_calling_iterations": 2}


def double(letter: str) -> str:
    """Write a letter twice.

    Args:
        letter: The letter.

    Returns:
        Two of it.
    """
    return f"{letter} {letter}"


async def later(letter: str) -> str:
    """Give a letter back, later.

    Args:
        letter: The letter.

    Returns:
        The same letter.
    """
    return letter


def broken(letter: str) -> str:
    """Fail.

    Args:
        letter: A letter.

    Returns:
        Never.
    """
    raise ValueError("e f")


class Counter:
    """An environment that hands out the prompt and pays for calls."""

    def reset(self, **_: Any) -> str:
        self.calls = 0
        return " g h"

    def double(self, letter: str) -> str:
        """Write a letter twice.

        Args:
            letter: The letter.

        Returns:
            Two of it.
        """
        self.calls += 1
        return f"{letter} {letter}"

    def get_reward(self) -> float:
        return float(self.calls)


class Judged(Counter):
    """The same, and its reward takes a while."""

    async def get_reward(self) -> float:  # type: ignore[override]
        return self.calls + 0.5


class Silent:
    """An environment with a tool of its own, which leaves the prompt to the data and the reward to others."""

    def reset(self, **_: Any) -> None:
        pass

    async def later(self, letter: str) -> str:
        """Give a letter back, later.

        Args:
            letter: The letter.

        Returns:
            The same letter.
        """
        return letter


def length(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """Tokens, a tool's included, so that groups with a call are not idle."""
    return [float(len(ids)) + ids[0] / 7 for ids in completion_ids]


def tokenizer() -> Any:
    made = kinds.talker()
    made.response_template = kinds.RESPONSE
    return made


def train(folder: Path, **options: Any) -> tuple[Any, Any]:
    given = {"train_dataset": kinds.chats(), "processing_class": tokenizer(), "reward_funcs": length} | options
    return tiny_llm.train(folder, kinds.language_model(), **OTHERS | given)


def exact(trainer: Any, watch: Any) -> None:
    """The gradient is that of whole groups over the policy's own tokens, and there is one."""
    assert tiny_llm.apart(trainer, watch, kinds.language_model()) < EXACT


@pytest.fixture(autouse=True)
def double_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GRPOTrainer, "_get_per_token_logps_and_entropies", tiny_llm.double_head)


def answers(watch: Any) -> list[tuple[list[str], list[int]]]:
    """The words of each completion of the first round, and which of them the policy chose."""
    batch = watch.rounds[0].batch
    return [
        ([kinds.WORDS[i] for i in ids[keep.bool()].tolist()], mask[keep.bool()].tolist())
        for ids, keep, mask in zip(batch["completion_ids"], batch["completion_mask"], batch["tool_mask"], strict=True)
    ]


def others(words: list[str]) -> list[int]:
    """1 where the policy chose the word, by reading: another's begins after a turn's end, up to the next prompt."""
    chosen, mine = [], True
    for i, word in enumerate(words):
        if i and words[i - 1] == "<eos>":
            mine = False
        chosen.append(int(mine))
        mine = mine or word == "assistant"
    return chosen


@pytest.mark.parametrize("cut", CUTS)
def test_what_a_tool_says_is_no_part_of_the_log_probability(cut: str, tmp_path: Path) -> None:
    trainer, watch = train(tmp_path, tools=[double, later, broken], **CUTS[cut])
    exact(trainer, watch)
    read = answers(watch)
    assert all(mask == others(words) for words, mask in read)
    assert 0 < sum(0 in mask for _, mask in read) < len(read)
    line = trainer.state.log_history[0]
    assert line["tools/call_frequency"] > 0
    # The trainer counts what it trains on: lengths by the mask, not by the padding.
    assert trainer._round is not None
    assert line["completions/mean_length"] == sum(sum(mask) for _, mask in read) / len(read)


@pytest.mark.parametrize("cut", ["whole", "shuffled"])
@pytest.mark.parametrize("environment", [Counter, Judged])
def test_an_environment_owns_prompts_tools_and_reward(environment: type[Counter], cut: str, tmp_path: Path) -> None:
    options = CUTS[cut] | {"environment_factory": environment, "train_dataset": None, "reward_funcs": None}
    trainer, watch = train(tmp_path, **options)
    exact(trainer, watch)
    assert all(mask == others(words) for words, mask in answers(watch))
    prompts = watch.rounds[0].batch["prompt_ids"]
    assert [kinds.WORDS[i] for i in prompts[0]] == ["user", "g", "h", "<eos>", "assistant"]
    # A call is paid for, and its answer read; one answer too many to be read has been paid for as well.
    read = [sum(not mine and word == "tool" for word, mine in zip(*row, strict=True)) for row in answers(watch)]
    paid = watch.rounds[0].rewards - (0.5 if environment is Judged else 0.0)
    known = [words.count(kinds.CALLS[0]) for words, _ in answers(watch)]
    assert all(int(x) == x and (x == 0) <= (min(n, m) == 0) for x, n, m in zip(paid.tolist(), read, known, strict=True))
    assert paid.max() > 0
    assert f"rewards/{environment.__name__}/mean" in trainer.state.log_history[0]


def test_each_example_has_its_own_environment(tmp_path: Path) -> None:
    data = kinds.chats().map(lambda _, i: {"environment": ("counts", "is silent")[i % 2]}, with_indices=True)
    options = CUT | {"environment_factory": {"counts": Counter, "is silent": Silent}, "train_dataset": data}
    seen: list[tuple[list[str], list[Any]]] = []

    def told(completions: list[Any], environment: list[str], environments: list[Any], **_: Any) -> list[float | None]:
        seen.append((environment, environments))
        return [len(c) / 3 if name == "is silent" else None for c, name in zip(completions, environment, strict=True)]

    trainer, watch = train(tmp_path, reward_funcs=told, **options)
    exact(trainer, watch)
    kind = {"counts": Counter, "is silent": Silent}
    assert all(type(one) is kind[name] for names, ones in seen for name, one in zip(names, ones, strict=True))
    assert {name for names, _ in seen for name in names} == set(kind)
    # Each completion has one of the two rewards and is missing none.
    assert all(line["rewards/missing"] == 0 for line in trainer.state.log_history if "rewards/missing" in line)


def rollout(prompts: list[Any], trainer: Any) -> dict[str, Any]:
    """What another program played: two turns of the policy with its answer between, and how it went."""
    turns = [([4 + i % 3, 5, 1], [14, 4 + i % 2, 1, 13], [6] * (1 + i % 4)) for i in range(len(prompts))]
    return {
        "prompt_ids": [[12, 4 + i // 4 % 2, 1, 13] for i in range(len(prompts))],
        "completion_ids": [first + answer + last for first, answer, last in turns],
        "logprobs": [[-1.0] * sum(map(len, turn)) for turn in turns],
        "env_mask": [[1] * len(first) + [0] * len(answer) + [1] * len(last) for first, answer, last in turns],
        "points": [float(i % 4) for i in range(len(prompts))],
        "played": "by hand",
    }


@pytest.mark.parametrize("cut", CUTS)
def test_a_rollout_by_another_program_is_trained_where_the_policy_spoke(cut: str, tmp_path: Path) -> None:
    told: list[Any] = []

    def points(points: list[float], played: list[str], **_: Any) -> list[float]:
        told.append(played)
        return points

    trainer, watch = train(tmp_path, rollout_func=rollout, reward_funcs=points, **CUTS[cut])
    exact(trainer, watch)
    assert set(told[0]) == {"by hand"}
    assert watch.rounds[0].rewards.tolist() == [i % 4 for i in range(8)]
    assert all(mask == others(words) for words, mask in answers(watch))


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"tools": [double], "processing_class": tiny_llm.tokenizer()}, ValueError, "does not support tool calling"),
        ({"train_dataset": None}, ValueError, "`train_dataset` is required unless an `environment_factory`"),
        ({"reward_funcs": None}, ValueError, "No reward source provided"),
        ({"environment_factory": Counter, "train_dataset": None, "max_steps": -1}, ValueError, "max_steps"),
        ({"rollout_func": lambda prompts, trainer: {"prompt_ids": []}}, ValueError, "'completion_ids', 'logprobs'"),
    ],
)
def test_what_is_missing_is_named(options: dict[str, Any], error: type[Exception], says: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=says):
        train(tmp_path, **options)
