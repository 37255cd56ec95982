"""From GRPO to TPO: what is carried, translated and dropped, over every option that TRL has."""

from __future__ import annotations

import dataclasses
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import tiny_llm
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import TrainingArguments
from trl import GRPOConfig

from tpo_torch.llm import TargetPOConfig, TargetPOTrainer, options
from tpo_torch.llm.conversion import DROPPED, SCORE_SCALE, Change, convert
from tpo_torch.llm.options import LIGER, LIGER_LOSS, LOSS_TYPE, REFUSED_OPTIONS, SAME, SCALE, check_option

pytestmark = tiny_llm.FILTERS

# Each option that GRPOConfig adds and TPO follows, with a value that is not TRL's default.
CARRIED: dict[str, Any] = {
    "model_init_kwargs": {"dtype": "float32"},
    "trust_remote_code": True,
    "router_aux_loss_coef": 0.01,
    "disable_dropout": True,
    "cast_lm_head_to_fp32": True,
    "num_generations": 4,
    "num_generations_eval": 2,
    "max_completion_length": 5,
    "ds3_gather_for_generation": False,
    "shuffle_dataset": False,
    "pad_to_multiple_of": 8,
    "generation_batch_size": 16,
    "steps_per_generation": 4,
    "temperature": 0.9,
    "top_p": 0.9,
    "top_k": 5,
    "min_p": 0.1,
    "generation_kwargs": {"num_beams": 1},
    "chat_template_kwargs": {"enable_thinking": False},
    "repetition_penalty": 1.1,
    "cache_implementation": "static",
    "use_vllm": True,
    "vllm_mode": "server",
    "vllm_model_impl": "transformers",
    "vllm_enable_sleep_mode": True,
    "vllm_structured_outputs_regex": "a+",
    "vllm_server_base_url": "http://localhost",
    "vllm_server_host": "localhost",
    "vllm_server_port": 1,
    "vllm_server_timeout": 1.0,
    "vllm_group_port": 1,
    "vllm_gpu_memory_utilization": 0.5,
    "vllm_max_model_length": 10,
    "vllm_tensor_parallel_size": 2,
    "beta": 0.04,
    "num_iterations": 2,
    "reward_weights": [0.5],
    "mask_truncated_completions": True,
    "sync_ref_model": True,
    "ref_model_mixup_alpha": 0.5,
    "ref_model_sync_steps": 3,
    "entropy_coef": 0.01,
    "use_adaptive_entropy": True,
    "entropy_coef_min": 0.001,
    "entropy_coef_max": 0.5,
    "entropy_coef_delta": 0.01,
    "entropy_target": 0.3,
    "max_tool_calling_iterations": 2,
    "log_completions": True,
    "log_multimodal": False,
    "num_completions_to_print": 2,
    "log_unique_prompts": True,
    "log_completions_hub_repo": "user/name",
    "use_transformers_continuous_batching": True,
    "transformers_continuous_batching_config": {"a": 1},
    "use_transformers_paged": True,
}
# Needed beside one of them.
BESIDE: dict[str, dict[str, Any]] = {"log_completions_hub_repo": {"log_completions": True}}
# Each option that TPO cannot follow, with a value that is not TRL's default; True where it asks for what TPO does.
OTHERS: dict[str, Any] = {
    "loss_type": "dr_grpo",
    "importance_sampling_level": "sequence",
    SCALE: "batch",
    "multi_objective_aggregation": "normalize_then_sum",
    "delta": 2.0,
    "epsilon": 0.1,
    "epsilon_high": 0.28,
    "top_entropy_quantile": 0.2,
    "off_policy_mask_threshold": 0.5,
    "neftune_noise_alpha": 5.0,
    "vllm_importance_sampling_mode": "token_mask",
    "vllm_importance_sampling_clip_max": 2.0,
    "vllm_importance_sampling_clip_min": 0.5,
    "vllm_importance_sampling_cap": 2.5,
    "sapo_temperature_neg": 1.0,
    "sapo_temperature_pos": 2.0,
    "vespo_k_pos": 1.0,
    "vespo_lambda_pos": 1.0,
    "vespo_k_neg": 1.0,
    "vespo_lambda_neg": 1.0,
}
# Both of their values are taken: one is GRPO's default, the other what TPO does.
EITHER = {"use_bias_correction_kl", "vllm_importance_sampling_correction"}

