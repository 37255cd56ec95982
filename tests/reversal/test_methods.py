"""The update rules of the sequence tasks: what each samples, and the gradient of each against the reference's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tpo_ref import advantages, dg, grpo, pg, ppo, tpo, variants
from tpo_ref.standardize import standardize
from tpo_torch.reversal import runs
from tpo_torch.reversal.engine.training import ReversalTraining
from tpo_torch.reversal.methods import RULES, resolve
from tpo_torch.reversal.settings import ALIASES, ReversalSettings
from tpo_torch.reversal.table import GROUP, SINGLE, TOKEN, own_name
from tpo_torch.reversal.table import TABLE as METHODS

K = 6
SETTINGS = ReversalSettings(group=K, eta=0.7, dg_eta=0.6, epsilon=0.15, beta=0.3)
# Samples, gradient steps per episode, and whether it takes K times the prompts, as in the paper.
TABLE = {
    "tpo": (GROUP, 4, False),
    "tpo_ratio": (GROUP, 4, False),
    "tpo_no_anchor": (GROUP, 4, False),
    "grpo": (GROUP, 4, False),
    "grpo_no_kl": (GROUP, 4, False),
    "grpo_masked": (GROUP, 4, False),
    "group_pg": (GROUP, 4, False),
    "group_pg_once": (GROUP, 1, False),
    "tpo_token": (TOKEN, 4, False),
    "tpo_token_ratio": (TOKEN, 4, False),
    "grpo_token": (TOKEN, 4, False),
    "ppo": (SINGLE, 4, False),
    "dg": (SINGLE, 1, False),
    "pg": (SINGLE, 1, False),
    "ppo_wide": (SINGLE, 4, True),
    "dg_wide": (SINGLE, 1, True),
    "pg_wide": (SINGLE, 1, True),
}
Closed = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def above_mean(scores: np.ndarray) -> np.ndarray:
    return scores - scores.mean(1, keepdims=True)


def standardised(scores: np.ndarray) -> np.ndarray:
    return advantages.group_standardised(scores, 1e-8)


def no_anchor(x: np.ndarray, _: np.ndarray, scores: np.ndarray) -> np.ndarray:
    return variants.tpo_no_anchor_grad(x, tpo.tpo_weights(standardize(scores), 0.7))


def anchored(x: np.ndarray, old: np.ndarray, scores: np.ndarray) -> np.ndarray:
    return tpo.tpo_grad(x, tpo.tpo_target(old, standardize(scores), 0.7))


def ratio(x: np.ndarray, old: np.ndarray, scores: np.ndarray) -> np.ndarray:
    return tpo.tpo_ratio_grad(x, old, tpo.tpo_weights(standardize(scores), 0.7))


def clipped(x: np.ndarray, old: np.ndarray, scores: np.ndarray) -> np.ndarray:
    return grpo.grpo_grad(x, old, standardised(scores), 0.15, 0.3)


def masked(x: np.ndarray, old: np.ndarray, scores: np.ndarray) -> np.ndarray:
    # Of B groups n have a signal; a mean over B of losses times B/n is a mean over the n.
    informative = np.ptp(scores, -1) > 0
    share = informative / np.maximum(informative.mean(-1, keepdims=True), 1 / informative.shape[-1])
    return clipped(x, old, scores) * share[..., None]


CLOSED: dict[str, Closed] = {
    **dict.fromkeys(("tpo", "tpo_token"), anchored),
    **dict.fromkeys(("tpo_ratio", "tpo_token_ratio"), ratio),
    "tpo_no_anchor": no_anchor,
    **dict.fromkeys(("grpo", "grpo_token"), clipped),
    "grpo_no_kl": lambda x, old, scores: grpo.grpo_grad(x, old, standardised(scores), 0.15, 0.0),
    "grpo_masked": masked,
    **dict.fromkeys(
        ("group_pg", "group_pg_once"), lambda x, _, scores: pg.group_pg_grad(x, standardize(scores), eta=0.7)
    ),
    **dict.fromkeys(("ppo", "ppo_wide"), lambda x, old, scores: ppo.ppo_grad(x, old, above_mean(scores), 0.15)),
    **dict.fromkeys(("dg", "dg_wide"), lambda x, _, scores: dg.dg_grad(x, above_mean(scores), 0.6)),
    **dict.fromkeys(("pg", "pg_wide"), lambda x, _, scores: pg.pg_grad(x, above_mean(scores))),
}


def batch(method: str, seed: int, spread: float) -> tuple[Tensor, Tensor, Tensor]:
    """Snapshot, later log-probabilities and scores, a third of the groups without a signal; 2 seeds of 7 prompts."""
    shape = (2, 7, 3, K) if METHODS[method].samples == TOKEN else (2, 7, K)
    rng = torch.Generator().manual_seed(seed)
    old = -spread * torch.rand(shape, generator=rng, dtype=torch.float64)
    later = old + 0.4 * torch.randn(shape, generator=rng, dtype=torch.float64)
    scores = torch.randint(3, shape, generator=rng).double() / 2
    constant = torch.rand((*shape[:-1], 1), generator=rng) < 1 / 3
    return old, later, torch.where(constant, scores[..., :1], scores)


def gradient(method: str, old: Tensor, scores: Tensor, logp: Tensor, given: ReversalSettings = SETTINGS) -> Tensor:
    """The gradient of the sum over groups of a method's losses: of their mean, times how many there are."""
    found = resolve(method, given).freeze(old, scores)(logp)
    assert found.shape == logp.shape
    return found * (logp.shape[1] if METHODS[method].samples == SINGLE else logp[0, ..., 0].numel())


