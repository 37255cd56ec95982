"""Muon and Nesterov Adam: the reference values, both forms of each rule, the optimiser that batches them, resuming."""

from __future__ import annotations

import copy
import inspect
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.backends import Backend
from helpers.strategies import BAD_NUMBERS, BAD_POSITIVES, bad
from hypothesis import given, settings
from hypothesis import strategies as st

from tpo_ref import muon as reference
from tpo_torch import muon
from tpo_torch.muon import Muon
from tpo_torch.shared.transformer import RULES, CausalTransformer

GOLDEN = json.loads((Path(__file__).parent / "golden" / "golden_muon.json").read_text(encoding="utf-8"))
GOLDEN_RULES = dict.fromkeys(("wide", "tall", "square"), "muon") | dict.fromkeys(("vector", "cube"), "adam")
# Computed once with Optax 0.2.8 in float64; five iterations amplify rounding at most 3.4445⁵ = 485-fold.
GOLDEN_TOLERANCE = 1e-12

# (shape, rule), all with two seeds: both orientations of one shape, a batch of two axes, vectors and attention weights.
SHAPES: dict[str, tuple[tuple[int, ...], str]] = {
    "wide": ((2, 3, 7), "muon"),
    "tall": ((2, 7, 3), "muon"),
    "square": ((2, 4, 4), "muon"),
    "layers": ((2, 5, 3, 7), "muon"),
    "biases": ((2, 2, 3, 2, 6), "muon"),
    "vector": ((2, 9), "adam"),
    "cube": ((2, 3, 4, 5), "adam"),
}
RULE_TABLE = {name: rule for name, (_, rule) in SHAPES.items()}


@st.composite
def matrices(draw: st.DrawFn) -> np.ndarray:
    """Batches (B, m, n) of any rank, over twelve orders of magnitude."""
    m, n, rank = draw(st.integers(1, 6)), draw(st.integers(1, 6)), draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size = 10.0 ** draw(st.integers(-4, 8))
    return size * rng.normal(size=(draw(st.integers(1, 3)), m, rank)) @ rng.normal(size=(rank, n))


def scalar(s: np.ndarray) -> np.ndarray:
    """What the iteration makes of one singular value."""
    for _ in range(reference.ITERATIONS):
        s = reference.LINEAR * s + reference.CUBIC * s**3 + reference.QUINTIC * s**5
    return s


def orthogonal(n: int, seed: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))[0]


@given(matrix=matrices())
def test_singular_values_move_alone_and_singular_vectors_stay(backend: Backend, matrix: np.ndarray) -> None:
    u, s, vh = np.linalg.svd(matrix, full_matrices=False)
    norm = np.linalg.norm(matrix, axis=(-2, -1))[:, None]
    expected = (u * scalar(s / (norm + reference.EPSILON))[:, None]) @ vh
    np.testing.assert_allclose(backend.call("muon.newton_schulz", matrix), expected, rtol=0, atol=1e-9)


def test_singular_values_end_in_a_band_around_one(backend: Backend) -> None:
    # The polynomial is steep at 0 at the price of never settling: from 1 % of the norm upward it ends in [0.68, 1.21].
    s = np.linspace(0.01, 1, 5_000)
    diagonal = np.zeros((len(s), 2, 2))
    diagonal[:, 0, 0], diagonal[:, 1, 1] = s, np.sqrt(1 - s**2)
    found = np.linalg.svd(backend.call("muon.newton_schulz", diagonal), compute_uv=False)
    assert found[np.sqrt(1 - s**2) > 0.01].min() > 0.68
    assert found.max() < 1.21


@given(matrix=matrices(), seed=st.integers(0, 99))
def test_turning_and_transposing_commute_with_it(backend: Backend, matrix: np.ndarray, seed: int) -> None:
    left, right = orthogonal(matrix.shape[-2], seed), orthogonal(matrix.shape[-1], seed + 1)
    once = backend.call("muon.newton_schulz", matrix)
    np.testing.assert_allclose(
        backend.call("muon.newton_schulz", left @ matrix @ right), left @ once @ right, rtol=0, atol=1e-9
    )
    np.testing.assert_allclose(backend.call("muon.newton_schulz", np.ascontiguousarray(matrix.mT)), once.mT, atol=1e-9)


