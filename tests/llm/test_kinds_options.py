"""Options of generation, callbacks, the parser of the command line, and the card of a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers import kinds, tiny_llm
from helpers.tiny_llm import LAYOUTS
from peft import LoraConfig
from transformers import TrainerCallback
from trl import GRPOTrainer, ModelConfig, TrlParser

from tpo_torch.llm import TargetPOConfig, TargetPOTrainer

pytestmark = kinds.FILTERS

EXACT = 1e-10
# Norms work in single precision, so that two gradients add up to the gradient of a sum but for rounding.
ROUNDED = 1e-4
CUT = LAYOUTS["half a group per micro-batch"] | {"anchor": "ratio", "num_iterations": 2}


def length(completion_ids: list[list[int]], **_: Any) -> list[float]:
    return [float(len(ids)) + ids[0] / 7 for ids in completion_ids]


def placed(completions: list[Any], **_: Any) -> list[float]:
    """By place in the group, so that equal completions have unequal rewards."""
    return [float(i % 4) for i in range(len(completions))]


def train(folder: Path, **options: Any) -> tuple[Any, Any]:
    given = {"reward_funcs": length, "processing_class": kinds.talker()} | CUT
    policy = options.pop("policy", None) or kinds.language_model()
    return tiny_llm.train(folder, policy, **given | options)


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> None:
    """TRL's fused head works in single precision; its textbook twin takes its place."""
    monkeypatch.setattr(GRPOTrainer, "_get_per_token_logps_and_entropies", tiny_llm.double_head)


# -- generation -------------------------------------------------------------------------------------------------------

GREEDY: dict[str, dict[str, Any]] = {
    "the first of all": {"top_k": 1},
    "as likely as the first": {"min_p": 1.0},
    "a nucleus of one": {"top_p": 1e-6},
    "no sampling": {"generation_kwargs": {"do_sample": False}},
}


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("option", GREEDY)
def test_options_of_sampling_reach_generation_where_equal_answers_teach_nothing(option: str, tmp_path: Path) -> None:
    trainer, watch = train(tmp_path, reward_funcs=placed, **GREEDY[option])
    for kept in watch.rounds:
        groups = kept.batch["completion_ids"].view(-1, 4, kept.batch["completion_ids"].shape[1])
        assert torch.equal(groups, groups[:, :1].expand_as(groups))
    line = trainer.state.log_history[0]
    assert (line["group/duplicates"], line["group/zero_variance"]) == (0.75, 0)
    # Their rewards differ, and the pushes on one and the same answer cancel.
    assert all(float(g.abs().max()) < ROUNDED for g in watch.gradients[0].values())


OPTIONS: dict[str, dict[str, Any]] = {
    "shorter by a keyword of generation": {"generation_kwargs": {"max_new_tokens": 3}},
    "repetition made costly": {"repetition_penalty": 5.0},
    "hotter": {"temperature": 1.7, "top_k": 5},
    "padded to a multiple": {"pad_to_multiple_of": 8},
    "batches that are refilled": {
        "use_transformers_continuous_batching": True,
        "transformers_continuous_batching_config": {"num_blocks": 16, "max_batch_tokens": 64},
    },
}


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("option", OPTIONS)
def test_gradient_with_options_of_generation(option: str, tmp_path: Path) -> None:
    trainer, watch = train(tmp_path, **OPTIONS[option])
    assert tiny_llm.apart(trainer, watch, kinds.language_model()) < EXACT
    lengths = watch.rounds[0].batch["completion_mask"].sum(-1)
    if "max_new_tokens" in OPTIONS[option].get("generation_kwargs", {}):
        assert lengths.max() <= 3
    if "pad_to_multiple_of" in OPTIONS[option]:
        assert watch.rounds[0].batch["completion_ids"].shape[1] % 8 == 0


@pytest.mark.usefixtures("double")
def test_the_entropy_bonus_is_added_to_the_cross_entropy(tmp_path: Path) -> None:
    weight = 0.3
    options = LAYOUTS["whole groups in one micro-batch"] | {"anchor": "ratio", "max_steps": 1}
    trainer, watch = train(tmp_path, **options | {"entropy_coef": weight})
    dense, batch = kinds.language_model(), watch.rounds[0].batch
    wanted = tiny_llm.dense_gradient_of(dense, watch, trainer.args, 0)
    dense.zero_grad()
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    attention = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
    logs = torch.log_softmax(dense(input_ids=ids, attention_mask=attention).logits[:, :-1], -1)
    entropy = -(logs.exp() * logs).sum(-1)[:, -batch["completion_ids"].shape[1] :]
    mask = batch["completion_mask"]
    (-weight * (entropy * mask).sum() / mask.sum()).backward()
    for name, parameter in dense.named_parameters():
        rest = watch.gradients[0][name] - wanted[name] - parameter.grad
        assert float(rest.abs().max()) < ROUNDED * float(parameter.grad.abs().max())


# -- callbacks --------------------------------------------------------------------------------------------------------


