"""Noise in the forward pass: refused by name, found by two passes, or silenced; and what is healthy is left alone."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from helpers import llm_worker, tiny_llm
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import BOFTConfig, LoKrConfig, LoraConfig, OFTConfig
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
)

from tpo_torch.llm.culprit import culprit
from tpo_torch.llm.dropout import refuse_dropout, silence_dropout
from tpo_torch.llm.noise import NoiseProbe, differences, tolerance
from tpo_torch.llm.unchanged import unchanged

pytestmark = [
    *tiny_llm.FILTERS,
    pytest.mark.filterwarnings("ignore:(Failed to load the CUDA|Setting boft_n):UserWarning"),
]

SMALL: dict[str, Any] = {
    "vocab_size": len(tiny_llm.tokenizer()),
    "pad_token_id": tiny_llm.PAD,
    "eos_token_id": tiny_llm.EOS,
    "bos_token_id": None,
    "initializer_range": 0.3,
}
DENSE: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
WIDTH, ROWS, LENGTH = 16, 8, 12


def gpt2(rate: float = 0.0) -> Any:
    rates = {"resid_pdrop": rate, "attn_pdrop": rate, "embd_pdrop": rate}
    return named(GPT2LMHeadModel, GPT2Config(n_embd=WIDTH, n_layer=2, n_head=2, n_positions=64, **SMALL, **rates))


def llama(**rates: float) -> Any:
    return named(LlamaForCausalLM, LlamaConfig(**SMALL, **DENSE, **rates))


def mixtral(**rates: float) -> Any:
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2}
    return named(MixtralForCausalLM, MixtralConfig(**SMALL, **DENSE, **experts, **rates))


def named(kind: Any, config: Any) -> Any:
    torch.manual_seed(0)
    config.name_or_path = "tiny"
    return kind(config)


def adapter(kind: Any, **options: Any) -> Any:
    return kind(target_modules=["q_proj", "v_proj"], **options)


# What is noisy, by its makers' own option: the model, the adapter, and what the refusal says.
KINDS: dict[str, tuple[Callable[[], Any], Any, str]] = {
    "residual dropout": (lambda: gpt2(0.1), None, r"p=0\.1 in transformer\.drop"),
    "attention dropout": (lambda: llama(attention_dropout=0.1), None, r"attention_dropout=0\.1 in .*self_attn"),
    "router jitter": (lambda: mixtral(router_jitter_noise=0.1), None, r"jitter_noise=0\.1 in .*mlp"),
    "LoRA": (llama, adapter(LoraConfig, r=2, lora_dropout=0.1), r"p=0\.1 in .*lora_dropout\.default"),
    "LoKr, ranks": (llama, adapter(LoKrConfig, r=2, rank_dropout=0.1), r"rank_dropout\['default'\]=0\.1 in .*q_proj"),
    "LoKr, modules": (llama, adapter(LoKrConfig, r=2, module_dropout=0.1), r"module_dropout\['default'\]=0\.1 in"),
    "BOFT": (llama, adapter(BOFTConfig, boft_block_size=4, boft_dropout=0.5), r"p=0\.5 in .*boft_dropout\.default"),
    "OFT": (llama, adapter(OFTConfig, oft_block_size=4, r=0, module_dropout=0.5), r"p=0\.5 in .*oft_dropout"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_rates_of_noise_are_refused_at_once_or_silenced(kind: str, tmp_path: Path) -> None:
    build, peft_config, said = KINDS[kind]
    with pytest.raises(ValueError, match=rf"dropout: got {said}.*, expected 0.*(?s:.*)or disable_dropout=True"):
        start(tmp_path, build(), peft_config=peft_config)
    trainer = start(tmp_path, build(), peft_config=peft_config, disable_dropout=True)
    trainer.train()
    refuse_dropout(trainer.model)
    assert silence_dropout(trainer.model) == []


def start(folder: Path, policy: Any, **options: Any) -> Any:
    """A trainer that has not yet trained."""
    others = {name: options.pop(name) for name in tiny_llm.TRAINER_OPTIONS if name in options}
    return tiny_llm.build(
        tiny_llm.TargetPOTrainer,
        policy,
        tiny_llm.reward,
        tiny_llm.arguments(folder, **options),
        tiny_llm.prompts(32),
        tiny_llm.tokenizer(),
        **others,
    )


class Leaky(nn.Module):
    """A module with noise after it, whose rate no name gives away."""

    def __init__(self, inner: nn.Module, noise: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.inner, self.noise = inner, noise

    def forward(self, x: Tensor) -> Tensor:
        return self.noise(self, self.inner(x))


def residual(self: nn.Module, x: Tensor) -> Tensor:
    return functional.dropout(x, 0.1, training=self.training)


def gaussian(self: nn.Module, x: Tensor) -> Tensor:
    return x + 0.01 * torch.randn_like(x)


@pytest.mark.parametrize("noise", [residual, gaussian])
@pytest.mark.parametrize("disable", [False, True])
def test_noise_of_no_name_is_refused_with_its_size_and_place(noise: Any, disable: bool, tmp_path: Path) -> None:
    policy = llama()
    policy.model.layers[1].mlp = Leaky(policy.model.layers[1].mlp, noise)
    trainer = start(tmp_path, policy, disable_dropout=disable)
    before = tiny_llm.weights(policy)
    remedy = "disable_dropout=True could not silence it" if disable else "set its rate to 0, or disable_dropout=True"
    sizes = r"differ by up to [\d.e-]+ in the log-probability of a token and [\d.e-]+ in that of a completion"
    with pytest.raises(ValueError, match=rf"^noise: .*{sizes}.* model\.layers\.1\.mlp \(Leaky\)\. .*{remedy}"):
        trainer.train()
    assert trainer.state.global_step == 0
    assert all(torch.equal(x, before[name]) for name, x in tiny_llm.weights(policy).items())


def test_jitter_that_comes_after_the_names_were_read_is_found(tmp_path: Path) -> None:
    trainer = start(tmp_path, mixtral())
    trainer.model.model.layers[0].mlp.jitter_noise = 0.1
    with pytest.raises(ValueError, match=r"model\.layers\.0\.mlp \(MixtralSparseMoeBlock\)"):
        trainer.train()


def test_noise_before_a_weight_that_starts_at_zero_is_found_once_the_weight_has_moved(tmp_path: Path) -> None:
    trainer = start(tmp_path, llama(), peft_config=adapter(LoraConfig, r=2), max_steps=4)
    layer = trainer.model.base_model.model.model.layers[0].self_attn.q_proj
    layer.lora_dropout["default"] = Leaky(nn.Identity(), gaussian)
    with pytest.raises(ValueError, match=r"lora_dropout\.default \(Leaky\)"):
        trainer.train()
    assert trainer.state.global_step == 1


def test_a_resumed_run_is_tried_again(tmp_path: Path) -> None:
    start(tmp_path, llama(), save_strategy="steps", save_steps=1).train()
    trainer = start(tmp_path, llama(), max_steps=2)
    trainer.model.model.layers[0].mlp.register_forward_hook(lambda module, _, x: residual(module, x))
    with pytest.raises(ValueError, match="noise: two passes"):
        trainer.train(resume_from_checkpoint=True)


@pytest.mark.parametrize(("build", "disable"), [(llama, False), (gpt2, True), (mixtral, False)])
def test_training_is_the_same_with_and_without_the_passes(
    build: Any, disable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"max_steps": 2, "disable_dropout": disable}
    tried, _ = tiny_llm.train(tmp_path / "tried", build(), **options)
    drawn = torch.rand(())
    monkeypatch.setattr(NoiseProbe, "check", lambda *_: None)
    plain, watch = tiny_llm.train(tmp_path / "plain", build(), **options)
    assert torch.rand(()) == drawn
    after = tiny_llm.weights(tried.model)
    assert all(torch.equal(x, after[name]) for name, x in tiny_llm.weights(plain.model).items())
    assert any(not torch.equal(x, after[name]) for name, x in watch.parameters[0].items())


@pytest.mark.parametrize("sharded", [False, True])
def test_all_processes_raise_where_one_is_noisy(sharded: bool, tmp_path: Path) -> None:
    ended = llm_worker.start(tmp_path / "noisy", "noisy", 2, rank=1, sharded=sharded).wait()
    assert ended.codes == [llm_worker.FAILED] * 2
    for said in ended.said:
        assert "ValueError: noise: two passes over the same" in said
        assert "model.layers.1.mlp (" in said


# -- small models -----------------------------------------------------------------------------------------------------


class Model(nn.Module):
    """Layers between an embedding and a head; each of them may be noisy."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.embedding, self.head = nn.Embedding(10, WIDTH), nn.Linear(WIDTH, 10)
        self.layers = nn.ModuleList(layers)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        for layer in self.layers:
            x = x + layer(x)
        return self.head(x)


