"""Anchor health and update diagnostics: bounds, definitions, invariances, and what a group without an answer gives."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from helpers.backends import BACKENDS, Backend
from helpers.strategies import (
    BAD_LOGP,
    BAD_MASKS,
    BAD_NUMBERS,
    BAD_POSITIVES,
    BAD_SHAPES,
    Group,
    bad,
    etas,
    filled,
    groups,
)
from hypothesis import given
from hypothesis import strategies as st

from tpo_ref import diagnostics as reference
from tpo_ref import simplex
from tpo_ref.standardize import standardize
from tpo_ref.tpo import tpo_coefficients, tpo_target
from tpo_torch import diagnostics as mirror

FIELDS = reference.AnchorHealth._fields


def health(backend: Backend, *args: Any, **options: Any) -> reference.AnchorHealth:
    return reference.AnchorHealth(*backend.call("diagnostics.anchor_health", *args, **options))


def tokens_of(group: Group, vocabulary: int = 2, length: int = 3) -> np.ndarray:
    """Few enough sequences that groups repeat some."""
    return group.rng.integers(0, vocabulary, (*group.logp.shape, length))


def figures(backend: Backend, group: Group, mask: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Every per-group figure of a group; the inputs are those that a run has."""
    keep = {} if mask is None else {"mask": mask}
    u, x = standardize(group.scores, mask), group.logp_old
    p, q = simplex.softmax(x, mask), tpo_target(x, u, 0.5, mask)
    lengths = group.rng.integers(1, 9, x.shape).astype(float)
    named = dict(zip(FIELDS, health(backend, x, u, 0.5, **keep), strict=True))
    named |= {
        "mode_moves": backend.call("diagnostics.mode_moves", p, q, **keep),
        "ceiling": backend.call("diagnostics.kl_ceiling", x, u, **keep),
        "duplicates": backend.call("diagnostics.duplicate_rate", tokens_of(group), **keep),
        "with length": backend.call("diagnostics.correlation", x, lengths, **keep),
        "with score": backend.call("diagnostics.correlation", x, group.scores, **keep),
        "all fail": backend.call("diagnostics.all_fail", group.scores, **keep),
        "zero variance": backend.call("diagnostics.zero_variance", u, **keep),
    }
    c = tpo_coefficients(group.logp, q, mask)
    weights = backend.call("diagnostics.winners_losers_weight", c, group.scores, **keep)
    return named | dict(zip(("winners", "losers"), weights, strict=True))


def assert_same(one: dict[str, np.ndarray], other: dict[str, np.ndarray], rtol: float = 1e-9) -> None:
    # KL and its kin are differences of numbers of order 1: they have absolute digits only.
    for name, values in one.items():
        np.testing.assert_allclose(values, other[name], rtol=rtol, atol=1e-10, err_msg=name)


def only(group: Group, row: int, candidates: np.ndarray) -> Group:
    """One group of a batch, with some of its candidates, in a given order."""
    parts = (x[row : row + 1, candidates] for x in (group.logp, group.logp_old, group.scores, group.mask))
    return Group(*parts, seed=group.seed)


# Properties.


@given(group=groups(), eta=etas)
def test_every_figure_is_within_its_bounds(backend: Backend, group: Group, eta: float) -> None:
    u = standardize(group.scores)
    found, reach = health(backend, group.logp_old, u, eta), np.ptp(u, axis=-1)
    assert (found.kl >= 0).all()
    assert (found.kl <= found.kl_ceiling + 1e-9).all()
    assert (found.kl <= reach / eta + 1e-9).all()
    assert (found.tv <= np.tanh(reach / (4 * eta)) + 1e-12).all()
    for size in (found.ess_old, found.ess_target):
        assert ((size >= 1 - 1e-12) & (size <= group.k * (1 + 1e-12))).all()
    # One candidate has no entropy to be compared with, constant scores no tilt.
    assert (np.isnan(found.entropy) == (group.k < 2)).all()
    assert group.k < 2 or ((found.entropy >= 0) & (found.entropy <= 1 + 1e-12)).all()
    assert (np.isnan(found.dominance) == (reach == 0)).all()
    assert (found.dominance[reach > 0] >= 0).all()
    for flag in (found.mode_moved, found.unmoved, found.dominated[reach > 0]):
        assert np.isin(flag, (0.0, 1.0)).all()
    # Constant scores leave the target where the anchor is, exactly.
    for nothing in (found.tv, found.kl, found.mode_moved, found.kl_ceiling):
        np.testing.assert_allclose(nothing[reach == 0], 0, atol=1e-12)
    assert (found.tv[reach == 0] == 0).all()


