"""What is trained: adapters of every kind, experts, weights in half precision, and a reference that follows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import kinds, tiny_llm
from helpers.tiny_llm import LAYOUTS, cut
from peft import IA3Config, LoHaConfig, LoKrConfig, LoraConfig, PeftConfig, get_peft_model
from transformers import MixtralConfig, Qwen3MoeConfig
from trl import GRPOTrainer

pytestmark = kinds.FILTERS

EXACT = 1e-10
# Routers work in single precision, whatever the model's.
ROUNDED = 1e-4
WHOLE = LAYOUTS["whole groups in one micro-batch"] | {"anchor": "ratio"}
CUT = LAYOUTS["half a group per micro-batch"] | {"anchor": "ratio"}
CUTS = {"whole": WHOLE, "split, two epochs": CUT | {"num_iterations": 2}, "split": CUT | {"anchor": "policy"}}
EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
ROUTED = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> None:
    """TRL's fused head works in single precision; its textbook twin takes its place."""
    monkeypatch.setattr(GRPOTrainer, "_get_per_token_logps_and_entropies", tiny_llm.double_head)


def length(completion_ids: list[list[int]], **_: Any) -> list[float]:
    return [float(len(ids)) + ids[0] / 7 for ids in completion_ids]


def train(folder: Path, policy: Any, **options: Any) -> tuple[Any, Any]:
    given = {"reward_funcs": length, "processing_class": kinds.talker()}
    return tiny_llm.train(folder, policy, **given | options)


def routed(**changes: Any) -> Any:
    """A model with experts, in double precision."""
    return kinds.language_model(Qwen3MoeConfig, **EXPERTS | changes)


# An adapter, drawn at random so that it matters from the first step, and the model below it.
ADAPTERS: dict[str, tuple[Callable[[], PeftConfig], Callable[[], Any]]] = {
    "LoRA of weights": (
        lambda: LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False),
        kinds.language_model,
    ),
    "LoRA of the parameters of experts": (
        lambda: LoraConfig(r=2, target_modules=[], target_parameters=ROUTED, init_lora_weights=False),
        routed,
    ),
    "DoRA": (
        lambda: LoraConfig(r=2, target_modules=["v_proj"], use_dora=True, init_lora_weights=False),
        kinds.language_model,
    ),
    "LoKr": (
        lambda: LoKrConfig(r=2, target_modules=["q_proj", "down_proj"], init_weights=False),
        kinds.language_model,
    ),
    "LoHa": (lambda: LoHaConfig(r=2, target_modules=["v_proj", "up_proj"], init_weights=False), kinds.language_model),
    "IA3": (
        lambda: IA3Config(
            target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"], init_ia3_weights=False
        ),
        kinds.language_model,
    ),
}


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("layout", ["whole", "split, two epochs"])
@pytest.mark.parametrize("name", ADAPTERS)
def test_gradient_of_each_kind_of_adapter(name: str, layout: str, tmp_path: Path) -> None:
    adapter, base = ADAPTERS[name]
    trainer, watch = train(tmp_path, base(), peft_config=adapter(), router_aux_loss_coef=0.0, **CUTS[layout])
    assert tiny_llm.apart(trainer, watch, get_peft_model(base(), adapter())) < EXACT
    # The model below stays as it was.
    fixed = {name for name in watch.parameters[0] if name not in watch.gradients[0]}
    assert all(torch.equal(watch.parameters[0][name], watch.parameters[-1][name]) for name in fixed)
    assert any(not torch.equal(watch.parameters[0][name], watch.parameters[-1][name]) for name in watch.gradients[0])


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("layout", ["whole", "split, two epochs"])
@pytest.mark.parametrize("name", ["LoRA of weights", "LoRA of the parameters of experts"])
def test_an_adapter_that_is_given_is_trained_and_its_first_state_is_the_reference(
    name: str, layout: str, tmp_path: Path
) -> None:
    adapter, base = ADAPTERS[name]
    torch.manual_seed(5)
    policy, dense = get_peft_model(base(), adapter()), get_peft_model(base(), adapter())
    trainer, watch = train(tmp_path, policy, beta=0.3, router_aux_loss_coef=0.0, **CUTS[layout])
    first = watch.rounds[0].batch
    dense.load_state_dict(watch.parameters[0], strict=False)
    wanted = tiny_llm.by_token(dense, first)[0]
    assert torch.allclose(first["ref_per_token_logps"] * first["completion_mask"], wanted, rtol=0, atol=1e-12)
    assert {n for n in watch.gradients[0] if ".ref." in n} == set()
    assert tiny_llm.apart(trainer, watch, dense) < EXACT


# -- experts ----------------------------------------------------------------------------------------------------------

