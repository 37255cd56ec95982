"""Every rule of the list, in both backends: one gradient four ways, masks, order, options, what it says of itself."""

from __future__ import annotations

import dataclasses
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from helpers.backends import central_difference
from helpers.rules import Rollout, rollouts
from hypothesis import given, settings
from hypothesis import strategies as st

from tpo_ref import rules as reference
from tpo_torch import rules as mirror

NAMES = sorted(reference.RULES)
every_rule = pytest.mark.parametrize("name", NAMES)
# Options away from the defaults, where a rule has them.
OTHER: dict[str, dict[str, Any]] = {
    "tpo": {"eta": 0.5, "tau": 0.3},
    "tpo_ratio": {"eta": 2.0, "scale": "none"},
    "tpo_ratio_reverse": {"eta": 0.5, "scale": "batch_std"},
    "tpo_no_anchor": {"eta": 0.5},
    "tpo_tempered": {"temperature": 3.0},
    "tpo_length_normalised": {"eta": 2.0},
    "tpo_reverse_kl": {"eta": 2.0},
    "group_pg": {"eta": 0.5, "tau": 0.1},
    "pg": {"baseline": 0.5},
    "dg": {"dg_eta": 0.3, "baseline": 0.25},
    "ppo": {"epsilon": 0.1, "baseline": 0.5},
    "dr_grpo": {"epsilon": 0.5},
    "grpo": {"epsilon": 0.3, "beta": 0.5, "epsilon_std": 0.1, "log_ratio_limit": 0.6},
    "grpo_no_kl": {"drop_idle": True},
    "grpo_masked": {"beta": 0.0},
    "dapo": {"epsilon_low": 0.1, "epsilon_high": 0.5, "drop_idle": False},
    "gspo": {"epsilon_low": 0.1, "epsilon_high": 0.2},
    "rebel": {"eta_r": 0.5},
    "awr": {"beta": 0.5, "w_max": 2.0, "baseline": 0.5},
    "mpo": {"epsilon": 0.01},
    "pmpo": {"alpha": 0.25, "beta": 0.5, "threshold": 0.5},
}


def both(name: str, other: bool) -> tuple[reference.Rule, mirror.Rule]:
    """A rule in both backends, at its defaults or away from them."""
    options = OTHER.get(name, {}) if other else {}
    return reference.named(name, **options), mirror.named(name, **options)


def arguments(rollout: Rollout, masked: bool = True) -> dict[str, np.ndarray]:
    """What `gradient` takes, with scores that no rule refuses."""
    mask = rollout.group.mask if masked else np.ones_like(rollout.group.mask)
    scores = np.abs(rollout.group.scores)
    return {
        "logp": rollout.logp,
        "logp_old": rollout.logp_old,
        "scores": scores,
        "mask": mask,
        "lengths": rollout.lengths,
    }


def tensors(of: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {key: torch.as_tensor(value) for key, value in of.items()}


def gradient(rule: Any, of: dict[str, np.ndarray]) -> np.ndarray:
    return np.asarray(rule.gradient(**(of if isinstance(rule, reference.Rule) else tensors(of))))


def autograd(rule: mirror.Rule, of: dict[str, np.ndarray]) -> np.ndarray:
    given = tensors(of)
    leaf = given.pop("logp").clone().requires_grad_()
    (g,) = torch.autograd.grad(rule.loss(leaf, **given).sum(), leaf)
    return g.numpy()


def difference(rule: mirror.Rule, of: dict[str, np.ndarray]) -> np.ndarray:
    """Central difference of the loss, with all that the rule detaches held at its value at the point.

    A gate, a target or a baseline that is frozen is no function of logp; what `detach` gave there is given again.
    """
    given = tensors(of)
    start, kept = given.pop("logp"), []
    original = torch.Tensor.detach

    def recorded(x: torch.Tensor) -> torch.Tensor:
        kept.append(original(x).clone())
        return kept[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "detach", recorded)
        rule.loss(start, **given)

    def loss(x: np.ndarray) -> float:
        values = iter(kept)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.Tensor, "detach", lambda _: next(values))
            return float(rule.loss(torch.as_tensor(x), **given).sum())

    return central_difference(loss, start.numpy())