@given(group=groups(spreads=(0.1, 1.0, 5.0)), eta=etas)
def test_every_figure_is_its_definition(backend: Backend, group: Group, eta: float) -> None:
    x, u = group.logp_old, standardize(group.scores)
    found = health(backend, x, u, eta)
    p = np.exp(x) / np.exp(x).sum(-1, keepdims=True)
    q = p * np.exp((u - u.max(-1, keepdims=True)) / eta)
    q /= q.sum(-1, keepdims=True)
    close = {"rtol": 1e-9, "atol": 1e-12}
    if group.k > 1:
        np.testing.assert_allclose(found.entropy, -(p * np.log(p)).sum(-1) / np.log(group.k), **close)
        np.testing.assert_allclose(backend.call("diagnostics.normalised_entropy", x), found.entropy, **close)
    np.testing.assert_allclose(found.ess_old, 1 / (p**2).sum(-1), **close)
    np.testing.assert_allclose(found.ess_target, 1 / (q**2).sum(-1), **close)
    np.testing.assert_allclose(found.tv, np.abs(q - p).sum(-1) / 2, **close)
    # q may underflow at η = 0.1; 0·log 0 = 0.
    np.testing.assert_allclose(
        found.kl, (q * (np.log(np.where(q > 0, q, 1)) - np.log(p))).sum(-1), rtol=1e-9, atol=1e-9
    )
    best = u == u.max(-1, keepdims=True)
    np.testing.assert_allclose(found.kl_ceiling, -np.log((p * best).sum(-1)), **close)
    np.testing.assert_allclose(backend.call("diagnostics.kl_ceiling", x, u), found.kl_ceiling, **close)
    np.testing.assert_array_equal(found.unmoved, found.tv < 0.01)
    reach = np.ptp(u, axis=-1)
    differ = reach > 0
    np.testing.assert_allclose(found.dominance[differ], (x.std(-1) * eta)[differ] / reach[differ], **close)
    np.testing.assert_array_equal(backend.call("diagnostics.anchor_dominance", x, u, eta), found.dominance)
    np.testing.assert_array_equal(found.dominated[differ], found.dominance[differ] > 1)
    # No ties here: the anchor is drawn from a continuous distribution.
    np.testing.assert_array_equal(found.mode_moved, p.argmax(-1) != q.argmax(-1))
    np.testing.assert_array_equal(backend.call("diagnostics.mode_moves", p, q), found.mode_moved)


@given(group=groups(min_k=2, spreads=(0.1, 1.0, 5.0, 50.0), kinds=("binary", "onehot", "tied")))
def test_the_ceiling_is_the_supremum_over_temperatures(backend: Backend, group: Group) -> None:
    x, u = group.logp_old, standardize(group.scores)
    ladder = [health(backend, x, u, eta) for eta in (4.0, 1.0, 0.3, 0.1, 0.03, 1e-3)]
    for warmer, colder in pairwise(ladder):
        assert (colder.kl >= warmer.kl - 1e-9).all()
    assert all((rung.kl <= rung.kl_ceiling + 1e-9).all() for rung in ladder)
    # Binary u differ by at least 2, those of three equidistant scores by 1: 1e5 nats, against hundreds in the anchor.
    limit = health(backend, x, u, 1e-5)
    np.testing.assert_allclose(limit.kl, limit.kl_ceiling, rtol=1e-9, atol=1e-9)