class Layer(nn.Module):
    """A linear layer and one kind of noise, of a rate under any name, in the module or in its configuration."""

    def __init__(self, kind: str = "none", name: str = "rate", rate: float = 0.5, *, apart: bool = False) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.linear, self.kind, self.name, self.calls = nn.Linear(WIDTH, WIDTH), kind, name, 0
        self.generator, self.draws = torch.Generator(), np.random.default_rng(0)
        self.config = type("Config", (), {})()
        self.holder = [self.config if apart else self]
        setattr(self.holder[0], name, rate)
        # Rates in dictionaries by adapter, as PEFT has them.
        self.rates = {"default": rate}
        self.inside = nn.FeatureAlphaDropout(rate) if kind == "module" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        x, rate = self.inside(torch.tanh(self.linear(x))), getattr(self.holder[0], self.name)
        if not self.training and self.kind != "always":
            return x
        match self.kind:
            case "functional":
                return functional.dropout(x, rate)
            case "gaussian" | "always":
                return x + rate * torch.randn_like(x)
            case "jitter":
                return x * torch.empty_like(x).uniform_(1 - rate, 1 + rate)
            case "layers":
                return x if random.random() >= rate else torch.zeros_like(x)
            case "own generator":
                return x + rate * torch.randn(x.shape, generator=self.generator)
            case "numpy":
                return x + rate * torch.tensor(self.draws.normal(size=x.shape)).to(x)
            case "global numpy":
                return x * (1 + rate * np.random.rand())  # noqa: NPY002
            case "unnamed":
                return functional.dropout(x, 0.3)
            case "counter":
                return x * (1 + rate * self.calls)
            case _:
                return x


