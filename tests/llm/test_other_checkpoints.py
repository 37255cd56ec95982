"""What cannot be resumed from says what is missing and how to use its weights; a changed layout, how to go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import tiny_llm
from helpers.tiny_llm import TargetPOTrainer, arguments, cut
from peft import LoraConfig
from trl import GRPOTrainer

from tpo_torch.llm import ResumableGRPOTrainer, checkpoints

pytestmark = tiny_llm.FILTERS

SAVED = cut(4, 2, save_strategy="steps", save_steps=1, max_steps=1)


def trainer(folder: Path, kind: Any = TargetPOTrainer, policy: Any = None, peft: Any = None, **options: Any) -> Any:
    policy = tiny_llm.model(dtype=torch.float32) if policy is None else policy
    given = arguments(folder, **SAVED | options)
    others = {} if peft is None else {"peft_config": peft}
    return tiny_llm.build(kind, policy, tiny_llm.reward, given, tiny_llm.prompts(8), tiny_llm.tokenizer(), **others)


def checkpoint(folder: Path, kind: Any = TargetPOTrainer, **options: Any) -> Path:
    trainer(folder, kind, **options).train()
    return folder / "checkpoint-1"


@pytest.mark.parametrize("kind", [TargetPOTrainer, ResumableGRPOTrainer])
def test_weights_alone_are_refused_and_begin_a_new_run(kind: Any, tmp_path: Path) -> None:
    saved = checkpoint(tmp_path / "a", kind, save_only_model=True)
    begin = rf"without optimizer state, schedule, random state, exact state, as save_only_model.*model='{saved}'"
    with pytest.raises(ValueError, match=begin):
        trainer(tmp_path / "b", kind).train(resume_from_checkpoint=str(saved))
    again = trainer(tmp_path / "b", kind, str(saved), model_init_kwargs={"dtype": "float32"})
    assert again.train().global_step == 1


def test_a_checkpoint_of_trls_own_trainer_begins_a_new_run_of_tpo(tmp_path: Path) -> None:
    saved = checkpoint(tmp_path / "a", GRPOTrainer)
    begin = rf"without exact state, so of another trainer than Target Policy Optimization: .*model='{saved}'"
    with pytest.raises(ValueError, match=begin):
        trainer(tmp_path / "b").train(resume_from_checkpoint=saved)
    assert trainer(tmp_path / "b", policy=str(saved), model_init_kwargs={"dtype": "float32"}).train().global_step == 1
    # Of the same method, it goes on.
    with pytest.warns(UserWarning, match="made without exact state; completions in flight are lost"):
        assert trainer(tmp_path / "c", ResumableGRPOTrainer, max_steps=2).train(saved).global_step == 2


def test_another_method_is_refused_and_begins_a_new_run(tmp_path: Path) -> None:
    saved = checkpoint(tmp_path / "a", ResumableGRPOTrainer)
    with pytest.raises(ValueError, match=rf"got a checkpoint of GRPO, expected one of Target.*pass model='{saved}'"):
        trainer(tmp_path / "b").train(resume_from_checkpoint=saved)


def test_an_adapter_is_loaded_by_peft(tmp_path: Path) -> None:
    peft = LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj"])
    saved = checkpoint(tmp_path / "a", save_only_model=True, peft=peft)
    with pytest.raises(ValueError, match=r"adapter, pass model=peft\.AutoPeftModel.*is_trainable=True.*no peft_config"):
        trainer(tmp_path / "b", peft=peft).train(resume_from_checkpoint=saved)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (cut(8), r"\(per_device_train_batch_size 4 -> 8, .*To go on, set per_device_train_batch_size=4, grad"),
        ({"num_generations": 8}, r"num_generations 4 -> 8.*To go on, set num_generations=4"),
        ({"gradient_accumulation_steps": 4, "num_generations": 2}, r"set gradient_accumulation_steps=2, .*ions=4\."),
    ],
)
def test_another_layout_names_the_way_on(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    saved = checkpoint(tmp_path / "a")
    with pytest.raises(ValueError, match=rf"{says}.*To start a new run from its weights, pass model="):
        trainer(tmp_path / "b", **change | {"max_steps": 2}).train(resume_from_checkpoint=saved)


def test_another_number_of_processes_names_the_way_on(tmp_path: Path) -> None:
    saved, run = checkpoint(tmp_path / "a"), trainer(tmp_path / "b")
    elsewhere = checkpoints.layout(run.args) | {"world_size": 4}
    with pytest.raises(ValueError, match=r"world_size 1 -> 4.*start as many processes as then .*--num_processes 1\)"):
        checkpoints.check(saved, elsewhere, run._name, exact_only=True)


@pytest.mark.parametrize("kind", [TargetPOTrainer, ResumableGRPOTrainer])
def test_train_takes_what_transformers_takes(kind: Any, tmp_path: Path) -> None:
    run = trainer(tmp_path, kind)
    for args, kwargs in (((None, None), {}), ((None, None, []), {}), ((), {"trial": None}), ((False,), {})):
        assert run.train(*args, **kwargs).global_step == 1
    saved = str(tmp_path / "checkpoint-1")
    assert trainer(tmp_path, kind, max_steps=2).train(saved, None).global_step == 2
    assert trainer(tmp_path, kind, max_steps=3).train(True, trial=None).global_step == 3