@given(group=groups(), c=st.floats(-1e3, 1e3))
def test_nothing_depends_on_order_or_on_a_shift_of_the_anchor(backend: Backend, group: Group, c: float) -> None:
    u, order = standardize(group.scores), group.rng.permutation(group.k)
    first = dict(zip(FIELDS, health(backend, group.logp_old, u), strict=True))
    for x, v in ((group.logp_old + c, u), (group.logp_old[:, order], u[:, order])):
        assert_same(dict(zip(FIELDS, health(backend, x, v), strict=True)), first)
    tokens, lengths = tokens_of(group), group.rng.integers(1, 9, group.logp.shape)
    for name, *arrays in (
        ("duplicate_rate", tokens),
        ("correlation", group.logp_old, lengths),
        ("all_fail", group.scores),
        ("zero_variance", u),
        ("winners_losers_weight", group.logp, group.scores),
    ):
        before = backend.call(f"diagnostics.{name}", *arrays)
        after = backend.call(f"diagnostics.{name}", *(a[:, order].copy() for a in arrays))
        np.testing.assert_allclose(before, after, atol=1e-9, err_msg=name)


@given(group=groups(max_k=16))
def test_a_masked_candidate_changes_nothing(backend: Backend, group: Group) -> None:
    spoiled = Group(
        *(np.where(group.mask, x, np.nan) for x in (group.logp, group.logp_old, group.scores)), group.mask, group.seed
    )
    whole = figures(backend, spoiled, group.mask)
    for row, keep in enumerate(group.mask):
        # Tokens and lengths of the whole batch, cut to the candidates that are there.
        tokens = tokens_of(group)[row : row + 1, keep]
        lengths = group.rng.integers(1, 9, group.logp.shape).astype(float)[row : row + 1, keep]
        alone = only(group, row, keep)
        dropped = figures(backend, alone)
        dropped["duplicates"] = backend.call("diagnostics.duplicate_rate", tokens)
        dropped["with length"] = backend.call("diagnostics.correlation", alone.logp_old, lengths)
        assert_same({name: x[row : row + 1] for name, x in whole.items()}, dropped)
        share = backend.call("diagnostics.normalised_entropy", spoiled.logp_old, mask=group.mask)[row]
        np.testing.assert_allclose(share, dropped["entropy"][0], rtol=1e-9)


@given(group=groups(max_k=16), masked=st.booleans())
def test_both_backends_agree(backend: Backend, group: Group, masked: bool) -> None:
    mask = group.mask if masked else None
    assert_same(figures(backend, group, mask), figures(BACKENDS["numpy"], group, mask), rtol=1e-7)


@given(group=groups(max_k=12), vocabulary=st.integers(1, 3))
def test_duplicates_are_what_a_set_leaves_out(backend: Backend, group: Group, vocabulary: int) -> None:
    tokens = tokens_of(group, vocabulary)
    found = backend.call("diagnostics.duplicate_rate", tokens, mask=group.mask)
    for rate, row, keep in zip(found, tokens, group.mask, strict=True):
        here = [tuple(candidate) for candidate in row[keep]]
        np.testing.assert_allclose(rate, 1 - len(set(here)) / len(here), rtol=1e-6, atol=1e-7)


@given(group=groups(min_k=2))
def test_correlation_is_pearsons(backend: Backend, group: Group) -> None:
    lengths = group.rng.integers(1, 9, group.logp.shape)
    found = backend.call("diagnostics.correlation", group.logp_old, lengths)
    for r, x, n in zip(found, group.logp_old, lengths, strict=True):
        expected = np.corrcoef(x, n)[0, 1] if np.ptp(n) > 0 else np.nan
        np.testing.assert_allclose(r, expected, rtol=1e-7, atol=1e-9)
    # Any line through the points: exactly ±1, neither beyond.
    line = backend.call("diagnostics.correlation", group.logp_old, 3.0 - 2.0 * group.logp_old)
    np.testing.assert_allclose(line, -1, rtol=1e-9)
    assert (line >= -1).all()