NOISES = (
    *("none", "module", "functional", "gaussian", "always", "jitter", "layers"),
    *("own generator", "numpy", "global numpy", "unnamed", "counter"),
)
NAMES = ("dropout", "resid_pdrop", "drop_path_rate", "layerdrop", "router_jitter_noise", "eps", "alpha", "q", "_s")
IDS = torch.arange(ROWS * LENGTH).view(ROWS, LENGTH) % 10
MASK = torch.ones(ROWS, LENGTH, dtype=torch.int64)


def logps(model: nn.Module) -> Callable[[], Tensor]:
    def call() -> Tensor:
        return torch.log_softmax(model(IDS), -1).gather(-1, IDS.unsqueeze(-1)).squeeze(-1)

    return call


def probe(model: nn.Module, disable: bool = False) -> None:
    NoiseProbe(model, disable).check(0, model, logps(model), MASK, Accelerator(cpu=True))


layers = st.builds(Layer, st.sampled_from(NOISES), st.sampled_from(NAMES), st.floats(0.2, 0.9), apart=st.booleans())


@given(st.lists(layers, min_size=1, max_size=4), st.booleans())
@settings(max_examples=100)
def test_noise_is_silenced_or_refused_and_never_silent(made: list[Layer], disable: bool) -> None:
    model = Model(made)
    try:
        probe(model, disable)
    except ValueError:
        # A rate above 0 is refused by name even where nothing applies it.
        named = any(not disable and name in NAMES[:5] for name in (layer.name for layer in made))
        assert named or {layer.kind for layer in made} != {"none"}
    else:
        first = logps(model)()
        assert all(torch.equal(first, logps(model)()) for _ in range(20))


@pytest.mark.parametrize("kind", ["functional", "gaussian", "jitter", "layers", "own generator", "module"])
@pytest.mark.parametrize("apart", [False, True])
def test_a_rate_that_says_what_it_is_is_silenced(kind: str, apart: bool) -> None:
    model = Model([Layer(), Layer(kind, "some_dropout", apart=apart)])
    probe(model, disable=True)
    assert model.layers[1].holder[0].some_dropout == 0