def test_the_list_is_the_same_in_both_backends(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(reference.RULES) == list(mirror.RULES)
    assert reference.ALIASES == mirror.ALIASES
    for name, kind in reference.RULES.items():
        other = mirror.RULES[name]
        assert kind.__name__ == other.__name__
        assert [(f.name, f.default, f.metadata["meaning"]) for f in dataclasses.fields(kind)] == [
            (f.name, f.default, f.metadata["meaning"]) for f in dataclasses.fields(other)
        ]
        said = ("name", "source", "aliases", "reads", "reduction")
        assert [getattr(kind, n) for n in said] == [getattr(other, n) for n in said]
    with capsys.disabled():
        print(f"\n{len(NAMES)} rules, {2 * len(NAMES)} with options away from the defaults")


@every_rule
@pytest.mark.paper("Prop. 1")
@settings(max_examples=15)
@given(rollout=rollouts(max_k=5), other=st.booleans())
def test_gradient_is_autograd_is_central_difference_in_both_backends(name: str, rollout: Rollout, other: bool) -> None:
    ours, torchs = both(name, other)
    of = arguments(rollout)
    g = ours.gradient(**of)
    np.testing.assert_allclose(torchs.gradient(**tensors(of)).numpy(), g, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(np.where(of["mask"], autograd(torchs, of), 0.0), g, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(difference(torchs, of), g, rtol=1e-5, atol=1e-5)


@every_rule
@settings(max_examples=15)
@given(rollout=rollouts(max_k=8), other=st.booleans())
def test_a_masked_candidate_changes_nothing_and_gets_nothing(name: str, rollout: Rollout, other: bool) -> None:
    of = arguments(rollout)
    noise = {key: np.where(of["mask"], of[key], 1e3 if key == "lengths" else np.nan) for key in of if key != "mask"}
    for rule in both(name, other):
        g, same = (gradient(rule, x) for x in (of, {**noise, "mask": of["mask"]}))
        np.testing.assert_array_equal(same, g)
        assert (g[~of["mask"]] == 0).all()
        alone = {key: x[0][of["mask"][0]] for key, x in of.items()}
        if not rule.whole_batch:
            np.testing.assert_allclose(gradient(rule, alone), g[0][of["mask"][0]], atol=1e-12)


@every_rule
@pytest.mark.parametrize("dtype", ["bool", "int64", "uint8", "float32"])
def test_scores_come_in_any_real_dtype(name: str, dtype: str) -> None:
    rng = np.random.default_rng(0)
    logp, logp_old = rng.normal(size=(2, 3, 4))
    scores, mask = rng.integers(0, 2, (3, 4)), rng.random((3, 4)) < 0.8
    for other, rule in product((False, True), range(2)):
        chosen = both(name, other)[rule]
        of = {"logp": logp, "logp_old": logp_old, "scores": scores.astype(float), "mask": mask}
        expected = gradient(chosen, of)
        np.testing.assert_allclose(gradient(chosen, {**of, "scores": scores.astype(dtype)}), expected, rtol=1e-6)


@every_rule
def test_a_candidate_that_cannot_be_is_refused_where_the_rule_takes_none(name: str) -> None:
    for rule in both(name, other=False):
        of = {"logp": np.array([-np.inf, -1.0]), "logp_old": np.array([-2.0, -1.0]), "scores": np.array([0.0, 1.0])}
        if rule.impossible:
            assert np.isfinite(gradient(rule, of)).all()
        else:
            with pytest.raises(ValueError, match="logp: got 1 NaN or infinite"):
                gradient(rule, of)


@every_rule
@settings(max_examples=10)
@given(rollout=rollouts(max_k=8), other=st.booleans())
def test_the_order_of_candidates_does_not_matter(name: str, rollout: Rollout, other: bool) -> None:
    of = arguments(rollout)
    order = rollout.group.rng.permutation(rollout.group.k)
    for rule in both(name, other):
        g = gradient(rule, of)
        moved = gradient(rule, {key: x[..., order] for key, x in of.items()})
        np.testing.assert_allclose(moved, g[..., order], atol=1e-9)


@every_rule
@settings(max_examples=15)
@given(rollout=rollouts(max_k=8), other=st.booleans())
def test_a_rule_reads_what_it_says(name: str, rollout: Rollout, other: bool) -> None:
    """Of the scores alone: any log-probabilities give the same. Of ℓ − ℓ_old: any shift of both does."""
    of = arguments(rollout)
    rng = rollout.group.rng
    for rule in both(name, other):
        g = gradient(rule, of)
        if rule.reads == reference.SCORES:
            anywhere = {**of, "logp": rng.normal(size=g.shape), "logp_old": rng.normal(size=g.shape)}
            np.testing.assert_array_equal(gradient(rule, anywhere), g)
        if rule.reads == reference.MOVED:
            shift = rng.integers(-8, 8, g.shape).astype(float)
            anywhere = {**of, "logp": of["logp"] + shift, "logp_old": of["logp_old"] + shift}
            np.testing.assert_allclose(gradient(rule, anywhere), g, rtol=1e-6, atol=1e-9)
        if not rule.uses_lengths:
            np.testing.assert_array_equal(gradient(rule, {**of, "lengths": of["lengths"] + 3}), g)
        if not rule.whole_batch:
            rows = [gradient(rule, {k: x[i : i + 1] for k, x in of.items()}) for i in range(len(g))]
            np.testing.assert_allclose(np.concatenate(rows), g, rtol=1e-12, atol=1e-14)


def test_each_claim_of_independence_is_as_strong_as_it_can_be() -> None:
    """A rule that says it reads the policy, lengths or the batch does."""
    rng = np.random.default_rng(0)
    shape = (3, 5)
    scores = rng.integers(0, 2, shape).astype(float)
    scores[0] = 1.0
    of = {
        "logp": rng.normal(size=shape),
        "logp_old": rng.normal(size=shape),
        "scores": scores,
        "lengths": rng.integers(2, 9, shape),
    }
    for name in NAMES:
        rule = reference.named(name)
        g = rule.gradient(**of)
        shift = rng.normal(size=shape)
        moved = rule.gradient(**{**of, "logp": of["logp"] + 0.1 * shift})
        together = rule.gradient(**{**of, "logp": of["logp"] + shift, "logp_old": of["logp_old"] + shift})
        assert (rule.reads == reference.SCORES) == np.array_equal(moved, g), name
        assert (rule.reads == reference.POLICY) == (not np.allclose(together, g)), name
        assert rule.uses_lengths == (not np.array_equal(rule.gradient(**{**of, "lengths": of["lengths"] + 3}), g)), name
        alone = rule.gradient(**{key: x[1:2] for key, x in of.items()})
        assert rule.whole_batch == (not np.allclose(alone, g[1:2])), name


@every_rule
@pytest.mark.parametrize("package", [reference, mirror])
def test_a_rule_says_what_it_is(name: str, package: Any) -> None:
    rule = package.named(name)
    assert rule.name == name
    assert rule.source
    assert rule.label != name, "give it a label in tpo_ref.study.styles"
    assert rule.__doc__
    assert rule == package.named(name, **dataclasses.asdict(rule))
    for alias in rule.aliases:
        assert package.named(alias) == rule
    with pytest.raises(dataclasses.FrozenInstanceError):
        rule.name = "other"


@pytest.mark.parametrize("package", [reference, mirror])
def test_an_unknown_rule_or_option_is_answered_with_the_nearest(package: Any) -> None:
    with pytest.raises(ValueError, match="did you mean 'grpo'"):
        package.named("grop")
    with pytest.raises(ValueError, match="option of rule ppo: got 'epsilom', did you mean 'epsilon'"):
        package.named("ppo", epsilom=0.1)
    with pytest.raises(ValueError, match="it has no options"):
        package.named("rloo", epsilon=0.1)


@every_rule
@pytest.mark.parametrize("package", [reference, mirror])
def test_every_option_is_checked(name: str, package: Any) -> None:
    for field in dataclasses.fields(package.RULES[name]):
        with pytest.raises((TypeError, ValueError), match=field.name):
            package.named(name, **{field.name: "nonsense"})
        with pytest.raises((TypeError, ValueError), match=field.name):
            package.named(name, **{field.name: float("nan")})


@pytest.mark.parametrize("package", [reference, mirror])
def test_arguments_are_checked_at_the_edge(package: Any) -> None:
    array = np.array if package is reference else torch.tensor
    rule, x = package.named("pg"), array([0.0, 0.0])
    for wrong, words in (
        ((array([0.0, float("nan")]), x, x), "logp"),
        ((x, array([0.0]), x), "logp_old"),
        ((x, x, array([1.0, float("inf")])), "scores"),
        ((x, x, array([1.0])), "scores"),
        ((x, x, x, array([1, 0])), "mask"),
        ((x, x, x, None, array([1.0, 0.0])), "lengths"),
    ):
        with pytest.raises((TypeError, ValueError), match=words):
            rule.gradient(*wrong)


def centred(logp: Any, logp_old: Any, scores: Any, mask: Any, lengths: Any, strength: float = 1.0) -> Any:
    """A user's rule, as one would write it."""
    mean = (scores * mask).sum(-1, keepdims=True) / np.maximum(mask.sum(-1, keepdims=True), 1)
    return -strength * (scores - mean) * mask


@settings(max_examples=20)
@given(rollout=rollouts(max_k=6))
def test_a_function_of_ones_own_is_a_rule_in_both_backends(rollout: Rollout) -> None:
    of = arguments(rollout)
    expected = reference.named("pg").gradient(**of)
    ours = reference.OwnRule("mine", centred, {"strength": 2.0})
    torchs = mirror.OwnRule("mine", centred, {"strength": 2.0})
    np.testing.assert_allclose(ours.gradient(**of), 2 * expected, atol=1e-9)
    np.testing.assert_allclose(torchs.gradient(**tensors(of)).numpy(), 2 * expected, atol=1e-9)
    np.testing.assert_allclose(autograd(torchs, of), 2 * expected, atol=1e-9)
    assert ours.label == torchs.label == "mine"


@pytest.mark.parametrize("package", [reference, mirror])
@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda logp, *_: logp[..., :1], "shape"),
        (lambda logp, *_: logp / 0.0, "NaN or infinite"),
        (lambda *_: None, "expected"),
        (lambda *_: "no", "expected"),
    ],
)
def test_what_a_function_of_ones_own_returns_is_checked(package: Any, function: Any, words: str) -> None:
    array = np.array if package is reference else torch.tensor
    x = array([0.5, 0.0])
    with (
        np.errstate(all="ignore"),
        pytest.raises((TypeError, ValueError), match=rf"(?s)test_rules.py, line \d+: mine: its gradient.*{words}"),
    ):
        package.OwnRule("mine", function).gradient(x, x, x)