@given(group=groups())
def test_weights_of_winners_and_losers_are_means_over_them(backend: Backend, group: Group) -> None:
    # In hundredths, so that the test may compare with the mean exactly, in integers.
    points = np.rint(100 * group.scores).astype(int)
    c = group.distribution() - simplex.softmax(group.logp)
    winners, losers = backend.call("diagnostics.winners_losers_weight", c, points / 100)
    for row in range(len(c)):
        above = group.k * points[row] - points[row].sum()
        for found, members in ((winners[row], above > 0), (losers[row], above < 0)):
            expected = c[row][members].mean() if members.any() else np.nan
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


@given(group=groups())
def test_tpo_pushes_winners_up_and_losers_down_at_the_snapshot(backend: Backend, group: Group) -> None:
    # One success: q/p_old is above 1 for the winner and below 1 for each loser.
    scores = np.eye(group.k)[group.rng.integers(group.k, size=len(group.logp))]
    c = tpo_coefficients(group.logp_old, tpo_target(group.logp_old, standardize(scores)))
    winners, losers = backend.call("diagnostics.winners_losers_weight", c, scores)
    if group.k > 1:
        assert (winners >= -1e-12).all()
        assert (losers <= 1e-12).all()
        np.testing.assert_allclose(winners + (group.k - 1) * losers, 0, atol=1e-12)
    else:
        assert np.isnan(winners).all()
        assert np.isnan(losers).all()


@given(group=groups(kinds=("binary", "constant", "tied")))
def test_flags_of_scores(backend: Backend, group: Group) -> None:
    u = standardize(group.scores)
    np.testing.assert_array_equal(backend.call("diagnostics.zero_variance", u), ~group.differ)
    expected = [all(s <= 0 for s in row) for row in group.scores]
    np.testing.assert_array_equal(backend.call("diagnostics.all_fail", group.scores), expected)


@given(seed=st.integers(0, 2**32 - 1), keep=st.integers(0, 3))
def test_means_leave_out_groups_without_an_answer(backend: Backend, seed: int, keep: int) -> None:
    values = np.random.default_rng(seed).normal(size=(2, 3, 4))
    values[values < -0.5] = np.nan
    values[:, :, 0] = 1.0  # so that numpy's mean of nothing has nothing to warn of, but for keep = 3
    axes = tuple(range(keep, 3))
    expected = np.nanmean(values, axis=axes) if axes else values
    np.testing.assert_allclose(backend.call("diagnostics.group_mean", values, keep_axes=keep), expected, rtol=1e-12)


@given(group=groups(max_k=8))
def test_the_summary_is_the_mean_of_each_figure(backend: Backend, group: Group) -> None:
    x, u = (np.stack([a, a[::-1]]) for a in (group.logp_old, standardize(group.scores)))
    found = health(backend, x, u, 0.5)
    for keep in (0, 1, 2):
        summary = backend.call("diagnostics.summarise", x, u, 0.5, keep_axes=keep)
        for mean, values in zip(summary, found, strict=True):
            assert np.shape(mean) == values.shape[:keep]
            np.testing.assert_allclose(mean, backend.call("diagnostics.group_mean", values, keep_axes=keep), rtol=1e-12)


# Worked examples.


def test_an_anchor_by_hand(backend: Backend) -> None:
    # p_old = (.8, .2), R = 2, η = 1: q ∝ (.8/e, .2e); sd(ℓ_old) of two is half their distance, log 4 / 2.
    found = health(backend, np.log([0.8, 0.2]), np.array([-1.0, 1.0]))
    tilted = 0.2 * np.e / (0.8 / np.e + 0.2 * np.e)
    np.testing.assert_allclose(found.ess_old, 1 / 0.68)
    np.testing.assert_allclose(found.dominance, np.log(4) / 4)
    np.testing.assert_allclose(found.tv, tilted - 0.2)
    np.testing.assert_allclose(found.kl_ceiling, np.log(5))
    # q = (.351, .649): the other candidate leads.
    assert [float(x) for x in (found.mode_moved, found.dominated, found.unmoved)] == [1, 0, 0]