class Stops(TrainerCallback):
    """Notes what it is told, and ends the run after two steps."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.logged: list[dict[str, Any]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.steps.append(state.global_step)
        control.should_training_stop = state.global_step == 2

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        self.logged.append(dict(logs))


def test_a_callback_sees_every_step_and_may_end_the_run(tmp_path: Path) -> None:
    stops = Stops()
    trainer, _ = train(tmp_path, callbacks=[stops], max_steps=5)
    assert stops.steps == [1, 2]
    assert trainer.state.global_step == 2
    assert [line["tpo/cross_entropy"] > 0 for line in stops.logged if "tpo/cross_entropy" in line] == [True, True]


# -- models and tokenizers by name ------------------------------------------------------------------------------------


def test_a_model_in_a_folder_brings_its_tokenizer(tmp_path: Path) -> None:
    kinds.language_model(dtype=torch.float32).save_pretrained(tmp_path / "small")
    kinds.talker().save_pretrained(tmp_path / "small")
    config = TargetPOConfig(**tiny_llm.arguments(tmp_path, **CUT))
    trainer = TargetPOTrainer(str(tmp_path / "small"), length, config, tiny_llm.prompts(32))
    assert trainer._tokenizer.padding_side == "left"
    before = tiny_llm.weights(trainer.model)
    trainer.train()
    assert any(not torch.equal(before[name], x) for name, x in tiny_llm.weights(trainer.model).items())


# -- the parser of TRL ------------------------------------------------------------------------------------------------

WRITTEN = {
    "output_dir": "somewhere",
    "use_cpu": True,
    "bf16": False,
    "num_generations": 4,
    "per_device_train_batch_size": 8,
    "eta": 0.5,
    "anchor": "length",
    "learning_rate": 2e-6,
    "model_name_or_path": "someone/small",
}


def parsed(folder: Path, *words: str, **more: Any) -> tuple[Any, Any]:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(WRITTEN | more), encoding="utf-8")
    config, model = TrlParser((TargetPOConfig, ModelConfig)).parse_args_and_config(["--config", str(path), *words])
    return config, model


def test_a_file_and_a_command_line_make_a_configuration(tmp_path: Path) -> None:
    config, model = parsed(
        tmp_path, "--anchor", "ratio", "--divide_by_length", "false", "--gradient_accumulation_steps=2"
    )
    assert (config.anchor, config.eta, config.divide_by_length) == ("ratio", 0.5, False)
    assert (config.learning_rate, config.layout.generated) == (2e-6, 16)
    assert model.model_name_or_path == "someone/small"
    assert config.target.eta == 0.5


@pytest.mark.parametrize(
    ("words", "more", "says"),
    [
        (("--eta", "-1"), {}, "eta: got -1"),
        ((), {"anchor": "rato"}, "anchor: got 'rato'"),
        (("--loss_type", "bnpo"), {}, "loss_type: got 'bnpo', which TPO does not take"),
        (("--per_device_train_batch_size", "6"), {}, "no whole groups of 4"),
        ((), {"lerning_rate": 1.0}, "lerning_rate"),
    ],
)
def test_mistakes_in_either_are_named(words: tuple[str, ...], more: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=says):
        parsed(tmp_path, *words, **more)


# -- the card of a model ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adapter", [None, LoraConfig(r=2, target_modules=["q_proj"])])
def test_a_checkpoint_has_a_card_that_names_base_method_and_paper(adapter: Any, tmp_path: Path) -> None:
    policy = kinds.language_model(dtype=torch.float32)
    policy.config.name_or_path = "someone/small"
    options = {"save_strategy": "steps", "save_steps": 2, "peft_config": adapter}
    trainer, _ = train(tmp_path / "mine", policy=policy, **options)
    card = (tmp_path / "mine" / "README.md").read_text(encoding="utf-8")
    told = yaml.safe_load(card.split("---")[1])
    assert told["base_model"] == "someone/small"
    assert told["model_name"] == "mine"
    assert {"trl", "target-policy-optimization"} <= set(told["tags"])
    assert "GRPO" not in card
    assert "trained with Target Policy Optimization" in card
    assert "[Target Policy Optimization](https://huggingface.co/papers/2604.06159)" in card
    assert "eprint = {arXiv:2604.06159}" in card
    assert {"trl", "target-policy-optimization"} <= set(trainer.model.model_tags)


def test_a_card_takes_what_the_caller_adds(tmp_path: Path) -> None:
    trainer, _ = train(tmp_path, max_steps=1)
    trainer.create_model_card("a name", "someone/data", ["more"])
    told = yaml.safe_load((tmp_path / "README.md").read_text(encoding="utf-8").split("---")[1])
    assert (told["model_name"], told["datasets"]) == ("a name", "someone/data")
    assert {"more", "target-policy-optimization"} <= set(told["tags"])
    # A folder is no model that others could find.
    kinds.language_model().save_pretrained(tmp_path / "base")
    trainer.model.config.name_or_path = str(tmp_path / "base")
    trainer.create_model_card()
    assert "base_model" not in yaml.safe_load((tmp_path / "README.md").read_text(encoding="utf-8").split("---")[1])
