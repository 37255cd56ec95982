"""Numbers outside the range of their field are refused by both doors, in the same words, before any work."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import tiny_llm
from hypothesis import given
from hypothesis import strategies as st

from tpo_ref.study.cli import commands as cli
from tpo_torch.llm import ranges
from tpo_torch.llm.fields import COMPUTED, NONE
from tpo_torch.llm.program import plan
from tpo_torch.llm.program.settings import reading, upstream
from tpo_torch.llm.program.settings.fields import FIXED_FIELDS
from tpo_torch.llm.ranges import Range
from tpo_torch.llm.source import folder_of

pytestmark = tiny_llm.FILTERS
FIELDS = upstream.fields_of(upstream.TPO_CONFIG)
NUMBERS = {
    name: kinds
    for name, field in FIELDS.items()
    if (kinds := set(field.type.simple) - {NONE}) and kinds <= {int, float} and not field.type.more
}
# What TargetSettings checks, in words of its own.
TARGET = {"eta", "tau", "anchor_temperature", "zero_variance_weight"}
# Where any finite number means something.
FREE = {"entropy_coef_min", "entropy_coef_max", "entropy_coef_delta", "entropy_target", "entropy_coef", "local_rank"}


def test_every_number_has_a_range() -> None:
    refused = {name for name in NUMBERS if name not in ranges.TRAINER} - TARGET - FREE
    from tpo_torch.llm.options import REFUSED_OPTIONS

    assert refused <= set(REFUSED_OPTIONS), "say in ranges.TRAINER what these may hold"
    assert set(ranges.TRAINER) <= set(FIELDS) | {"warmup_ratio"}


def outside() -> Iterator[tuple[str, object]]:
    for name in NUMBERS:
        allowed = ranges.TRAINER.get(name, Range())
        bad: list[object] = [math.nan, math.inf, -math.inf] if float in NUMBERS[name] else [10**400]
        if allowed.least > -math.inf:
            bad += [-2 if NUMBERS[name] == {int} else allowed.least - 0.5]
        if allowed.open_least:
            bad += [0]
        if allowed.most < math.inf:
            bad += [int(allowed.most) + 1]
        yield from ((name, value) for value in bad)


@pytest.mark.parametrize(("name", "value"), list(outside()))
def test_a_number_out_of_range_is_refused_by_both_doors(name: str, value: object, tmp_path: Path) -> None:
    from tpo_torch.llm import TargetPOConfig

    with pytest.raises((ValueError, TypeError), match=rf"^{name}: got "):
        # Without evaluation, the steps between two mean nothing.
        TargetPOConfig(output_dir=str(tmp_path), use_cpu=True, report_to="none", eval_strategy="steps", **{name: value})
    if name not in {*FIXED_FIELDS, "eval_steps"} and not (isinstance(value, int) and value > 10**300):
        with pytest.raises((ValueError, TypeError), match=rf"^(trainer\.)?{name}: got "):
            plan.prepare(reading.load("tiny", [f"trainer.{name}={written(value)}"]), tmp_path)
    assert not any(tmp_path.iterdir())


def written(value: object) -> str:
    """A number as YAML says it."""
    return {"nan": ".nan", "inf": ".inf", "-inf": "-.inf"}.get(repr(value), repr(value))


@pytest.mark.parametrize("method", ["tpo", "grpo"])
@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("prompts=100000000000000", "prompts: got 100000000000000, expected at least 1 and at most"),
        ("prompts=2147483647", "17179869176 rows cannot be cut into micro-batches of 64"),
        ("seed=4294967296", "seed: got 4294967296, expected at least 0 and at most 4294967295"),
        ("evaluation.seed=99999999999999", "evaluation.seed: got"),
        ("evaluation.every=0", "evaluation.every: got 0"),
        ("tiny.width=99999999999999", "tiny.width: got"),
        ("warmup.learning_rate=.inf", "warmup.learning_rate: got inf"),
        ("trainer.reward_weights=[.nan]", "trainer.reward_weights: got nan"),
        ("lora={r: 0}", "lora.r: got 0"),
        ("prompts=4000", "prompts: got 4000 an optimizer step, but graph_color has 400 to train on"),
        ("task_options.train_size=-1", "task_options.train_size: got -1"),
        ("task_options.eval_size=100000000000000", "task_options.eval_size: got 100000000000000"),
        ("trainer.report_to=wandbb", "trainer.report_to: got 'wandbb', did you mean 'wandb'"),
        ("trainer.optim=adamww", "trainer.optim: got 'adamww', did you mean"),
        ("trainer.lr_scheduler_type=cosin", "trainer.lr_scheduler_type: got 'cosin', did you mean 'cosine'"),
        ("trainer.save_strategy=never", "trainer.save_strategy: got 'never', expected one of no, steps, epoch, best"),
        ("trainer.vllm_mode=severr", "trainer.vllm_mode: got 'severr', did you mean 'server'"),
        ("trainer={bf16: true, fp16: true}", "trainer.bf16: got true, and trainer.fp16: got true"),
        ("trainer.dataloader_persistent_workers=true", "set trainer.dataloader_num_workers, or leave it out"),
        (f"name={'a' * 300}", "name: got 300 bytes, expected at most 180"),
    ],
)
def test_a_value_that_cannot_be_is_refused_at_once(
    override: str, says: str, method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = time.process_time()
    code = cli.run(["train", "tiny", "--method", method, "--out", str(tmp_path), override, "--dry-run"])
    said = capsys.readouterr()
    assert code == 2
    assert says in said.err
    assert len(said.err.splitlines()) <= 2
    # Processor time of this process: not how long others kept it waiting.
    assert time.process_time() - start < 1.0
    assert not any(tmp_path.iterdir())


def test_steps_between_what_does_not_happen_may_be_none(tmp_path: Path) -> None:
    from tpo_torch.llm import TargetPOConfig

    off = {f"{what}_strategy": "no" for what in ("logging", "save", "eval")} | {"logging_steps": 0, "save_steps": 0}
    assert TargetPOConfig(output_dir=str(tmp_path), use_cpu=True, report_to="none", **off).logging_steps == 0


@pytest.mark.parametrize("name", ranges.WORDS)
def test_the_words_that_trl_looks_at_late_are_those_of_its_source(name: str) -> None:
    text = (folder_of("trl") / "trainer" / "grpo_trainer.py").read_text(encoding="utf-8")
    compared = re.findall(rf"\b{name} (?:==|!=|in|not in) (\[[^]]*\]|\"\w+\")", text)
    words = {word for each in compared for word in re.findall(r'"(\w+)"', each)}
    assert words <= set(ranges.WORDS[name])
    assert len(words) >= min(2, len(ranges.WORDS[name])) - (name == "vllm_mode")
    assert FIELDS[name].default in (*ranges.WORDS[name], COMPUTED)


@given(st.integers(1, 5000), st.integers(1, 80))
def test_the_largest_divisor_is_the_largest(number: int, most: int) -> None:
    by_trial = max(size for size in range(1, number + 1) if number % size == 0 and size <= most)
    assert plan._largest_divisor(number, most) == by_trial


def test_a_misspelt_value_is_said_where_another_run_lies(tmp_path: Path) -> None:
    settings = reading.load("tiny", ["model=tiny"])
    made = plan.prepare(settings, tmp_path)
    made.folder.begin(made.settings, "", fresh=False)
    made.folder.log([{"loss": 1.0}])
    with pytest.raises(ValueError, match="with other settings"):
        plan.prepare(reading.load("tiny", ["trainer.max_steps=3"]), tmp_path)
    for wrong, says in {"task=gsm9k": "task: got 'gsm9k'", "tpo.anchor=polcy": "anchor: got 'polcy'"}.items():
        with pytest.raises((ValueError, TypeError), match=says):
            plan.prepare(reading.load("tiny", [wrong]), tmp_path)


@pytest.mark.parametrize("method", ["tpo", "grpo"])
def test_an_adapter_that_does_not_fit_is_refused_before_the_warm_up(
    method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["lora={r: 2, target_modules: [nothere]}", "--method", method, "--out", str(tmp_path / "out")]
    assert cli.run(["train", "tiny", *tiny_llm.MICRO, *words]) == 2
    assert "lora.target_modules: got ['nothere']; Target modules" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["llm"]
