"""The trainer on TRL: its gradient is that of whole groups, however a batch is cut; and what it refuses and reports."""

from __future__ import annotations

import math
import random
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import tiny_llm
from helpers.tiny_llm import LAYOUTS, cut
from peft import LoraConfig, get_peft_model
from trl import GRPOConfig, GRPOTrainer

pytestmark = tiny_llm.FILTERS

# Double precision over two layers, relative to the largest entry of the gradient.
EXACT = 1e-10


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> None:
    """TRL's fused head works in single precision; its textbook twin takes its place."""
    monkeypatch.setattr(GRPOTrainer, "_get_per_token_logps_and_entropies", tiny_llm.double_head)


def difference(folder: Path, **options: Any) -> float:
    trainer, watch = tiny_llm.train(folder, **options)
    return tiny_llm.apart(trainer, watch, tiny_llm.model())


@pytest.mark.paper("Alg. 1")
@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradient_is_that_of_whole_groups(layout: str, tmp_path: Path) -> None:
    assert difference(tmp_path, **LAYOUTS[layout]) < EXACT


CUT = LAYOUTS["half a group per micro-batch"]
WHOLE = LAYOUTS["whole groups in one micro-batch"]
# Where the policy has moved between the snapshot and the gradient, and where it has not.
MOVED = ("two epochs of two steps", "two epochs of two steps, whole", "two epochs, shuffled", "two rounds per step")


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("layout", MOVED[:3])
@pytest.mark.parametrize("anchor", ["ratio", "length", "tempered"])
def test_gradient_of_each_anchor(anchor: str, layout: str, tmp_path: Path) -> None:
    options = LAYOUTS[layout] | {"anchor": anchor, "anchor_temperature": 3.0, "eta": 0.5, "tau": 0.2}
    assert difference(tmp_path, **options) < EXACT


def lora() -> LoraConfig:
    return LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False)


def adapted(parameters: dict[str, torch.Tensor]) -> Any:
    """A model of the same shape as the trained one, adapter and all; its values are put in later."""
    policy = get_peft_model(tiny_llm.model(), lora())
    assert {name for name, _ in policy.named_parameters()} == set(parameters)
    return policy


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("beta", [0.0, 0.3])
@pytest.mark.parametrize("layout", [WHOLE, CUT | {"num_iterations": 2}])
def test_gradient_with_lora(layout: dict[str, Any], beta: float, tmp_path: Path) -> None:
    trainer, watch = tiny_llm.train(tmp_path, peft_config=lora(), beta=beta, **layout)
    dense = adapted(watch.parameters[0])
    if beta:
        # The reference is the model without its adapter.
        base, kept = tiny_llm.model(), watch.rounds[0].batch
        assert torch.equal(kept["ref_per_token_logps"] * kept["completion_mask"], tiny_llm.by_token(base, kept)[0])
    assert set(watch.gradients[0]) == {name for name in watch.parameters[0] if "lora" in name}
    assert tiny_llm.apart(trainer, watch, dense) < EXACT


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("layout", [WHOLE | {"num_iterations": 2}, CUT])
def test_gradient_with_a_reference_model_from_a_folder(layout: dict[str, Any], tmp_path: Path) -> None:
    tiny_llm.model().save_pretrained(tmp_path / "model")
    tiny_llm.tokenizer().save_pretrained(tmp_path / "model")
    options = layout | {"beta": 0.5, "model_init_kwargs": {"dtype": "auto"}}
    assert difference(tmp_path, policy=str(tmp_path / "model"), **options) < EXACT


def right(completions: list[str], **_: Any) -> list[float]:
    return [float("a" in text) for text in completions]


def brief(completions: list[str], **_: Any) -> list[float | None]:
    """Does not judge some completions, and judges some beyond all bounds; leaves one of the first four."""
    known = {0: None, 1: math.nan, 2: math.inf, 5: -math.inf}
    return [known.get(i, 1.0 - len(text) / 9) for i, text in enumerate(completions)]


