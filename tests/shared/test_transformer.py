"""The transformer: its size, its first values, its rules, and that it computes what the textbook computes."""

from __future__ import annotations

import math
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch
from helpers.sequences import generators, network
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch.nn import functional

from tpo_torch.reversal.clear import clear_logp, clear_policy
from tpo_torch.reversal.engine import dense, draw, merged
from tpo_torch.shared.transformer import RULES, CausalTransformer, gelu

# LeCun-normal: cut at two standard deviations of the normal that is then widened to the variance 1/fan_in.
CUT = 2 / stats.truncnorm(-2, 2).std()


@pytest.mark.parametrize(("vocab", "horizon"), [(2, 10), (16, 10), (2, 7)])
def test_it_has_the_published_number_of_parameters(vocab: int, horizon: int) -> None:
    net = CausalTransformer(generators(0), vocab, 2 * horizon)
    attention = 4 * (64 * 64 + 64)
    ffn = 64 * 256 + 256 + 256 * 64 + 64
    norms = 2 * (64 + 64)
    expected = (vocab + 2 * horizon) * 64 + 2 * (attention + ffn + norms) + 2 * 64 + 64 * vocab + vocab
    assert sum(p.numel() for p in net.parameters()) == expected
    assert expected == 101_634 or (vocab, horizon) != (2, 10)


@pytest.mark.parametrize(
    ("name", "scale", "cut"),
    [
        ("embedding", 1 / math.sqrt(64), math.inf),
        ("positions", 0.02, math.inf),
        ("attention_in_weight", 1 / math.sqrt(64), CUT),
        ("attention_out_weight", 1 / math.sqrt(64), CUT),
        ("ffn_in_weight", 1 / math.sqrt(64), CUT),
        ("ffn_out_weight", 1 / math.sqrt(256), CUT),
        ("head_weight", 1 / math.sqrt(64), CUT),
    ],
)
def test_weights_have_the_scale_of_their_fan_in(name: str, scale: float, cut: float) -> None:
    z = CausalTransformer(generators(*range(20)), vocab=8, places=20).get_parameter(name).detach().double() / scale
    # Of n normal draws the mean errs by 1/√n, the deviation by 1/√(2n); five of each.
    assert z.mean().item() == pytest.approx(0, abs=5 / math.sqrt(z.numel()))
    assert z.std().item() == pytest.approx(1, abs=5 / math.sqrt(2 * z.numel()))
    if cut == math.inf:
        # Of 10,240 normal draws and more, some leave the cut of the others.
        assert z.abs().max() > 1.2 * CUT
    else:
        assert 0.99 * cut < z.abs().max().item() <= cut * (1 + 1e-6)
    assert len(z.flatten().unique()) > 0.99 * z.numel()


def test_queries_keys_and_values_of_each_layer_have_their_own_draws() -> None:
    weight = CausalTransformer(generators(0), vocab=2, places=4).get_parameter("attention_in_weight")
    parts = [part for layer in weight[0] for part in layer.split(64, -1)]
    for i, part in enumerate(parts):
        # 4,096 draws a part: each has the whole scale of 1/8, within five standard errors.
        assert 8 * part.std().item() == pytest.approx(1, abs=5 / math.sqrt(2 * 4_096))
        assert all((part != other).any() for other in parts[:i])


def test_norms_begin_as_identities_and_biases_at_zero() -> None:
    for name, p in CausalTransformer(generators(0, 1), vocab=3, places=6).named_parameters():
        if name.endswith("_scale"):
            assert (p == 1).all()
        if name.endswith(("_shift", "_bias")):
            assert (p == 0).all()


@given(seeds=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=4, unique=True), data=st.data())
@settings(max_examples=15)
def test_a_seed_is_the_same_whichever_others_are_beside_it(seeds: list[int], data: st.DataObject) -> None:
    i = data.draw(st.integers(0, len(seeds) - 1))
    together = CausalTransformer(generators(*seeds), vocab=3, places=4)
    alone = CausalTransformer(generators(seeds[i]), vocab=3, places=4)
    for a, b in zip(together.parameters(), alone.parameters(), strict=True):
        assert torch.equal(a[i], b[0])


def test_the_rules_are_those_of_arrays_with_two_axes_in_flax() -> None:
    # As in the authors' program: embedding, positions, both FFN weights, head weight, and the q, k, v biases; the
    # rest is Adam's.
    muon = {"embedding", "positions", "ffn_in_weight", "ffn_out_weight", "head_weight", "attention_in_bias"}
    net = CausalTransformer(generators(0, 1), vocab=3, places=6)
    assert {name for name, rule in RULES.items() if rule == "muon"} == muon
    assert set(RULES.values()) == {"muon", "adam"}
    assert set(RULES) == {name for name, _ in net.named_parameters()}
    shapes = {name: tuple(net.get_parameter(name).shape) for name in muon}
    # Seeds first; then layers, where there are any; for the biases, which of q, k, v; the last two are the matrix.
    assert shapes == {
        "embedding": (2, 3, 64),
        "positions": (2, 6, 64),
        "ffn_in_weight": (2, 2, 64, 256),
        "ffn_out_weight": (2, 2, 256, 64),
        "head_weight": (2, 64, 3),
        "attention_in_bias": (2, 2, 3, 2, 32),
    }