@pytest.mark.parametrize("package", [reference, mirror])
def test_what_a_function_of_ones_own_raises_is_said_with_its_line(package: Any) -> None:
    def broken(*_: Any) -> Any:
        raise KeyError("no such thing")

    x = np.array([0.5, 0.0]) if package is reference else torch.tensor([0.5, 0.0])
    with pytest.raises(ValueError, match=r"test_rules.py, line \d+: mine raised KeyError: 'no such thing'"):
        package.OwnRule("mine", broken).gradient(x, x, x)
    # A builtin has no line.
    with pytest.raises(ValueError, match="rule mine raised TypeError"):
        package.OwnRule("mine", len).gradient(x, x, x)


def test_a_function_of_ones_own_cannot_change_what_it_is_given() -> None:
    def greedy(logp: Any, logp_old: Any, scores: Any, mask: Any, lengths: Any) -> Any:
        for x in (logp, logp_old, scores, mask, lengths):
            x[...] = 0
        return logp

    x, t = np.array([-0.5, -1.0]), torch.tensor([-0.5, -1.0])
    reference.OwnRule("greedy", greedy).gradient(x, x, x)
    mirror.OwnRule("greedy", greedy).gradient(t, t, t)
    np.testing.assert_array_equal(x, [-0.5, -1.0])
    assert t.tolist() == [-0.5, -1.0]


@pytest.mark.parametrize("package", [reference, mirror])
def test_a_rule_of_ones_own_is_checked_and_compared_like_any(package: Any) -> None:
    one, same = (package.OwnRule("mine", centred, {"strength": 2.0}) for _ in range(2))
    assert one == same
    assert hash(one) == hash(same)
    for field, wrong in (("title", 3), ("function", 3), ("options", "strength=2"), ("batch", 1), ("digest", 3)):
        with pytest.raises(TypeError, match=f"{field}: got"):
            dataclasses.replace(one, **{field: wrong})


def test_the_mirror_asks_for_tensors() -> None:
    with pytest.raises(TypeError, match=r"logp: got ndarray, expected torch.Tensor"):
        mirror.named("pg").gradient(np.zeros(2), torch.zeros(2), torch.zeros(2))
