"""Checks of what a group holds: scores, distributions, advantages, lengths, labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tpo_ref.checks import arrays
from tpo_ref.checks.arrays import (
    Bools,
    Floats,
    array,
    converted,
    finite,
    finite_log_weights,
    float64,
    log_weights,
    mask_for,
    same_shape,
)

# A distribution handed in by a caller may have been computed in float32 over many candidates.
SUM_TOLERANCE = 1e-4


def group(
    name: str,
    x: ArrayLike,
    mask: ArrayLike | None,
    kind: Callable[[str, ArrayLike, Bools | None], NDArray[Any]] | None = None,
    mask_name: str = "mask",
) -> tuple[NDArray[Any], Bools]:
    """The array that gives a group its shape, and the mask of that shape, all True when None.

    Args: name, in errors; x (…, K); mask (…, K) bool, False = no candidate here; kind, the check of this module that
        says what x may hold and what comes back at a masked entry, `log_weights` when None; mask_name, in errors.
    Raises: TypeError, ValueError as `array`, `mask_for` and that check.

    >>> group("logp", [0.0, np.nan], [True, False])
    (array([  0., -inf]), array([ True, False]))
    """
    keep = None if mask is None else mask_for(mask, array(name, x).shape, mask_name)
    values = (kind or log_weights)(name, x, keep)
    return values, np.ones(values.shape, dtype=np.bool_) if keep is None else keep


def rollout(logp: ArrayLike, logp_old: ArrayLike, advantages: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """What a rule of ratios is given: current and old log-probabilities, and advantages, all finite, of one shape."""
    new = finite_log_weights("logp", logp)
    old = finite_log_weights("logp_old", logp_old, shape=new.shape)
    return new, old, finite("advantages", advantages, shape=new.shape)


def scores(name: str, x: ArrayLike, mask: Bools | None) -> NDArray[Any]:
    """Finite real numbers in a dtype of their own, which tells a spread from rounding; masked come back as 0."""
    a = array(name, x)
    if mask is not None:
        arrays._fits(name, a, mask, None)
        a = np.where(mask, a, a.dtype.type(0))
    arrays._all_finite(name, a)
    return a


def successes(name: str, x: ArrayLike, mask: Bools | None) -> NDArray[Any]:
    """Scores that count successes: none is negative."""
    a = scores(name, x, mask)
    if (a < 0).any():
        raise ValueError(f"{name}: got {a.min():g}, expected 0 (failed) or 1 (solved); shift them, or use centred")
    return a


def flags(name: str, x: ArrayLike, shape: tuple[int, ...]) -> Bools:
    """Truth values, one for each candidate, of exactly the given shape."""
    a = converted(name, x)
    if a.dtype != np.bool_:
        raise TypeError(f"{name}: got dtype {a.dtype}, expected bool; threshold the scores first")
    same_shape(name, a, shape)
    return a


def lengths(name: str, x: ArrayLike, mask: Bools) -> Floats:
    """Numbers of tokens, at least 1; masked entries come back as 1."""
    n = np.where(mask, finite(name, x, mask), 1.0)
    if (n < 1).any():
        raise ValueError(f"{name}: got {n.min():g}, expected at least 1 token; mask the empty candidate, or give it 1")
    return n


def masses(name: str, x: ArrayLike, mask: Bools | None = None, shape: tuple[int, ...] | None = None) -> Floats:
    """Finite and non-negative, as a distribution is, whatever they sum to; masked entries come back as 0."""
    a = finite(name, x, mask, shape)
    if (a < 0).any():
        raise ValueError(f"{name}: got the negative entry {a.min():g}, expected a distribution over the group")
    return a


def token_log_weights(name: str, x: ArrayLike, mask: Bools | None) -> Floats:
    """Finite log-probabilities of tokens, which have an axis of their own; masked entries come back as 0."""
    a = finite_log_weights(name, x, mask)
    if a.ndim == 1:
        raise ValueError(f"{name}: got shape {a.shape}, expected (..., K, T) with the tokens last; use grpo_loss")
    return a


def figures(name: str, x: ArrayLike) -> Floats:
    """Real numbers as float64, one for each group, which may be a single number; NaN allowed."""
    # The axis makes an array of a single number, and is taken away again.
    return float64(array(name, converted(name, x)[np.newaxis])[0])


def deviations(name: str, x: ArrayLike) -> Floats:
    """Standard deviations: finite, zero or above."""
    a = finite(name, x)
    if (a < 0).any():
        raise ValueError(f"{name}: got {a.min():g}, expected a standard deviation, 0 or more")
    return a


def distribution(name: str, x: ArrayLike, mask: Bools | None, shape: tuple[int, ...] | None = None) -> Floats:
    """Non-negative, summing to 1 over the unmasked candidates of every group that has one."""
    a = masses(name, x, mask, shape)
    off = np.abs(a.sum(-1) - (1.0 if mask is None else mask.any(-1))).max()
    if off > SUM_TOLERANCE:
        raise ValueError(f"{name}: a group sums to 1 only within {off:g}; was it made with another mask?")
    return a


def probabilities(name: str, x: ArrayLike) -> Floats:
    """Numbers in [0, 1] as float64, each a probability of its own."""
    a = finite(name, x)
    if (a < 0).any() or (a > 1).any():
        raise ValueError(f"{name}: got values in [{a.min():g}, {a.max():g}], expected probabilities in [0, 1]")
    return a


def log_probabilities(name: str, x: ArrayLike, mask: Bools | None = None, shape: Any = None) -> Floats:
    """Finite logarithms of probabilities, each of its own: at most 0; masked entries come back as 0."""
    a = finite_log_weights(name, x, mask, shape)
    if (a > 0).any():
        most = float(a.max())
        raise ValueError(f"{name}: got {most:g}, expected log-probabilities, at most 0; clip it, or pass no density")
    return a


def labels(name: str, x: ArrayLike, shape: tuple[int, ...], classes: int) -> NDArray[Any]:
    """Integers 0…classes − 1, of exactly the given shape."""
    a = converted(name, x)
    if a.dtype.kind not in "iu":
        raise TypeError(f"{name}: got dtype {a.dtype}, expected integers, one class each; a one-hot row needs argmax")
    same_shape(name, a, shape)
    if (a < 0).any() or (a >= classes).any():
        raise ValueError(f"{name}: got values in [{a.min()}, {a.max()}], expected classes 0 to {classes - 1}")
    return a