def test_the_table_is_the_protocols() -> None:
    assert {name: (m.samples, m.epochs, m.wide) for name, m in METHODS.items()} == TABLE
    assert set(CLOSED) == set(METHODS) == set(RULES)
    for name, (samples, _, _) in TABLE.items():
        assert METHODS[name].rollouts_per_prompt(SETTINGS) == (K if samples == GROUP else 1)


@pytest.mark.parametrize("method", METHODS)
@given(seed=st.integers(0, 2**32 - 1), spread=st.sampled_from([0.5, 5.0, 15.0]))
@settings(max_examples=10)
def test_each_method_has_the_closed_forms_gradient(method: str, seed: int, spread: float) -> None:
    old, later, scores = batch(method, seed, spread)
    for logp in (old, later):
        ours = gradient(method, old, scores, logp)
        closed = CLOSED[method](logp.numpy(), old.numpy(), scores.numpy())
        np.testing.assert_allclose(ours.numpy(), closed, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("method", [name for name, m in METHODS.items() if m.samples == SINGLE])
def test_an_advantage_is_above_the_mean_of_its_position_and_seed(method: str) -> None:
    # Rewards that differ by position and by seed but not by prompt teach nothing.
    same = torch.arange(2 * K, dtype=torch.float64).view(2, 1, K).expand(2, 7, K)
    old, _, scores = batch(method, 0, 1.0)
    assert (gradient(method, old, same, old) == 0).all()
    shifted = gradient(method, old, scores + same, old)
    torch.testing.assert_close(shifted, gradient(method, old, scores, old), rtol=1e-9, atol=1e-12)


# The no-anchor ablation is left out: its target for equal scores is the uniform one, and it moves towards it.
@pytest.mark.parametrize(
    "method", [name for name, m in METHODS.items() if m.samples != SINGLE and name != "tpo_no_anchor"]
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_groups_without_a_signal_have_exactly_no_gradient_at_the_snapshot(method: str, dtype: torch.dtype) -> None:
    # Exactly: Adam and Muon divide by the gradient's size, and make full steps of what rounding leaves.
    old, _, scores = batch(method, 1, 15.0)
    old, scores = old.to(dtype), scores.to(dtype)
    for score in (0.0, 0.3, 1.0):
        left = gradient(method, old, torch.full_like(old, score), old)
        assert left.abs().max().item() == 0
    mixed, constant = gradient(method, old, scores, old), scores.amax(-1) == scores.amin(-1)
    assert mixed[constant].abs().max().item() == 0
    assert (mixed[~constant] != 0).any(-1).all()


def test_masked_grpo_is_the_mean_over_groups_with_a_signal() -> None:
    old, later, scores = batch("grpo_masked", 2, 5.0)
    informative = scores.amax(-1) > scores.amin(-1)
    assert informative.any(-1).all()
    assert not informative.all(-1).any()
    plain, ours = (gradient(m, old, scores, later) for m in ("grpo", "grpo_masked"))
    for s in range(2):
        torch.testing.assert_close(ours[s].mean(0), (plain[s] * informative[s, :, None]).sum(0) / informative[s].sum())
    # Where no group has a signal there is nothing to divide by, and no pull.
    assert (gradient("grpo_masked", old, torch.ones_like(scores), later) == 0).all()


def test_unmasked_grpo_pulls_groups_without_a_signal_back() -> None:
    old, later, _ = batch("grpo", 3, 5.0)
    pull = gradient("grpo", old, torch.ones_like(old), later)
    # β(1 − 1/r): towards the snapshot, whichever side a candidate is on.
    torch.testing.assert_close(pull, SETTINGS.beta * (1 - torch.exp(old - later)))
    assert (gradient("grpo_no_kl", old, torch.ones_like(old), later) == 0).all()


def test_grpos_log_ratio_is_clamped() -> None:
    # Beyond ±20 there is no gradient; without the clamp e^{40} would be the only one seen.
    old = torch.tensor([[[-50.0, -10.0, -1.0, -2.0, -3.0, -4.0]]], dtype=torch.float64)
    scores = torch.tensor([[[0.0, 1.0, 0.0, 1.0, 0.0, 1.0]]], dtype=torch.float64)
    later = old + torch.tensor([40.0, -40.0, 0.1, 0.1, 0.0, 0.0], dtype=torch.float64)
    found = gradient("grpo", old, scores, later)
    assert (found[..., :2] == 0).all()
    assert (found[..., 2:] != 0).all()


@pytest.mark.parametrize("method", METHODS)
def test_a_prompts_loss_is_its_own(method: str) -> None:
    if METHODS[method].samples == SINGLE:
        pytest.skip("its advantage is measured against the other prompts")
    old, later, scores = batch(method, 5, 5.0)
    # The same number with a signal, which is all that the masked form takes from elsewhere.
    scores[..., 0] = scores[..., 1] + 1
    whole = gradient(method, old, scores, later)
    alone = gradient(method, old[:, 2:3], scores[:, 2:3], later[:, 2:3])
    torch.testing.assert_close(whole[:, 2:3], alone)


@pytest.mark.parametrize("method", [name for name, m in METHODS.items() if m.samples == TOKEN])
def test_a_token_level_method_refuses_the_terminal_reward(method: str) -> None:
    terminal = replace(SETTINGS, reward="terminal")
    message = f"{method}: got reward 'terminal'.*take {method.replace('_token', '')}"
    with pytest.raises(ValueError, match=message):
        ReversalTraining(method, terminal, (0,), torch.device("cpu"))
    with pytest.raises(ValueError, match=message):
        runs.run(method, terminal, (0,))
    # The method that it names instead exists.
    assert method.replace("_token", "") in METHODS


@pytest.mark.parametrize(
    ("given_name", "hint"),
    [("tpp", "'tpo'"), ("grpo_tokn", "'grpo_token'"), ("tpo_noanchor", "'tpo_no_anchor'"), ("reinforc", "'reinforce'")],
)
def test_an_unknown_method_names_the_nearest(given_name: str, hint: str) -> None:
    for call in (own_name, lambda name: runs.run(name, SETTINGS, (0,))):
        with pytest.raises(ValueError, match=f"{given_name}.*did you mean.*{hint}"):
            call(given_name)


def test_aliases_are_other_names_of_methods() -> None:
    assert {name: ALIASES[name] for name in ("reinforce", "ppo_interaction")} == {
        "reinforce": "pg",
        "ppo_interaction": "ppo_wide",
    }
    for alias, name in ALIASES.items():
        assert alias not in METHODS
        assert own_name(alias) == name
