"""Score scales: what each divides by, that none sees a shift, and that equal scores are 0 in all of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.backends import Backend
from helpers.strategies import BAD_MASKS, BAD_NUMBERS, Group, bad, groups
from hypothesis import given
from hypothesis import strategies as st

from tpo_ref import scale
from tpo_torch import scale as mirror

SCALES = st.sampled_from(scale.SCALES)


def scores_for(name: str, group: Group) -> np.ndarray:
    """Scores that a scale takes: its mean needs numbers that are not negative."""
    return np.abs(group.scores) if name == "group_mean" else group.scores


def test_both_backends_know_the_same_names() -> None:
    assert (scale.SCALES, scale.WITH_NOISE) == (mirror.SCALES, mirror.WITH_NOISE)


@given(group=groups(), tau=st.sampled_from((0.0, 0.3)))
@pytest.mark.paper("App. A")
def test_each_scale_divides_by_what_its_name_says(backend: Backend, group: Group, tau: float) -> None:
    s = np.abs(group.scores)
    constant = np.ptp(s, axis=-1, keepdims=True) == 0
    a = np.where(constant, 0.0, s - s.mean(-1, keepdims=True))
    units: dict[str, Any] = {
        "group_std": np.hypot(s.std(-1, keepdims=True), tau),
        "none": 1.0,
        "group_mean": s.mean(-1, keepdims=True),
        "batch_std": np.hypot(s.std(), tau),
    }
    for name, unit in units.items():
        noise = {"tau": tau} if name in scale.WITH_NOISE else {}
        found = backend.call("scale.scale_scores", s, name, **noise)
        with np.errstate(invalid="ignore", divide="ignore"):
            expected = np.where(a == 0, 0.0, a / unit)
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12, err_msg=name)


@given(group=groups(), name=SCALES, c=st.floats(0, 10))
def test_centred_and_blind_to_a_shift(backend: Backend, group: Group, name: str, c: float) -> None:
    s = scores_for(name, group)
    u = backend.call("scale.scale_scores", s, name)
    np.testing.assert_allclose(u.sum(-1), 0, atol=1e-9)
    if name != "group_mean":
        np.testing.assert_allclose(backend.call("scale.scale_scores", s + c, name), u, atol=1e-7)


@given(group=groups(), name=SCALES, factor=st.sampled_from((1e-12, 1e-3, 7.0, 1e12)))
def test_only_none_keeps_the_unit_of_the_scores(backend: Backend, group: Group, name: str, factor: float) -> None:
    s = scores_for(name, group)
    u = backend.call("scale.scale_scores", s, name)
    other = backend.call("scale.scale_scores", s * factor, name)
    np.testing.assert_allclose(other, u * factor if name == "none" else u, rtol=1e-6, atol=1e-9 * max(factor, 1))


@given(group=groups(kinds=("constant",)), name=SCALES)
def test_equal_scores_are_exactly_zero(backend: Backend, group: Group, name: str) -> None:
    assert (backend.call("scale.scale_scores", scores_for(name, group), name) == 0).all()


@given(group=groups(), name=SCALES)
def test_a_masked_candidate_changes_nothing(backend: Backend, group: Group, name: str) -> None:
    s = scores_for(name, group)
    u = backend.call("scale.scale_scores", np.where(group.mask, s, np.nan), name, mask=group.mask)
    assert (u[~group.mask] == 0).all()
    deviation = {"deviation": np.array([s[group.mask].std()])} if name == "batch_std" else {}
    for row, keep, own in zip(u, group.mask, s, strict=True):
        alone = backend.call("scale.scale_scores", own[keep], name, **deviation)
        np.testing.assert_allclose(row[keep], alone, rtol=1e-9, atol=1e-12)


@given(group=groups())
def test_the_deviation_of_a_batch_is_that_of_all_its_scores(backend: Backend, group: Group) -> None:
    found = backend.call("scale.batch_deviation", group.scores, group.mask)
    np.testing.assert_allclose(found, [group.scores[group.mask].std()], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("unit", [1e-200, 1e200])
def test_the_deviation_neither_overflows_nor_vanishes(backend: Backend, unit: float) -> None:
    np.testing.assert_allclose(backend.call("scale.batch_deviation", np.array([unit, 0.0])), [unit / 2])


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("none", {"tau": 0.1}, "divides by no deviation"),
        ("group_mean", {"tau": 0.1}, "divides by no deviation"),
        ("group_std", {"deviation": np.array([1.0])}, "belongs to 'batch_std'"),
        ("group_sd", {}, "scale: got 'group_sd'"),
    ],
)
def test_options_that_a_scale_does_not_take_are_refused(
    backend: Backend, name: str, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        backend.call("scale.scale_scores", np.array([1.0, 0.0]), name, **options)


@pytest.mark.reads_values
def test_a_negative_deviation_is_refused(backend: Backend) -> None:
    with pytest.raises(ValueError, match="0 or more"):
        backend.call("scale.scale_scores", np.array([1.0, 0.0]), "batch_std", deviation=np.array([-1.0]))


@pytest.mark.reads_values
def test_the_mean_needs_scores_that_are_not_negative(backend: Backend) -> None:
    with pytest.raises(ValueError, match="scores: got -1"):
        backend.call("scale.scale_scores", np.array([1.0, -1.0]), "group_mean")


@pytest.mark.reads_values
@bad(BAD_NUMBERS)
@pytest.mark.parametrize("name", scale.SCALES)
def test_bad_scores_are_refused(backend: Backend, name: str, value: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        backend.call("scale.scale_scores", value, name)
    if name == "batch_std":
        with pytest.raises(error, match=words):
            backend.call("scale.batch_deviation", value)


@bad(BAD_MASKS)
@pytest.mark.parametrize("name", scale.SCALES)
def test_bad_masks_are_refused(backend: Backend, name: str, value: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        backend.call("scale.scale_scores", np.array([1.0, 0.0]), name, mask=value)