def empty_handed(prompts: list[str], trainer: Any) -> dict[str, Any]:
    """Completions of 1 to 7 tokens, of which another than the policy wrote some, or all; cut off or ended."""
    draw = random.Random(trainer.state.global_step)
    ids = [[draw.randrange(2, 10) for _ in range(1 + draw.randrange(6))] + draw.choice([[], [1]]) for _ in prompts]
    masks = [[int(draw.random() < 0.6) for _ in row] for row in ids]
    masks[0] = [0] * len(ids[0])
    encoded = [tiny_llm.tokenizer()(prompt)["input_ids"] for prompt in prompts]
    return {"prompt_ids": encoded, "completion_ids": ids, "logprobs": None, "env_mask": masks}


OPTIONS: dict[str, dict[str, Any]] = {
    "truncated rows masked": {"mask_truncated_completions": True, "max_completion_length": 20},
    "two rewards, weighed": {"reward_funcs": [right, tiny_llm.reward], "reward_weights": [0.7, 0.2]},
    "rewards missing and infinite": {"reward_funcs": brief},
    "one reward missing of two": {"reward_funcs": [right, brief], "reward_weights": [0.3, 2.0]},
    "others' tokens, and none of one's own": {"rollout_func": empty_handed},
    "temperature": {"temperature": 0.7},
    "gradient checkpointing": {"gradient_checkpointing": True},
    "idle groups masked": {"zero_variance": "mask", "reward_funcs": right},
    "idle groups weighed": {"zero_variance": "weight", "zero_variance_weight": 0.3, "reward_funcs": right},
    "idle groups at the anchor": {"reward_funcs": right},
    "eta and tau": {"eta": 0.3, "tau": 0.5},
}


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("option", OPTIONS)
def test_gradient_with_options(option: str, tmp_path: Path) -> None:
    assert difference(tmp_path, **CUT | {"num_iterations": 2}, **OPTIONS[option]) < EXACT


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(
    "option", ["truncated rows masked", "others' tokens, and none of one's own", "idle groups weighed"]
)
def test_gradient_with_options_where_groups_are_whole(option: str, tmp_path: Path) -> None:
    assert difference(tmp_path, **WHOLE | {"num_iterations": 2}, **OPTIONS[option]) < EXACT


# Single precision, as TRL's fused head computes; a wrong coefficient would be off by tenths.
ROUNDED = 1e-4


@pytest.mark.parametrize("layout", ["half a group per micro-batch", *MOVED[:2]])
def test_gradient_with_the_installed_trl(layout: str, tmp_path: Path) -> None:
    trainer, watch = tiny_llm.train(tmp_path, tiny_llm.model(dtype=torch.float32), **LAYOUTS[layout])
    for step, given in enumerate(watch.gradients):
        wanted = tiny_llm.dense_gradient_of(tiny_llm.model(), watch, trainer.args, step)
        largest = max(float(g.abs().max()) for g in wanted.values())
        assert given.keys() == wanted.keys()
        assert max(float((given[name] - g).abs().max()) for name, g in wanted.items()) < ROUNDED * largest


def flat(completions: list[str], **_: Any) -> list[float]:
    return [0.1] * len(completions)


# Each way of making coefficients, before and after a step of the optimizer.
STILL = ("half a group per micro-batch", "two steps per round", "three steps per round, shuffled", *MOVED)


@pytest.mark.parametrize("layout", STILL)
def test_equal_rewards_leave_every_bit_as_it_was(layout: str, tmp_path: Path) -> None:
    # In single precision and by TRL's own head, as one trains: its rounding must cancel, not be small.
    options = {"optim": "adamw_torch", "weight_decay": 0.0, "reward_funcs": flat}
    policy = tiny_llm.model(dtype=torch.float32)
    before = tiny_llm.weights(policy)
    trainer, watch = tiny_llm.train(tmp_path, policy, **LAYOUTS[layout] | options)
    after = tiny_llm.weights(trainer.model)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(float(g.abs().max()) == 0 for step in watch.gradients for g in step.values())