@given(matrix=matrices(), steps=st.integers(1, 4))
def test_the_size_of_the_gradients_does_not_matter_to_muon(backend: Backend, matrix: np.ndarray, steps: int) -> None:
    # Up to ε over the norm, 1e-8 here, amplified at most 485-fold in a step of size 1e-3.
    matrix = matrix / np.linalg.norm(matrix, axis=(-2, -1), keepdims=True)
    small, large = np.zeros_like(matrix), np.zeros_like(matrix)
    for step in range(1, steps + 1):
        g = matrix * step
        one, small = backend.call("muon.muon_step", g, small, step)
        other, large = backend.call("muon.muon_step", 1e6 * g, large, step)
    np.testing.assert_allclose(other, one, rtol=0, atol=1e-8)


@given(matrix=matrices())
def test_each_matrix_of_a_batch_is_alone(backend: Backend, matrix: np.ndarray) -> None:
    momentum = matrix[::-1].copy()
    change, new = backend.call("muon.muon_step", matrix, momentum, 3)
    for i in range(len(matrix)):
        alone, alone_new = backend.call("muon.muon_step", matrix[i], momentum[i], 3)
        np.testing.assert_allclose(change[i], alone, rtol=0, atol=1e-12)
        np.testing.assert_allclose(new[i], alone_new, rtol=1e-12)


@pytest.mark.parametrize("step", [1, 2, 7])
def test_a_zero_gradient_from_the_start_is_exactly_no_step(backend: Backend, step: int) -> None:
    # Groups that fail throughout give exactly this gradient: nothing may be orthogonalised into a step.
    zero = np.zeros((2, 3, 4))
    assert (backend.call("muon.newton_schulz", zero) == 0).all()
    for part in (*backend.call("muon.muon_step", zero, zero, step),):
        assert (part == 0).all()
    for part in backend.call("muon.nesterov_adam_step", zero, zero, zero, step):
        assert (part == 0).all()


def test_a_first_step_by_hand(backend: Backend) -> None:
    # Muon: 1 × 4, so √(out/in) = 2, and its one singular value is 1: p⁵(1). Adam: (1 + β₁(1 − β₁)/(1 − β₁²))·sign.
    g = np.array([[3.0, 0.0, 0.0, 0.0]])
    change, momentum = backend.call("muon.muon_step", g, 0 * g, 1, 0.1)
    np.testing.assert_allclose(change, [[-0.1 * 2 * scalar(np.array(1.0)), 0, 0, 0]], rtol=1e-6)
    np.testing.assert_allclose(momentum, 0.05 * g)
    change, first, second = backend.call("muon.nesterov_adam_step", g, 0 * g, 0 * g, 1, 0.1)
    np.testing.assert_allclose(change, [[-0.1 * (1 + 0.09 / 0.19), 0, 0, 0]], rtol=1e-7)
    np.testing.assert_allclose((first[0, 0], second[0, 0]), (0.3, 0.009))


def test_golden_values(backend: Backend) -> None:
    lr = GOLDEN["learning_rate"]
    state = {name: [np.zeros(np.shape(p))] * 2 for name, p in GOLDEN["params0"].items()}
    for step, (gradients, updates) in enumerate(zip(GOLDEN["grads"], GOLDEN["updates"], strict=True), 1):
        for name, rule in GOLDEN_RULES.items():
            g = np.array(gradients[name])
            if rule == "muon":
                change, *state[name] = backend.call("muon.muon_step", g, state[name][0], step, lr)
            else:
                change, *state[name] = backend.call("muon.nesterov_adam_step", g, *state[name], step, lr)
            np.testing.assert_allclose(change, updates[name], rtol=GOLDEN_TOLERANCE)


@pytest.mark.reads_values
@bad(BAD_NUMBERS)
@pytest.mark.parametrize("place", range(5))
def test_bad_numbers_are_refused(backend: Backend, place: int, value: Any, error: type[Exception], words: str) -> None:
    good = np.ones((2, 2))
    # Gradient and momentum of Muon, then gradient and both moments of Adam.
    arguments = [good] * (2 if place < 2 else 3)
    arguments[place % 2 if place < 2 else place - 2] = value
    name = "muon.muon_step" if place < 2 else "muon.nesterov_adam_step"
    with pytest.raises(error, match=f"{words}|shape|axes|matrices"):
        backend.call(name, *arguments, 1)


