"""Evaluation has no loss, and the best model is the one that evaluation scores highest."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import tiny_llm
from helpers.tiny_llm import TargetPOConfig, TargetPOTrainer, arguments
from safetensors.torch import load_file
from transformers import EarlyStoppingCallback

pytestmark = tiny_llm.FILTERS

EVALUATED = {"eval_strategy": "steps", "eval_steps": 1, "per_device_eval_batch_size": 4, "num_generations_eval": 2}
KEPT = {"save_strategy": "steps", "save_steps": 1, "load_best_model_at_end": True}
BY_REWARD = {"metric_for_best_model": "eval_reward"}
# What the policy is worth in each evaluation, whatever it says.
WORTH = [0.1, 0.7, 0.4, 0.6, 0.2, 0.3]


class Scripted:
    """A reward whose mean in the n-th evaluation is known; in training that of every test."""

    __name__ = "scripted"

    def __init__(self) -> None:
        self.trainer: Any = None

    def __call__(self, completions: list[str], **_: Any) -> list[float]:
        if self.trainer is None or self.trainer.model.training:
            return tiny_llm.reward(completions)
        # An evaluation follows each step.
        return [WORTH[self.trainer.state.global_step - 1]] * len(completions)


def trained(folder: Path, steps: int = len(WORTH), callbacks: Any = (), held_out: Any = None, **options: Any) -> Any:
    reward = Scripted()
    settings = arguments(folder, **EVALUATED | {"max_steps": steps, "divide_by_length": False} | options)
    trainer = tiny_llm.build(
        TargetPOTrainer, tiny_llm.model(dtype=torch.float32), reward, settings, tiny_llm.prompts(32),
        tiny_llm.tokenizer(), eval_dataset=held_out or tiny_llm.prompts(2), callbacks=list(callbacks),
    )  # fmt: skip
    reward.trainer = trainer
    trainer.train()
    return trainer


def evaluations(trainer: Any) -> list[dict[str, Any]]:
    return [line for line in trainer.state.log_history if "eval_reward" in line]


def test_evaluation_logs_rewards_entropy_and_no_loss(tmp_path: Path) -> None:
    trainer = trained(tmp_path, steps=2)
    assert [line["eval_reward"] for line in evaluations(trainer)] == pytest.approx(WORTH[:2])
    for line in evaluations(trainer):
        assert "eval_loss" not in line
        assert "eval_entropy" in line
        assert not [name for name in line if "clip_ratio" in name or "policy_loss" in name]
    assert "eval_loss" not in trainer.evaluate()


def test_the_best_model_is_that_of_the_highest_reward(tmp_path: Path) -> None:
    trainer = trained(tmp_path, **KEPT | BY_REWARD)
    assert trainer.args.greater_is_better
    best = 1 + max(range(len(WORTH)), key=WORTH.__getitem__)
    assert trainer.state.best_model_checkpoint == str(tmp_path / f"checkpoint-{best}")
    assert trainer.state.best_metric == pytest.approx(max(WORTH))
    kept = load_file(tmp_path / f"checkpoint-{best}" / "model.safetensors")
    last = load_file(tmp_path / f"checkpoint-{len(WORTH)}" / "model.safetensors")
    own = dict(trainer.model.named_parameters())
    assert all(torch.equal(own[name], x) for name, x in kept.items())
    assert not all(torch.equal(last[name], x) for name, x in kept.items())


@pytest.mark.parametrize(("patience", "end"), [(2, 4), (5, 6)])
def test_early_stopping_waits_for_the_reward(patience: int, end: int, tmp_path: Path) -> None:
    # The best is the second; it is stopped as often after it as there is patience.
    stop = EarlyStoppingCallback(early_stopping_patience=patience)
    trainer = trained(tmp_path, callbacks=[stop], **KEPT | BY_REWARD)
    assert trainer.state.global_step == end
    assert trainer.state.best_global_step == 2


@pytest.mark.parametrize(
    "options",
    [
        {"load_best_model_at_end": True, "save_strategy": "steps", "save_steps": 1},
        {"load_best_model_at_end": True, "save_strategy": "steps", "save_steps": 1, "metric_for_best_model": "loss"},
        {"metric_for_best_model": "eval_loss"},
        {"save_strategy": "best"},
        {"lr_scheduler_type": "reduce_lr_on_plateau"},
    ],
)
def test_a_choice_by_the_loss_is_refused(options: dict[str, Any], tmp_path: Path) -> None:
    given = arguments(tmp_path, **EVALUATED | options)
    with pytest.raises(
        ValueError, match=r"metric_for_best_model: got .*no eval_loss.*'eval_reward'.*greater_is_better"
    ):
        TargetPOConfig(**given)
    assert TargetPOConfig(**given | BY_REWARD).greater_is_better


def test_early_stopping_without_a_metric_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"got None with EarlyStoppingCallback.*'eval_reward'"):
        trained(tmp_path, callbacks=[EarlyStoppingCallback()])


def test_several_sets_choose_no_model(tmp_path: Path) -> None:
    # TRL logs each under the name of the whole, and the last would choose unsaid.
    sets = {"near": tiny_llm.prompts(2), "far": tiny_llm.prompts(2)}
    with pytest.raises(ValueError, match="eval_dataset: got 2 sets with metric_for_best_model='eval_reward'"):
        trained(tmp_path, held_out=sets, **KEPT | BY_REWARD)


def test_a_metric_that_nobody_logs_is_refused_by_the_first_evaluation(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"got 'accuracy', expected one that evaluation logs: .*eval_reward"):
        trained(tmp_path, callbacks=[EarlyStoppingCallback()], metric_for_best_model="accuracy")


def test_the_loss_at_the_policy_that_wrote_the_completions_does_not_know_their_worth() -> None:
    # Why evaluation has none: log K under the ratio, for a good model and for a bad one.
    from tpo_torch.llm import TargetSettings, group_coefficients

    logp = torch.tensor([-40.0, -52.0, -38.5, -47.25]).double()
    losses = [
        float(group_coefficients(logp, logp, torch.tensor(s).double(), torch.zeros(4).long(), TargetSettings())
              .loss)
        for s in ([0, 0, 0, 0], [0, 0, 0, 1], [1, 1, 1, 0], [1, 1, 1, 1])
    ]  # fmt: skip
    assert losses == pytest.approx([math.log(4)] * 4)