MIXTURES: dict[str, Callable[..., Any]] = {
    "Qwen3": routed,
    "Mixtral": lambda **changes: kinds.language_model(
        MixtralConfig, **{"num_local_experts": 4, "num_experts_per_tok": 2} | changes
    ),
}


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("layout", ["whole", "split"])
@pytest.mark.parametrize("name", MIXTURES)
def test_the_router_loss_is_added_once_per_step(name: str, layout: str, tmp_path: Path) -> None:
    mixture, weight = MIXTURES[name], 0.5
    options = CUTS[layout] | {"max_steps": 1, "router_aux_loss_coef": weight}
    trainer, watch = train(tmp_path, mixture(), **options)
    dense, batch = mixture(), watch.rounds[0].batch
    wanted = tiny_llm.dense_gradient_of(dense, watch, trainer.args, 0)
    dense.zero_grad()
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    attention = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
    # The router's loss is that of a micro-batch; a step has the mean of them.
    size = trainer.args.per_device_train_batch_size
    parts = [
        dense(input_ids=x, attention_mask=y, output_router_logits=True).aux_loss
        for x, y in zip(ids.split(size), attention.split(size), strict=True)
    ]
    loss = torch.stack(parts).mean()
    (weight * loss).backward()
    assert trainer.state.log_history[0]["aux_loss"] == pytest.approx(float(loss.detach()), rel=1e-5)
    routing = {name: p.grad for name, p in dense.named_parameters() if p.grad is not None}
    largest = max(float(g.abs().max()) for g in routing.values())
    for parameter, given in watch.gradients[0].items():
        rest = given - wanted[parameter] - routing.get(parameter, 0.0)
        assert float(rest.abs().max()) < ROUNDED * largest
    assert any("gate.weight" in n and g.abs().max() > 0 for n, g in watch.gradients[0].items())


def flat(completions: list[str], **_: Any) -> list[float]:
    return [0.1] * len(completions)


def test_equal_rewards_leave_the_router_to_its_own_loss(tmp_path: Path) -> None:
    still = routed(dtype=torch.float32)
    before = tiny_llm.weights(still)
    trainer, _ = train(tmp_path, still, reward_funcs=flat, router_aux_loss_coef=0.0, **CUT)
    assert all(torch.equal(x, before[name]) for name, x in tiny_llm.weights(trainer.model).items())
    trainer, _ = train(tmp_path, routed(dtype=torch.float32), reward_funcs=flat, router_aux_loss_coef=0.5, **CUT)
    moved = {name for name, x in tiny_llm.weights(trainer.model).items() if not torch.equal(x, before[name])}
    assert any("gate.weight" in name for name in moved)
    assert "lm_head.weight" not in moved


# -- precision and memory ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["whole", "split, two epochs", "split"])
def test_half_precision_moves_with_a_signal_and_stays_without(layout: str, tmp_path: Path) -> None:
    options = CUTS[layout] | {"learning_rate": 0.5}
    before = tiny_llm.weights(kinds.language_model(dtype=torch.bfloat16))
    trainer, watch = train(tmp_path, kinds.language_model(dtype=torch.bfloat16), **options)
    after = tiny_llm.weights(trainer.model)
    assert all(x.dtype == torch.bfloat16 for x in after.values())
    assert sum(not torch.equal(before[name], x) for name, x in after.items()) > len(after) / 2
    assert all(bool(g.isfinite().all()) for step in watch.gradients for g in step.values())
    trainer, _ = train(tmp_path, kinds.language_model(dtype=torch.bfloat16), reward_funcs=flat, **options)
    assert all(torch.equal(before[name], x) for name, x in tiny_llm.weights(trainer.model).items())


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("adapter", [None, "LoRA of weights"])
@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_activations_change_no_gradient(reentrant: bool, adapter: str | None, tmp_path: Path) -> None:
    options = CUTS["split, two epochs"] | {
        "gradient_checkpointing": True,
        "gradient_checkpointing_kwargs": {"use_reentrant": reentrant},
    }
    dense = kinds.language_model()
    if adapter is not None:
        options["peft_config"] = ADAPTERS[adapter][0]()
        dense = get_peft_model(dense, ADAPTERS[adapter][0]())
    trainer, watch = train(tmp_path, kinds.language_model(), **options)
    assert tiny_llm.apart(trainer, watch, dense) < EXACT


# -- a reference ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("double")
def test_a_reference_that_follows_has_the_weights_of_the_last_step(tmp_path: Path) -> None:
    kinds.language_model().save_pretrained(tmp_path / "model")
    following = {"sync_ref_model": True, "ref_model_sync_steps": 1, "ref_model_mixup_alpha": 1.0}
    options = CUT | {"beta": 0.5, "model_init_kwargs": {"dtype": "auto"}, "max_steps": 3} | following
    trainer, watch = train(tmp_path, str(tmp_path / "model"), **options)
    now = tiny_llm.weights(trainer.model)
    assert all(torch.equal(now[name], x) for name, x in tiny_llm.weights(trainer.ref_model).items())
    # At each round the policy is at its reference: the penalty has no value and no gradient.
    assert all(abs(line["kl"]) < EXACT for line in trainer.state.log_history if "kl" in line)
    assert tiny_llm.apart(trainer, watch, kinds.language_model()) < EXACT


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"sync_ref_model": True}, ValueError, "`sync_ref_model=True` while `beta=0.0`"),
        (
            {"sync_ref_model": True, "beta": 0.1, "peft_config": ADAPTERS["LoRA of weights"][0]()},
            NotImplementedError,
            "`sync_ref_model=True` while using a PEFT model",
        ),
        ({"router_aux_loss_coef": 0.1}, ValueError, "`router_aux_loss_coef` is set to 0.1"),
        ({"peft_config": LoraConfig(target_modules=["lm_head"])}, ValueError, "Remove `'lm_head'`"),
        ({"peft_config": {"r": 2}}, TypeError, "`peft_config` must be a `peft.PeftConfig`"),
    ],
)
def test_what_cannot_be_trained_is_named(
    options: dict[str, Any], error: type[Exception], says: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=says):
        train(tmp_path, kinds.language_model(), **cut(8), **options)
