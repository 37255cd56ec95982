"""Environments: sampling by inversion, the chain to the logits, streams of random numbers, settings."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from helpers.backends import central_difference
from hypothesis import given
from hypothesis import strategies as st

from tpo_ref import checks, simplex
from tpo_ref.bandits import environments
from tpo_ref.bandits.environments import ManyContexts, Needle, SampledCandidates, SingleContext

EVERY = (SingleContext, ManyContexts, SampledCandidates, Needle)


@given(seed=st.integers(0, 1000), arms=st.integers(1, 40), scale=st.sampled_from([1e-3, 1.0, 50.0]))
def test_sample_inverts_the_cumulative_distribution(seed: int, arms: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    weights = rng.random((3, arms)) * (rng.random((3, arms)) < 0.7) * scale
    weights[:, rng.integers(arms)] += scale
    cdf, uniforms = weights.cumsum(-1), rng.random((3, 20))
    actions = environments.sample(cdf, uniforms)
    for row in range(3):
        for x, a in zip(uniforms[row] * cdf[row, -1], actions[row], strict=True):
            below = cdf[row, a - 1] if a > 0 else 0.0
            assert below <= x < cdf[row, a]
            assert weights[row, a] > 0


def test_sample_at_the_edges() -> None:
    # The largest float below 1, times the smallest float, rounds up to it: the last arm that has weight is meant.
    almost = np.nextafter(1.0, 0.0)
    for total in (1.0, 0.1, 3.0, 1e-300, 5e-324):
        assert environments.sample([0.0, total, total], [0.0, almost]).tolist() == [1, 1]


def test_sample_frequencies_follow_the_weights() -> None:
    p = np.array([0.5, 0.25, 0.125, 0.125])
    counts = np.bincount(environments.sample(p.cumsum(), environments.stream(0).random(40_000)), minlength=4)
    # Four standard deviations of a binomial count.
    assert (np.abs(counts - 40_000 * p) < 4 * np.sqrt(40_000 * p * (1 - p))).all()


@pytest.mark.parametrize(
    ("cdf", "uniforms", "message"),
    [
        ([0.5, 1.0], [1.0], "uniforms: got values"),
        ([0.5, 1.0], [-0.1], "uniforms: got values"),
        ([0.5, 1.0], [np.nan], "uniforms: got 1 NaN"),
        ([0.5, 0.4], [0.1], "cdf: got decreasing"),
        ([0.0, 0.0], [0.1], "cdf: got decreasing, negative or all-zero"),
        ([[0.5, 1.0]], [0.1], "uniforms: got shape"),
        ([[0.5, 1.0]], [[0.1], [0.2]], "uniforms: got shape"),
    ],
)
def test_sample_refuses(cdf: Any, uniforms: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        environments.sample(cdf, uniforms)


@given(seed=st.integers(0, 1000), arms=st.integers(2, 6), k=st.integers(1, 9))
def test_chain_to_logits_is_the_derivative(seed: int, arms: int, k: int) -> None:
    # Any function of the candidates' log-probabilities will do: here Σ c_i ℓ_i², whose g is 2 c_i ℓ_i.
    rng = np.random.default_rng(seed)
    z, actions, c = rng.normal(size=arms), rng.integers(0, arms, k), rng.normal(size=k)
    logp = simplex.log_softmax(z)[actions]
    got = environments.chain_to_logits(2 * c * logp, actions, simplex.softmax(z))
    numeric = central_difference(lambda x: (c * simplex.log_softmax(x)[actions] ** 2).sum(), z)
    np.testing.assert_allclose(got, numeric, rtol=1e-6, atol=1e-7)
    leaf = torch.tensor(z, requires_grad=True)
    (torch.tensor(c) * torch.log_softmax(leaf, -1)[torch.tensor(actions)].square()).sum().backward()
    np.testing.assert_allclose(got, leaf.grad, rtol=1e-10, atol=1e-12)


def test_chain_to_logits_adds_up_duplicates() -> None:
    # Σ g = 0, so nothing leaks to the undrawn arm 2.
    got = environments.chain_to_logits([[0.5, 0.25, -0.75]], np.array([[1, 1, 0]]), [[0.2, 0.3, 0.5]])
    assert got.tolist() == [[-0.75, 0.75, 0.0]]


def test_chain_to_logits_refuses_other_shapes() -> None:
    with pytest.raises(ValueError, match="actions: got shape"):
        environments.chain_to_logits(np.ones(3), np.zeros(2, dtype=int), np.ones(4) / 4)
    with pytest.raises(ValueError, match="actions: got values"):
        environments.chain_to_logits(np.ones(2), np.array([0, 4]), np.ones(4) / 4)
    with pytest.raises(ValueError, match="pi: got shape"):
        environments.chain_to_logits(np.ones((2, 3)), np.zeros((2, 3), dtype=int), np.ones((3, 4)) / 4)
    with pytest.raises(TypeError, match="actions: got dtype"):
        environments.chain_to_logits(np.ones(2), np.array([0.0, 1.0]), np.ones(4) / 4)


def test_streams_are_one_per_seed() -> None:
    first, again, other = (environments.stream(seed).random(5) for seed in (3, 3, 4))
    assert (first == again).all()
    assert (first != other).any()
    # In pieces or at once, a stream gives the same numbers: the twins draw in blocks of different sizes.
    rng = environments.stream(3)
    assert (np.r_[rng.random(2), rng.random(3)] == first).all()


@pytest.mark.parametrize("seed", [-1, 0.5, True, "0"])
def test_streams_refuse_what_is_no_seed(seed: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="seed: got"):
        environments.stream(seed)


def test_initial_logits_are_standard_normal() -> None:
    z = environments.initial_logits(ManyContexts(contexts=1000), seed=0)
    assert z.shape == (1000, 10)
    # Four standard deviations of the mean and of the second moment of 10,000 normal numbers.
    assert abs(z.mean()) < 4 / 100
    assert abs((z**2).mean() - 1) < 4 * np.sqrt(2) / 100


@pytest.mark.parametrize("kind", EVERY)
def test_settings_refuse_bad_numbers(kind: type) -> None:
    fields = dataclasses.fields(kind)
    for field in fields:
        wrong = [0, -1, 1.5, True, "ten"] if field.type == "int" else [np.nan, np.inf, "ten", True]
        wrong += [] if field.type == "int" or field.name == "baseline" else [0.0, -1.0]
        for value in wrong:
            with pytest.raises((TypeError, ValueError), match=f"{field.name}: got"):
                kind(**{field.name: value})
    step = "step_size" if kind is Needle else "alpha"
    with pytest.raises(ValueError, match="at most 100 nats"):
        kind(**{step: 101.0})
    with pytest.raises(dataclasses.FrozenInstanceError):
        kind().steps = 3
    with pytest.raises(TypeError, match="momentum"):
        kind(momentum=0.9)


def test_settings_are_those_of_the_paper() -> None:
    assert dataclasses.asdict(SingleContext()) == {
        "arms": 100,
        "actions": 100,
        "steps": 150,
        "alpha": 0.1,
        "baseline": 0.5,
        "eta": 1.0,
        "dg_eta": 1.0,
    }
    many = {"contexts": 100, "arms": 10, "steps": 1000, "alpha": 0.1, "eta": 1.0, "dg_eta": 1.0}
    assert dataclasses.asdict(ManyContexts()) == many
    # Ten groups of ten spend the hundred actions of a step; a needle of seven bits hides among 128.
    assert SampledCandidates().groups * SampledCandidates().candidates == SingleContext().actions
    assert Needle(horizon=7).arms == 128


def test_runs_are_checked_before_they_start() -> None:
    with pytest.raises(ValueError, match="method: got 'grop', did you mean 'grpo'"):
        environments.check_run("grop", SingleContext(), SingleContext, [0])
    with pytest.raises(ValueError, match="did you mean 'tpo_ratio'"):
        environments.check_run("ratio", Needle(), Needle, [0])
    # CE needs the label, which a single sampled action does not give.
    with pytest.raises(ValueError, match="pg, dg, grpo, tpo"):
        environments.check_run("ce", SingleContext(), SingleContext, [0])
    with pytest.raises(TypeError, match="settings: got ManyContexts, expected SingleContext"):
        environments.check_run("pg", ManyContexts(), SingleContext, [0])
    with pytest.raises(ValueError, match="seeds: got none"):
        environments.check_run("pg", SingleContext(), SingleContext, [])
    with pytest.raises(ValueError, match="seed: got -1"):
        environments.check_run("pg", SingleContext(), SingleContext, [0, -1])


@pytest.mark.parametrize("seeds", [iter([0]), 3, None, {0: 1}])
def test_seeds_are_a_sequence(seeds: Any) -> None:
    with pytest.raises(TypeError, match=r"seeds: got .*such as range\(100\)"):
        environments.check_run("pg", SingleContext(), SingleContext, seeds)


def test_a_needle_in_too_large_a_stack_is_refused() -> None:
    with pytest.raises(ValueError, match=r"horizon: got 2\^200 answers"):
        Needle(horizon=200)


def test_an_unknown_name_without_resemblance_lists_all() -> None:
    with pytest.raises(ValueError, match="colour: got 'xyz', expected one of red, green"):
        raise checks.unknown("colour", "xyz", ("red", "green"))