def test_candidates_of_probability_zero_have_no_part_in_the_tilt(backend: Backend) -> None:
    # The best score belongs to an impossible candidate: the ceiling, sd and R are those of the other two.
    possible = health(backend, np.log([0.8, 0.2]), np.array([-1.0, 1.0]))
    found = health(backend, np.log([0.8, 0.2, 1.0]) - [0, 0, np.inf], np.array([-1.0, 1.0, 9.0]))
    # Only the entropy is relative to all three.
    np.testing.assert_allclose(found.entropy, possible.entropy * np.log(2) / np.log(3))
    np.testing.assert_allclose(found[1:], possible[1:], rtol=1e-12)


def test_ties_of_the_mode_count_as_no_change(backend: Backend) -> None:
    p, q = np.array([[0.5, 0.5, 0.0], [0.4, 0.4, 0.2]]), np.array([[0.1, 0.9, 0.0], [0.3, 0.3, 0.4]])
    assert backend.call("diagnostics.mode_moves", p, q).tolist() == [0.0, 1.0]


def test_a_wide_anchor_does_not_underflow(backend: Backend) -> None:
    # p_old of the second is e^−2000 = 0 in floating point, yet at η = 1e-3 the tilt of 2,000 nats lifts it to ½.
    found = health(backend, np.array([0.0, -2000.0]), np.array([-1.0, 1.0]), 1e-3)
    np.testing.assert_allclose(found.kl, 0.5 * np.log(0.5) + 0.5 * (np.log(0.5) + 2000))
    np.testing.assert_allclose([found.kl_ceiling, found.tv, found.dominance], [2000, 0.5, 0.5])


def test_what_has_no_answer_is_nan_and_leaves_the_mean(backend: Backend) -> None:
    # Varied scores, constant scores, and padding.
    logp, mask = np.array([[0.0, -1.0]] * 3), np.array([[True, True], [True, True], [False, False]])
    u, scores = np.array([[1.0, -1.0], [0.0, 0.0], [0.0, 0.0]]), np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    found = health(backend, logp, u, mask=mask)
    for name, values in zip(FIELDS, found, strict=True):
        assert np.isnan(values).tolist() == [False, name in ("dominance", "dominated"), True], name
    summary = reference.AnchorHealth(*backend.call("diagnostics.summarise", logp, u, mask=mask))
    # sd = ½, R = 2, of the one group that has both; TV = .2, by hand, of the first, and 0 of the second.
    np.testing.assert_allclose(summary.dominance, 0.25)
    np.testing.assert_allclose(summary.tv, found.tv[0] / 2)
    tokens = np.zeros((3, 2, 4), dtype=int)
    for name, args, expected in (
        ("zero_variance", (u,), [0.0, 1.0, np.nan]),
        ("all_fail", (scores,), [0.0, 1.0, np.nan]),
        ("duplicate_rate", (tokens,), [0.5, 0.5, np.nan]),
        ("correlation", (logp, scores), [1.0, np.nan, np.nan]),
        ("winners_losers_weight", (u, scores), [[1.0, np.nan, np.nan], [-1.0, np.nan, np.nan]]),
    ):
        np.testing.assert_allclose(backend.call(f"diagnostics.{name}", *args, mask=mask), expected, err_msg=name)


