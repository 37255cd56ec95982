"""The arithmetic of batches, against slicing done by hand; and the arguments, which differ from TRL's in two names."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from helpers import tiny_llm
from trl import GRPOConfig

from tpo_torch.llm import TargetPOConfig, TargetPOTrainer, TargetSettings
from tpo_torch.llm.layout import BatchLayout

pytestmark = tiny_llm.FILTERS

SWEEP = [
    dict(
        zip(("num_generations", "per_device", "accumulation", "processes", "steps_per_generation"), values, strict=True)
    )
    for values in itertools.product((2, 3, 4), (1, 2, 3, 4, 6), (1, 2, 3, 4), (1, 2, 3), (None, 1, 2, 3, 4, 6))
]


def steps(
    num_generations: int,
    per_device: int,
    accumulation: int,
    processes: int,
    steps_per_generation: int | None,
    epochs: int,
) -> list[Counter[tuple[int, int]]]:
    """Which (visit of a round, row) each step sees how often, micro-batch by micro-batch as TRL cuts them."""
    slices = steps_per_generation or accumulation
    count = per_device * slices
    seen: list[Counter[tuple[int, int]]] = []
    for micro in range(accumulation * slices * epochs):
        if micro % accumulation == 0:
            seen.append(Counter())
        visit, start = micro // slices, micro % slices * per_device
        for process in range(processes):
            first = process * count + start
            seen[-1].update((visit, row) for row in range(first, first + per_device))
    return seen


def sound(layout: dict[str, Any], epochs: int) -> bool:
    """Whether every step sees whole groups, each completion once, on the same visit or born before the same step."""
    k, slices = layout["num_generations"], layout["steps_per_generation"] or layout["accumulation"]
    generated = layout["processes"] * layout["per_device"] * slices
    if generated % k:
        return False
    for step in steps(**layout, epochs=epochs):
        groups = Counter((visit, row // k) for visit, row in step)
        visits = {visit for visit, _ in step}
        rounds = {visit // epochs for visit in visits}
        born = {number * slices * epochs // layout["accumulation"] for number in rounds}
        if set(groups.values()) != {k} or len(born) > 1 or len(visits) > len(rounds):
            return False
    return True


def refusal(layout: dict[str, Any], epochs: int) -> str | None:
    try:
        BatchLayout(**layout, num_iterations=epochs)
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_layout_is_taken_exactly_when_slicing_by_hand_is_sound(epochs: int) -> None:
    taken = 0
    for layout in SWEEP:
        message = refusal(layout, epochs)
        taken += message is None
        assert (message is None) == sound(layout, epochs), (layout, message)
    assert 0 < taken < len(SWEEP)


def test_the_layout_that_a_refusal_suggests_is_taken() -> None:
    refused = 0
    for layout, epochs in itertools.product(SWEEP, (1, 2)):
        message = refusal(layout, epochs)
        if message is None:
            continue
        refused += 1
        found = re.search(
            r"\nThis works: per_device_train_batch_size=(\d+), gradient_accumulation_steps=(\d+)"
            r"(, steps_per_generation and generation_batch_size left out)? \((\d+) prompts? per round\)$",
            message,
        )
        assert found, message
        changed = {"per_device": int(found[1]), "accumulation": int(found[2])}
        if found[3]:
            changed["steps_per_generation"] = None
        works = BatchLayout(**layout | changed, num_iterations=epochs)
        assert works.prompts == int(found[4])
        # Rows that did not fit before are not asked for.
        assert works.per_device <= layout["per_device"]
    assert refused > 0


def test_a_layout_knows_its_sums() -> None:
    for layout in SWEEP:
        if refusal(layout, 1) is not None:
            continue
        made = BatchLayout(**layout)
        seen = steps(**layout, epochs=1)
        first = {row for step in seen for visit, row in step if visit == 0}
        assert made.generated == len(first) == made.prompts * made.num_generations
        assert made.one_step == any(first <= {row for visit, row in step if visit == 0} for step in seen)
        starts = range(0, made.generated, made.per_device)
        groups = [Counter(row // made.num_generations for row in range(i, i + made.per_device)) for i in starts]
        assert made.whole == all(set(counts.values()) == {made.num_generations} for counts in groups)
        if made.slices >= made.accumulation:
            assert not BatchLayout(**layout, num_iterations=2).one_step


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        ((8, 8, 2, 1), "1 process x 2 micro-batches x 8 rows = 16 completions per round of generation = 2 prompts x 8, "
         "one optimizer step; whole groups in a micro-batch"),
        ((4, 2, 2, 3, 4, 2), "3 processes x 4 micro-batches x 2 rows = 24 completions per round of generation = 6 "
         "prompts x 4, 4 optimizer steps; groups over several micro-batches"),
    ],
)  # fmt: skip
def test_a_layout_is_described_in_one_line(layout: tuple[int, ...], words: str) -> None:
    assert BatchLayout(*layout).describe() == words


@pytest.mark.parametrize("name", ["num_generations", "per_device", "accumulation", "processes", "num_iterations"])
def test_numbers_that_count_nothing_are_refused(name: str) -> None:
    good = {"num_generations": 2, "per_device": 2, "accumulation": 1, "processes": 1, "steps_per_generation": 1}
    for value, error in ((0, ValueError), (-1, ValueError), (1.5, TypeError), (None, TypeError), (True, TypeError)):
        with pytest.raises(error, match=name):
            BatchLayout(**good | {name: value})
    for value, error in ((0, ValueError), (1.5, TypeError)):
        with pytest.raises(error, match="steps_per_generation"):
            BatchLayout(**good | {"steps_per_generation": value})
    with pytest.raises(ValueError, match="num_generations: got 1, expected 2 or more"):
        BatchLayout(**good | {"num_generations": 1})


# -- the arguments ----------------------------------------------------------------------------------------------------


def test_without_scaling_is_refused_too(tmp_path: Path) -> None:
    for value in (False, "none"):
        with pytest.raises(ValueError, match="scale_rewards"):
            TargetPOConfig(**tiny_llm.arguments(tmp_path, scale_rewards=value))
    assert TargetPOConfig(**tiny_llm.arguments(tmp_path, scale_rewards=True)).scale_rewards == "group"


@pytest.mark.parametrize(
    ("name", "value"),
    [("anchor", "ration"), ("zero_variance", "skip"), ("eta", 0.0), ("tau", -1.0), ("anchor_temperature", -2.0)],
)
def test_settings_of_the_target_are_checked(name: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=name):
        TargetPOConfig(**tiny_llm.arguments(tmp_path, **{name: value}))


def test_settings_of_the_target_are_passed_on(tmp_path: Path) -> None:
    given = {"anchor": "length", "eta": 2.0, "tau": 0.5, "zero_variance": "weight", "zero_variance_weight": 0.1}
    assert TargetPOConfig(**tiny_llm.arguments(tmp_path, **given)).target == TargetSettings(**given)
    assert TargetPOConfig(**tiny_llm.arguments(tmp_path)).target == TargetSettings()


def test_torn_groups_are_refused_before_anything_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ValueError, match=r"= 6 completions per round of generation: no whole groups of 4\.\nThis works"
    ):
        TargetPOConfig(**tiny_llm.arguments(tmp_path, per_device_train_batch_size=6))
    # A launcher says how many processes there are.
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ValueError, match="3 processes x 1 micro-batch x 2 rows = 6 completions"):
        TargetPOConfig(**tiny_llm.arguments(tmp_path, per_device_train_batch_size=2))


def test_a_round_may_be_given_as_a_number_of_completions(tmp_path: Path) -> None:
    made = TargetPOConfig(**tiny_llm.arguments(tmp_path, generation_batch_size=16))
    assert (made.layout.slices, made.layout.generated, made.steps_per_generation) == (2, 16, 2)
    with pytest.raises(ValueError, match="generation_batch_size: got 12, expected a multiple of 8"):
        TargetPOConfig(**tiny_llm.arguments(tmp_path, generation_batch_size=12))


# -- the drop-in ------------------------------------------------------------------------------------------------------

SCRIPT = """
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