def test_gelu_is_the_one_with_tanh() -> None:
    x = torch.cat([torch.linspace(-12, 12, 4_001), torch.tensor([-1e3, 1e3])]).double().requires_grad_()
    y = x.detach().clone().requires_grad_()
    ours, theirs = gelu(x), functional.gelu(y, approximate="tanh")
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-15)
    for total, leaf in ((ours, x), (theirs, y)):
        (total * torch.linspace(1, 2, len(leaf), dtype=torch.float64)).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-10, atol=1e-14)


def test_gelu_has_the_gradient_of_its_value() -> None:
    x = torch.linspace(-6, 6, 49, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(gelu, (x,))
    half = torch.linspace(-6, 6, 49, requires_grad=True)
    torch.testing.assert_close(gelu(half), functional.gelu(half, approximate="tanh"), rtol=1e-5, atol=1e-6)


@given(seed=st.integers(0, 2**32 - 1), vocab=st.integers(2, 4), horizon=st.integers(1, 4))
@settings(max_examples=15)
def test_folded_norms_are_the_textbooks_norms(seed: int, vocab: int, horizon: int) -> None:
    net = network(seed, vocab=vocab, horizon=horizon)
    draws = draw(generators(seed), vocab, horizon, batch=3, answers=2)
    rollout = dense.generate(net, draws)
    with torch.no_grad():
        policy = net(rollout.layout)
        clear = clear_logp(net, draws.prompts[0], rollout.answers[0])
    torch.testing.assert_close(policy.exp().sum(-1), torch.ones_like(policy[..., 0]))
    torch.testing.assert_close(rollout.logp(policy)[0], clear, rtol=1e-10, atol=1e-12)


@given(seed=st.integers(0, 2**32 - 1), at=st.integers(0, 5))
@settings(max_examples=20)
def test_a_later_token_changes_no_earlier_prediction(seed: int, at: int) -> None:
    net = network(seed, vocab=4, horizon=3)
    tokens = torch.randint(4, (5, 6), generator=torch.Generator().manual_seed(seed))
    changed = tokens.clone()
    changed[:, at:] = (changed[:, at:] + 1) % 4
    before, after = clear_policy(net, tokens), clear_policy(net, changed)
    torch.testing.assert_close(before[:, :at], after[:, :at], rtol=0, atol=1e-13)
    # But it does change its own and all later ones.
    assert ((before - after)[:, at:].abs().amax(-1) > 1e-6).all()


@pytest.mark.parametrize("engine", [dense, merged], ids=["dense", "merged"])
@given(seed=st.integers(0, 2**32 - 1), step=st.integers(0, 3))
@settings(max_examples=15)
def test_a_later_draw_changes_no_earlier_prediction(engine: ModuleType, seed: int, step: int) -> None:
    net, every = network(seed, vocab=4, horizon=4), generators(seed, seed + 1)
    draws, fresh = (draw([g], vocab=4, horizon=4, batch=4, answers=1) for g in every)
    mixed = torch.cat([draws.uniforms[..., :step], fresh.uniforms[..., step:]], -1)
    # Every token of the alphabet as a candidate: the whole distribution before each token.
    alphabet = torch.arange(4).expand(1, 4, 4, 4)
    first, second = (replace(engine.generate(net, d), others=alphabet) for d in (draws, replace(draws, uniforms=mixed)))
    assert torch.equal(first.answers[..., :step], second.answers[..., :step])
    policies = [rollout.candidate_logp(net(rollout.layout))[:, :, : step + 1, 1:] for rollout in (first, second)]
    torch.testing.assert_close(*policies, rtol=0, atol=1e-12)
    torch.testing.assert_close(policies[0].exp().sum(-1), torch.ones(1, 4, step + 1, dtype=torch.float64))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([], 2, 4), ValueError, "generators: got none"),
        ((generators(0), 0, 4), ValueError, "vocab"),
        ((generators(0), 2, 0), ValueError, "places"),
        ((generators(0), 2.5, 4), TypeError, "vocab"),
        ((generators(0), 2, True), TypeError, "places"),
    ],
)
def test_bad_sizes_and_no_seed_are_refused(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        CausalTransformer(*arguments)
