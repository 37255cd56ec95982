"""Other forms on TPO's interface: their gradients, their fixed points, and what each is equal to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.backends import Backend, group_difference
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
from scipy import special

TWO = np.array([0.5, 0.5])
TEMPERATURES = st.sampled_from((0.5, 1.0, 4.0, 32.0))


def lengths_of(group: Group) -> np.ndarray:
    return group.rng.integers(1, 50, group.logp.shape).astype(float)


def each_rule(old: np.ndarray, u: np.ndarray, n: np.ndarray, w: np.ndarray) -> list[tuple[str, tuple[np.ndarray, ...]]]:
    """Every form with what it takes beside ℓ."""
    taken = {
        "no_anchor": (w,),
        "tempered": (old, u),
        "length_normalised": (old, u, n),
        "reverse_kl": (w,),
        "reverse": (old, u),
    }
    return [(f"variants.tpo_{rule}", arguments) for rule, arguments in taken.items()]


@pytest.mark.parametrize("masked", [False, True])
@given(group=groups(spreads=(0.1, 1.0, 5.0, 50.0)), eta=etas, temperature=TEMPERATURES)
def test_every_gradient_is_the_slope_of_its_loss(
    backend: Backend, masked: bool, group: Group, eta: float, temperature: float
) -> None:
    mask = group.mask if masked else np.ones_like(group.mask)
    u = backend.call("standardize.standardize", group.scores, mask=mask)
    w = backend.call("tpo.tpo_weights", u, eta, mask=mask)
    for rule, args, options in (
        ("variants.tpo_no_anchor", (w,), {}),
        ("variants.tpo_tempered", (group.logp_old, u), {"eta": eta, "temperature": temperature}),
        ("variants.tpo_length_normalised", (group.logp_old, u, lengths_of(group)), {"eta": eta}),
        ("variants.tpo_reverse_kl", (w,), {}),
        ("variants.tpo_reverse", (group.logp_old, u), {"eta": eta}),
    ):
        g = backend.grad(rule, group.logp, *args, mask=mask, **options)
        difference = group_difference(backend, rule, group.logp, *args, mask=mask, **options)
        # The losses reach hundreds of nats, whose differences over 2e-5 carry this much rounding.
        np.testing.assert_allclose(g, difference, atol=3e-6, err_msg=rule)
        assert (g[~mask] == 0).all()


@given(group=groups(), eta=etas, temperature=TEMPERATURES)
def test_closed_forms(backend: Backend, group: Group, eta: float, temperature: float) -> None:
    u, n = backend.call("standardize.standardize", group.scores), lengths_of(group)
    w = backend.call("tpo.tpo_weights", u, eta)
    g = backend.grad("variants.tpo_no_anchor", group.logp, w)
    np.testing.assert_allclose(g, special.softmax(group.logp, -1) - w, atol=1e-14)
    g = backend.grad("variants.tpo_tempered", group.logp, group.logp_old, u, eta=eta, temperature=temperature)
    p, q = (special.softmax(x, -1) for x in (group.logp / temperature, group.logp_old / temperature + u / eta))
    np.testing.assert_allclose(g, (p - q) / temperature, atol=1e-12)
    g = backend.grad("variants.tpo_length_normalised", group.logp, group.logp_old, u, n, eta=eta)
    p, q = (special.softmax(x, -1) for x in (group.logp / n, group.logp_old / n + u / eta))
    np.testing.assert_allclose(g, (p - q) / n, atol=1e-12)


@given(group=groups(), eta=etas)
def test_temperature_one_and_length_one_are_tpo(backend: Backend, group: Group, eta: float) -> None:
    u = backend.call("standardize.standardize", group.scores)
    expected = backend.call("tpo.tpo", group.logp, group.logp_old, group.scores, eta)
    for rule, args, options in (
        ("tpo_tempered", (u,), {"temperature": 1.0}),
        ("tpo_length_normalised", (u, np.ones_like(u)), {}),
    ):
        loss = backend.call(f"variants.{rule}_loss", group.logp, group.logp_old, *args, eta=eta, **options)
        np.testing.assert_allclose(loss, expected, rtol=1e-12)


@given(group=groups(), eta=etas, temperature=TEMPERATURES, c=st.floats(-10, 10))
def test_fixed_points(backend: Backend, group: Group, eta: float, temperature: float, c: float) -> None:
    u, n = backend.call("standardize.standardize", group.scores), lengths_of(group)
    # Tempered: ℓ_old + T u/η. Choosing η·T keeps the tilt of T = 1.
    for scale, rest in ((1.0, temperature * u / eta), (temperature, u / eta)):
        g = backend.grad(
            "variants.tpo_tempered",
            group.logp_old + rest + c,
            group.logp_old,
            u,
            eta=eta * scale,
            temperature=temperature,
        )
        np.testing.assert_allclose(g, 0, atol=1e-11)
    # Length-normalised: a tilt per token, n u/η + n c.
    rest = n * (u / eta + c)
    g = backend.grad("variants.tpo_length_normalised", group.logp_old + rest, group.logp_old, u, n, eta=eta)
    np.testing.assert_allclose(g, 0, atol=1e-11)
    # No anchor: u/η itself, whatever ℓ_old was.
    w = backend.call("tpo.tpo_weights", u, eta)
    np.testing.assert_allclose(backend.grad("variants.tpo_no_anchor", u / eta + c, w), 0, atol=1e-14)


@given(group=groups(), eta=etas)
def test_reverse_kl_is_the_divergence_and_rests_at_the_target(backend: Backend, group: Group, eta: float) -> None:
    u = backend.call("standardize.standardize", group.scores)
    w = backend.call("tpo.tpo_weights", u, eta)
    p = backend.call("simplex.softmax", group.logp)
    loss = backend.call("variants.tpo_reverse_kl_loss", group.logp, w)
    np.testing.assert_allclose(loss, backend.call("simplex.kl", p, w), rtol=1e-9, atol=1e-11)
    g = backend.grad("variants.tpo_reverse_kl", group.logp, w)
    np.testing.assert_allclose(g.sum(-1), 0, atol=1e-11)
    np.testing.assert_allclose(backend.grad("variants.tpo_reverse_kl", u / eta, w), 0, atol=1e-12)


@given(group=groups(), eta=etas)
def test_reverse_kl_in_ratio_form_starts_as_group_pg(backend: Backend, group: Group, eta: float) -> None:
    # At the snapshot ℓ − ℓ_old = 0, and the gradient is that of −Σ (u/η) ℓ over K: no target is left in it.
    u = backend.call("standardize.standardize", group.scores)
    w = backend.call("tpo.tpo_weights", u, eta)
    g = backend.grad("variants.tpo_reverse_kl", group.logp_old - group.logp_old, w)
    np.testing.assert_allclose(g, -u / eta / group.k, atol=1e-12)


@given(group=groups(), eta=etas)
def test_reverse_of_an_anchored_target_is_the_divergence_from_it(backend: Backend, group: Group, eta: float) -> None:
    u = backend.call("standardize.standardize", group.scores)
    q = special.log_softmax(group.logp_old, -1) + u / eta
    logs, p = special.log_softmax(group.logp, -1), special.softmax(group.logp, -1)
    d = logs - special.log_softmax(q, -1)
    loss = backend.call("variants.tpo_reverse_loss", group.logp, group.logp_old, u, eta)
    # Finite also where q itself underflows, as it does under wide anchors.
    np.testing.assert_allclose(loss, (p * d).sum(-1), rtol=1e-9, atol=1e-11)
    g = backend.grad("variants.tpo_reverse", group.logp, group.logp_old, u, eta=eta)
    np.testing.assert_allclose(g, p * (d - (p * d).sum(-1, keepdims=True)), rtol=1e-9, atol=1e-10)
    c = backend.call("variants.tpo_reverse_coefficients", group.logp, group.logp_old, u, eta)
    np.testing.assert_allclose(c, -g, rtol=1e-9, atol=1e-12)
    rest = group.logp_old + u / eta + 3.0
    np.testing.assert_allclose(backend.grad("variants.tpo_reverse", rest, group.logp_old, u, eta=eta), 0, atol=1e-11)


@given(group=groups(kinds=("constant",)))
def test_reverse_asks_for_exactly_nothing_at_equal_scores(backend: Backend, group: Group) -> None:
    u = backend.call("standardize.standardize", group.scores)
    assert (backend.call("variants.tpo_reverse_coefficients", group.logp_old, group.logp_old, u) == 0).all()


@given(group=groups(min_k=2), c=st.floats(-100, 100))
def test_shifts_and_permutations(backend: Backend, group: Group, c: float) -> None:
    u, n = backend.call("standardize.standardize", group.scores), lengths_of(group)
    w, order = backend.call("tpo.tpo_weights", u), group.rng.permutation(group.k)
    for rule, args in each_rule(group.logp_old, u, n, w):
        g = backend.grad(rule, group.logp, *args)
        permuted = backend.grad(rule, group.logp[:, order], *(a[:, order] for a in args))
        np.testing.assert_allclose(permuted, g[:, order], atol=1e-9, err_msg=rule)
        # A shift of ℓ is a shift per token of a different size once divided by lengths: only there does it matter.
        if rule != "variants.tpo_length_normalised":
            np.testing.assert_allclose(backend.grad(rule, group.logp + c, *args), g, atol=1e-9, err_msg=rule)


@given(group=groups(), eta=etas)
def test_a_masked_candidate_changes_nothing(backend: Backend, group: Group, eta: float) -> None:
    u = backend.call("standardize.standardize", group.scores, mask=group.mask)
    w = backend.call("tpo.tpo_weights", u, eta, mask=group.mask)
    logp, old = (np.where(group.mask, x, np.nan) for x in (group.logp, group.logp_old))
    n = np.where(group.mask, lengths_of(group), 0)
    for rule, args in each_rule(old, u, n, w):
        whole = backend.call(f"{rule}_loss", logp, *args, mask=group.mask)
        for i, keep in enumerate(group.mask):
            alone = backend.call(f"{rule}_loss", logp[i][keep], *(a[i][keep] for a in args))
            np.testing.assert_allclose(whole[i], alone, rtol=1e-9, atol=1e-9, err_msg=rule)


def test_a_group_masked_throughout_and_a_single_candidate_are_neutral(backend: Backend) -> None:
    logp, mask = np.array([[np.nan, -np.inf], [-3.0, np.nan]]), np.array([[False, False], [True, False]])
    u, w, n = np.zeros((2, 2)), np.array([[0.0, 0.0], [1.0, 0.0]]), np.array([[0.0, 0.0], [7.0, 0.0]])
    for rule, args in each_rule(logp, u, n, w):
        assert (backend.call(f"{rule}_loss", logp, *args, mask=mask) == 0).all()
        assert (backend.grad(rule, logp, *args, mask=mask) == 0).all()


def test_extreme_log_probabilities(backend: Backend) -> None:
    # Where p = 0 the reverse divergence ignores q, be it 0 as well; where only q = 0 it is infinite.
    logp = np.array([0.0, -np.inf, 0.0])
    for q in ([0.5, 0.0, 0.5], [0.25, 0.5, 0.25]):
        expected = np.log(0.5 / q[0])
        np.testing.assert_allclose(backend.call("variants.tpo_reverse_kl_loss", logp, np.array(q)), expected)
        np.testing.assert_allclose(backend.grad("variants.tpo_reverse_kl", logp, np.array(q)), 0, atol=1e-15)
    one_hot = np.array([1.0, 0.0])
    assert backend.call("variants.tpo_reverse_kl_loss", TWO, one_hot) == np.inf
    assert np.isnan(backend.grad("variants.tpo_reverse_kl", TWO, one_hot)).any()
    # Ten thousand nats over a temperature of as many is an anchor again.
    far = np.array([1e4, -1e4])
    loss = backend.call("variants.tpo_tempered_loss", far, far, np.zeros(2), temperature=1e4)
    np.testing.assert_allclose(loss, special.entr(special.softmax([1.0, -1.0])).sum())


def test_worked_example_on_lengths(backend: Backend) -> None:
    # −4 nats over 2 tokens and −2 over 1 are equally likely per token: p̃ = (½, ½); u = ±1 at η = 2 asks for odds e.
    logp, u, n = np.array([-4.0, -2.0]), np.array([1.0, -1.0]), np.array([2, 1])
    g = backend.grad("variants.tpo_length_normalised", logp, logp, u, n, eta=2.0)
    q = np.e / (1 + np.e)
    np.testing.assert_allclose(g, [(0.5 - q) / 2, -(0.5 - q)])


def test_the_graph_reaches_the_current_policy_only(backend: Backend) -> None:
    live = [0] if backend.name != "numpy" else []
    for args in (
        ("variants.tpo_no_anchor_loss", TWO, TWO),
        ("variants.tpo_tempered_loss", TWO, TWO, TWO),
        ("variants.tpo_length_normalised_loss", TWO, TWO, TWO, np.ones(2)),
        ("variants.tpo_reverse_kl_loss", TWO, TWO),
    ):
        assert backend.attached(*args) == live


# One argument is left open (None) and filled with each bad value.
LOGP_ARGUMENTS = (
    ("tpo_no_anchor", (None, TWO)),
    ("tpo_tempered", (None, TWO, TWO)),
    ("tpo_tempered", (TWO, None, TWO)),
    ("tpo_length_normalised", (None, TWO, TWO, np.ones(2))),
    ("tpo_length_normalised", (TWO, None, TWO, np.ones(2))),
    ("tpo_reverse_kl", (None, TWO)),
)
NUMBER_ARGUMENTS = (
    ("tpo_no_anchor", (TWO, None)),
    ("tpo_tempered", (TWO, TWO, None)),
    ("tpo_length_normalised", (TWO, TWO, None, np.ones(2))),
    ("tpo_length_normalised", (TWO, TWO, TWO, None)),
    ("tpo_reverse_kl", (TWO, None)),
)


@pytest.mark.reads_values
@pytest.mark.parametrize(("rule", "template"), LOGP_ARGUMENTS)
@bad(BAD_LOGP)
def test_bad_log_probabilities_are_refused(
    backend: Backend, rule: str, template: tuple[Any, ...], value: Any, error: type[Exception], words: str
) -> None:
    # A wrong shape beside the other arguments may be noticed first.
    with pytest.raises(error, match=f"{words}|shape"):
        backend.call(f"variants.{rule}_loss", *filled(template, value))


@pytest.mark.reads_values
@pytest.mark.parametrize(("rule", "template"), NUMBER_ARGUMENTS)
@bad((*BAD_NUMBERS, *BAD_SHAPES))
def test_bad_scores_and_targets_are_refused(
    backend: Backend, rule: str, template: tuple[Any, ...], value: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=f"{words}|shape|empty"):
        backend.call(f"variants.{rule}_loss", *filled(template, value))


@pytest.mark.parametrize(("rule", "template"), NUMBER_ARGUMENTS)
@bad(BAD_MASKS)
def test_bad_masks_are_refused(
    backend: Backend, rule: str, template: tuple[Any, ...], value: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        backend.call(f"variants.{rule}_loss", *filled(template, TWO), mask=value)


@pytest.mark.reads_values
@pytest.mark.parametrize("name", ["eta", "temperature"])
@bad(BAD_POSITIVES)
def test_bad_temperatures_are_refused(
    backend: Backend, name: str, value: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=f"{name}: .*{words}"):
        backend.call("variants.tpo_tempered_loss", TWO, TWO, TWO, **{name: value})


def test_a_length_below_one_token_is_refused(backend: Backend) -> None:
    with pytest.raises(ValueError, match="lengths: got 0, expected at least 1 token"):
        backend.call("variants.tpo_length_normalised_loss", TWO, TWO, TWO, np.array([0, 1]))
