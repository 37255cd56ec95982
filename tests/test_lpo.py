"""The listwise update: its published formulas, and what of TPO, GRPO, Dr. GRPO and MaxRL it is equal to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.backends import Backend, group_difference
from helpers.strategies import BAD_LOGP, BAD_MASKS, BAD_NUMBERS, BAD_POSITIVES, Group, bad, etas, groups
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from tpo_ref import lpo
from tpo_ref.scale import SCALES
from tpo_torch import lpo as mirror

DIVERGENCES = st.sampled_from(lpo.DIVERGENCES)
NARROW = (0.1, 1.0, 5.0)
# What the advantages of a policy gradient are called that the reverse divergence starts as.
ADVANTAGES = {"none": "advantages.centred", "group_mean": "advantages.maxrl", "group_std": "standardize.standardize"}


def test_both_backends_know_the_same_names() -> None:
    assert lpo.DIVERGENCES == mirror.DIVERGENCES


@given(group=groups(spreads=NARROW), temperature=etas, divergence=DIVERGENCES, scale=st.sampled_from(SCALES))
def test_the_published_formulas(
    backend: Backend, group: Group, temperature: float, divergence: str, scale: str
) -> None:
    scores = np.abs(group.scores)
    options = {"divergence": divergence, "scale": scale}
    u = backend.call("scale.scale_scores", scores, scale)
    logs = special.log_softmax(group.logp - group.logp_old, -1)
    target = special.log_softmax(u / temperature, -1)
    p, d = np.exp(logs), logs - target
    if divergence == "forward":
        loss, grad = -(np.exp(target) * logs).sum(-1), p - np.exp(target)
    else:
        loss, grad = (p * d).sum(-1), p * (d - (p * d).sum(-1, keepdims=True))
    arguments = (group.logp, group.logp_old, scores, temperature)
    np.testing.assert_allclose(backend.call("lpo.lpo_loss", *arguments, **options), loss, rtol=1e-9, atol=1e-10)
    found = backend.grad("lpo.lpo", *arguments, **options)
    np.testing.assert_allclose(found, grad, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(found.sum(-1), 0, atol=1e-10)


@given(group=groups(spreads=NARROW, max_k=8), temperature=etas, divergence=DIVERGENCES, scale=st.sampled_from(SCALES))
def test_the_gradient_is_the_slope_of_the_loss(
    backend: Backend, group: Group, temperature: float, divergence: str, scale: str
) -> None:
    # A batch's deviation would see the copies that the difference is taken over.
    scale = "none" if scale == "batch_std" else scale
    options = {"divergence": divergence, "scale": scale, "mask": group.mask, "temperature": temperature}
    arguments = (group.logp, group.logp_old, np.abs(group.scores))
    g = backend.grad("lpo.lpo", *arguments, **options)
    np.testing.assert_allclose(g, group_difference(backend, "lpo.lpo", *arguments, **options), atol=3e-6)
    assert (g[~group.mask] == 0).all()


@given(group=groups(), temperature=etas)
def test_forward_at_the_group_deviation_is_the_ratio_form(backend: Backend, group: Group, temperature: float) -> None:
    w = backend.call("tpo.tpo_weights", backend.call("standardize.standardize", group.scores), temperature)
    np.testing.assert_allclose(
        backend.call("lpo.lpo_loss", group.logp, group.logp_old, group.scores, temperature),
        backend.call("tpo.tpo_ratio_loss", group.logp, group.logp_old, w),
        rtol=1e-12,
    )


@given(group=groups(), temperature=etas, scale=st.sampled_from(sorted(ADVANTAGES)))
def test_reverse_starts_as_the_policy_gradient_of_its_scale(
    backend: Backend, group: Group, temperature: float, scale: str
) -> None:
    scores = np.abs(group.scores)
    g = backend.grad("lpo.lpo", group.logp_old, group.logp_old, scores, temperature, divergence="reverse", scale=scale)
    advantages = backend.call(ADVANTAGES[scale], scores)
    np.testing.assert_allclose(g, -advantages / temperature / group.k, rtol=1e-9, atol=1e-10)


@given(group=groups(), temperature=etas, scale=st.sampled_from(SCALES))
def test_both_divergences_rest_at_the_same_shift(
    backend: Backend, group: Group, temperature: float, scale: str
) -> None:
    scores = np.abs(group.scores)
    rest = group.logp_old + backend.call("scale.scale_scores", scores, scale) / temperature - 2.0
    for divergence in lpo.DIVERGENCES:
        g = backend.grad("lpo.lpo", rest, group.logp_old, scores, temperature, divergence=divergence, scale=scale)
        np.testing.assert_allclose(g, 0, atol=1e-9, err_msg=divergence)


@pytest.mark.parametrize("divergence", lpo.DIVERGENCES)
def test_the_graph_reaches_the_current_policy_only(backend: Backend, divergence: str) -> None:
    arguments = (np.array([0.1, -0.2]), np.array([0.0, 0.3]), np.array([1.0, 0.0]))
    expected = [0] if backend.name != "numpy" else []
    assert backend.attached("lpo.lpo_loss", *arguments, divergence=divergence) == expected


def test_an_unknown_divergence_is_refused(backend: Backend) -> None:
    with pytest.raises(ValueError, match="divergence: got 'revers', expected one of 'forward', 'reverse'"):
        backend.call("lpo.lpo_loss", np.zeros(2), np.zeros(2), np.array([1.0, 0.0]), divergence="revers")


@pytest.mark.reads_values
@pytest.mark.parametrize("divergence", lpo.DIVERGENCES)
@bad(BAD_LOGP)
def test_bad_log_probabilities_are_refused(
    backend: Backend, divergence: str, value: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        backend.call("lpo.lpo_loss", value, np.zeros(2), np.array([1.0, 0.0]), divergence=divergence)


@pytest.mark.reads_values
@pytest.mark.parametrize("divergence", lpo.DIVERGENCES)
@bad(BAD_NUMBERS)
def test_bad_scores_are_refused(
    backend: Backend, divergence: str, value: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        backend.call("lpo.lpo_loss", np.zeros(2), np.zeros(2), value, divergence=divergence)


@pytest.mark.parametrize("divergence", lpo.DIVERGENCES)
@bad(BAD_POSITIVES)
def test_bad_temperatures_are_refused(
    backend: Backend, divergence: str, value: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        backend.call("lpo.lpo_loss", np.zeros(2), np.zeros(2), np.array([1.0, 0.0]), value, divergence=divergence)


@pytest.mark.parametrize("divergence", lpo.DIVERGENCES)
@bad(BAD_MASKS)
def test_bad_masks_are_refused(
    backend: Backend, divergence: str, value: Any, error: type[Exception], words: str
) -> None:
    scores = np.array([1.0, 0.0])
    with pytest.raises(error, match=words):
        backend.call("lpo.lpo_loss", np.zeros(2), np.zeros(2), scores, mask=value, divergence=divergence)
