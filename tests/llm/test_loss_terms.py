"""What TRL adds to the loss: each term's gradient by its definition, over any cut; its log; and what the step costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import tiny_llm
from helpers.tiny_llm import cut
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import MixtralConfig, MixtralForCausalLM
from trl import GRPOTrainer

from tpo_torch.llm import metrics

pytestmark = tiny_llm.FILTERS

# Norms of the model work in single precision, and a term alone is rounded otherwise than within a sum.
CLOSE = 1e-6
CUTS = {"whole": cut(8), "split": cut(2, 4), "single rows": cut(1, 8), "shuffled": cut(2, 4, shuffle_rows=True)}
COEFFICIENT = 0.7


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GRPOTrainer, "_get_per_token_logps_and_entropies", tiny_llm.double_head)


def gradient(folder: Path, policy: Any = None, **options: Any) -> tuple[torch.Tensor, Any, Any]:
    """The gradient of one step on completions of 3 to 10 tokens, flat; the line of the log; the round."""
    given = {"rollout_func": tiny_llm.mixed, "max_steps": 1}
    trainer, watch = tiny_llm.train(folder, policy, **options | given)
    flat = torch.cat([x.flatten() for x in watch.gradients[0].values()])
    return flat, trainer.state.log_history[0], watch.rounds[0]


def mean_entropy_gradient(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Of the mean over all trained tokens of a round."""
    policy = tiny_llm.model()
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    attention = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
    logs = torch.log_softmax(policy(input_ids=ids, attention_mask=attention).logits[:, :-1], -1)
    mask = batch["completion_mask"]
    entropy = -(logs.exp() * logs).sum(-1)[:, -mask.shape[1] :]
    ((entropy * mask).sum() / mask.sum()).backward()
    return torch.cat([p.grad.flatten() for p in policy.parameters()])


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", CUTS)
@pytest.mark.parametrize("divide", [False, True])
def test_the_entropy_bonus_is_that_of_all_tokens_and_is_not_divided(name: str, divide: bool, tmp_path: Path) -> None:
    options = CUTS[name] | {"divide_by_length": divide}
    plain, _, round_ = gradient(tmp_path / "plain", **options)
    with_bonus, _, _ = gradient(tmp_path / "bonus", entropy_coef=COEFFICIENT, **options)
    wanted = -COEFFICIENT * mean_entropy_gradient(round_.batch)
    assert float((with_bonus - plain - wanted).abs().max()) < CLOSE * float(wanted.abs().max())


@pytest.mark.usefixtures("double")
def test_the_adaptive_bonus_measures_the_entropy_that_is_there(tmp_path: Path) -> None:
    # Gradients of the bonus are scaled, and the values that TRL's controller reads are not.
    options = {"use_adaptive_entropy": True, "entropy_target": 99.0, "rollout_func": tiny_llm.mixed}
    trainer, _ = tiny_llm.train(tmp_path, **cut(2, 4, max_steps=2) | options)
    first, second = trainer.state.log_history[:2]
    assert trainer._last_world_entropy == pytest.approx(second["entropy"])
    # It begins without a bonus, and applies what it has found in the step before.
    assert first["loss"] == pytest.approx(first["policy_loss"])
    assert first["entropy_coef"] > 0
    assert second["loss"] == pytest.approx(second["policy_loss"] - first["entropy_coef"] * second["entropy"])


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_cross_entropy_and_kl_are_divided_by_the_mean_length(beta: float, tmp_path: Path) -> None:
    tiny_llm.model(1).save_pretrained(tmp_path / "model")
    options = CUTS["split"] | {"beta": beta, "model_init_kwargs": {"dtype": "auto"}}
    policy = tiny_llm.model()
    policy.config.name_or_path = str(tmp_path / "model")
    whole, line, round_ = gradient(tmp_path / "whole", policy, **options)
    policy = tiny_llm.model()
    policy.config.name_or_path = str(tmp_path / "model")
    divided, same, _ = gradient(tmp_path / "divided", policy, divide_by_length=True, **options)
    length = float(round_.batch["completion_mask"].sum(-1).double().mean())
    assert float((divided * length - whole).abs().max()) < CLOSE * float(whole.abs().max())
    # The value in the log is never divided.
    assert line["loss"] == pytest.approx(same["loss"])
    if beta:
        assert line["loss"] - line["tpo/cross_entropy"] == pytest.approx(beta * line["kl"] * length, rel=1e-5)


