"""A configuration of GRPO run as TPO and back, in TRL's words and in ours; what is left out is said."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import tiny_llm

from tpo_ref.study.cli import commands as cli
from tpo_torch.llm.program import plan
from tpo_torch.llm.program.curves import _style
from tpo_torch.llm.program.run import build_arguments
from tpo_torch.llm.program.settings import reading, upstream
from tpo_torch.llm.program.settings.sections import RunSettings
from tpo_torch.llm.program.settings.trl_file import LEFT_OUT, LORA, LORA_DEFAULTS

pytestmark = tiny_llm.FILTERS

# As for `trl grpo --config`: what TRL's own documentation shows, with a data set that is a task here.
FLAT: dict[str, Any] = {
    "model_name_or_path": "Qwen/Qwen3-1.7B",
    "dataset_name": "openai/gsm8k",
    "reward_funcs": ["accuracy_reward"],
    "output_dir": "grpo-out",
    "learning_rate": 1e-6,
    "num_generations": 8,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 4,
    "beta": 0.04,
    "epsilon": 0.3,
    "loss_type": "dapo",
    "scale_rewards": "batch",
    "use_peft": True,
    "lora_r": 8,
    "lora_alpha": 16,
    "lora_dropout": 0.1,
    "lora_target_modules": ["q_proj"],
    "dtype": "bfloat16",
    "seed": 3,
}


def written(folder: Path, content: Any, name: str = "mine") -> str:
    path = folder / f"{name}.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return str(path)


def said(settings: RunSettings) -> dict[str, str]:
    """What became of each name."""
    return {change.name: change.became for change in settings.changes}


# -- in TRL's words -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [None, "tpo", "lpo"])
def test_a_file_of_trls_trains_by_tpo_and_says_what_it_leaves_out(method: str | None, tmp_path: Path) -> None:
    settings = reading.load(written(tmp_path, FLAT), method=method)
    assert (settings.name, settings.model, settings.task, settings.seed) == ("mine", "Qwen/Qwen3-1.7B", "gsm8k", 3)
    assert settings.folder == f"mine-{method or 'tpo'}-seed3"
    assert settings.prompts == 2
    assert settings.trainer == {
        "learning_rate": 1e-6,
        "num_generations": 8,
        "per_device_train_batch_size": 4,
        "beta": 0.04,
        "model_init_kwargs": {"dtype": "bfloat16"},
    }
    assert settings.tpo == {"score_scale": "batch_std"}
    assert settings.lora == {"r": 8, "lora_alpha": 16, "lora_dropout": 0.0, "target_modules": ["q_proj"]}
    assert said(settings) == {
        "dataset_name": "dropped",
        "reward_funcs": "dropped",
        "output_dir": "dropped",
        "epsilon": "dropped",
        "scale_rewards": "score_scale='batch_std'",
        "lora_dropout": "set to 0",
    }


def test_the_same_file_trains_by_grpo_with_all_that_grpo_knows(tmp_path: Path) -> None:
    settings = reading.load(written(tmp_path, FLAT), method="grpo")
    assert settings.folder == "mine-grpo-seed3"
    for name in ("epsilon", "loss_type", "scale_rewards", "beta"):
        assert settings.given[name] == FLAT[name]
    assert settings.lora is not None
    assert settings.lora["lora_dropout"] == 0.1
    assert set(said(settings)) == {"dataset_name", "reward_funcs", "output_dir"}


def test_the_batch_is_the_same(tmp_path: Path) -> None:
    settings = reading.load(written(tmp_path, FLAT), ["trainer.use_cpu=true", "trainer.bf16=false"])
    made = build_arguments(settings, tmp_path, plan.accumulation(settings, 1))
    for name in ("per_device_train_batch_size", "gradient_accumulation_steps", "num_generations", "learning_rate"):
        assert getattr(made, name) == FLAT[name]
    assert made.target.score_scale == "batch_std"


def test_several_processes_see_more_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    settings = reading.load(written(tmp_path, FLAT))
    assert settings.prompts == 8
    assert plan.accumulation(settings, 4) == FLAT["gradient_accumulation_steps"]


def test_trls_defaults_stand_where_a_file_is_silent(tmp_path: Path) -> None:
    settings = reading.load(written(tmp_path, {k: FLAT[k] for k in ("model_name_or_path", "dataset_name", "use_peft")}))
    assert settings.prompts == 1
    assert settings.lora == {**LORA_DEFAULTS, "lora_dropout": 0.0}
    assert said(settings) == {"dataset_name": "dropped", "lora_dropout": "set to 0"}
    from trl import ModelConfig

    assert all(getattr(ModelConfig, name) == LORA_DEFAULTS[own] for name, own in LORA.items() if own in LORA_DEFAULTS)


def test_every_option_of_trls_models_has_a_place() -> None:
    from dataclasses import fields

    from trl import DatasetMixtureConfig, ModelConfig, ScriptArguments
    from trl.scripts.grpo import GRPOScriptArguments

    from tpo_torch.llm.program.settings.trl_file import NAMES

    for maker in (ModelConfig, ScriptArguments, GRPOScriptArguments, DatasetMixtureConfig):
        assert {f.name for f in fields(maker)} <= NAMES
    assert set(LEFT_OUT) - set(upstream.fields_of(upstream.GRPO_CONFIG)) <= NAMES


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"dataset_name": "trl-lib/DeepMath-103K"}, "dataset_name: got 'trl-lib/DeepMath-103K', which is no task here"),
        ({"dataset_name": None, "datasets": [{"path": "a/b"}]}, "datasets: got [{'path': 'a/b'}], which is no task"),
        ({"reward_funcs": ["my_lib.rewards.length"]}, "got 'my_lib.rewards.length', which is code and is not run"),
        ({"reward_funcs": "os.getcwd"}, "got 'os.getcwd', which is code"),
        ({"reward_model_name_or_path": "a/b"}, "reward_model_name_or_path: got 'a/b'"),
        ({"load_in_4bit": True}, "load_in_4bit: got True, but weights are not quantised here"),
        ({"lerning_rate": 1}, "did you mean 'learning_rate'"),
        ({"per_device_train_batch_size": 3}, "12 completions an optimizer step, no whole groups of"),
        ({"learning_rate": "fast"}, "trainer.learning_rate: got 'fast', expected a float"),
        ({"scale_rewards": "grop"}, "scale_rewards: got 'grop', expected one of"),
        ({"model_init_kwargs": {"trust_remote_code": True}}, "it stays off"),
    ],
)
def test_what_cannot_be_translated_is_refused_in_one_line(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        reading.load(written(tmp_path, FLAT | change))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    if "task" in says or "code" in says:
        assert "write task=… on the command line" in str(caught.value)


def test_a_task_on_the_command_line_or_in_the_file_takes_the_place_of_data_and_rewards(tmp_path: Path) -> None:
    content = FLAT | {"dataset_name": "a/b", "reward_funcs": ["my_lib.rewards.length"]}
    for settings in (
        reading.load(written(tmp_path, content), ["task=knights_knaves"]),
        reading.load(written(tmp_path, {**content, "task": "knights_knaves"})),
    ):
        assert settings.task == "knights_knaves"
        assert {"dataset_name", "reward_funcs"} <= set(said(settings))


def test_groups_of_a_step_may_be_given_beside(tmp_path: Path) -> None:
    content = FLAT | {"per_device_train_batch_size": 3}
    assert reading.load(written(tmp_path, content), ["prompts=6"]).prompts == 6
    assert reading.load(written(tmp_path, {**content, "prompts": 6})).prompts == 6


def test_numbers_in_quotes_are_read_as_trl_reads_them(tmp_path: Path) -> None:
    text = "model_name_or_path: a\ndataset_name: gsm8k\nlearning_rate: '1e-6'\nnum_generations: '4'\nmax_steps: 1e1\n"
    with pytest.raises(TypeError, match="max_steps"):
        reading.load(written(tmp_path, text))
    settings = reading.load(written(tmp_path, text.replace("1e1", "'10'")))
    assert [settings.trainer[name] for name in ("learning_rate", "num_generations", "max_steps")] == [1e-6, 4, 10]


def test_evaluation_is_the_runs(tmp_path: Path) -> None:
    content = FLAT | {"eval_strategy": "steps", "eval_steps": 7, "per_device_eval_batch_size": 8}
    settings = reading.load(written(tmp_path, content))
    assert settings.evaluation.every == 7
    assert said(settings)["eval_steps"] == "evaluation.every=7"
    assert said(settings)["per_device_eval_batch_size"] == "dropped"
    assert not {"eval_strategy", "eval_steps"} & set(settings.trainer)
    quiet = reading.load(written(tmp_path, FLAT | {"eval_strategy": False}))
    assert "eval_strategy" not in said(quiet)


def test_secrets_are_neither_kept_nor_shown(tmp_path: Path) -> None:
    content = FLAT | {"hub_token": "hf_4711", "env": {"WANDB_API_KEY": "wb_4711"}}
    settings = reading.load(written(tmp_path, content))
    shown = json.dumps(settings.plain()) + "\n".join(map(str, settings.changes))
    assert "4711" not in shown
    assert "WANDB_API_KEY" in shown


def test_remote_code_stays_off(tmp_path: Path) -> None:
    settings = reading.load(written(tmp_path, FLAT | {"trust_remote_code": True}))
    assert said(settings)["trust_remote_code"] == "dropped"
    assert "trust_remote_code" not in settings.trainer


# -- in our words ---------------------------------------------------------------------------------------------------

OWN: dict[str, Any] = {
    "base": "tiny",
    "method": "grpo",
    "tpo": None,
    "trainer": {"epsilon_high": 0.28, "learning_rate": 1e-4},
    "grpo": {"loss_type": "dr_grpo", "scale_rewards": "none", "beta": 0.01},
    "lora": {"r": 4, "lora_dropout": 0.05},
}


@pytest.fixture
def own(tmp_path: Path) -> str:
    """A file of ours for GRPO alone."""
    OWN_BASE = {k: v for k, v in reading.load("tiny").plain().items() if k not in ("tpo", "grpo", "name", "method")}
    trainer = {**{k: v for k, v in OWN_BASE["trainer"].items() if k not in ("beta",)}, **OWN["trainer"]}
    return written(tmp_path, {**OWN_BASE, **{k: OWN[k] for k in ("method", "grpo", "lora")}, "trainer": trainer})


@pytest.mark.parametrize("word", ["--method", "method="])
def test_a_configuration_for_grpo_is_carried_over_to_tpo(word: str, own: str) -> None:
    settings = reading.load(own, method="tpo") if word == "--method" else reading.load(own, ["method=tpo"])
    assert settings.method == "tpo"
    assert settings.tpo == {"beta": 0.01, "score_scale": "none"}
    assert settings.given["learning_rate"] == 1e-4
    assert "epsilon_high" not in settings.given
    assert settings.lora == {"r": 4, "lora_dropout": 0.0}
    assert said(settings) == {
        "trainer.epsilon_high": "dropped",
        "grpo.loss_type": "dropped",
        "grpo.scale_rewards": "score_scale='none'",
        "lora.lora_dropout": "set to 0",
    }


def test_it_is_left_alone_for_grpo(own: str) -> None:
    for settings in (reading.load(own), reading.load(own, method="grpo")):
        assert settings.changes == ()
        assert settings.given["epsilon_high"] == 0.28
        assert settings.lora == OWN["lora"]


def test_what_the_command_line_says_is_refused_and_not_dropped(own: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"trainer\.epsilon: got 0\.3, which TPO does not take"):
        plan.prepare(reading.load(own, ["trainer.epsilon=0.3"], "tpo"), tmp_path)


@pytest.mark.parametrize("name", reading.shipped())
@pytest.mark.parametrize("method", ["tpo", "grpo", "lpo"])
def test_what_is_written_for_both_methods_changes_nothing(name: str, method: str) -> None:
    settings = reading.load(name, method=method)
    assert settings.changes == ()
    assert settings.tpo == reading.load(name).tpo


@pytest.mark.parametrize(
    ("override", "method", "silent"),
    [("tpo.eta=2", "grpo", False), ("tpo.eta=2", "tpo", True), ("tpo.eta=2", "lpo", True),
     ("grpo.epsilon=0.3", "tpo", False), ("grpo.epsilon=0.3", "lpo", False), ("grpo.epsilon=0.3", "grpo", True)],
)  # fmt: skip
def test_settings_given_in_vain_are_named(override: str, method: str, silent: bool) -> None:
    settings = reading.load("tiny", [override], method)
    name, _, value = override.partition("=")
    section = name.split(".")[0]
    line = f"{name}={value}: no effect; the method is {method}, which reads no section {section}"
    assert list(map(str, settings.changes)) == ([] if silent else [line])


def test_a_file_for_tpo_run_by_grpo_names_each_setting_of_the_target(tmp_path: Path) -> None:
    path = written(tmp_path, {"base": "tiny", "method": "tpo", "tpo": {"eta": 2.0}})
    assert said(reading.load(path, method="grpo")) == {"tpo.anchor": "no effect", "tpo.eta": "no effect"}
    with pytest.raises(ValueError, match=r"trainer\.eta: is an option of TPO alone; write it in the section tpo"):
        reading.load(path, ["trainer.eta=2"], "grpo")


# -- lpo, dropout and clearer words -----------------------------------------------------------------------------------


def test_lpo_is_tpo_with_the_ratio_anchor_and_no_other(tmp_path: Path) -> None:
    settings = reading.load("tiny", method="lpo")
    assert settings.folder == "tiny-lpo"
    arguments = [
        build_arguments(reading.load("tiny", ["trainer.use_cpu=true"], method), tmp_path, 4)
        for method in ("tpo", "lpo")
    ]
    assert arguments[0].target == arguments[1].target
    assert reading.from_plain(json.loads(json.dumps(settings.plain()))) == settings
    assert _style(settings.plain()) == "lpo"
    for override in ("tpo.anchor=policy", "tpo.anchor=length"):
        with pytest.raises(ValueError, match=r"tpo\.anchor: got '\w+', but method lpo is TPO with anchor 'ratio'"):
            reading.load("tiny", [override], "lpo")


def test_dropout_has_a_way_without_an_edit(tmp_path: Path) -> None:
    overrides = ["lora.r=4", "lora.lora_dropout=0.1"]
    with pytest.raises(ValueError, match=r"lora\.lora_dropout: got 0\.1, expected 0, or trainer\.disable_dropout=true"):
        reading.load("tiny", overrides)
    assert reading.load("tiny", [*overrides, "trainer.disable_dropout=true"]).lora == {"r": 4, "lora_dropout": 0.1}
    assert reading.load("tiny", overrides, "grpo").lora == {"r": 4, "lora_dropout": 0.1}


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["trainer.learning_rate='1e-6'"], "trainer.learning_rate: got '1e-6', expected a float; write 1e-06 without"),
        (["trainer.max_steps='5'"], "expected an int; write 5 without quotes"),
        (["trainer.learning_rate", "=", "1e-6"], "expected key=value without spaces"),
        (["learning_rate=1e-6"], "did you mean 'trainer.learning_rate'"),
    ],
)
def test_messages_say_what_to_write(overrides: list[str], says: str) -> None:
    with pytest.raises((ValueError, TypeError), match=re.escape(says)):
        reading.load("tiny", overrides)


def test_spaces_around_the_equals_sign_do_not_matter() -> None:
    assert reading.load("tiny", ["trainer.learning_rate = 1e-6"]).trainer["learning_rate"] == 1e-6


def test_a_folder_is_no_configuration(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").mkdir()
    for place in (tmp_path, tmp_path / "a.yaml"):
        with pytest.raises(ValueError, match=r"is a folder; expected a file that ends in \.yaml"):
            reading.load(str(place))


# -- the command ----------------------------------------------------------------------------------------------------


def test_the_list_is_printed_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tpo_torch.llm.program import commands, pretrained

    monkeypatch.setattr(commands, "_train", lambda plan, *more: print("trains"))
    # The model of the file is none that is here.
    monkeypatch.setattr(pretrained, "locate", lambda model, revision: model)
    path = written(tmp_path, FLAT)
    assert cli.run(["train", path, "--method", "tpo", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"{path}, for tpo:"
    assert "  epsilon=0.3: dropped; TPO clips nothing" in out
    assert out[-1] == "trains"
    monkeypatch.setenv("RANK", "1")
    assert cli.run(["train", path, "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "trains\n"
