"""Where prompts and rewards come from: streams, chats, several judges, a model that judges, held-out data."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, DatasetDict
from helpers import kinds, tiny_llm
from helpers.tiny_llm import LAYOUTS, cut
from transformers import Qwen3Config, Qwen3ForSequenceClassification
from trl import GRPOTrainer

pytestmark = kinds.FILTERS

EXACT = 1e-10
CUT = LAYOUTS["half a group per micro-batch"] | {"anchor": "ratio", "num_iterations": 2}
COUNT = 8


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> None:
    """TRL's fused head works in single precision; its textbook twin takes its place."""
    monkeypatch.setattr(GRPOTrainer, "_get_per_token_logps_and_entropies", tiny_llm.double_head)


def length(completion_ids: list[list[int]], **_: Any) -> list[float]:
    return [float(len(ids)) + ids[0] / 7 for ids in completion_ids]


def train(folder: Path, **options: Any) -> tuple[Any, Any]:
    given = {"reward_funcs": length, "processing_class": kinds.talker()} | CUT
    return tiny_llm.train(folder, kinds.language_model(), **given | options)


def exact(trainer: Any, watch: Any) -> None:
    assert tiny_llm.apart(trainer, watch, kinds.language_model()) < EXACT


def said(ids: Any) -> list[str]:
    return [kinds.WORDS[i] for i in ids.tolist() if i]


# -- prompts ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("conversational", [False, True])
def test_a_stream_trains_as_the_same_data_in_memory(conversational: bool, tmp_path: Path) -> None:
    data = kinds.chats() if conversational else tiny_llm.prompts(32)
    options = {"shuffle_dataset": False, "max_steps": 3, "gradient_accumulation_steps": 4}
    plain, kept = train(tmp_path / "plain", train_dataset=data, **options)
    stream, streamed = train(tmp_path / "stream", train_dataset=data.to_iterable_dataset(), **options)
    exact(stream, streamed)
    assert len(kept.rounds) == len(streamed.rounds) == 2
    for a, b in zip(kept.rounds, streamed.rounds, strict=True):
        assert torch.equal(a.batch["completion_ids"], b.batch["completion_ids"])
    now = tiny_llm.weights(stream.model)
    assert all(torch.equal(x, now[name]) for name, x in tiny_llm.weights(plain.model).items())


def test_a_stream_without_an_end_needs_a_number_of_steps(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="max_steps"):
        train(tmp_path, train_dataset=kinds.chats().to_iterable_dataset(), max_steps=-1)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(
    ("data", "options", "shown"),
    [
        (tiny_llm.prompts(8), {}, ["a", "b"]),
        (kinds.chats(8), {}, ["user", "a", "b", "<eos>", "assistant"]),
        (
            kinds.chats(8),
            {"chat_template_kwargs": {"terse": True}},
            ["user", "a", "b", "<eos>", "terse", "assistant"],
        ),
    ],
)
def test_prompts_are_shown_as_their_template_says(
    data: Dataset, options: dict[str, Any], shown: list[str], tmp_path: Path
) -> None:
    seen: list[Any] = []

    def looks(prompts: list[Any], completions: list[Any], **_: Any) -> list[float]:
        seen.append((prompts[0], completions[0]))
        return [float(i % 3) for i in range(len(prompts))]

    trainer, watch = train(tmp_path, train_dataset=data, shuffle_dataset=False, reward_funcs=looks, **options)
    exact(trainer, watch)
    assert said(watch.rounds[0].batch["prompt_ids"][0]) == shown
    prompt, completion = seen[0]
    answer = completion if isinstance(prompt, str) else completion[0]["content"]
    assert answer == kinds.talker().decode(watch.rounds[0].batch["completion_ids"][0], skip_special_tokens=True)
    assert isinstance(prompt, str) or completion[0]["role"] == "assistant"


# -- rewards ----------------------------------------------------------------------------------------------------------


async def slowly(completion_ids: list[list[int]], **_: Any) -> list[float | None]:
    """Judges every other completion, after a while."""
    await asyncio.sleep(0)
    return [None if i % 2 else float(ids[0]) for i, ids in enumerate(completion_ids)]


def silent(completions: list[str], **_: Any) -> list[None]:
    return [None] * len(completions)


def once(completions: list[str], **_: Any) -> list[float | None]:
    """Judges one completion alone."""
    return [5.0 if i == 1 else None for i in range(len(completions))]


