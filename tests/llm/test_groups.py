"""Coefficients of flat rows: what whole-group numpy gives, whatever the order, the sizes and the holes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.strategies import SCORE_KINDS, SPREADS, etas, make_scores
from hypothesis import given
from hypothesis import strategies as st

from tpo_ref import scale
from tpo_ref.lpo import DIVERGENCES
from tpo_ref.scale import scale_scores
from tpo_ref.simplex import softmax
from tpo_ref.tpo import tpo_ratio_grad, tpo_ratio_loss, tpo_target, tpo_weights
from tpo_ref.variants import (
    tpo_length_normalised_grad,
    tpo_length_normalised_loss,
    tpo_reverse_grad,
    tpo_reverse_loss,
    tpo_tempered_grad,
    tpo_tempered_loss,
)
from tpo_torch.llm import target
from tpo_torch.llm.groups import (
    ANCHORS,
    ZERO_VARIANCE,
    Coefficients,
    TargetSettings,
    group_coefficients,
    pack,
    scorable,
)

EXACT = 1e-10
T = 3.0
NAN = float("nan")


@dataclass(frozen=True)
class Rows:
    """Flat rows in any order: numpy arrays (N,), and ids that need not be consecutive."""

    logp: np.ndarray
    logp_old: np.ndarray
    scores: np.ndarray
    groups: np.ndarray
    lengths: np.ndarray
    valid: np.ndarray
    deviation: np.ndarray

    def coefficients(self, settings: TargetSettings, **changed: Any) -> Coefficients:
        given = {name: torch.from_numpy(x) for name, x in vars(self).items()} | changed
        return group_coefficients(settings=settings, **given)

    def permuted(self, order: np.ndarray) -> Rows:
        return Rows(**{name: x[order] for name, x in vars(self).items()})


@st.composite
def rows(draw: st.DrawFn, kinds: tuple[str, ...] = SCORE_KINDS, all_valid: bool = False) -> Rows:
    """Up to five groups of one to seven rows, each with its kind of scores; some rows or whole groups invalid."""
    sizes = draw(st.lists(st.integers(1, 7), min_size=1, max_size=5))
    spread, kind = draw(st.sampled_from(SPREADS)), draw(st.lists(st.sampled_from(kinds), min_size=5, max_size=5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = sum(sizes)
    ids = rng.choice(10**6, len(sizes), replace=False)
    scores = np.concatenate([make_scores(kind[i], rng, (size,)) for i, size in enumerate(sizes)])
    valid = np.ones(n, bool) if all_valid else rng.random(n) < draw(st.sampled_from((0.0, 0.5, 1.0)))
    made = Rows(
        rng.normal(0, spread, n),
        rng.normal(0, spread, n),
        scores,
        np.repeat(ids, sizes),
        rng.integers(1, 9, n),
        valid,
        np.repeat(rng.uniform(0.1, 2.0, len(sizes)), sizes),
    )
    return made.permuted(rng.permutation(n))


# Scales with the noise that each takes; the mean of a group, which no score below 0 has, is tested by itself.
settings_ = st.builds(
    lambda unit, **others: TargetSettings(score_scale=unit[0], tau=unit[1], **others),
    unit=st.sampled_from(
        (("group_std", 0.0), ("group_std", 0.3), ("none", 0.0), ("batch_std", 0.0), ("batch_std", 0.3))
    ),
    anchor=st.sampled_from(ANCHORS),
    eta=etas,
    anchor_temperature=st.just(T),
    zero_variance=st.sampled_from(ZERO_VARIANCE),
    zero_variance_weight=st.just(0.25),
    divergence=st.sampled_from(DIVERGENCES),
)


def whole_group(x: Rows, at: np.ndarray, made: TargetSettings) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """u, q, c and the cross-entropy of the valid rows of one group, by the reference."""
    logp, old, n = x.logp[at], x.logp_old[at], x.lengths[at]
    deviation = x.deviation[at][:1] if made.score_scale == "batch_std" else None
    u = scale_scores(x.scores[at], made.score_scale, tau=made.tau, deviation=deviation)
    if made.anchor == "ratio":
        q = tpo_weights(u, made.eta)
        grad, loss = tpo_ratio_grad(logp, old, q), tpo_ratio_loss(logp, old, q)
    elif made.anchor == "length":
        q = tpo_target(old / n, u, made.eta)
        grad = tpo_length_normalised_grad(logp, old, u, n, made.eta)
        loss = tpo_length_normalised_loss(logp, old, u, n, made.eta)
    else:
        temperature = T if made.anchor == "tempered" else 1.0
        q = tpo_target(old / temperature, u, made.eta)
        grad = tpo_tempered_grad(logp, old, u, made.eta, temperature)
        loss = tpo_tempered_loss(logp, old, u, made.eta, temperature)
    if made.divergence == "reverse":
        unit = {"length": n, "tempered": T}.get(made.anchor, 1.0)
        before, now = (np.zeros_like(old), logp - old) if made.anchor == "ratio" else (old / unit, logp / unit)
        grad, loss = (f(now, before, u, made.eta) for f in (tpo_reverse_grad, tpo_reverse_loss))
        grad = grad / unit
    weight = {"anchor": 1.0, "mask": 0.0, "weight": made.zero_variance_weight}[made.zero_variance]
    idle = weight if np.ptp(u) == 0 else 1.0
    return u, q, -grad * idle, float(loss) * idle


def test_the_settings_know_the_names_of_the_reference() -> None:
    assert (target.SCALES, target.WITH_NOISE) == (scale.SCALES, scale.WITH_NOISE)
    assert target.DIVERGENCES == DIVERGENCES


def test_what_a_batch_or_a_scale_lacks_is_said() -> None:
    with pytest.raises(ValueError, match=r"tau: got 0.1, expected 0 under score_scale 'none'"):
        TargetSettings(score_scale="none", tau=0.1)
    with pytest.raises(ValueError, match="deviation: got none"):
        group_coefficients(
            None, None, torch.tensor([1.0, 0.0]), torch.tensor([0, 0]), TargetSettings(score_scale="batch_std")
        )


@given(rows(), settings_)
@pytest.mark.paper("Eq. 2")
@pytest.mark.paper("Prop. 1")
def test_each_row_has_what_its_whole_group_gives_it(x: Rows, made: TargetSettings) -> None:
    assert_as_whole_groups(x, made)


@given(rows(), settings_)
def test_so_it_has_in_units_of_the_mean(x: Rows, made: TargetSettings) -> None:
    assert_as_whole_groups(replace(x, scores=np.abs(x.scores)), replace(made, score_scale="group_mean", tau=0.0))


def assert_as_whole_groups(x: Rows, made: TargetSettings) -> None:
    found = x.coefficients(made)
    assert found.ids.tolist() == sorted(set(x.groups.tolist()))
    for g, name in enumerate(found.ids.tolist()):
        at = np.flatnonzero((x.groups == name) & x.valid)
        if not len(at):
            assert float(found.loss[g]) == 0
            continue
        u, q, c, loss = whole_group(x, at, made)
        scale = {"length": x.lengths[at], "tempered": T}.get(made.anchor, 1.0)
        old, now = (x.logp_old[at] / scale, x.logp[at] / scale)
        if made.anchor == "ratio":
            old, now = np.zeros(len(at)), x.logp[at] - x.logp_old[at]
        for given_, wanted in zip(found[:5], (u, softmax(old), softmax(now), q, c), strict=True):
            np.testing.assert_allclose(given_.numpy()[at], wanted, rtol=EXACT, atol=EXACT)
        np.testing.assert_allclose(found.loss.numpy()[g], loss, rtol=EXACT, atol=EXACT)
    for column in found[:5]:
        assert (column.numpy()[~x.valid] == 0).all()
    assert (found.valid.numpy() == x.valid).all()


@given(rows(), settings_, st.integers(0, 2**32 - 1))
def test_order_and_names_of_the_rows_mean_nothing(x: Rows, made: TargetSettings, seed: int) -> None:
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(x.groups))
    names = {old: int(new) for old, new in zip(set(x.groups.tolist()), rng.permutation(10**6), strict=False)}
    other = replace(x.permuted(order), groups=np.array([names[i] for i in x.groups[order].tolist()]))
    for a, b in zip(x.coefficients(made)[:5], other.coefficients(made)[:5], strict=True):
        np.testing.assert_allclose(a.numpy()[order], b.numpy(), rtol=EXACT, atol=EXACT)


@given(rows(), settings_)
def test_groups_do_not_see_each_other(x: Rows, made: TargetSettings) -> None:
    found = x.coefficients(made)
    for name in set(x.groups.tolist()):
        at = np.flatnonzero(x.groups == name)
        alone = x.permuted(at).coefficients(made)
        for a, b in zip(found[:5], alone[:5], strict=True):
            np.testing.assert_allclose(a.numpy()[at], b.numpy(), rtol=EXACT, atol=EXACT)


@given(rows(), settings_)
def test_invalid_rows_may_hold_anything(x: Rows, made: TargetSettings) -> None:
    poisoned = {
        name: torch.from_numpy(np.where(x.valid, getattr(x, name), np.nan)) for name in ("logp", "logp_old", "scores")
    }
    lengths = torch.from_numpy(np.where(x.valid, x.lengths, 0))
    for a, b in zip(x.coefficients(made), x.coefficients(made, **poisoned, lengths=lengths), strict=True):
        assert torch.equal(a, b)


@given(rows(), settings_)
def test_the_push_on_a_group_sums_to_zero(x: Rows, made: TargetSettings) -> None:
    c = x.coefficients(made).c.numpy()
    # Of a length-normalised group, that of the normalised logits: a long completion's own logit moves more.
    c = c * x.lengths if made.anchor == "length" else c
    for name in set(x.groups.tolist()):
        np.testing.assert_allclose(c[x.groups == name].sum(), 0, atol=EXACT)


@given(rows(kinds=("constant",)), settings_)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_scores_ask_for_exactly_nothing_at_the_snapshot(
    dtype: torch.dtype, x: Rows, made: TargetSettings
) -> None:
    logp, scores = torch.from_numpy(x.logp_old).to(dtype), torch.from_numpy(x.scores).to(dtype)
    # One tensor, or two of the same numbers.
    for now in (logp, logp.clone()):
        assert not x.coefficients(made, logp=now, logp_old=logp, scores=scores).c.any()


@given(rows(), st.sampled_from(ZERO_VARIANCE), etas, st.sampled_from((0.0, 0.3)))
def test_an_unmoved_ratio_needs_no_log_probabilities(x: Rows, idle: str, eta: float, tau: float) -> None:
    made = TargetSettings("ratio", eta, tau, zero_variance=idle, zero_variance_weight=0.25)
    logp = torch.from_numpy(x.logp)
    for a, b in zip(
        x.coefficients(made, logp=None, logp_old=None),
        x.coefficients(made, logp=logp, logp_old=logp.clone()),
        strict=True,
    ):
        assert torch.equal(a, b)


@given(rows(kinds=("normal", "binary", "constant"), all_valid=True), settings_)
def test_idle_groups_are_weighed_and_no_others(x: Rows, made: TargetSettings) -> None:
    plain = x.coefficients(replace(made, zero_variance="anchor"))
    for kind, weight in (("mask", 0.0), ("weight", 0.25)):
        found = x.coefficients(replace(made, zero_variance=kind))
        idle = torch.tensor([bool((plain.u[x.groups == g] == 0).all()) for g in x.groups])
        assert torch.equal(found.c, torch.where(idle, plain.c * weight, plain.c))
        assert torch.equal(found.q, plain.q)


def test_one_candidate_is_never_pushed() -> None:
    one = torch.tensor([3.0])
    for anchor in ANCHORS:
        made = group_coefficients(one, one - 5, one, torch.tensor([4]), TargetSettings(anchor), lengths=one)
        assert (made.c.tolist(), made.q.tolist()) == ([0], [1])


def test_the_wider_precision_is_kept() -> None:
    wide, narrow = torch.tensor([1.0, 0.0], dtype=torch.double), torch.tensor([0.1, -0.3])
    for logp, scores in ((wide, narrow), (narrow, wide), (wide, wide)):
        assert (
            group_coefficients(logp, logp, scores, torch.zeros(2).long(), TargetSettings("policy")).c.dtype
            == torch.double
        )


def test_coefficients_carry_no_gradient() -> None:
    logp = torch.tensor([0.1, -0.3], requires_grad=True)
    for part in group_coefficients(
        logp, logp, torch.tensor([1.0, 0.0]), torch.zeros(2).long(), TargetSettings("policy")
    ):
        assert not part.requires_grad


# -- packing ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(-4, 9), min_size=1, max_size=40))
def test_rows_go_to_their_groups_and_back(ids: list[int]) -> None:
    packing = pack(torch.tensor(ids))
    assert packing.ids.tolist() == sorted(set(ids))
    assert packing.rows.shape == packing.mask.shape == (len(set(ids)), max(map(ids.count, ids)))
    for g, name in enumerate(packing.ids.tolist()):
        assert packing.rows[g][packing.mask[g]].tolist() == [i for i, other in enumerate(ids) if other == name]
    values = torch.arange(len(ids)) * 1.5
    assert torch.equal(packing.to_rows(packing.to_groups(values)), values)
    wide = torch.stack([values, -values], -1)
    assert torch.equal(packing.to_groups(wide)[..., 1], -packing.to_groups(values))


def test_a_row_is_scorable_with_a_finite_score_and_a_token() -> None:
    scores = torch.tensor([1.0, NAN, float("inf"), -float("inf"), 0.0, 2.0])
    assert scorable(scores, torch.tensor([3, 3, 3, 3, 0, 1])).tolist() == [True, False, False, False, False, True]
    with pytest.raises(ValueError, match="lengths: got shape"):
        scorable(scores, torch.ones(2))


TWO = torch.tensor([0.5, -0.5])
IDS = torch.tensor([0, 0])


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"logp": None}, ValueError, "logp: got none, expected log-probabilities; only an unmoved ratio needs none"),
        ({"logp": None, "logp_old": None}, ValueError, "only an unmoved ratio needs none"),
        ({"logp_old": None, "settings": TargetSettings("ratio")}, ValueError, "only an unmoved ratio needs none"),
        ({"settings": TargetSettings("length")}, ValueError, "lengths: got none, expected the tokens of each row"),
        ({"groups": torch.tensor([0.0, 1.0])}, TypeError, "groups: got torch.float32 of shape .* one integer id per"),
        ({"groups": torch.tensor([[0, 1]])}, TypeError, "expected one integer id per row"),
        ({"groups": torch.tensor([True, False])}, TypeError, "expected one integer id per row"),
        ({"groups": torch.tensor([0])}, ValueError, r"scores: got shape \(2,\), expected \(1,\)"),
        ({"logp": torch.zeros(3)}, ValueError, r"logp: got shape \(3,\), expected \(2,\)"),
        ({"logp": torch.tensor([1, 2])}, TypeError, "logp: got torch.int64.*token ids"),
        ({"logp_old": torch.tensor([1, 2])}, TypeError, "logp_old: got torch.int64.*token ids"),
        ({"valid": torch.tensor([1, 0])}, TypeError, "bool"),
        ({"scores": torch.tensor([NAN, 1.0])}, ValueError, "scores: got 1 NaN or infinite"),
        ({"logp": torch.tensor([NAN, 1.0])}, ValueError, "NaN"),
        ({"logp_old": torch.tensor([NAN, 1.0])}, ValueError, "NaN"),
    ],
)
def test_what_is_no_group_is_refused(changed: dict[str, Any], error: type[Exception], words: str) -> None:
    given_: dict[str, Any] = {
        "logp": TWO, "logp_old": TWO, "scores": TWO, "groups": IDS, "settings": TargetSettings("policy")
    }  # fmt: skip
    with pytest.raises(error, match=words):
        group_coefficients(**given_ | changed)


@pytest.mark.parametrize(
    ("name", "value", "error", "words"),
    [
        ("anchor", "rato", ValueError, "expected one of 'policy', 'ratio', 'length', 'tempered'"),
        ("zero_variance", "drop", ValueError, "expected one of 'anchor', 'mask', 'weight'"),
        ("eta", 0.0, ValueError, "eta: .*above 0"),
        ("tau", -1.0, ValueError, "tau: .*0 or above"),
        ("anchor_temperature", 0.0, ValueError, "anchor_temperature: .*above 0"),
        ("zero_variance_weight", -0.1, ValueError, "zero_variance_weight: .*0 or above"),
        ("eta", "1", TypeError, "eta"),
    ],
)
def test_settings_out_of_range_are_refused(name: str, value: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        TargetSettings(**{name: value})
