"""Two processes give the gradient, the figures and the weights of one: groups whole on a process or spread over both.

The same under FSDP2, every weight in two shards.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import llm_worker
from safetensors.torch import load_file

# As close as sums of doubles in another order come; and where padding differs, which shifts positions, whose rotary
# factors transformers computes in single precision.
CLOSE, SHIFTED = 1e-10, 1e-6
TIMES = ("step_time", "train_runtime", "train_samples_per_second", "train_steps_per_second", "total_flos")

# Batches of two processes, then what one process needs for the same optimizer steps on the same completions.
MOVING = {"steps_per_generation": 4, "num_iterations": 2, "max_steps": 5}
# Two processes cut a round in two halves, and each half into steps: the first step sees the first group of each half.
IN_ORDER = list(range(8))
HALVES = [0, 2, 1, 3, 4, 6, 5, 7]
LAYOUTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "whole groups in each micro-batch": ({"per_device_train_batch_size": 4}, {"per_device_train_batch_size": 8}),
    "other padding on each process": (
        {"per_device_train_batch_size": 4, "pad_to_multiple_of": None},
        {"per_device_train_batch_size": 8, "pad_to_multiple_of": None},
    ),
    "each group over both processes": ({"per_device_train_batch_size": 2}, {"per_device_train_batch_size": 4}),
    "one group of three over both processes": (
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 3},
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 6},
    ),
    "shuffled rows": (
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 3, "shuffle_rows": True},
        {"per_device_train_batch_size": 12},
    ),
    "entropy bonus": (
        {
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 3,
            "entropy_coef": 0.5,
            "divide_by_length": True,
        },
        {"per_device_train_batch_size": 12, "entropy_coef": 0.5, "divide_by_length": True},
    ),
    "two rounds in one step": (
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "steps_per_generation": 1},
        {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "steps_per_generation": 1},
    ),
    "several steps, whole groups": (
        {"per_device_train_batch_size": 4, "steps_per_generation": 2, "num_iterations": 2, "max_steps": 5},
        {"per_device_train_batch_size": 8, "steps_per_generation": 2, "num_iterations": 2, "max_steps": 5},
    ),
} | {
    f"several steps, {anchor}": (
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "anchor": anchor} | MOVING,
        {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "anchor": anchor} | MOVING,
    )
    for anchor in ("policy", "ratio", "length", "tempered")
}
SHARDED = ["whole groups in each micro-batch", "shuffled rows", "several steps, policy"]
EXTRA = {"max_steps": 2, "anchor_temperature": 3.0, "pad_to_multiple_of": 8}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """All layouts on one process, on two, and on two with the weights in shards."""
    where = tmp_path_factory.mktemp("trained")
    one = {
        name: {"order": HALVES if "several" in name else IN_ORDER} | EXTRA | layout
        for name, (_, layout) in LAYOUTS.items()
    }
    two = {name: {"order": IN_ORDER} | EXTRA | layout for name, (layout, _) in LAYOUTS.items()}
    shards = {name: two[name] | {"sharded": True} for name in SHARDED}
    jobs = [
        llm_worker.start(where / "two", "layouts", 2, cases=two),
        llm_worker.start(where / "one", "layouts", 1, cases=one),
        llm_worker.start(where / "shards", "layouts", 2, cases=shards),
    ]
    for job in jobs:
        job.wait().fine()
    return {job.folder.name: job.folder for job in jobs}


def history(path: Path) -> list[dict[str, Any]]:
    """What was logged, without what a clock measured."""
    lines = json.loads(path.read_text(encoding="utf-8"))
    return [{name: math.nan if x is None else x for name, x in line.items() if name not in TIMES} for line in lines]


EITHER = [("two", name) for name in LAYOUTS] + [("shards", name) for name in SHARDED]


@pytest.mark.paper("Prop. 1")
@pytest.mark.parametrize(("how", "name"), EITHER)
def test_two_processes_have_the_gradient_of_one(trained: dict[str, Path], how: str, name: str) -> None:
    one, two = (load_file(trained[which] / f"{name}.safetensors") for which in ("one", how))
    assert one.keys() == two.keys()
    close = SHIFTED if "padding" in name else CLOSE
    for key, expected in one.items():
        torch.testing.assert_close(two[key], expected, rtol=close, atol=close, msg=key)
    assert max(float(x.abs().max()) for key, x in one.items() if key.startswith("0.")) > CLOSE**0.5


@pytest.mark.parametrize(("how", "name"), EITHER)
def test_two_processes_log_the_figures_of_one(trained: dict[str, Path], how: str, name: str) -> None:
    one, two = (history(trained[which] / f"{name}.json") for which in ("one", how))
    assert len(one) == len(two) > 1
    for expected, found in zip(one, two, strict=True):
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-6, nan_ok=True)


def test_a_reward_function_that_raises_on_one_process_ends_all(tmp_path: Path) -> None:
    ended = llm_worker.start(tmp_path / "failing", "failing", 2, rank=1).wait()
    assert ended.codes == [llm_worker.FAILED] * 2
    for said in ended.said:
        assert "RewardError: at optimizer step 1, process 1: reward function 'reward': ZeroDivisionError" in said
