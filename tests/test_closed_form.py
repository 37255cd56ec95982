"""Closed forms: App. B and App. C against the generic path and exact enumeration, the no-anchor root, misalignment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.backends import Backend
from hypothesis import given
from hypothesis import strategies as st

from tpo_ref.closed_form import no_anchor_root

GOLDEN = json.loads((Path(__file__).parent / "golden" / "golden.json").read_text(encoding="utf-8"))
PROBABILITIES = (1e-6, 0.00148, 0.1, 0.5, 0.9, 1 - 1e-6)


def policies(rng: np.random.Generator, arms: int, p: float) -> np.ndarray:
    """A distribution that gives arm 0 the probability p and splits the rest at random."""
    rest = rng.dirichlet(np.ones(arms - 1)) if arms > 2 else np.ones(1)
    return np.r_[p, (1 - p) * rest]


def direction(pull: np.ndarray, pi: np.ndarray) -> np.ndarray:
    """Σ_a pull_a (e_a − π): how a policy-gradient step moves the logits."""
    return pull - pi * pull.sum(-1, keepdims=True)


def tpo_step(backend: Backend, pi: np.ndarray, scores: np.ndarray, eta: float) -> np.ndarray:
    """The generic path: standardise, build the target, and descend the gradient of its cross-entropy."""
    logits = np.log(pi)
    q = backend.call("tpo.tpo_target", logits, backend.call("standardize.standardize", scores), eta=eta)
    return -backend.grad("tpo.tpo", logits, q)


@pytest.mark.paper("App. B")
@given(arms=st.integers(2, 100), p=st.sampled_from(PROBABILITIES), eta=st.sampled_from([0.25, 1.0, 4.0]))
def test_app_b_is_the_generic_path_over_all_arms(backend: Backend, arms: int, p: float, eta: float) -> None:
    pi = policies(np.random.default_rng(arms), arms, p)
    reward = np.eye(arms)[0]
    v, point = reward - pi, np.array([p])
    standardised = (reward - p) / np.sqrt(p * (1 - p))
    gated = -backend.grad("dg.dg", np.log(pi), reward, dg_eta=eta)
    generic = {
        "beta_ce": reward - pi,
        "beta_pg": direction(pi * -backend.grad("pg.pg", np.log(pi), reward), pi),
        "beta_dg": direction(pi * gated, pi),
        "beta_grpo": direction(pi * standardised, pi),
        "beta_tpo": tpo_step(backend, pi, reward, eta),
    }
    options: dict[str, dict[str, Any]] = {"beta_dg": {"dg_eta": eta}, "beta_tpo": {"arms": arms, "eta": eta}}
    for name, expected in generic.items():
        beta = backend.call(f"closed_form.{name}", point, **options.get(name, {}))
        # π − q loses the digits of 1 − p, hence the absolute part.
        np.testing.assert_allclose(beta * v, expected, rtol=1e-9, atol=1e-14, err_msg=name)


def test_beta_tpo_at_every_number_of_arms(backend: Backend) -> None:
    for arms in range(2, 101):
        pi = np.full(arms, 1 / arms)
        expected = tpo_step(backend, pi, np.eye(arms)[0], 1.0)[0] / (1 - 1 / arms)
        beta = backend.call("closed_form.beta_tpo", pi[:1], arms=arms)
        np.testing.assert_allclose(beta, expected, rtol=1e-10, err_msg=f"{arms} arms")


@pytest.mark.paper("App. C")
@given(arms=st.integers(2, 12), spread=st.sampled_from([0.1, 1.0, 5.0]), eta=st.sampled_from([0.25, 1.0, 4.0]))
def test_app_c_is_the_mean_over_the_sampled_action(backend: Backend, arms: int, spread: float, eta: float) -> None:
    rng = np.random.default_rng(arms)
    logits = rng.normal(0, spread, (3, arms))
    pi = backend.call("simplex.softmax", logits)
    label = rng.integers(0, arms, 3)
    expected: dict[str, Any] = dict.fromkeys(("pg", "group_pg", "dg", "tpo"), 0.0)
    for a in range(arms):
        seen, sampled = np.eye(arms)[a], pi[:, [a]]
        advantage = (label == a)[:, None] - (pi**2).sum(-1, keepdims=True)
        u = backend.call("standardize.standardize", advantage * seen)
        gate = -backend.grad("dg.dg", np.log(sampled), advantage, dg_eta=eta)
        expected["pg"] += sampled * advantage * (seen - pi)
        expected["dg"] += sampled * gate * (seen - pi)
        expected["group_pg"] += sampled * u[:, [a]] * (seen - pi)
        expected["tpo"] += sampled * tpo_step(backend, pi, advantage * seen, eta)
    for name, value in expected.items():
        options = {"dg": {"dg_eta": eta}, "tpo": {"eta": eta}}.get(name, {})
        got = backend.call(f"closed_form.app_c_{name}", pi, label, **options)
        np.testing.assert_allclose(got, value, rtol=1e-8, atol=1e-13, err_msg=name)
    np.testing.assert_allclose(backend.call("closed_form.app_c_ce", pi, label), np.eye(arms)[label] - pi)
    batchnorm = backend.call("closed_form.app_c_pg_batchnorm", pi, label, sigma=0.3)
    np.testing.assert_allclose(batchnorm, expected["pg"] / 0.3, rtol=1e-8, atol=1e-13)


def test_one_sampled_action_is_the_golden_mnist_gradient(backend: Backend) -> None:
    # The summand of the enumeration above, in the authors' setting: loss −(r − b) log π_a, mean over two images.
    golden = GOLDEN["mnist_pg"]
    pi = backend.call("simplex.softmax", np.array(golden["logits"]))
    seen = np.eye(10)[golden["actions"]]
    advantage = np.array(golden["rewards"])[:, None] - (pi**2).sum(-1, keepdims=True)
    np.testing.assert_allclose(-advantage * (seen - pi) / 2, golden["grad"], rtol=1e-12)


def test_ten_classes_have_the_constants_of_the_paper(backend: Backend) -> None:
    # One-hot over ten: z ranges from −1/3 to 3, so Λ = exp(10/3), and Group PG is 2·3·p·v.
    pi, label = np.array([0.1] * 10), np.array(0)
    v = np.eye(10)[0] - pi
    np.testing.assert_allclose(backend.call("closed_form.app_c_group_pg", pi, label), 6 * 0.1 * v)
    factor = np.exp(10 / 3)
    beta = 0.1 * (factor - 1) / (0.9 + 0.1 * factor)
    gamma = 0.1 * (factor - 1) / (0.9 * factor + 0.1)
    expected = 0.1 * beta * v + 0.1 * gamma * (9 * pi - (1 - np.eye(10)[0]))
    np.testing.assert_allclose(backend.call("closed_form.app_c_tpo", pi, label), expected)


def test_app_c_at_a_certain_policy_is_no_direction(backend: Backend) -> None:
    # v = 0 on the right class; on the wrong one nothing else is ever sampled, so PG, DG and TPO cannot leave.
    pi = np.array([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    for name in ("pg", "dg", "group_pg", "tpo"):
        assert (backend.call(f"closed_form.app_c_{name}", pi, np.array([0, 1])) == 0).all(), name


def test_golden_betas(backend: Backend) -> None:
    golden = GOLDEN["betas_A10"]
    p = np.array(golden["p"])
    for name in ("ce", "dg", "grpo"):
        np.testing.assert_allclose(backend.call(f"closed_form.beta_{name}", p), golden[name], rtol=1e-12)
    np.testing.assert_allclose(backend.call("closed_form.beta_tpo", p, arms=10), golden["tpo"], rtol=1e-12)


def test_limits_and_crossing(backend: Backend) -> None:
    p = np.array([0.0, 1e-9, 0.00148, 0.3, 1.0])
    np.testing.assert_allclose(backend.call("closed_form.beta_dg", p, dg_eta=1e12), p / 2, rtol=1e-9)
    assert backend.call("closed_form.beta_grpo", p)[-1] == np.inf
    tpo, grpo = backend.call("closed_form.beta_tpo", p, arms=10), backend.call("closed_form.beta_grpo", p)
    # At p = 1 the formula leaves (λ − 1)/λ, multiplied by v = 0.
    np.testing.assert_allclose(tpo[[0, -1]], [0, 1 - 1 / GOLDEN["betas_A10"]["lam"]], rtol=1e-12)
    # Linear against square root: TPO falls below GRPO at p = 0.00148.
    assert tpo[1] < grpo[1]
    assert tpo[3] > grpo[3]
    np.testing.assert_allclose(tpo[2], grpo[2], rtol=5e-3)
    # A temperature so low that λ overflows asks for the oracle's full strength.
    cold = backend.call("closed_form.beta_tpo", p, arms=100, eta=1e-3)
    np.testing.assert_allclose(cold, [0, 1, 1, 1, 1])


@given(seed=st.integers(0, 1000), scale=st.floats(0.1, 10))
def test_misalignment_knows_angles_only(backend: Backend, seed: int, scale: float) -> None:
    g, h = np.random.default_rng(seed).normal(size=(2, 5, 7))
    found = backend.call("closed_form.cosine_misalignment", g, h)
    assert ((found >= 0) & (found <= 2)).all()
    np.testing.assert_allclose(backend.call("closed_form.cosine_misalignment", scale * g, h), found, atol=1e-9)
    np.testing.assert_allclose(backend.call("closed_form.cosine_misalignment", g, scale * g), 0, atol=1e-9)
    np.testing.assert_allclose(backend.call("closed_form.cosine_misalignment", g, -g), 2, atol=1e-9)
    assert (backend.call("closed_form.cosine_misalignment", 0 * g, h) == 1).all()


def test_golden_cosine(backend: Backend) -> None:
    # ⟨g,h⟩ = 10, ‖g‖² = ‖h‖² = 14: 1 − 10/14, less 5e-14 for the floors.
    found = backend.call("closed_form.cosine_misalignment", np.array([1.0, 2.0, 3.0]), np.array([3.0, 2.0, 1.0]))
    np.testing.assert_allclose(found, GOLDEN["cos"], rtol=1e-14)


@pytest.mark.paper("Fig. 2")
@given(arms=st.integers(2, 60), p=st.sampled_from(PROBABILITIES), longer=st.floats(1, 1e3))
def test_the_guard_hides_no_more_than_the_floor(backend: Backend, arms: int, p: float, longer: float) -> None:
    pi = policies(np.random.default_rng(arms), arms, p)
    h = pi[0] * (np.eye(arms)[0] - pi)
    hidden = backend.call("closed_form.cosine_misalignment", longer * h, h)
    floor = backend.call("closed_form.misalignment_floor", np.array([1 - p]))[0]
    assert hidden <= floor + 1e-14
    # With two arms, and no longer than the oracle, it is half of the floor: ‖v‖² = 2ε².
    if arms == 2 and longer == 1 and 0.01 < p < 0.99:
        assert hidden == pytest.approx(floor / 2, rel=1e-4)


def test_the_floor_is_known_where_the_paper_plots_below_it(backend: Backend) -> None:
    # 1e-12/ε²: at ε = 5e-5, the error of TPO at the last step of Fig. 2, four parts in ten thousand are the guard.
    floor = backend.call("closed_form.misalignment_floor", np.array([5e-5, 1e-6, 0.0, 1.0]))
    np.testing.assert_allclose(floor, [4e-4, 1, 1, 1], rtol=2e-4)


@pytest.mark.reads_values
@pytest.mark.parametrize("error", [1.5, -0.1, np.nan])
def test_a_floor_is_asked_of_an_error(backend: Backend, error: float) -> None:
    with pytest.raises(ValueError, match="error: got"):
        backend.call("closed_form.misalignment_floor", np.array([error]))


@pytest.mark.paper("Fig. 8")
@pytest.mark.parametrize(("horizon", "error"), [(4, 0.604), (7, 0.8855), (8, 0.9338), (10, 0.981)])
def test_no_anchor_root_is_the_plateau_of_the_paper(horizon: int, error: float) -> None:
    assert no_anchor_root(horizon) == pytest.approx(error, abs=5e-4)


@given(horizon=st.integers(1, 12), vocab=st.integers(2, 16), eta=st.sampled_from([0.1, 0.5, 1.0, 4.0]))
def test_no_anchor_root_for_pairs(horizon: int, vocab: int, eta: float) -> None:
    # K = 2 has one informative group, m = 1: ρ = λ_1 = e^{2/η} and the error is (N − 1)/(N − 1 + ρ).
    others = float(vocab**horizon - 1)
    expected = others / (others + np.exp(2 / eta))
    assert no_anchor_root(horizon, vocab, group_size=2, eta=eta) == pytest.approx(expected, rel=1e-9)


def test_no_anchor_root_worsens_with_the_haystack_and_the_temperature() -> None:
    assert np.all(np.diff([no_anchor_root(h) for h in range(1, 12)]) > 0)
    assert np.all(np.diff([no_anchor_root(6, eta=eta) for eta in (0.25, 0.5, 1.0, 2.0, 4.0)]) > 0)
    # Without any tilt it stays at chance, 1 − 1/N.
    assert no_anchor_root(3, eta=1e6) == pytest.approx(1 - 1 / 8, abs=1e-5)


@pytest.mark.reads_values
@pytest.mark.parametrize("p", [np.array([1.5]), np.array([-0.1]), np.array([np.nan]), np.array([]), np.array(0.5)])
@pytest.mark.parametrize("name", ["beta_ce", "beta_pg", "beta_dg", "beta_grpo"])
def test_betas_refuse_what_is_no_probability(backend: Backend, name: str, p: np.ndarray) -> None:
    with pytest.raises(ValueError, match="p: got"):
        backend.call(f"closed_form.{name}", p)


def test_complex_numbers_are_refused(backend: Backend) -> None:
    with pytest.raises(TypeError, match="real numbers"):
        backend.call("closed_form.beta_ce", np.array([1j]))


@pytest.mark.reads_values
@pytest.mark.parametrize("eta", [0.0, -1.0, np.nan, np.inf])
def test_temperatures_are_positive(backend: Backend, eta: float) -> None:
    half, pair, label = np.array([0.5]), np.array([0.5, 0.5]), np.array(0)
    for call in (
        lambda: backend.call("closed_form.beta_tpo", half, arms=10, eta=eta),
        lambda: backend.call("closed_form.app_c_tpo", pair, label, eta=eta),
        lambda: no_anchor_root(4, eta=eta),
    ):
        with pytest.raises(ValueError, match="eta: got"):
            call()
    for call in (
        lambda: backend.call("closed_form.beta_dg", half, dg_eta=eta),
        lambda: backend.call("closed_form.app_c_dg", pair, label, dg_eta=eta),
    ):
        with pytest.raises(ValueError, match="dg_eta: got"):
            call()


def test_labels_and_arms_are_checked(backend: Backend) -> None:
    pair = np.array([[0.5, 0.5]])
    with pytest.raises(ValueError, match="label: got values"):
        backend.call("closed_form.app_c_pg", pair, np.array([2]))
    with pytest.raises(ValueError, match="label: got shape"):
        backend.call("closed_form.app_c_pg", pair, np.array([0, 1]))
    with pytest.raises(TypeError, match="label: got"):
        backend.call("closed_form.app_c_pg", pair, np.array([0.0]))
    with pytest.raises(ValueError, match="pi: a group sums to 1"):
        backend.call("closed_form.app_c_pg", 2 * pair, np.array([0]))
    # One class has no other class to be told from.
    for arms, error in ((1, ValueError), (2.5, TypeError), (True, TypeError)):
        with pytest.raises(error, match="arms: got"):
            backend.call("closed_form.beta_tpo", np.array([0.5]), arms=arms)
    with pytest.raises(ValueError, match="h: got shape"):
        backend.call("closed_form.cosine_misalignment", np.ones(3), np.ones(2))


@pytest.mark.parametrize("bad", [{"horizon": 0}, {"horizon": 4, "vocab": 1}, {"horizon": 4, "group_size": 1}])
def test_no_anchor_root_refuses_an_empty_haystack(bad: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="expected one integer"):
        no_anchor_root(**bad)