def test_a_mean_of_nothing_is_nan_without_a_warning(backend: Backend) -> None:
    assert np.isnan(backend.call("diagnostics.group_mean", np.full(3, np.nan)))
    assert np.isnan(backend.call("diagnostics.group_mean", np.array(np.nan)))
    assert backend.call("diagnostics.group_mean", np.array(2.0)) == 2
    assert backend.call("diagnostics.group_mean", np.array([True, False])) == 0.5
    # An infinite figure is an answer.
    assert backend.call("diagnostics.group_mean", np.array([1.0, np.inf])) == np.inf


def test_one_candidate(backend: Backend) -> None:
    found = health(backend, np.array([-3.0]), np.array([0.0]))
    # In the order of the fields: no entropy and no dominance, one candidate in both, nothing moves.
    expected = [np.nan, 1.0, 1.0, np.nan, np.nan, 0.0, 0.0, 1.0, 0.0, 0.0]
    np.testing.assert_array_equal(found, expected)
    assert np.isnan(backend.call("diagnostics.correlation", np.array([-3.0]), np.array([2.0])))
    assert backend.call("diagnostics.duplicate_rate", np.array([[1, 2]])) == 0


def test_rounding_makes_no_winner_and_no_correlation(backend: Backend) -> None:
    # Seven copies of 0.1 have a mean that is not 0.1; and in (.1, .2, .3) the middle one is the mean, up to rounding.
    same, c = np.full(7, 0.1), np.arange(7.0)
    assert np.isnan(backend.call("diagnostics.winners_losers_weight", c, same)).all()
    assert np.isnan(backend.call("diagnostics.correlation", c, same))
    found = backend.call("diagnostics.winners_losers_weight", np.array([-1.0, 5.0, 2.0]), np.array([0.1, 0.2, 0.3]))
    assert [float(x) for x in found] == [2.0, -1.0]


# The mirror alone.


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    logp, u = torch.tensor([-2.0, -8.0], dtype=dtype), torch.tensor([1.0, -1.0], dtype=dtype)
    for figure, exact in zip(
        mirror.anchor_health(logp, u), reference.anchor_health([-2.0, -8.0], [1.0, -1.0]), strict=True
    ):
        assert figure.dtype == torch.float32
        np.testing.assert_allclose(figure, exact, rtol=1e-5, atol=1e-6)
    assert mirror.group_mean(logp).dtype == torch.float32


def test_no_figure_carries_a_graph() -> None:
    x, u = (torch.tensor(row, requires_grad=True) for row in ([-1.0, -2.0], [1.0, -1.0]))
    p = torch.tensor([0.5, 0.5], requires_grad=True)
    results = [*mirror.anchor_health(x, u), *mirror.summarise(x, u), *mirror.winners_losers_weight(x, u)]
    results += [mirror.normalised_entropy(x), mirror.anchor_dominance(x, u), mirror.kl_ceiling(x, u)]
    results += [mirror.mode_moves(p, p), mirror.group_mean(x), mirror.correlation(x, u), mirror.all_fail(x)]
    assert not any(r.requires_grad for r in [*results, mirror.zero_variance(u)])


def test_the_two_records_have_the_same_fields_and_thresholds() -> None:
    assert mirror.AnchorHealth._fields == FIELDS
    names = ("DOMINANCE_ALARM", "UNMOVED_TV")
    assert [getattr(mirror, n) for n in names] == [getattr(reference, n) for n in names]


# What is refused.

PAIR = np.array([0.5, 0.5])
ANCHORED = ("anchor_dominance", "anchor_health", "summarise", "kl_ceiling")


@pytest.mark.reads_values
@pytest.mark.parametrize("name", [*ANCHORED, "normalised_entropy"])
@bad(BAD_LOGP)
def test_bad_anchors_are_refused(backend: Backend, name: str, value: Any, error: type[Exception], words: str) -> None:
    rest = () if name == "normalised_entropy" else (np.zeros(np.shape(value)),)
    with pytest.raises(error, match=words):
        backend.call(f"diagnostics.{name}", value, *rest)