@pytest.mark.parametrize("kind", [kind for kind in NOISES if kind not in ("none", "layers")])
def test_the_first_noisy_module_is_named(kind: str) -> None:
    model = Model([Layer(), Layer(kind), Layer("gaussian")])
    with unchanged(model):
        expected = "layers.1.inside (FeatureAlphaDropout)" if kind == "module" else "layers.1 (Layer)"
        assert culprit(model, logps(model)) == expected
    assert culprit(Model([Layer()]), logps(Model([Layer()]))) is None


def test_what_is_no_rate_is_refused_rather_than_set_to_zero() -> None:
    model = Model([Layer()])
    model.layers[0].drop_gate = 0.5
    model.layers[0].register_forward_hook(lambda module, _, x: x * module.drop_gate)
    with pytest.raises(ValueError, match=r"disable_dropout: set drop_gate to 0, which changes the model in evaluation"):
        probe(model, disable=True)
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("kind", NOISES)
def test_generators_buffers_and_counters_stay_as_they_were(kind: str) -> None:
    model = Model(
        [Layer(kind, "s"), nn.Sequential(nn.Flatten(0, 1), nn.BatchNorm1d(WIDTH), nn.Unflatten(0, IDS.shape))]
    )
    spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(WIDTH, WIDTH))
    model.layers.append(spectral)
    before = state_of(model)
    with contextlib.suppress(ValueError):
        probe(model)
    after = state_of(model)
    assert before.keys() == after.keys()
    for name, value in before.items():
        np.testing.assert_equal(after[name], value, err_msg=name)


def state_of(model: nn.Module) -> dict[str, Any]:
    tensors = {name: x.detach().clone().numpy() for name, x in model.state_dict().items()}
    first: Any = model.layers[0]
    own = {"calls": first.calls, "own": first.generator.get_state().numpy(), "draws": first.draws.bit_generator.state}
    shared = {"python": random.getstate(), "torch": torch.get_rng_state().numpy()}
    shared |= {"numpy": np.random.get_state()}  # noqa: NPY002
    return tensors | own | shared | {"training": [module.training for module in model.modules()]}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_kernels_that_round_in_another_order_each_time_pass_and_noise_as_small_does_not(dtype: torch.dtype) -> None:
    def other_order(module: Any, _: Any, x: Tensor) -> Tensor:
        # The last bit of some numbers, other ones at each call.
        module.calls += 1
        some = (torch.arange(x.numel()).view_as(x) + module.calls) % 3 == 0
        return torch.where(some, x * (1 + torch.finfo(dtype).eps), x)

    model = Model([Layer(), Layer()]).to(dtype)
    model.layers[0].register_forward_hook(other_order)
    apart = differences(logps(model)(), logps(model)(), MASK)
    assert 0 < apart[0] <= tolerance(model, logps(model)(), MASK, Accelerator(cpu=True))
    probe(model)
    drawn = Model([Layer(), Layer()]).to(dtype)
    drawn.layers[0].register_forward_hook(lambda _, __, x: x * (1 + 2 * torch.finfo(dtype).eps * torch.randn_like(x)))
    with pytest.raises(ValueError, match=r"layers\.0 \(Layer\)\. It draws random numbers"):
        probe(drawn)


def test_a_state_that_moves_from_pass_to_pass_is_told_from_noise() -> None:
    with pytest.raises(ValueError, match="Equal random generators do not make equal passes either"):
        probe(Model([Layer("counter")]))


def test_differences_of_what_is_no_number_are_infinite_and_padding_counts_for_nothing() -> None:
    a, nan = torch.zeros(1, 3), torch.tensor([[0.0, torch.nan, 5.0]])
    mask = torch.tensor([[1, 1, 0]])
    assert differences(a, nan, mask).tolist() == [torch.inf, torch.inf]
    assert differences(nan, nan, mask).tolist() == [0, 0]
    assert differences(a, nan, torch.tensor([[1, 0, 0]])).tolist() == [0, 0]
