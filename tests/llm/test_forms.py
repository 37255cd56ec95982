"""Scales and divergences in the trainer: what they train, what is logged of them, and what rewards they refuse."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import tiny_llm

from tpo_torch.llm.target import DIVERGENCES, SCALES

pytestmark = tiny_llm.FILTERS

# On the samples of an unmoved policy the ratio form needs no log-probability: the gradient is a sum over the rewards.
RATIO = {"anchor": "ratio"}


def graded(completions: list[str], **_: Any) -> list[float]:
    """Rewards that differ within and between groups, the first group's ten times as far apart."""
    return [(10.0 if i < 4 else 1.0) * (i % 4) for i in range(len(completions))]


def logged(folder: Path, **options: Any) -> dict[str, Any]:
    trainer, _ = tiny_llm.train(folder, **options)
    line: dict[str, Any] = trainer.state.log_history[0]
    return line


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("scale", SCALES)
def test_every_form_trains_and_logs_its_loss(tmp_path: Path, scale: str, divergence: str) -> None:
    policy = tiny_llm.model()
    before = tiny_llm.weights(policy)
    options = {"score_scale": scale, "divergence": divergence, "reward_funcs": graded, "num_iterations": 2}
    trainer, _ = tiny_llm.train(tmp_path, policy, **(RATIO | options | {"max_steps": 2}))
    assert any(not torch.equal(before[name], x) for name, x in tiny_llm.weights(policy).items())
    for line in trainer.state.log_history[:2]:
        name = {"forward": "tpo/cross_entropy", "reverse": "tpo/reverse_kl"}[divergence]
        assert line["loss"] == pytest.approx(line[name])
        assert len([key for key in line if key in ("tpo/cross_entropy", "tpo/reverse_kl")]) == 1


def test_a_tenfold_reward_is_heard_by_the_scale_none_alone(tmp_path: Path) -> None:
    def first_group(scale: str) -> float:
        return logged(tmp_path / scale, **RATIO, score_scale=scale, reward_funcs=graded)["tpo/target_entropy"]

    # Rewards 0 to 3 and 0 to 30: under group_std both groups have the same target.
    assert first_group("none") < first_group("group_std") < math.log(4)


def test_a_negative_reward_stops_a_run_that_divides_by_the_mean(tmp_path: Path) -> None:
    def negative(completions: list[str], **_: Any) -> list[float]:
        return [-float(i) for i in range(len(completions))]

    with pytest.raises(ValueError, match="reward: got -7, expected none below 0 under score_scale 'group_mean'"):
        tiny_llm.train(tmp_path, score_scale="group_mean", reward_funcs=negative)