def test_what_is_no_matrix_no_step_and_no_moment_is_refused(backend: Backend) -> None:
    good, vector = np.ones((2, 2)), np.ones(2)
    with pytest.raises(ValueError, match="vectors take Adam"):
        backend.call("muon.newton_schulz", vector)
    with pytest.raises(ValueError, match="vectors take Adam"):
        backend.call("muon.muon_step", vector, vector, 1)
    with pytest.raises(ValueError, match=r"momentum: got shape \(2, 3\)"):
        backend.call("muon.muon_step", good, np.ones((2, 3)), 1)
    with pytest.raises(ValueError, match=r"second: got shape \(2,\)"):
        backend.call("muon.nesterov_adam_step", good, good, vector, 1)
    for step, error in ((0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)):
        with pytest.raises(error, match="step"):
            backend.call("muon.muon_step", good, good, step)
        with pytest.raises(error, match="step"):
            backend.call("muon.nesterov_adam_step", good, good, good, step)


@pytest.mark.reads_values
def test_a_negative_second_moment_is_refused(backend: Backend) -> None:
    with pytest.raises(ValueError, match="negative entry"):
        backend.call("muon.nesterov_adam_step", np.ones(2), np.ones(2), -np.ones(2), 1)


@bad(BAD_POSITIVES)
def test_bad_learning_rates_are_refused(backend: Backend, value: Any, error: type[Exception], words: str) -> None:
    good = np.ones((2, 2))
    with pytest.raises(error, match=words):
        backend.call("muon.muon_step", good, good, 1, value)
    with pytest.raises(error, match=words):
        backend.call("muon.nesterov_adam_step", good, good, good, 1, value)


def test_half_precision_is_computed_in_float32() -> None:
    g = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    for half, full in (
        (muon.muon_step(g, g, 2), muon.muon_step(g.float(), g.float(), 2)),
        (muon.nesterov_adam_step(g, g, g * g, 2), muon.nesterov_adam_step(g.float(), g.float(), (g * g).float(), 2)),
    ):
        for ours, theirs in zip(half, full, strict=True):
            assert ours.dtype == torch.float32
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def steps_of(optimizer: torch.optim.Optimizer, p: torch.Tensor, gradients: np.ndarray) -> list[np.ndarray]:
    """What each gradient changes in a parameter."""
    changes = []
    for g in gradients:
        before = p.detach().clone()
        p.grad = torch.as_tensor(g)
        optimizer.step()
        changes.append((p.detach() - before).numpy())
    return changes


def adam_changes(backend: Backend, gradients: np.ndarray) -> list[np.ndarray]:
    m, v, changes = np.zeros_like(gradients[0]), np.zeros_like(gradients[0]), []
    for step, g in enumerate(gradients, 1):
        change, m, v = backend.call("muon.nesterov_adam_step", g, m, v, step)
        changes.append(change)
    return changes


def test_the_adam_half_is_nadam_without_its_schedule_of_momenta(backend: Backend) -> None:
    # NAdam's momentum is β₁(1 − 0.96^(t·decay)/2): with an endless decay it is β₁ at once, and the
    # formulas coincide, to the float32 in which NAdam keeps its product of momenta.
    gradients = np.random.default_rng(0).normal(size=(6, 5))
    p = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    theirs = steps_of(torch.optim.NAdam([p], lr=1e-3, momentum_decay=1e9), p, gradients)
    np.testing.assert_allclose(adam_changes(backend, gradients), theirs, rtol=1e-6)
    # As torch ships it, the first step alone differs by two fifths.
    p = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    shipped = steps_of(torch.optim.NAdam([p], lr=1e-3), p, gradients[:1])
    assert (np.abs(shipped[0] / theirs[0] - 1) > 0.05).all()


def test_the_adam_half_is_adam_for_a_constant_gradient(backend: Backend) -> None:
    # Then m/(1 − β₁ᵗ) = g: Adam takes lr·sign(g), ours β₁(1 − β₁ᵗ)/(1 − β₁ᵗ⁺¹) + (1 − β₁)/(1 − β₁ᵗ) of that.
    gradients = np.repeat(np.random.default_rng(0).normal(size=(1, 5)), 40, axis=0)
    p = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    adam = np.array(steps_of(torch.optim.Adam([p], lr=1e-3), p, gradients))
    t = np.arange(1, 41)[:, None]
    ahead = 0.9 * (1 - 0.9**t) / (1 - 0.9 ** (t + 1)) + 0.1 / (1 - 0.9**t)
    np.testing.assert_allclose(adam_changes(backend, gradients), adam * ahead, rtol=1e-9)


needs_torch_muon = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon of its own")


