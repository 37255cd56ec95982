"""What every baseline owes its caller: batches, order, frozen inputs, half precision, no synchronisation, bad input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers.backends import Backend, lookup
from helpers.rules import Rollout, rollouts
from helpers.strategies import BAD_LOGP, BAD_MASKS, BAD_NUMBERS, BAD_POSITIVES, BAD_SHAPES, bad
from hypothesis import given, settings

# Each rule's positional arguments, log-probabilities first; verdicts, which are no numbers, go by keyword.
ARGUMENTS: dict[str, Callable[[Rollout], tuple[Any, ...]]] = {
    "pg.pg": lambda r: (r.logp, r.advantages),
    "pg.group_pg": lambda r: (r.logp, r.advantages),
    "ppo.ppo": lambda r: (r.logp, r.logp_old, r.advantages),
    "grpo.grpo": lambda r: (r.logp, r.logp_old, r.advantages),
    "dg.dg": lambda r: (r.logp, r.advantages),
    "dapo.dapo": lambda r: (r.logp, r.logp_old, r.advantages),
    "gspo.gspo": lambda r: (r.logp, r.logp_old, r.advantages, r.lengths.astype(float)),
    "rebel.rebel": lambda r: (r.logp, r.logp_old, r.advantages),
    "regression.awr": lambda r: (r.logp, r.advantages),
    "regression.mpo": lambda r: (r.logp, r.group.distribution()),
    "pmpo.pmpo": lambda r: (r.logp, r.logp_old, r.accepted),
}
RULES = tuple(ARGUMENTS)
TWO = np.array([0.5, 0.5])


@pytest.mark.parametrize("rule", RULES)
@given(rollout=rollouts())
@settings(max_examples=20)
def test_a_batch_is_its_groups_and_the_order_of_candidates_is_free(
    backend: Backend, rule: str, rollout: Rollout
) -> None:
    arguments = ARGUMENTS[rule](rollout)
    loss, g = backend.call(f"{rule}_loss", *arguments), backend.grad(rule, *arguments)
    assert loss.shape == rollout.logp.shape[:-1]
    assert g.shape == rollout.logp.shape
    order = rollout.group.rng.permutation(rollout.group.k)
    for row in range(len(loss)):
        alone = [x[row][order] for x in arguments]
        np.testing.assert_allclose(backend.call(f"{rule}_loss", *alone), loss[row], rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(backend.grad(rule, *alone), g[row][order], rtol=1e-10, atol=1e-12)
    stacked = [np.stack([x, x]) for x in arguments]
    np.testing.assert_allclose(backend.call(f"{rule}_loss", *stacked), np.stack([loss, loss]), rtol=1e-12)


@pytest.mark.parametrize("rule", [r for r in RULES if r != "pmpo.pmpo"])
def test_the_graph_reaches_the_current_policy_only(backend: Backend, rule: str) -> None:
    live = [0] if backend.name != "numpy" else []
    assert backend.attached(f"{rule}_loss", *template(rule)) == live


def test_the_graph_reaches_the_current_policy_only_beside_verdicts_and_tokens(backend: Backend) -> None:
    live = [0] if backend.name != "numpy" else []
    accepted = np.array([True, False])
    assert backend.attached("pmpo.pmpo_loss", TWO, TWO, accepted=accepted) == live
    assert backend.attached("grpo.grpo_token_loss", np.zeros((2, 3)), np.zeros((2, 3)), TWO) == live


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("rule", RULES)
@given(rollout=rollouts())
@settings(max_examples=10)
def test_half_precision_is_computed_in_float32(rule: str, dtype: torch.dtype, rollout: Rollout) -> None:
    loss = lookup("tpo_torch", f"{rule}_loss")
    low = [torch.as_tensor(x).to(dtype if x.dtype == float else torch.bool) for x in ARGUMENTS[rule](rollout)]
    if rule == "regression.mpo":
        low[1] = torch.as_tensor(rollout.group.distribution(), dtype=torch.float32)
    wide = [x.float() if x.is_floating_point() else x for x in low]
    leaf = low[0].clone().requires_grad_()
    result = loss(leaf, *low[1:])
    assert result.dtype == torch.float32
    torch.testing.assert_close(result.detach(), loss(*wide), rtol=0, atol=0)
    # The gradient arrives in the precision of the parameters.
    (g,) = torch.autograd.grad(result.sum(), leaf)
    assert g.dtype == dtype


META = [
    *[(f"{rule}_loss", ARGUMENTS[rule]) for rule in RULES],
    ("pg.ce_loss", lambda r: (r.logp, r.lengths[:, 0])),
    ("grpo.grpo_token_loss", lambda r: (r.logp[None], r.logp_old[None], r.advantages[:, 0][None])),
    *[
        (f"advantages.{name}", lambda r: (r.advantages,))
        for name in ("centred", "rloo", "group_standardised", "maxrl", "batch_standardised")
    ],
    ("advantages.group_centred_batch_standardised", lambda r: (r.advantages,)),
    ("dapo.informative", lambda r: (r.advantages,)),
    ("regression.mpo_temperature", lambda r: (r.advantages, 0.1)),
    ("regression.mpo_weights", lambda r: (r.advantages, r.advantages[:, 0])),
]


@pytest.mark.parametrize(("path", "build"), META, ids=[path for path, _ in META])
@given(rollout=rollouts())
@settings(max_examples=1)
def test_nothing_is_read_back_from_the_device(path: str, build: Any, rollout: Rollout) -> None:
    # A tensor on `meta` has no values: reading one raises.
    arguments = [torch.as_tensor(x).to("meta") if isinstance(x, np.ndarray) else x for x in build(rollout)]
    assert lookup("tpo_torch", path)(*arguments).device.type == "meta"


def template(rule: str) -> tuple[Any, ...]:
    """Valid arguments of a group of two."""
    accepted, ones = np.array([True, False]), np.array([1.0, 1.0])
    rest = {
        "pmpo.pmpo": (TWO, accepted),
        "gspo.gspo": (TWO, TWO, ones),
        **dict.fromkeys(("ppo.ppo", "grpo.grpo", "dapo.dapo", "rebel.rebel"), (TWO, TWO)),
    }
    return TWO, *rest.get(rule, (TWO,))


# Which rules take a second argument of log-probabilities.
SNAPSHOTS = ("ppo.ppo", "grpo.grpo", "dapo.dapo", "gspo.gspo", "rebel.rebel", "pmpo.pmpo")
PLACES = [(rule, 0) for rule in RULES] + [(rule, 1) for rule in SNAPSHOTS]


def assert_refused(backend: Backend, rule: str, place: int, cases: tuple[Any, ...]) -> None:
    """Each bad value in one place of otherwise valid arguments raises its error, in loss and closed form alike."""
    for case, value, error, words in cases:
        arguments = [value if i == place else x for i, x in enumerate(template(rule))]
        # Where ratios or plain sums are formed, any infinity is refused; and a wrong shape may be noticed first.
        expected = f"{words}|NaN or infinite|shape|empty"
        with pytest.raises(error, match=expected):
            pytest.fail(f"{case}: {backend.call(f'{rule}_loss', *arguments)}")
        if backend.name == "numpy":
            with pytest.raises(error, match=expected):
                pytest.fail(f"{case}: {backend.grad(rule, *arguments)}")


@pytest.mark.reads_values
@pytest.mark.parametrize(("rule", "place"), PLACES)
def test_bad_log_probabilities_are_refused(backend: Backend, rule: str, place: int) -> None:
    assert_refused(backend, rule, place, (*BAD_LOGP, *BAD_SHAPES))


NUMBERS = [(rule, 2 if rule in SNAPSHOTS else 1) for rule in RULES if rule != "pmpo.pmpo"] + [("gspo.gspo", 3)]


@pytest.mark.reads_values
@pytest.mark.reads_values
@pytest.mark.parametrize(("rule", "place"), NUMBERS)
def test_bad_advantages_scores_and_weights_are_refused(backend: Backend, rule: str, place: int) -> None:
    assert_refused(backend, rule, place, (*BAD_NUMBERS, *BAD_SHAPES))


def test_weights_that_are_no_distribution_are_refused(backend: Backend) -> None:
    with pytest.raises(ValueError, match="w: got the negative entry"):
        backend.call("regression.mpo_loss", TWO, np.array([1.5, -0.5]))
    with pytest.raises(ValueError, match="w: a group sums to 1 only within"):
        backend.call("regression.mpo_loss", TWO, np.array([0.5, 0.1]))


@pytest.mark.parametrize("rule", ["rebel.rebel", "regression.awr", "regression.mpo", "pmpo.pmpo"])
@bad(BAD_MASKS)
def test_bad_masks_are_refused(backend: Backend, rule: str, value: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        backend.call(f"{rule}_loss", *template(rule), mask=value)


@pytest.mark.parametrize("rule", ["rebel.rebel", "regression.awr", "regression.mpo", "pmpo.pmpo"])
def test_a_group_masked_throughout_is_neutral(backend: Backend, rule: str) -> None:
    nobody, valid = np.array([False, False]), template(rule)
    arguments = [np.full(2, np.nan) if x.dtype == float else x for x in valid]
    assert backend.call(f"{rule}_loss", *arguments, mask=nobody) == 0
    np.testing.assert_array_equal(backend.grad(rule, *arguments, mask=nobody), 0)


@pytest.mark.parametrize("rule", RULES)
def test_a_group_of_one_works(backend: Backend, rule: str) -> None:
    arguments = [x[:1] for x in template(rule)]
    if rule == "regression.mpo":
        arguments[1] = np.array([1.0])
    assert np.isfinite(backend.call(f"{rule}_loss", *arguments))
    assert np.isfinite(backend.grad(rule, *arguments)).all()


POSITIVES = [
    *(("pg.group_pg", "eta"), ("dg.dg", "dg_eta"), ("rebel.rebel", "eta_r")),
    *(("regression.awr", "beta"), ("regression.awr", "w_max")),
]
NON_NEGATIVES = [
    *(("ppo.ppo", "epsilon"), ("grpo.grpo", "epsilon"), ("grpo.grpo", "beta"), ("pmpo.pmpo", "beta")),
    *(("dapo.dapo", "epsilon_low"), ("dapo.dapo", "epsilon_high")),
    *(("gspo.gspo", "epsilon_low"), ("gspo.gspo", "epsilon_high"), ("pmpo.pmpo", "alpha")),
]


@pytest.mark.parametrize(("rule", "setting"), POSITIVES)
def test_settings_above_zero(backend: Backend, rule: str, setting: str) -> None:
    for _, value, error, words in BAD_POSITIVES:
        with pytest.raises(error, match=f"{setting}: .*{words}"):
            backend.call(f"{rule}_loss", *template(rule), **{setting: value})


@pytest.mark.parametrize(("rule", "setting"), NON_NEGATIVES)
def test_settings_not_below_zero(backend: Backend, rule: str, setting: str) -> None:
    for case, value, error, words in BAD_POSITIVES:
        if case != "zero":
            with pytest.raises(error, match=f"{setting}: .*{words.replace('above 0', '0 or above')}"):
                backend.call(f"{rule}_loss", *template(rule), **{setting: value})
    assert np.isfinite(backend.call(f"{rule}_loss", *template(rule), **{setting: 0.0}))