def experts(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    config = MixtralConfig(
        vocab_size=len(tiny_llm.tokenizer()), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=1,
        output_router_logits=True, eos_token_id=tiny_llm.EOS, pad_token_id=tiny_llm.PAD,
        initializer_range=1.0,
    )  # fmt: skip
    return MixtralForCausalLM(config)


def test_the_load_balancing_loss_depends_on_the_cut_and_on_nothing_of_ours(tmp_path: Path) -> None:
    found = {}
    for name in ("whole", "split"):
        for divide in (False, True):
            both = [
                gradient(tmp_path / f"{name}{divide}{weight}", experts(), router_aux_loss_coef=weight,
                         divide_by_length=divide, **CUTS[name])[0]
                for weight in (0.0, 100.0)
            ]  # fmt: skip
            found[name, divide] = both[1] - both[0]
    size = float(found["whole", False].norm())
    for name in ("whole", "split"):
        assert float((found[name, True] - found[name, False]).norm()) < 1e-3 * size
    apart = float((found["whole", False] - found["split", False]).norm()) / size
    # As large as the term itself where micro-batches are as small as here.
    assert 0.1 < apart < 2


# -- the log ----------------------------------------------------------------------------------------------------------


def test_the_policy_loss_is_logged_beside_an_entropy_bonus(tmp_path: Path) -> None:
    for name in ("whole", "split"):
        _, line, _ = gradient(tmp_path / name, entropy_coef=COEFFICIENT, **CUTS[name])
        assert line["policy_loss"] == pytest.approx(line["tpo/cross_entropy"])
        assert line["entropy_coef"] == COEFFICIENT
        assert line["loss"] == pytest.approx(line["policy_loss"] - COEFFICIENT * line["entropy"])
    _, line, _ = gradient(tmp_path / "none", **CUTS["whole"])
    assert "policy_loss" not in line


@pytest.mark.parametrize("name", ["kl", "policy_loss", "clip_ratio/low_mean"])
def test_a_figure_of_a_reward_function_stays_whatever_its_name(name: str, tmp_path: Path) -> None:
    def logging(completions: list[str], log_metric: Any, **_: Any) -> list[float]:
        log_metric(name, 7.0)
        return tiny_llm.reward(completions)

    for layout in (cut(8), cut(2, 4), cut(2, 2, 4)):
        trainer, _ = tiny_llm.train(tmp_path, reward_funcs=logging, **layout)
        line = trainer.state.log_history[0]
        assert line[name] == 7
        assert not [other for other in line if other.startswith("clip_ratio") and other != name]


def test_names_left_out_are_those_that_trl_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "NOT_OURS", frozenset())
    monkeypatch.setattr(metrics, "BY_STEP", frozenset())
    trainer, _ = tiny_llm.train(tmp_path, entropy_coef=0.1, **cut(8))
    logged = set(trainer.state.log_history[0])
    monkeypatch.undo()
    assert logged >= metrics.NOT_OURS | metrics.BY_STEP - {"kl"}


# -- the cost ---------------------------------------------------------------------------------------------------------


class LargeDoubles(TorchDispatchMode):
    """Counts results in double precision with as many entries as a micro-batch has tokens."""

    def __init__(self, entries: int) -> None:
        super().__init__()
        self.entries, self.seen = entries, []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outcome = function(*args, **kwargs or {})
        if isinstance(outcome, torch.Tensor) and outcome.dtype == torch.double and outcome.numel() >= self.entries:
            self.seen.append(str(function))
        return outcome


def test_no_tensor_of_all_tokens_is_made_in_double_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, modes = tiny_llm.TargetPOTrainer._weigh, []

    def watched(self: Any, inputs: Any, logps: Any, entropies: Any) -> Any:
        # Wide enough that no table of rows and groups has as many entries.
        wide = [torch.nn.functional.pad(x, (0, 500)) for x in (logps, entropies)]
        by_token = [name for name in ("completion_mask", "sampling_per_token_logps") if name in inputs]
        padded = inputs | {name: torch.nn.functional.pad(inputs[name], (0, 500)) for name in by_token}
        with LargeDoubles(wide[0].numel()) as mode:
            tokens = plain(self, padded, *wide)
        inputs["advantages"] = padded["advantages"]
        modes.append(mode)
        return tokens

    monkeypatch.setattr(tiny_llm.TargetPOTrainer, "_weigh", watched)
    trainer, _ = tiny_llm.train(tmp_path, tiny_llm.model(dtype=torch.float32), rollout_func=tiny_llm.mixed, **cut(8))
    assert len(modes) == trainer.state.global_step
    assert [mode.seen for mode in modes] == [[]] * len(modes)
    assert np.isfinite(trainer.state.log_history[0]["entropy"])


class OnDevice(torch.Tensor):
    """Stands for a tensor on a GPU: a copy to the host is counted, and what else would wait for the device refused."""

    copies = 0

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert function.__name__ not in WAITS, function.__name__
        outcome = super().__torch_function__(function, types, args, kwargs or {})
        if function is torch.Tensor.cpu:
            cls.copies += 1
            return outcome.as_subclass(torch.Tensor)
        return outcome


WAITS = (
    "item",
    "tolist",
    "__bool__",
    "__int__",
    "__float__",
    "__index__",
    "unique",
    "nonzero",
    "masked_select",
    "numpy",
)


@pytest.mark.parametrize("layout", [cut(8), cut(2, 4), cut(4, 2, num_iterations=2)])
@pytest.mark.parametrize("anchor", ["policy", "ratio"])
def test_a_micro_batch_waits_for_the_device_once(
    anchor: str, layout: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, counts = tiny_llm.TargetPOTrainer._weigh, []

    def watched(self: Any, inputs: Any, logps: Any, entropies: Any) -> Any:
        mask, before = inputs["completion_mask"], OnDevice.copies
        inputs["completion_mask"] = mask.as_subclass(OnDevice)
        sums = plain(self, inputs, logps.as_subclass(OnDevice), entropies.as_subclass(OnDevice))
        inputs["completion_mask"] = mask
        counts.append(OnDevice.copies - before)
        return sums

    monkeypatch.setattr(tiny_llm.TargetPOTrainer, "_weigh", watched)
    trainer, _ = tiny_llm.train(tmp_path, tiny_llm.model(dtype=torch.float32), anchor=anchor, **layout)
    assert counts == [1] * trainer._step
