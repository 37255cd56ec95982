"""Evaluation: the estimator of pass@k, answers to a known model, and a training that never notices."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from tpo_torch.llm.program import tiny
from tpo_torch.llm.program.evaluation.evaluate import Sampling, evaluate, pass_at_k
from tpo_torch.llm.program.settings.sections import EvaluationSettings, TinySettings
from tpo_torch.llm.tasks import Task

SMALL = st.integers(1, 7).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n)))
LARGE = st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, min(n, 64))))


@given(SMALL)
def test_pass_at_k_is_the_share_of_subsets_with_a_right_answer(case: tuple[int, int, int]) -> None:
    n, right, k = case
    answers = [i < right for i in range(n)]
    subsets = list(itertools.combinations(answers, k))
    expected = sum(any(subset) for subset in subsets) / len(subsets)
    assert pass_at_k(n, [right], k)[0] == pytest.approx(expected, abs=1e-12)


@given(LARGE)
def test_pass_at_k_is_exact_for_many_samples(case: tuple[int, int, int]) -> None:
    n, right, k = case
    expected = 1 - math.comb(n - right, k) / math.comb(n, k)
    assert pass_at_k(n, [right], k)[0] == pytest.approx(expected, abs=1e-12)
    assert pass_at_k(n, [right], 1)[0] == pytest.approx(right / n, abs=1e-12)


@pytest.mark.parametrize(("n", "right", "k"), [(4, [2], 0), (4, [2], 5), (4, [5], 1), (4, [-1], 1)])
def test_pass_at_k_refuses_what_cannot_be(n: int, right: list[int], k: int) -> None:
    with pytest.raises(ValueError, match="got"):
        pass_at_k(n, right, k)


def task(words: list[str]) -> Task:
    """Say the word of the prompt; the reward is a third, of two functions of weights 1 and 2, or none for "none"."""

    def part(prompts: Any, completions: Any, completion_ids: Any, word: list[str], **rest: Any) -> list[float | None]:
        assert len(prompts) == len(completions) == len(completion_ids) == len(word)
        said = [c[-1]["content"] for c in completions]
        return [None if w == "none" else float(s == w) / 3 for s, w in zip(said, word, strict=True)]

    train = Dataset.from_list([{"prompt": [{"role": "user", "content": "Say nothing"}], "word": ""}])
    rows = [{"prompt": [{"role": "user", "content": f"Say {w}"}], "word": w} for w in words]
    return Task(
        "say",
        train,
        Dataset.from_list(rows),
        (part, part),
        lambda completions, word, **rest: [c == w for c, w in zip(completions, word, strict=True)],
    )


def tokenizer() -> Any:
    """It has seen none of the words, so that they differ in length."""
    return tiny.build_tokenizer([([{"role": "user", "content": "Say"}], "no")], 300)


class Scripted(torch.nn.Module):
    """A model that answers from a script: greedily the first answer to a prompt, sampling each in turn."""

    def __init__(self, words: Any, script: dict[str, list[str]], ends: bool = True) -> None:
        super().__init__()
        self.anchor = torch.nn.Parameter(torch.zeros(1))
        self.generation_config = SimpleNamespace(eos_token_id=None)
        self.words, self.script, self.ends, self.draws = words, script, ends, 0

    def generate(self, input_ids: Any, attention_mask: Any, generation_config: Any) -> Any:
        assert not self.training
        assert generation_config.pad_token_id == self.words.pad_token_id
        # Padding stands on the left: the last token is the prompt's own.
        assert bool(attention_mask[:, -1].all())
        prompts = self.words.batch_decode(input_ids, skip_special_tokens=True)
        told = [next(answers for word, answers in self.script.items() if f"Say {word}\n" in p) for p in prompts]
        turn = self.draws % len(told[0]) if generation_config.do_sample else 0
        self.draws += generation_config.do_sample
        torch.rand(3)
        made = [self.words(answers[turn])["input_ids"] + [self.words.eos_token_id] * self.ends for answers in told]
        longest = max(map(len, made))
        padded = [row + [self.words.pad_token_id] * (longest - len(row)) for row in made]
        return torch.cat([input_ids, torch.tensor(padded)], 1)


WORDS = ["one", "three", "eleven", "seventeen"]
SCRIPT = {
    "one": ["one", "no", "no", "no"],
    "three": ["no", "three", "three", "no"],
    "eleven": ["eleven", "eleven", "eleven", "eleven"],
    "seventeen": ["no", "no", "no", "no"],
}


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_the_report_of_a_known_model(batch: int) -> None:
    words = tokenizer()
    model = Scripted(words, SCRIPT).train()
    settings = EvaluationSettings(size=None, samples=4, k=(1, 2), batch_size=batch)
    before = torch.get_rng_state()
    report = evaluate(model, words, task(WORDS), settings, Sampling(reward_weights=[1.0, 2.0]))
    assert torch.equal(torch.get_rng_state(), before), "sampling took numbers from training"
    assert model.training
    assert report.accuracy.value == 0.5
    assert report.reward.value == pytest.approx(0.5)
    assert report.accuracy.error == pytest.approx(math.sqrt(0.25 / 3))
    # Right among four samples: 1, 2, 4, 0.
    assert report.pass_at[1].value == pytest.approx((1 / 4 + 2 / 4 + 1 + 0) / 4)
    assert report.pass_at[2].value == pytest.approx((3 / 6 + 5 / 6 + 1 + 0) / 4)
    assert report.truncated.value == 0
    assert [a.answer for a in report.answers] == ["one", "no", "eleven", "no"]
    assert report.logged()["eval/pass@2_se"] > 0


def test_unscorable_and_unfinished_answers_are_told_apart() -> None:
    words = tokenizer()
    model = Scripted(words, {"none": ["none"], "one": ["one"]}, ends=False)
    settings = EvaluationSettings(size=None, samples=0, k=())
    report = evaluate(model, words, task(["none", "one"]), settings, Sampling())
    assert (report.accuracy.value, report.truncated.value) == (1.0, 1.0)
    # The mean is over what was scored; one score has no standard error, and what is no number is not logged.
    assert (report.reward.value, report.reward.n) == (pytest.approx(2 / 3), 1)
    assert "eval/reward_se" not in report.logged()
    assert report.pass_at == {}


def test_a_batch_answers_as_each_prompt_alone_would() -> None:
    words = tokenizer()
    torch.manual_seed(0)
    model = tiny.build_model(TinySettings(layers=1, width=16, heads=2), words).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    found = [
        evaluate(model, words, task(WORDS), EvaluationSettings(size=4, samples=0, k=(), batch_size=batch), Sampling(8))
        for batch in (1, 4)
    ]
    assert found[0].answers == found[1].answers
    assert len({a.answer for a in found[0].answers}) > 1


def test_sampled_answers_hang_on_the_seed_of_evaluation_alone() -> None:
    words = tokenizer()
    torch.manual_seed(0)
    model = tiny.build_model(TinySettings(layers=1, width=16, heads=2), words)
    said: list[Any] = []

    def watch(completions: list[str], **columns: Any) -> list[bool]:
        said.append(tuple(completions))
        return [False] * len(completions)

    for seed, state in ((0, 1), (0, 2), (1, 2)):
        torch.manual_seed(state)
        base = task(WORDS)
        own = Task(base.name, base.train, base.evaluation, base.rewards, watch)
        evaluate(model, words, own, EvaluationSettings(size=4, samples=1, k=(1,), seed=seed), Sampling(8))
    greedy, sampled = said[0::2], said[1::2]
    assert len(set(greedy)) == 1
    assert sampled[0] == sampled[1] != sampled[2]


def test_nothing_to_evaluate_is_said() -> None:
    data = task(["one"])
    empty = SimpleNamespace(name="say", evaluation=data.evaluation.select(np.arange(0)))
    with pytest.raises(ValueError, match="empty held-out set of say"):
        evaluate(None, None, empty, EvaluationSettings(), Sampling())  # type: ignore[arg-type]
