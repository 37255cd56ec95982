"""Checks of what a group holds: scores, distributions, advantages, lengths, labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, overload

import torch
from torch import Tensor

from tpo_torch.checks import arrays
from tpo_torch.checks.arrays import (
    all_hold,
    array,
    dense,
    finite,
    finite_log_weights,
    log_weights,
    mask_for,
    same_device,
    same_shape,
)

# A distribution handed in by a caller may have been computed in float32 over many candidates.
SUM_TOLERANCE = 1e-4
# What a check of a group is given: a name, for errors, what it checks, and the mask.
Kind = Callable[[str, Tensor, Tensor | None], Tensor]


@overload
def group(
    name: str, x: Tensor, mask: Tensor | None, kind: Kind | None = ..., mask_name: str = ..., fill: Literal[True] = ...
) -> tuple[Tensor, Tensor]: ...


@overload
def group(
    name: str, x: Tensor, mask: Tensor | None, kind: Kind | None = ..., mask_name: str = ..., *, fill: Literal[False]
) -> tuple[Tensor, Tensor | None]: ...


def group(
    name: str,
    x: Tensor,
    mask: Tensor | None,
    kind: Kind | None = None,
    mask_name: str = "mask",
    fill: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """The tensor that gives a group its shape, and the mask of that shape, all True when None.

    Args: name, in errors; x (…, K); mask (…, K) bool, False = no candidate here; kind, the check of this module that
        says what x may hold and what comes back at a masked entry, `log_weights` when None; mask_name, in errors; fill,
        False where no mask shall stay None, which costs nothing.
    Raises: TypeError, ValueError as `array`, `mask_for` and that check.

    >>> group("logp", torch.tensor([0.0, torch.nan]), torch.tensor([True, False]))
    (tensor([0., -inf]), tensor([ True, False]))
    """
    if mask is not None:
        x = array(name, x)
        mask = mask_for(mask, x, mask_name)
    values = (kind or log_weights)(name, x, mask)
    return values, torch.ones_like(values, dtype=torch.bool) if mask is None and fill else mask


def rollout(logp: Tensor, logp_old: Tensor, advantages: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What a rule of ratios is given: current and old log-probabilities, and advantages, all finite, of one shape."""
    new = finite_log_weights("logp", logp)
    old = finite_log_weights("logp_old", logp_old, like=new)
    return new, old, finite("advantages", advantages, like=new)


def scores(name: str, x: Tensor, mask: Tensor | None) -> Tensor:
    """Finite real numbers in a dtype of their own, which tells a spread from rounding; masked come back as 0."""
    x = array(name, x)
    if mask is not None:
        arrays._fits(name, x, mask)
        x = torch.where(mask, x, torch.zeros((), dtype=x.dtype, device=x.device))
    if x.is_floating_point() and arrays._suspect(x):
        arrays._refuse_infinite(name, x)
    return x


def successes(name: str, x: Tensor, mask: Tensor | None) -> Tensor:
    """Scores that count successes: none is negative."""
    x = scores(name, x, mask)
    if not all_hold(x >= 0):
        raise ValueError(
            f"{name}: got {float(x.min()):g}, expected 0 (failed) or 1 (solved); shift them, or use centred"
        )
    return x


def flags(name: str, x: Tensor, like: Tensor) -> Tensor:
    """Truth values, one for each candidate, shaped and placed as another tensor."""
    if not isinstance(x, Tensor) or x.dtype != torch.bool:
        kind = getattr(x, "dtype", type(x).__name__)
        raise TypeError(f"{name}: got {kind}, expected a bool tensor; threshold the scores first")
    x = dense(name, x)
    arrays._fits(name, x, like)
    return x


def lengths(name: str, x: Tensor, mask: Tensor | None = None, like: Tensor | None = None) -> Tensor:
    """Numbers of tokens, at least 1, shaped as the mask or as `like`; masked entries come back as 1."""
    n = finite(name, x, mask, like=like)
    if mask is not None:
        n = torch.where(mask, n, 1.0)
    if not all_hold(n >= 1):
        least = float(n.min())
        raise ValueError(f"{name}: got {least:g}, expected at least 1 token; mask the empty candidate, or give it 1")
    return n