@pytest.mark.reads_values
@pytest.mark.parametrize(
    ("name", "template"),
    [
        *((name, (PAIR, None)) for name in (*ANCHORED, "mode_moves", "correlation", "winners_losers_weight")),
        *((name, (None,)) for name in ("all_fail", "zero_variance")),
        *((name, (None, PAIR)) for name in ("mode_moves", "correlation", "winners_losers_weight")),
    ],
)
@bad(BAD_NUMBERS)
def test_bad_numbers_are_refused(
    backend: Backend, name: str, template: tuple[Any, ...], value: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        backend.call(f"diagnostics.{name}", *filled(template, value))


@pytest.mark.parametrize("name", [*ANCHORED, "mode_moves", "correlation", "winners_losers_weight"])
@bad(BAD_SHAPES)
def test_bad_shapes_are_refused(backend: Backend, name: str, value: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        backend.call(f"diagnostics.{name}", PAIR, value)


@pytest.mark.parametrize(
    ("name", "args"),
    [
        *((name, (PAIR, PAIR)) for name in (*ANCHORED, "mode_moves", "correlation", "winners_losers_weight")),
        *((name, (PAIR,)) for name in ("normalised_entropy", "all_fail", "zero_variance")),
        ("duplicate_rate", (np.zeros((2, 3), dtype=int),)),
    ],
)
@bad(BAD_MASKS)
def test_bad_masks_are_refused(
    backend: Backend, name: str, args: tuple[Any, ...], value: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        backend.call(f"diagnostics.{name}", *args, mask=value)


@pytest.mark.parametrize("name", ["anchor_dominance", "anchor_health", "summarise"])
@bad(BAD_POSITIVES)
def test_bad_temperatures_are_refused(
    backend: Backend, name: str, value: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        backend.call(f"diagnostics.{name}", PAIR, PAIR, eta=value)


@bad(
    (
        ("floats", np.zeros((2, 3)), TypeError, "integer token ids"),
        ("bool", np.zeros((2, 3), dtype=bool), TypeError, "integer token ids"),
        ("no-positions", np.array([1, 2]), ValueError, r"\(\.\.\., K, T\)"),
        ("empty", np.zeros((2, 0), dtype=int), ValueError, "empty"),
    )
)
def test_bad_tokens_are_refused(backend: Backend, value: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        backend.call("diagnostics.duplicate_rate", value)


@bad(
    (
        ("negative", -1, ValueError, "0 or above"),
        ("too-many", 2, ValueError, "at most 1"),
        ("float", 1.0, TypeError, "one integer"),
    )
)
def test_bad_axes_are_refused(backend: Backend, value: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        backend.call("diagnostics.group_mean", PAIR, keep_axes=value)
    with pytest.raises(error, match=words):
        backend.call("diagnostics.summarise", PAIR[None], PAIR[None], keep_axes=value)


@pytest.mark.parametrize(("value", "error"), [(np.array([1j]), TypeError), (np.zeros(0), ValueError)])
def test_bad_values_are_refused(backend: Backend, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="values: got"):
        backend.call("diagnostics.group_mean", value)


@pytest.mark.reads_values
def test_what_is_no_distribution_is_refused(backend: Backend) -> None:
    for p in (np.array([1.5, -0.5]), np.array([0.5, 0.4])):
        with pytest.raises(ValueError, match=r"distribution|sums to 1"):
            backend.call("diagnostics.mode_moves", p, PAIR)


def test_lengths_keep_their_digits_beside_half_precision() -> None:
    x = torch.tensor([-1.0, -2.0, -4.0, -3.0])
    lengths = torch.tensor([1001, 1002, 1004, 1003])
    exact = mirror.correlation(x, lengths)
    for half in (torch.float16, torch.bfloat16):
        # Both can hold x, and neither can hold these lengths, or longer ones at all.
        torch.testing.assert_close(mirror.correlation(x.to(half), lengths), exact)
        torch.testing.assert_close(mirror.correlation(x.to(half), lengths + 2**20), exact)
