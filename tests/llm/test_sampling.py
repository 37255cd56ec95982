"""Completions of training and evaluation are drawn as the settings say, whatever the model's folder says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from datasets import Dataset
from helpers import tiny_llm
from helpers.tiny_llm import TargetPOConfig, TargetPOTrainer, arguments, cut
from peft import LoraConfig, get_peft_model

from tpo_torch.llm import ResumableGRPOTrainer
from tpo_torch.llm.program import tiny
from tpo_torch.llm.program.evaluation.evaluate import Sampling, evaluate
from tpo_torch.llm.program.settings.sections import EvaluationSettings, TinySettings
from tpo_torch.llm.sampling import as_named, inherited
from tpo_torch.llm.tasks import Task

pytestmark = [*tiny_llm.FILTERS, pytest.mark.filterwarnings("ignore:the model's generation_config has:UserWarning")]

# What a folder may say, each of which changes what is written.
SAID: dict[str, Any] = {
    "repetition_penalty": 1.3,
    "num_beams": 2,
    "forced_eos_token_id": 5,
    "suppress_tokens": [2, 3, 4],
    "no_repeat_ngram_size": 1,
    "min_p": 0.9,
    "temperature": 0.1,
    "top_k": 1,
    "min_new_tokens": 6,
}
LENGTH = 6


def folder(path: Path, **said: Any) -> str:
    model = tiny_llm.model(dtype=torch.float32)
    for name, value in said.items():
        setattr(model.generation_config, name, value)
    model.generation_config.do_sample = True
    model.save_pretrained(path)
    tiny_llm.tokenizer().save_pretrained(path)
    assert said.items() <= json.loads((path / "generation_config.json").read_text(encoding="utf-8")).items()
    return str(path)


def written(where: Path, kind: Any, policy: Any, **options: Any) -> list[Any]:
    """Completions of a step of training."""
    seen: list[Any] = []
    plain = kind._generate_single_turn

    class Noted(kind):  # type: ignore[misc]
        def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
            made = plain(self, *args, **kwargs)
            seen.append(made[0])
            return made

    given = cut(8, max_steps=1) | {"max_completion_length": LENGTH} | options
    tiny_llm.train(where, policy, Noted, **given)
    return seen


def lora() -> LoraConfig:
    return LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj"])


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("kind", [TargetPOTrainer, ResumableGRPOTrainer])
def test_training_draws_as_its_settings_say(kind: Any, adapted: bool, tmp_path: Path) -> None:
    plain, loud = (
        written(
            tmp_path / name,
            kind,
            folder(tmp_path / name / "model", **said),
            **{"peft_config": lora()} if adapted else {},
        )
        for name, said in (("plain", {}), ("loud", SAID))
    )
    assert plain == loud
    assert any(len(row) < LENGTH for row in plain[0])


def test_what_a_folder_says_is_used_where_the_settings_say_it(tmp_path: Path) -> None:
    loud = folder(tmp_path / "loud", **SAID)
    said = written(tmp_path / "a", TargetPOTrainer, loud, generation_kwargs={"suppress_tokens": [2, 3, 4, 1]})
    tokens = {token for row in said[0] for token in row}
    assert tokens
    assert not tokens & {1, 2, 3, 4}


@pytest.mark.filterwarnings("error")
def test_what_is_left_out_is_named_once(tmp_path: Path) -> None:
    def build(path: str) -> Any:
        # The name of a class that transformers deprecates is none of this test's.
        given = arguments(tmp_path / "run", model_init_kwargs={"dtype": "float32"})
        return tiny_llm.build(TargetPOTrainer, path, tiny_llm.reward, given, tiny_llm.prompts(), tiny_llm.tokenizer())

    with pytest.warns(UserWarning, match="generation_config has .*num_beams=2.*which training does not use") as said:
        build(folder(tmp_path / "loud", num_beams=2, temperature=0.1))
    # TRL names the temperature itself.
    assert not any("temperature" in str(x.message) for x in said)
    build(folder(tmp_path / "plain", temperature=0.1, top_k=1, top_p=0.5))


def test_a_models_own_settings_come_back_and_only_its_tokens_count_inside() -> None:
    for model in (tiny_llm.model(), get_peft_model(tiny_llm.model(), lora())):
        own = model.generation_config
        own.num_beams, own.eos_token_id = 3, [1, 4]
        with as_named(model):
            assert model.generation_config.num_beams is None
            assert model.generation_config.eos_token_id == [1, 4]
            assert inherited(model, transformers.GenerationConfig()) == {}
        assert model.generation_config is own


def answers(said: dict[str, Any], sampling: Sampling) -> tuple[list[str], list[Any]]:
    """Greedy answers to four words, and all sampled ones."""
    words = tiny.build_tokenizer([([{"role": "user", "content": "Say"}], "no")], 300)
    torch.manual_seed(0)
    model = tiny.build_model(TinySettings(layers=1, width=16, heads=2), words)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=1.0)
    for name, value in said.items():
        setattr(model.generation_config, name, value)
    seen: list[Any] = []

    def watch(completions: list[str], **columns: Any) -> list[bool]:
        seen.append(tuple(completions))
        return [False] * len(completions)

    data = Dataset.from_list([{"prompt": [{"role": "user", "content": f"Say {i}"}]} for i in range(4)])
    train = Dataset.from_list([{"prompt": [{"role": "user", "content": "Say nothing"}]}])
    task = Task("say", train, data, (lambda completions, **_: [0.0] * len(completions),), watch)
    report = evaluate(model, words, task, EvaluationSettings(size=4, samples=2, k=(1,)), sampling)
    return [answer.answer for answer in report.answers], seen[1:]


@pytest.mark.parametrize("name", SAID)
def test_evaluation_takes_nothing_that_it_does_not_name(name: str) -> None:
    assert answers({name: SAID[name]}, Sampling(8)) == answers({}, Sampling(8))


@pytest.mark.parametrize(
    "change", [{"min_p": 0.9}, {"repetition_penalty": 9.0}, {"generation_kwargs": {"suppress_tokens": [*range(2, 40)]}}]
)
def test_evaluation_samples_as_training_does(change: dict[str, Any]) -> None:
    plain, changed = answers({}, Sampling(8)), answers({}, Sampling(8, **change))
    # Greedy answers are of the policy alone.
    assert changed[0] == plain[0]
    assert changed[1] != plain[1]
    assert changed == answers(SAID, Sampling(8, **change))


def test_the_sampling_of_a_trainers_arguments(tmp_path: Path) -> None:
    assert Sampling.from_arguments(TargetPOConfig(**arguments(tmp_path, max_completion_length=256))) == Sampling()
    given = {"temperature": 0.7, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "repetition_penalty": 1.2}
    made = Sampling.from_arguments(TargetPOConfig(**arguments(tmp_path, generation_kwargs={"num_beams": 1}, **given)))
    assert made.distribution() == given | {"num_beams": 1}