def reward_func(completions, **kwargs):
    return [float(len(set(text))) for text in completions]

config = GRPOConfig(
    output_dir=folder, per_device_train_batch_size=4, gradient_accumulation_steps=2, num_generations=4,
    max_completion_length=5, learning_rate=1e-3, max_steps=2, logging_steps=1, report_to="none", use_cpu=True,
    bf16=False, save_strategy="no", disable_tqdm=True, temperature=0.9, beta=0.0, seed=1,
)
trainer = GRPOTrainer(
    model=model, reward_funcs=reward_func, args=config,
    train_dataset=Dataset.from_dict({"prompt": ["a b", "c d", "e f", "g"]}), processing_class=tokenizer,
)
trainer.train()
"""


@pytest.mark.parametrize("ours", [False, True])
def test_a_script_of_trl_runs_with_two_names_changed(ours: bool, tmp_path: Path) -> None:
    changed = SCRIPT.replace("GRPOTrainer", "TargetPOTrainer").replace("GRPOConfig", "TargetPOConfig")
    changed = changed.replace("from trl import", "from tpo_torch.llm import")
    names: dict[str, Any] = {
        "folder": str(tmp_path), "model": tiny_llm.model(), "tokenizer": tiny_llm.tokenizer()
    }  # fmt: skip
    exec(changed if ours else SCRIPT, names)
    last = names["trainer"].state.log_history[-2]
    assert names["trainer"].state.global_step == 2
    assert ("tpo/cross_entropy" in last) == ours
    assert isinstance(names["trainer"], TargetPOTrainer) == ours
    assert isinstance(names["config"], GRPOConfig)