NAN = math.nan
# Functions, their weights, and the score of row i of n tokens, the first of them t: NaN where nobody judged.
JUDGES: dict[str, tuple[list[Any], list[float] | None, Callable[[int, int, int], float]]] = {
    "one that awaits": ([slowly], None, lambda i, n, t: NAN if i % 2 else t),
    "two, weighed": ([slowly, length], [2.0, -0.5], lambda i, n, t: (0 if i % 2 else 2 * t) - (n + t / 7) / 2),
    "one that judges nothing": ([silent, length], [3.0, 1.0], lambda i, n, t: n + t / 7),
    "one that judges one row": ([once, slowly], [1.0, 0.5], lambda i, n, t: 5 if i == 1 else NAN if i % 2 else t / 2),
    "one that counts for nothing": ([length, slowly], [1.0, 0.0], lambda i, n, t: n + t / 7),
}


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("judges", JUDGES)
def test_scores_are_the_weighed_sum_of_what_was_judged(judges: str, tmp_path: Path) -> None:
    functions, weights, score = JUDGES[judges]
    trainer, watch = train(tmp_path, reward_funcs=list(functions), reward_weights=weights)
    exact(trainer, watch)
    batch, given = watch.rounds[0].batch, watch.rounds[0].rewards
    lengths, first = batch["completion_mask"].sum(-1).tolist(), batch["completion_ids"][:, 0].tolist()
    wanted = torch.tensor([score(i, n, t) for i, (n, t) in enumerate(zip(lengths, first, strict=True))]).double()
    assert torch.allclose(given, wanted, rtol=1e-6, equal_nan=True)
    line = trainer.state.log_history[0]
    assert line["rewards/missing"] == float(wanted.isnan().double().mean())
    if silent in functions:
        assert line["rewards/silent/mean"] is None


@pytest.mark.usefixtures("double")
def test_a_function_may_log_and_see_what_it_judges(tmp_path: Path) -> None:
    def looks(
        completion_ids: list[list[int]], level: list[int], trainer_state: Any, log_metric: Any, log_extra: Any, **_: Any
    ) -> list[float]:
        log_metric("levels", sum(level) / len(level))
        log_extra("level", level)
        told = zip(length(completion_ids), level, strict=True)
        return [one * (1.0 + x) + trainer_state.global_step for one, x in told]

    data = tiny_llm.prompts(16).map(lambda _, i: {"level": i // 8}, with_indices=True)
    options = {"train_dataset": data, "log_completions": True, "shuffle_dataset": False}
    trainer, watch = train(tmp_path, reward_funcs=looks, **options)
    exact(trainer, watch)
    assert trainer.state.log_history[0]["levels"] == 0
    assert list(trainer._logs["extra"]["level"]) == [0] * COUNT


def judge() -> Any:
    """A classifier of one score with weights at random."""
    torch.manual_seed(2)
    made = Qwen3ForSequenceClassification(Qwen3Config(**kinds.SIZES, num_labels=1)).eval()
    made.config.name_or_path = "somewhere/judge"
    return made


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("conversational", [False, True])
def test_a_model_may_judge_beside_a_function(conversational: bool, tmp_path: Path) -> None:
    options = {"train_dataset": kinds.chats() if conversational else tiny_llm.prompts(32), "reward_weights": [1.0, 0.1]}
    told: list[list[Any]] = []

    def looks(prompts: list[Any], completions: list[Any], completion_ids: list[list[int]], **_: Any) -> list[float]:
        told.append([prompts, completions])
        return length(completion_ids)

    judging = {"reward_funcs": [judge(), looks], "reward_processing_classes": [kinds.talker(), None]}
    trainer, watch = train(tmp_path, **options | judging)
    exact(trainer, watch)
    words, model = kinds.talker(), judge()
    for i, (prompt, completion) in enumerate(zip(*told[0], strict=True)):
        text = words.apply_chat_template(prompt + completion, tokenize=False) if conversational else prompt + completion
        with torch.no_grad():
            score = float(model(**words(text, return_tensors="pt")).logits[0, 0])
        ids = watch.rounds[0].batch["completion_ids"][i][watch.rounds[0].batch["completion_mask"][i].bool()]
        assert float(watch.rounds[0].rewards[i]) == pytest.approx(score + 0.1 * length([ids.tolist()])[0], abs=1e-5)
    assert "rewards/judge/mean" in trainer.state.log_history[0]


# -- evaluation -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("form", ["data", "stream", "several"])
def test_evaluation_first_and_of_fewer_completions_moves_nothing(form: str, tmp_path: Path) -> None:
    held_out = {
        "data": tiny_llm.prompts(2),
        "stream": tiny_llm.prompts(2).to_iterable_dataset(),
        "several": DatasetDict({"near": tiny_llm.prompts(2), "far": kinds.chats(2)}),
    }[form]
    options = {"num_generations_eval": 2, "per_device_eval_batch_size": 2, "eval_on_start": True, "max_steps": 2}
    every = options | {"eval_strategy": "steps", "eval_steps": 2, "eval_dataset": held_out}
    counts: list[int] = []

    def counted(completion_ids: list[list[int]], **_: Any) -> list[float]:
        counts.append(len(completion_ids))
        return length(completion_ids)

    trainer, watch = train(tmp_path, reward_funcs=counted, **every)
    exact(trainer, watch)
    sets = 2 if form == "several" else 1
    # TRL logs each set under the same names.
    lines = [line for line in trainer.state.log_history if "eval_reward" in line]
    assert [line["step"] for line in lines] == sorted([0, 2] * sets)
    # One batch of two completions for each prompt held out, before and after the rounds of training.
    once = 2 * sets
    assert counts == [2] * once + [COUNT] + [2] * once


def test_an_evaluation_batch_holds_whole_groups(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="generations used for evaluation"):
        train(tmp_path, eval_strategy="steps", eval_dataset=tiny_llm.prompts(2), **cut(8) | {
            "per_device_eval_batch_size": 3, "num_generations_eval": 2})  # fmt: skip