@pytest.mark.parametrize("anchor", ["ratio", "length", "tempered"])
@pytest.mark.parametrize("layout", MOVED[:1])
def test_equal_rewards_leave_every_bit_under_each_anchor(anchor: str, layout: str, tmp_path: Path) -> None:
    policy = tiny_llm.model(dtype=torch.float32)
    before = tiny_llm.weights(policy)
    options = {"anchor": anchor, "anchor_temperature": 3.0, "reward_funcs": flat}
    trainer, _ = tiny_llm.train(tmp_path, policy, **LAYOUTS[layout] | options)
    after = tiny_llm.weights(trainer.model)
    assert all(torch.equal(before[name], after[name]) for name in before)


def uneven_head(
    self: Any, model: Any, ids: Any, attention: Any, keep: int, batch_size: int | None = None, **others: Any
) -> Any:
    """A forward pass whose rounding depends on where in its batch a row stands, as that of a GPU may."""
    logps, entropies, loss = tiny_llm.double_head(self, model, ids, attention, keep, **others)
    place = torch.arange(len(logps)) % (batch_size or len(logps))
    return logps * (1 + 1e-6 * place.unsqueeze(-1)), entropies, loss


@pytest.mark.parametrize("layout", ["three steps per round, shuffled", *MOVED[:2]])
def test_equal_rewards_leave_every_bit_however_a_pass_rounds(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GRPOTrainer, "_get_per_token_logps_and_entropies", uneven_head)
    trainer, _ = tiny_llm.train(tmp_path, **LAYOUTS[layout] | {"reward_funcs": flat})
    after = tiny_llm.weights(trainer.model)
    assert all(torch.equal(x, after[name]) for name, x in tiny_llm.weights(tiny_llm.model()).items())