@needs_torch_muon
@pytest.mark.parametrize("shape", [(3, 8), (8, 3), (6, 6)])
@pytest.mark.parametrize("exact", [True, False])
def test_muon_is_torchs_for_a_constant_gradient(
    backend: Backend, exact: bool, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Momentum and look-ahead are then multiples of the gradient, and Newton-Schulz forgets by what. Torch stores
    # (out, in), so it gets the transpose, and iterates in bfloat16, whose eight bits are worth a tenth of a step.
    if exact:
        monkeypatch.setattr(torch.Tensor, "bfloat16", lambda self: self.clone())
    g = np.random.default_rng(0).normal(size=shape)
    p = torch.zeros(shape[::-1], dtype=torch.float64, requires_grad=True)
    theirs = steps_of(torch.optim.Muon([p], lr=1e-3, weight_decay=0.0), p, np.repeat(g.T[None], 3, axis=0))
    momentum = np.zeros(shape)
    for step, change in enumerate(theirs, 1):
        ours, momentum = backend.call("muon.muon_step", g, momentum, step)
        np.testing.assert_allclose(ours.T, change, rtol=0, atol=1e-9 if exact else 1e-4)


def network(seed: int, dtype: torch.dtype = torch.float64, device: str = "cpu") -> dict[str, torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    drawn = {name: torch.randn(shape, generator=generator, dtype=dtype) for name, (shape, _) in SHAPES.items()}
    return {name: torch.nn.Parameter(x.to(device)) for name, x in drawn.items()}


def noise(seed: int, steps: int) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [{name: rng.normal(size=shape) for name, (shape, _) in SHAPES.items()} for _ in range(steps)]


def give(parameters: dict[str, torch.nn.Parameter], gradients: dict[str, np.ndarray]) -> None:
    for name, p in parameters.items():
        p.grad = torch.as_tensor(np.array(gradients[name])).to(p)


def train(parameters: dict[str, torch.nn.Parameter], optimizer: Muon, steps: list[dict[str, np.ndarray]]) -> None:
    for gradients in steps:
        give(parameters, gradients)
        optimizer.step()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([1e-6, 1.0, 1e3]))
@settings(max_examples=8)
def test_the_optimiser_takes_the_steps_of_the_functions(
    backend: Backend, dtype: torch.dtype, seed: int, scale: float
) -> None:
    parameters, lr = network(seed, dtype), 0.01
    optimizer = Muon(parameters.items(), RULE_TABLE, lr=lr)
    state = {name: [np.zeros(shape)] * 2 for name, (shape, _) in SHAPES.items()}
    for step, gradients in enumerate(noise(seed, 4), 1):
        gradients = {name: scale * g for name, g in gradients.items()}
        before = {name: p.detach().double().numpy().copy() for name, p in parameters.items()}
        train(parameters, optimizer, [gradients])
        for name, rule in RULE_TABLE.items():
            if rule == "muon":
                change, *state[name] = backend.call("muon.muon_step", gradients[name], state[name][0], step, lr)
            else:
                change, *state[name] = backend.call("muon.nesterov_adam_step", gradients[name], *state[name], step, lr)
            # Rounding of the parameter itself, about 1e-7 in float32, is 1e-5 of a step.
            tolerance = {torch.float64: 1e-12, torch.float32: 3e-6}[dtype]
            after = parameters[name].detach().double().numpy()
            np.testing.assert_allclose(after - before[name], change, rtol=0, atol=tolerance)


def test_float32_costs_no_more_than_its_rounding() -> None:
    # From zero a parameter does not round the step away. Adam: a few roundings of 6e-8; 1 − 0.999 formed in float32
    # would cost 5e-5. Muon: five iterations amplify rounding at most 485-fold.
    (gradients,) = noise(0, 1)
    steps = {}
    for dtype in (torch.float32, torch.float64):
        parameters = {n: torch.nn.Parameter(torch.zeros(shape, dtype=dtype)) for n, (shape, _) in SHAPES.items()}
        train(parameters, Muon(parameters.items(), RULE_TABLE, lr=1.0), [gradients])
        steps[dtype] = {name: p.detach().double() for name, p in parameters.items()}
    for name, rule in RULE_TABLE.items():
        tolerance = {"adam": 1e-6, "muon": 3e-5}[rule]
        torch.testing.assert_close(steps[torch.float32][name], steps[torch.float64][name], rtol=0, atol=tolerance)


def test_the_optimiser_meets_the_golden_values() -> None:
    parameters = {n: torch.nn.Parameter(torch.tensor(p, dtype=torch.float64)) for n, p in GOLDEN["params0"].items()}
    optimizer = Muon(parameters.items(), GOLDEN_RULES, lr=GOLDEN["learning_rate"], batch_axes=0)
    for gradients, updates in zip(GOLDEN["grads"], GOLDEN["updates"], strict=True):
        before = {name: p.detach().clone() for name, p in parameters.items()}
        train(parameters, optimizer, [gradients])
        for name, p in parameters.items():
            np.testing.assert_allclose(p.detach() - before[name], updates[name], rtol=0, atol=2e-15)


def test_stacked_seeds_take_the_steps_that_each_takes_alone() -> None:
    together, steps = network(0), noise(1, 3)
    alone = [{n: torch.nn.Parameter(p.detach()[s : s + 1].clone()) for n, p in together.items()} for s in range(2)]
    train(together, Muon(together.items(), RULE_TABLE), steps)
    for s, parameters in enumerate(alone):
        train(
            parameters, Muon(parameters.items(), RULE_TABLE), [{n: g[s : s + 1] for n, g in x.items()} for x in steps]
        )
        for name, p in parameters.items():
            torch.testing.assert_close(together[name][s : s + 1], p, rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_gradients_leave_every_parameter_bit_for_bit(dtype: torch.dtype) -> None:
    parameters = network(0, dtype)
    before = copy.deepcopy(parameters)
    zero = {name: np.zeros(shape) for name, (shape, _) in SHAPES.items()}
    train(parameters, Muon(parameters.items(), RULE_TABLE), [zero] * 5)
    for name, p in parameters.items():
        assert torch.equal(p, before[name])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_resumed_run_is_the_same_bit_for_bit(dtype: torch.dtype) -> None:
    steps = noise(3, 6)
    whole, first, second = network(0, dtype), network(0, dtype), network(9, dtype)
    train(whole, Muon(whole.items(), RULE_TABLE), steps)
    optimizer = Muon(first.items(), RULE_TABLE, lr=1e-3)
    train(first, optimizer, steps[:3])
    with torch.no_grad():
        for name, p in second.items():
            p.copy_(first[name])
    # As a checkpoint stores it: one array for each key of each parameter.
    stored = optimizer.state_dict()
    stored["state"] = {
        i: {key: torch.from_numpy(x.numpy().copy()) for key, x in state.items()} for i, state in stored["state"].items()
    }
    resumed = Muon(second.items(), RULE_TABLE, lr=7.0)
    places = [x.data_ptr() for state in resumed.state.values() for x in state.values()]
    resumed.load_state_dict(stored)
    # A captured graph would go on reading and writing here.
    assert places == [x.data_ptr() for state in resumed.state.values() for x in state.values()]
    train(second, resumed, steps[3:])
    for name, p in whole.items():
        assert torch.equal(p, second[name])


def test_a_copied_optimiser_goes_on_alike() -> None:
    parameters, steps = network(0), noise(3, 4)
    optimizer = Muon(parameters.items(), RULE_TABLE)
    train(parameters, optimizer, steps[:2])
    twins, twin = copy.deepcopy((parameters, optimizer))
    train(parameters, optimizer, steps[2:])
    train(twins, twin, steps[2:])
    for name, p in parameters.items():
        assert torch.equal(p, twins[name])


def test_a_state_of_other_parameters_is_refused() -> None:
    parameters = network(0)
    optimizer = Muon(parameters.items(), RULE_TABLE)
    for change, words in (
        (lambda s: s["param_groups"][0].update(rules=["adam"] * len(SHAPES)), "rules"),
        (lambda s: s["param_groups"][0].update(param_names=list("abcdefg")), "param_names"),
        (lambda s: s["state"].pop(2), "square"),
        (lambda s: s["state"][0].update(momentum=torch.zeros(2, 3, 8)), r"\(2, 3, 8\)"),
        (lambda s: s["state"][0].update(step=torch.tensor(5.0)), "different steps"),
    ):
        state = copy.deepcopy(optimizer.state_dict())
        change(state)
        with pytest.raises(ValueError, match=words):
            optimizer.load_state_dict(state)


def test_a_parameter_without_gradient_stays_as_it_is() -> None:
    parameters, (gradients,) = network(0), noise(1, 1)
    before = copy.deepcopy(parameters)
    give(parameters, gradients)
    parameters["wide"].grad = parameters["vector"].grad = None
    optimizer = Muon(parameters.items(), RULE_TABLE)
    optimizer.step()
    for name, p in parameters.items():
        assert torch.equal(p, before[name]) == (name in ("wide", "vector"))
    assert not optimizer.state[parameters["wide"]]["momentum"].any()
    optimizer.zero_grad()
    assert all(p.grad is None for p in parameters.values())


def test_a_step_with_a_closure_returns_its_loss() -> None:
    parameters = network(0)
    optimizer = Muon(parameters.items(), RULE_TABLE)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        total = torch.stack([(p**2).sum() for p in parameters.values()]).sum()
        total.backward()
        return total

    first = optimizer.step(loss)
    assert optimizer.step(loss) < first


def without(name: str) -> dict[str, str]:
    return {n: rule for n, rule in RULE_TABLE.items() if n != name}


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        (without("vector"), "parameter without rule: 'vector';"),
        (without("vector") | {"vectro": "adam"}, r"parameter without rule: 'vector' \(is it 'vectro'\?\)"),
        (RULE_TABLE | {"head": "adam"}, "rule without parameter: 'head';"),
        (RULE_TABLE | {"wide": "moun"}, r"rules\['wide'\]: got 'moun', expected one of 'muon', 'adam'"),
        (RULE_TABLE | {"vector": "muon"}, r"vector: got shape \(2, 9\) and rule 'muon'.*batch_axes = 1"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(rules: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Muon(network(0).items(), rules)


def test_parameters_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ValueError, match="named_parameters: got none"):
        Muon([], {})
    mixed = network(0) | {"wide": torch.nn.Parameter(torch.zeros(2, 3, 7))}
    with pytest.raises(ValueError, match="on cpu, expected those of wide"):
        Muon(mixed.items(), RULE_TABLE)
    with pytest.raises(TypeError, match="keep parameters in float32"):
        Muon(network(0, torch.bfloat16).items(), RULE_TABLE)
    with pytest.raises(ValueError, match="batch_axes"):
        Muon(network(0).items(), RULE_TABLE, batch_axes=-1)
    with pytest.raises(ValueError, match="another group"):
        Muon(network(0).items(), RULE_TABLE).add_param_group({"params": [torch.nn.Parameter(torch.zeros(2))]})


@bad(BAD_POSITIVES)
def test_a_bad_learning_rate_is_refused(value: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Muon(network(0).items(), RULE_TABLE, lr=value)


def test_the_transformer_has_a_rule_for_every_parameter() -> None:
    net = CausalTransformer([torch.Generator().manual_seed(s) for s in range(2)], vocab=2, places=4)
    optimizer = Muon(net.named_parameters(), RULES)
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    before = copy.deepcopy(net)
    optimizer.step()
    assert all((p != q).any() for p, q in zip(net.parameters(), before.parameters(), strict=True))


def test_a_step_reads_no_value_of_the_device() -> None:
    parameters = {n: torch.nn.Parameter(torch.zeros(shape, device="meta")) for n, (shape, _) in SHAPES.items()}
    optimizer = Muon(parameters.items(), RULE_TABLE)
    for p in parameters.values():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert all(x.is_meta for state in optimizer.state.values() for x in state.values())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_captured_step_is_an_eager_one() -> None:
    steps = noise(1, 5)
    eager, captured = network(0, torch.float32, "cuda"), network(0, torch.float32, "cuda")
    train(eager, Muon(eager.items(), RULE_TABLE), steps)
    optimizer = Muon(captured.items(), RULE_TABLE)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        train(captured, optimizer, steps[:2])
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    for gradients in steps[2:]:
        for name, p in captured.items():
            assert p.grad is not None
            p.grad.copy_(torch.as_tensor(gradients[name]))
        graph.replay()
    for name, p in eager.items():
        torch.testing.assert_close(captured[name], p, rtol=0, atol=1e-6)


def test_both_twins_have_the_same_constants() -> None:
    names = [n for n, x in vars(reference).items() if n.isupper() and isinstance(x, (int, float))]
    assert len(names) == 9
    assert all(getattr(reference, n) == getattr(muon, n) for n in names)
    # The learning rate of the authors' program: what the authors' configuration calls 1e-4 and multiplies by ten.
    assert inspect.signature(Muon).parameters["lr"].default == 1e-3
    assert math.isclose(reference.LEARNING_RATE, 10 * 1e-4)
