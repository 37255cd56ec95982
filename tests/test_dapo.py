"""DAPO: the asymmetric clip, and which groups its dynamic sampling keeps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.backends import Backend
from helpers.rules import Rollout, assert_gradient, inside, rollouts
from helpers.strategies import BAD_MASKS, BAD_NUMBERS, Group, bad, groups
from hypothesis import given


@pytest.mark.paper("DAPO")
@given(rollout=rollouts())
def test_gradient_is_clipped_wider_above(backend: Backend, rollout: Rollout) -> None:
    a, r = rollout.advantages, rollout.ratio
    expected = -a * r * inside(r, a, 0.2, 0.28)
    assert_gradient(backend, "dapo.dapo", expected, rollout.logp, rollout.logp_old, a)
    expected = -a * r * inside(r, a, 0.3, 0.5)
    assert_gradient(backend, "dapo.dapo", expected, rollout.logp, rollout.logp_old, a, 0.3, 0.5)


def test_between_the_two_bounds_only_dapo_still_learns(backend: Backend) -> None:
    arguments = (np.log([1.25, 0.75]), np.zeros(2), np.array([1.0, -1.0]))
    np.testing.assert_allclose(backend.grad("dapo.dapo", *arguments), [-1.25, 0])
    np.testing.assert_array_equal(backend.grad("ppo.ppo", *arguments), 0)


@pytest.mark.paper("DAPO")
@given(group=groups())
def test_a_group_is_informative_where_standardised_scores_are_not_zero(backend: Backend, group: Group) -> None:
    kept = backend.call("dapo.informative", group.scores)
    assert kept.dtype == np.bool_
    np.testing.assert_array_equal(kept, group.differ)
    u = backend.call("standardize.standardize", group.scores, mask=group.mask)
    masked = backend.call("dapo.informative", np.where(group.mask, group.scores, np.nan), mask=group.mask)
    np.testing.assert_array_equal(masked, (u != 0).any(-1))


def test_informative_means_above_rounding(backend: Backend) -> None:
    ulp = np.finfo(float).eps
    scores = np.array([[1.0, 1.0 + 4 * ulp], [1.0, 1.0 + 16 * ulp], [0.0, 0.0], [0.0, 1e-300]])
    np.testing.assert_array_equal(backend.call("dapo.informative", scores), [False, True, False, True])
    np.testing.assert_array_equal(backend.call("dapo.informative", np.array([[5.0]])), [False])
    nobody = np.array([[False, False]])
    np.testing.assert_array_equal(backend.call("dapo.informative", np.array([[1.0, 0.0]]), mask=nobody), [False])


def test_a_group_that_is_dropped_had_no_gradient_to_lose(backend: Backend) -> None:
    scores, logp = np.array([[1.0, 1.0], [1.0, 0.0]]), np.array([[-0.5, -3.0], [-1.0, -1.0]])
    a = backend.call("advantages.group_standardised", scores)
    g = backend.grad("dapo.dapo", logp, np.full((2, 2), -1.0), a)
    np.testing.assert_array_equal((g != 0).any(-1), backend.call("dapo.informative", scores))


@pytest.mark.reads_values
@bad(BAD_NUMBERS)
def test_bad_scores_are_refused(backend: Backend, value: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=f"scores: .*{words}"):
        backend.call("dapo.informative", value)


@bad(BAD_MASKS)
def test_bad_masks_are_refused(backend: Backend, value: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        backend.call("dapo.informative", np.array([1.0, 0.0]), mask=value)