def test_rewards_equal_up_to_the_rounding_of_their_sum_are_equal(tmp_path: Path) -> None:
    def first(completions: list[str], **_: Any) -> list[float]:
        return [0.9, 0.3, 0.9, 0.3] * (len(completions) // 4)

    def second(completions: list[str], **_: Any) -> list[float]:
        return [0.0, 0.6, 0.0, 0.6] * (len(completions) // 4)

    # In single precision, where TRL adds them up.
    assert torch.tensor(0.3) + torch.tensor(0.6) != torch.tensor(0.9)
    policy = tiny_llm.model(dtype=torch.float32)
    before = tiny_llm.weights(policy)
    trainer, _ = tiny_llm.train(tmp_path, policy, reward_funcs=[first, second])
    assert all(torch.equal(before[name], x) for name, x in tiny_llm.weights(trainer.model).items())
    assert trainer.state.log_history[0]["group/zero_variance"] == 1


def passes(folder: Path, kind: Any, **options: Any) -> list[bool]:
    """Whether each forward pass outside of generation keeps a gradient, in order."""
    policy, seen = tiny_llm.model(dtype=torch.float32), []

    def note(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if kwargs.get("past_key_values") is None:
            seen.append(torch.is_grad_enabled())

    policy.model.register_forward_pre_hook(note, with_kwargs=True)
    tiny_llm.train(folder, policy, kind, **options)
    return seen


# Once, before the first optimizer step.
NOISE_PASSES = 2


def extra_passes(folder: Path, **options: Any) -> tuple[int, int]:
    """How many passes TPO takes beyond GRPO on the same layout, and those that look for noise; how many GRPO takes."""
    shared = {name: x for name, x in options.items() if name not in ("anchor", "shuffle_rows")}
    ours = passes(folder / "tpo", tiny_llm.TargetPOTrainer, **options)
    theirs = passes(folder / "grpo", GRPOTrainer, **shared)
    assert sum(ours) == sum(theirs)
    return len(ours) - len(theirs) - NOISE_PASSES, len(theirs)


@pytest.mark.parametrize("layout", [LAYOUTS["three epochs"], LAYOUTS["two steps per round"]])
def test_whole_groups_in_a_micro_batch_take_no_extra_pass(layout: dict[str, Any], tmp_path: Path) -> None:
    assert extra_passes(tmp_path, **layout)[0] == 0


@pytest.mark.parametrize("layout", [CUT | {"shuffle_rows": True}, LAYOUTS["two rounds per step"]])
def test_the_ratio_on_policy_takes_no_extra_pass(layout: dict[str, Any], tmp_path: Path) -> None:
    assert extra_passes(tmp_path, anchor="ratio", **layout)[0] == 0


def test_groups_over_micro_batches_take_one_pass_without_gradient_per_step(tmp_path: Path) -> None:
    extra, theirs = extra_passes(tmp_path, **CUT)
    assert (extra, theirs) == (CUT["max_steps"] * 4, CUT["max_steps"] * 4)


def test_old_log_probabilities_that_trl_made_are_used_again(tmp_path: Path) -> None:
    # In the first of three epochs TRL has made ℓ_old; the policy has not moved since.
    assert extra_passes(tmp_path, **CUT | {"num_iterations": 3, "max_steps": 3})[0] == 2 * 4


def test_a_group_of_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="num_generations: got 1, expected at least 2"):
        tiny_llm.train(tmp_path, num_generations=1)


def test_other_arguments_are_refused_by_type(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="got GRPOConfig, expected TargetPOConfig; it takes the same arguments"):
        tiny_llm.TargetPOTrainer(tiny_llm.model(), tiny_llm.reward, GRPOConfig(**tiny_llm.arguments(tmp_path)))


def test_data_may_come_by_position(tmp_path: Path) -> None:
    config, data = tiny_llm.TargetPOConfig(**tiny_llm.arguments(tmp_path)), tiny_llm.prompts()
    trainer = tiny_llm.TargetPOTrainer(tiny_llm.model(), tiny_llm.reward, config, data, None, tiny_llm.tokenizer())
    assert trainer.train_dataset is data


@pytest.mark.usefixtures("double")
def test_evaluation_between_two_steps_of_a_round_changes_nothing(tmp_path: Path) -> None:
    options = LAYOUTS["two steps per round, groups cut"] | {"max_steps": 2, "shuffle_rows": True}
    plain, alone = tiny_llm.train(tmp_path / "plain", **options)
    evaluated = {"eval_strategy": "steps", "eval_steps": 1, "per_device_eval_batch_size": 4, "log_completions": False}
    other, beside = tiny_llm.train(tmp_path / "other", eval_dataset=tiny_llm.prompts(3), **options | evaluated)
    assert len([line for line in other.state.log_history if "eval_reward" in line]) == 2
    assert not any("eval_loss" in line for line in other.state.log_history)
    assert len(alone.gradients) == len(beside.gradients) == 2
    after = tiny_llm.weights(other.model)
    assert all(torch.equal(x, after[name]) for name, x in tiny_llm.weights(plain.model).items())
    kept = [line for line in other.state.log_history if "eval_reward" not in line]
    for a, b in zip(plain.state.log_history, kept, strict=True):
        assert {k: v for k, v in a.items() if k.startswith(("tpo/", "loss"))} == {
            k: v for k, v in b.items() if k.startswith(("tpo/", "loss"))
        }


def test_data_of_fewer_prompts_than_a_round_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"train_dataset: got 1 prompts, expected 2 or more: 1 process x 1 .* x 4; repeat"
    ):
        tiny_llm.train(tmp_path, train_dataset=tiny_llm.prompts(1))


@pytest.mark.usefixtures("double")
def test_training_again_begins_with_a_round_of_its_own(tmp_path: Path) -> None:
    # The first call ends in the middle of a round.
    trainer, watch = tiny_llm.train(tmp_path, **cut(2, 2, 4, max_steps=1))
    for noted in (watch.rounds, watch.parameters, watch.gradients):
        noted.clear()
    trainer.train()
    assert len(watch.rounds) == 1
    assert tiny_llm.apart(trainer, watch, tiny_llm.model()) < EXACT


def test_the_class_says_which_hooks_it_overrides_and_why() -> None:
    own = {name for name, thing in vars(tiny_llm.TargetPOTrainer).items() if callable(thing)}
    inherited = {name for name in own if any(name in vars(base) for base in GRPOTrainer.__mro__[:-1])} - {"__init__"}
    doc = tiny_llm.TargetPOTrainer.__doc__ or ""
    listed = set(re.findall(r"^    - `(\w+)`: ", doc, re.MULTILINE))
    assert listed == inherited