def masses(name: str, x: Tensor, mask: Tensor | None = None, like: Tensor | None = None) -> Tensor:
    """Finite and non-negative, as a distribution is, whatever they sum to; masked entries come back as 0."""
    x = finite(name, x, mask, like=like)
    if arrays._readable(x) and bool((x < 0).any()):
        raise _negative(name, x)
    return x


def token_log_weights(name: str, x: Tensor, mask: Tensor | None) -> Tensor:
    """Finite log-probabilities of tokens, which have an axis of their own; masked entries come back as 0."""
    if x.ndim == 1:
        shape = tuple(x.shape)
        raise ValueError(f"{name}: got shape {shape}, expected (..., K, T) with the tokens last; use grpo_loss")
    return finite_log_weights(name, x, mask)


def figures(name: str, x: Tensor) -> Tensor:
    """Real numbers in float32 or wider, one for each group, which may be a single number; NaN allowed."""
    # The axis makes a batch of a single number, and is taken away again.
    return arrays._floats(array(name, dense(name, x).unsqueeze(0))[0])


def deviations(name: str, x: Tensor, like: Tensor) -> Tensor:
    """Standard deviations: finite, zero or above, placed as another tensor."""
    x = finite(name, x)
    same_device(name, x, like)
    if not all_hold(x >= 0):
        raise ValueError(f"{name}: got {float(x.min()):g}, expected a standard deviation, 0 or more")
    return x


def distribution(
    name: str,
    x: Tensor,
    mask: Tensor | None,
    shape: tuple[int, ...] | None = None,
    like: Tensor | None = None,
) -> Tensor:
    """Non-negative, summing to 1 over the unmasked candidates of every group that has one; detached."""
    x = finite(name, x, mask, shape, like).detach()
    if arrays._readable(x):
        if bool((x < 0).any()):
            raise _negative(name, x)
        total = 1.0 if mask is None else mask.any(-1).to(x.dtype)
        off = float((x.sum(-1) - total).abs().max())
        if off > SUM_TOLERANCE:
            raise ValueError(f"{name}: a group sums to 1 only within {off:g}; was it made with another mask?")
    return x


def probabilities(name: str, x: Tensor) -> Tensor:
    """Numbers in [0, 1], each a probability of its own."""
    x = finite(name, x)
    if not all_hold((x >= 0) & (x <= 1)):
        raise ValueError(f"{name}: got values in [{float(x.min()):g}, {float(x.max()):g}], expected [0, 1]")
    return x


def log_probabilities(name: str, x: Tensor, mask: Tensor | None = None, shape: tuple[int, ...] | None = None) -> Tensor:
    """Finite logarithms of probabilities, each of its own: at most 0; masked entries come back as 0."""
    x = finite_log_weights(name, x, mask, shape)
    if not all_hold(x <= 0):
        most = float(x.max())
        raise ValueError(f"{name}: got {most:g}, expected log-probabilities, at most 0; clamp it, or pass no density")
    return x


def labels(name: str, x: Tensor, shape: tuple[int, ...], classes: int) -> Tensor:
    """Integers 0…classes − 1, of exactly the given shape."""
    if not isinstance(x, Tensor) or x.is_floating_point() or x.is_complex() or x.dtype == torch.bool or x.is_quantized:
        kind = getattr(x, "dtype", type(x).__name__)
        raise TypeError(f"{name}: got {kind}, expected an integer tensor, one class each; a one-hot row needs argmax")
    x = dense(name, x)
    same_shape(name, x, shape)
    if not all_hold((x >= 0) & (x < classes)):
        raise ValueError(f"{name}: got values in [{int(x.min())}, {int(x.max())}], expected classes 0 to {classes - 1}")
    return x


def _negative(name: str, x: Tensor) -> ValueError:
    return ValueError(f"{name}: got the negative entry {float(x.min()):g}, expected a distribution")
