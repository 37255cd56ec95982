"""The readable runs: first steps worked by hand, streams of their own, measurement before or after the step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tpo_ref import closed_form, simplex
from tpo_ref.bandits import environments, readable
from tpo_ref.bandits.environments import ManyContexts, Needle, SampledCandidates, SingleContext
from tpo_ref.bandits.methods import resolve

SINGLE = SingleContext(arms=6, actions=5, steps=20)
MANY = ManyContexts(contexts=4, arms=5, steps=30)
SAMPLED = SampledCandidates(arms=6, candidates=4, groups=3, steps=20)
NEEDLE = Needle(horizon=2, candidates=4, groups=3, steps=20)
RUNS: tuple[tuple[Callable[..., Any], Any], ...] = (
    (readable.single_context, SINGLE),
    (readable.many_contexts, MANY),
    (readable.sampled_candidates, SAMPLED),
    (readable.needle, NEEDLE),
)
CASES = [(run, settings, method) for run, settings in RUNS for method in settings.METHODS]


@pytest.mark.parametrize(("run", "settings", "method"), CASES)
def test_shapes_ranges_and_seeds_apart(run: Callable[..., Any], settings: Any, method: str) -> None:
    got = run(method, settings, [3, 1, 4])
    assert set(got) == {"error", "misalignment"}
    for values in got.values():
        assert values.shape == (3, settings.steps)
    assert ((got["error"] >= 0) & (got["error"] <= 1)).all()
    assert ((got["misalignment"] > -1e-12) & (got["misalignment"] <= 2)).all()
    # A seed runs alone exactly as it runs in company.
    alone = run(method, settings, [1])
    for name in got:
        assert (alone[name][0] == got[name][1]).all()


@pytest.mark.parametrize(("run", "settings"), RUNS)
def test_a_shorter_run_is_the_beginning_of_a_longer_one(run: Callable[..., Any], settings: Any) -> None:
    method = settings.METHODS[-1]
    short = type(settings)(**{**vars(settings), "steps": 7})
    for name, values in run(method, short, [0]).items():
        assert (values == run(method, settings, [0])[name][:, :7]).all()


def single_step(method: str, counts: np.ndarray, settings: SingleContext) -> np.ndarray:
    """Direction at the uniform start, written out from the protocol with counts per arm."""
    arms, share = settings.arms, counts / settings.actions
    pi = np.full(arms, 1 / arms)
    reward = np.eye(arms)[0]
    if method == "tpo":
        s = share * (reward - settings.baseline)
        q = pi * np.exp((s - s.mean()) / s.std() / settings.eta)
        return q / q.sum() - pi
    advantage = reward - settings.baseline
    if method == "grpo":
        advantage = (reward - share[0]) / np.sqrt(share[0] * (1 - share[0]) + 1e-8)
    gate = 1 / (1 + np.exp(-advantage * np.log(arms) / settings.dg_eta)) if method == "dg" else 1.0
    pull = share * advantage * gate
    return pull - pi * pull.sum()


@pytest.mark.paper("Fig. 2")
@pytest.mark.parametrize("method", SingleContext.METHODS)
def test_single_context_first_step_by_hand(method: str) -> None:
    settings = SingleContext(arms=6, actions=5, steps=2, alpha=0.3, eta=0.5, dg_eta=2.0)
    got = readable.single_context(method, settings, range(5))
    for seed in range(5):
        # At the uniform start, arm = floor(6x).
        actions = np.floor(6 * environments.stream(seed).random(5)).astype(int)
        g = single_step(method, np.bincount(actions, minlength=6), settings)
        length = np.linalg.norm(g)
        z = 0.3 * g / length if length > 0 else g
        assert got["error"][seed, 0] == pytest.approx(5 / 6)
        assert got["error"][seed, 1] == pytest.approx(1 - simplex.softmax(z)[0])
        cosine = 0.0 if length == 0 else (g @ (np.eye(6)[0] - 1 / 6)) / length / np.sqrt(5 / 6)
        assert got["misalignment"][seed, 0] == pytest.approx(1 - cosine, abs=1e-8)


@pytest.mark.paper("Fig. 3")
@pytest.mark.parametrize("method", ManyContexts.METHODS)
def test_many_contexts_first_step_is_beta_times_v(method: str) -> None:
    settings = ManyContexts(contexts=4, arms=5, steps=1, alpha=0.3, eta=0.5, dg_eta=2.0)
    got = readable.many_contexts(method, settings, [0])
    z = environments.initial_logits(settings, 0)
    pi = simplex.softmax(z)
    p, v = pi[:, [0]], np.eye(5)[0] - pi
    beta = {
        "ce": closed_form.beta_ce(p),
        "pg": closed_form.beta_pg(p),
        "dg": closed_form.beta_dg(p, dg_eta=2.0),
        "grpo": closed_form.beta_grpo(p),
        "tpo": closed_form.beta_tpo(p, arms=5, eta=0.5),
    }[method]
    g = beta * v
    after = simplex.softmax(z + 0.3 * g / np.linalg.norm(g))
    # One norm over all contexts; GRPO's 1e-8 beside 1 − p is the rest of the tolerance.
    assert got["error"][0, 0] == pytest.approx(1 - after[:, 0].mean(), rel=1e-7)
    expected = closed_form.cosine_misalignment(g.ravel(), v.ravel())
    assert got["misalignment"][0, 0] == pytest.approx(float(expected), rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("method", SampledCandidates.METHODS)
def test_a_group_in_the_logits_by_hand(method: str) -> None:
    # Arms drawn (0, 2, 2, 1) at the uniform start: one success in four, u = (√3, −1/√3, −1/√3, −1/√3), p = ¼ each.
    seeds = [
        s for s in range(2000) if np.floor(4 * environments.stream(s).random(4)).astype(int).tolist() == [0, 2, 2, 1]
    ]
    settings = Needle(horizon=2, candidates=4, groups=1, steps=2, step_size=0.5)
    got = readable.needle(method, settings, seeds[:1])
    u = np.array([3, -1, -1, -1]) / np.sqrt(3)
    pull = u / 4 if method == "grpo" else np.exp(u) / np.exp(u).sum() - 0.25
    z = 0.5 * np.array([pull[0], pull[3], pull[1] + pull[2], 0.0])
    assert got["error"][0].tolist() == pytest.approx([0.75, 1 - simplex.softmax(z)[0]])


def test_groups_without_a_verdict_move_only_the_unanchored() -> None:
    # Among 256 answers four candidates almost never hold the right one: anchored methods stand still, p = softmax(ℓ)
    # at a uniform policy gives no-anchor nothing either; away from uniform it pulls towards uniform (Fig. 8).
    settings = Needle(horizon=8, candidates=4, groups=1, steps=1)
    for method in ("tpo_sampled", "tpo_ratio", "tpo_no_anchor", "grpo"):
        assert readable.needle(method, settings, [0])["misalignment"][0, 0] == 1
    actions, z = np.array([[[1, 1, 2, 3]]]), np.array([[0.0, 2.0, 0.0, 0.0]])
    for method in ("tpo_sampled", "tpo_ratio", "grpo"):
        np.testing.assert_allclose(readable._group_direction(resolve(method, settings), z, actions), 0, atol=1e-15)
    assert readable._group_direction(resolve("tpo_no_anchor", settings), z, actions)[0, 1] < -0.1


def test_the_normalised_step_survives_a_zero_gradient() -> None:
    assert (readable._normal_step(np.zeros((2, 3)), 0.1) == 0).all()
    assert np.linalg.norm(readable._normal_step(np.full((1, 3), 1e-9), 0.1)) == pytest.approx(0.1)


@pytest.mark.parametrize(("run", "settings"), RUNS)
def test_bad_runs_are_refused(run: Callable[..., Any], settings: Any) -> None:
    with pytest.raises(ValueError, match="method: got 'tpoo', did you mean"):
        run("tpoo", settings, [0])
    with pytest.raises(ValueError, match="seeds: got none"):
        run("grpo", settings, [])
    with pytest.raises(TypeError, match="settings: got dict"):
        run("grpo", vars(settings), [0])