BASE = {f.name for f in dataclasses.fields(TrainingArguments)}
DEFAULTS = {f.name: f.default for f in dataclasses.fields(GRPOConfig)}
ADDED = [name for name in DEFAULTS if name not in BASE]
TARGET = [f.name for f in dataclasses.fields(TargetPOConfig) if f.name not in DEFAULTS]
QUIET = pytest.mark.filterwarnings(
    "ignore:.*`(use_transformers_paged|vllm_importance_sampling_cap)`.* is deprecated:FutureWarning"
)


def grpo(folder: Path, **others: Any) -> GRPOConfig:
    """The config of a GRPO script."""
    return GRPOConfig(**tiny_llm.arguments(folder, **others))


def converted(config: Any, **target: Any) -> tuple[TargetPOConfig, list[str]]:
    """The arguments of TPO, and the lines of the warning."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        made = TargetPOConfig.from_grpo(config, **target)
    said = [str(each.message) for each in caught if str(each.message).startswith("from GRPO to TPO:\n")]
    assert len(said) <= 1
    return made, said[0].splitlines()[1:] if said else []


# -- every option is in one class ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ADDED)
def test_every_option_that_trl_adds_is_in_exactly_one_class(name: str) -> None:
    classes = {"carried": CARRIED, "refused": OTHERS, "either": EITHER}
    assert sum(name in each for each in classes.values()) == 1, f"{name}: say here what TPO does with it"
    assert (name in REFUSED_OPTIONS) == (name not in CARRIED)


def test_every_refused_option_is_tried_here() -> None:
    assert set(OTHERS) | EITHER == set(REFUSED_OPTIONS)
    assert set(CARRIED) <= set(ADDED)


@pytest.mark.parametrize("name", REFUSED_OPTIONS)
def test_the_first_accepted_value_is_trls_default(name: str) -> None:
    assert REFUSED_OPTIONS[name].accepted[0] == DEFAULTS[name]


@QUIET
@pytest.mark.parametrize("name", CARRIED)
def test_an_option_that_tpo_follows_is_carried(name: str, tmp_path: Path) -> None:
    assert CARRIED[name] != DEFAULTS[name]
    config = grpo(tmp_path, **{name: CARRIED[name]}, **BESIDE.get(name, {}))
    made, said = converted(config)
    assert getattr(made, name) == getattr(config, name) == CARRIED[name]
    assert said == []
    assert convert({name: CARRIED[name]}).values == {name: CARRIED[name]}


@QUIET
@pytest.mark.parametrize("name", OTHERS)
def test_an_option_that_tpo_cannot_follow_is_dropped_and_named(name: str, tmp_path: Path) -> None:
    config = grpo(tmp_path, **{name: OTHERS[name]})
    made, said = converted(config)
    mine = [line for line in said if line.startswith(f"{name}={OTHERS[name]!r}: ")]
    assert len(mine) == 1
    # The deprecated name sets the new one too.
    assert len(said) == 1 + (name == "vllm_importance_sampling_cap")
    wanted = REFUSED_OPTIONS[name].ours
    assert getattr(made, name) == (DEFAULTS[name] if wanted is SAME else wanted)
    assert converted({**tiny_llm.arguments(tmp_path), name: OTHERS[name]})[1] == mine


@pytest.mark.parametrize(("given", "ours"), [("group", "group_std"), (True, "group_std"), ("batch", "batch_std"),
                                             ("none", "none"), (False, "none")])  # fmt: skip
def test_the_scale_of_the_rewards_is_translated(given: Any, ours: str, tmp_path: Path) -> None:
    for config in (grpo(tmp_path, scale_rewards=given), tiny_llm.arguments(tmp_path, scale_rewards=given)):
        made, said = converted(config)
        assert made.score_scale == made.target.score_scale == ours
        assert [line.split(": ")[1].split(";")[0] for line in said] == (
            [] if ours == "group_std" else [f"{SCORE_SCALE}={ours!r}"]
        )
    with pytest.raises(ValueError, match="scale_rewards: got 'grop', expected one of 'group', 'batch', 'none'"):
        convert({SCALE: "grop"})


# -- a dict of fields --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"learing_rate": 1e-6}, "config: got 'learing_rate', did you mean 'learning_rate'"),
        ({3: 4}, "config: got the name 3, expected names of fields"),
        # What YAML 1.1 reads for 1e-6, and what a shell hands over.
        ({"learning_rate": "1e-6"}, "learning_rate: got '1e-6', expected a float; write 1e-06 without quotes"),
        ({"num_generations": "4"}, "num_generations: got '4', expected an int; write 4 without quotes"),
        ({"disable_dropout": "false"}, "disable_dropout: got 'false', expected a bool; write false without quotes"),
        ({"divide_by_length": 2}, "divide_by_length: got 2, expected a bool"),
        ({"beta": -1}, "beta: got -1, expected at least 0"),
    ],
)
def test_a_dict_is_checked_before_trl_sees_it(given: dict[Any, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises((ValueError, TypeError), match=re.escape(says)):
        TargetPOConfig.from_grpo({**tiny_llm.arguments(tmp_path), **given})


@QUIET
def test_numbers_of_numpy_and_arrays_are_taken(tmp_path: Path) -> None:
    made, said = converted({**tiny_llm.arguments(tmp_path), "beta": np.float32(0.5), "epsilon": np.array([0.2, 0.3])})
    assert made.beta == 0.5
    assert len(said) == 1


@QUIET
@pytest.mark.parametrize("maker", [GRPOConfig, TargetPOConfig])
def test_the_dict_that_a_config_writes_is_taken(maker: Any, tmp_path: Path) -> None:
    config = maker(**tiny_llm.arguments(tmp_path))
    assert TargetPOConfig.from_grpo(config.to_dict()).to_dict() == TargetPOConfig.from_grpo(config).to_dict()


@QUIET
def test_a_subclass_keeps_the_defaults_of_its_own_fields(tmp_path: Path) -> None:
    @dataclasses.dataclass
    class Mine(TargetPOConfig):
        extra: list[int] = dataclasses.field(default_factory=list)

    assert Mine.from_grpo(grpo(tmp_path)).extra == []


@QUIET
def test_a_scale_given_for_the_target_comes_first(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="scale_rewards='batch': dropped; score_scale='none' takes its place"):
        made = TargetPOConfig.from_grpo(grpo(tmp_path, scale_rewards="batch"), score_scale="none")
    assert made.score_scale == "none"


# -- defaults say nothing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ADDED)
def test_grpos_own_default_is_accepted(name: str, tmp_path: Path) -> None:
    made = TargetPOConfig(**{**tiny_llm.arguments(tmp_path), name: DEFAULTS[name]})
    option = REFUSED_OPTIONS.get(name)
    if option is not None and option.ours is not SAME:
        assert getattr(made, name) == option.ours


def test_a_config_of_defaults_changes_without_a_word_and_has_what_the_trainer_needs(tmp_path: Path) -> None:
    made, said = converted(GRPOConfig(str(tmp_path), use_cpu=True))
    assert said == []
    assert (made.loss_type, made.importance_sampling_level) == (LOSS_TYPE, "sequence")
    assert not made.use_bias_correction_kl
    assert not made.vllm_importance_sampling_correction
    assert made.target == TargetPOConfig(str(tmp_path), use_cpu=True).target


@pytest.mark.parametrize("name", OTHERS)
def test_another_value_is_refused_by_name(name: str, tmp_path: Path) -> None:
    # What TPO itself sets is no mistake.
    if OTHERS[name] == REFUSED_OPTIONS[name].ours:
        return
    with pytest.raises(ValueError, match=rf"^{name}: got {OTHERS[name]!r}, which TPO does not take: \w.*"):
        TargetPOConfig(**tiny_llm.arguments(tmp_path, **{name: OTHERS[name]}))


# -- the whole config -----------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(rate=st.floats(1e-8, 1.0), rows=st.sampled_from([2, 4, 8]), steps=st.sampled_from([2, 4]), beta=st.floats(0, 1))
def test_all_that_transformers_has_is_as_it_was(rate: float, rows: int, steps: int, beta: float) -> None:
    config = grpo(Path("unused"), learning_rate=rate, per_device_train_batch_size=rows, beta=beta, report_to="none",
                  gradient_accumulation_steps=steps, lr_scheduler_type="cosine", warmup_steps=3, debug="",
                  gradient_checkpointing=True)  # fmt: skip
    before = dict(vars(config))
    made, said = converted(config)
    assert said == []
    for name in DEFAULTS:
        if name not in REFUSED_OPTIONS:
            assert getattr(made, name) == getattr(config, name), name
    assert vars(config) == before
    assert made.layout.slices == steps


def test_what_is_carried_is_not_shared(tmp_path: Path) -> None:
    config = grpo(tmp_path, model_init_kwargs={"dtype": "float32"})
    made, _ = converted(config)
    made.model_init_kwargs["dtype"] = "bfloat16"
    assert config.model_init_kwargs == {"dtype": "float32"}


def test_the_target_is_given_beside_and_its_fields_alone(tmp_path: Path) -> None:
    for config in (grpo(tmp_path), tiny_llm.arguments(tmp_path)):
        made, _ = converted(config, eta=0.5, anchor="policy")
        assert (made.target.eta, made.target.anchor) == (0.5, "policy")
        with pytest.raises(ValueError, match="field of the target: got 'et', did you mean 'eta'"):
            TargetPOConfig.from_grpo(config, et=1.0)
        with pytest.raises(ValueError, match="eta: got 0"):
            TargetPOConfig.from_grpo(config, eta=0.0)
    assert {"eta", "anchor", SCORE_SCALE} <= set(TARGET)


def test_a_config_of_tpo_is_carried_whole(tmp_path: Path) -> None:
    ours = TargetPOConfig(**tiny_llm.arguments(tmp_path, eta=2.0, score_scale="none"))
    made, said = converted(ours)
    assert said == []
    assert all(getattr(made, f.name) == getattr(ours, f.name) for f in dataclasses.fields(TargetPOConfig))


def test_anything_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"config: got TrainingArguments, expected trl\.GRPOConfig"):
        TargetPOConfig.from_grpo(TrainingArguments(str(tmp_path), use_cpu=True))
    with pytest.raises(ValueError, match="no whole groups of 4"):
        TargetPOConfig.from_grpo(tiny_llm.arguments(tmp_path, per_device_train_batch_size=6))


def test_only_the_first_process_says_what_was_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    assert converted(tiny_llm.arguments(tmp_path, delta=2.0))[1] == []


def test_the_converted_config_trains_as_one_that_was_written_for_tpo(tmp_path: Path) -> None:
    script = tiny_llm.arguments(
        tmp_path, loss_type="grpo", epsilon_high=0.28, scale_rewards="batch", learning_rate=1e-3
    )
    own = tiny_llm.arguments(tmp_path, score_scale="batch_std", learning_rate=1e-3)
    weights = []
    for args in (converted(GRPOConfig(**script))[0], TargetPOConfig(**own)):
        trainer = TargetPOTrainer(
            tiny_llm.model(),
            tiny_llm.reward,
            args,
            train_dataset=tiny_llm.prompts(),
            processing_class=tiny_llm.tokenizer(),
        )
        trainer.train()
        weights.append(tiny_llm.weights(trainer.model))
    assert all((weights[0][name] == x).all() for name, x in weights[1].items())
    assert any(
        (x != y).any() for x, y in zip(weights[0].values(), tiny_llm.weights(tiny_llm.model()).values(), strict=True)
    )


# -- a loss that would be passed over ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("installed", "bypasses"), [("1.13.0", True), ("1.14.2", False), ("1.16.0", False)])
def test_ligers_loss_is_refused_where_it_would_replace_ours(
    installed: str, bypasses: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(options, "version", lambda name: installed)
    change = Change(LIGER, True, DROPPED, LIGER_LOSS.reason)
    assert convert({LIGER: True}).changes == ((change,) if bypasses else ())
    check_option(LIGER, False)
    if bypasses:
        with pytest.raises(ValueError, match=r"use_liger_kernel: got True, .* puts a loss of GRPO's in the place"):
            check_option(LIGER, True)
    else:
        check_option(LIGER, True)
        assert convert({LIGER: True}).values == {LIGER: True}
