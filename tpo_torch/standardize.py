"""Scores of one group to standardised scores u. Last axis = group."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tpo_torch import checks

# "σ = 0" in floating point: a spread below this many units in the last place of the largest score is rounding.
CONSTANT_ULPS = 8
# The authors' code returns s − s̄ below this standard deviation (deviation D2).
AUTHOR_SIGMA_FLOOR = 1e-6
# How many integers of 64 bits there are: what a difference that overflows is short of.
INTEGERS = 2.0**64
COMPAT = (None, "author")


def standardize(scores: Tensor, mask: Tensor | None = None, tau: float = 0.0, compat: str | None = None) -> Tensor:
    """Standardised scores u of each group.

    Paper: App. A

    u = (s − s̄) / √(σ² + τ²) with σ the population standard deviation (ddof 0); u = 0 when the scores are equal.
    Equal means ptp(s) ≤ 8·eps·max|s| (deviation D1). A masked candidate leaves s̄ and σ, and gets u = 0.

    Args: scores (…, K), any real dtype, any unit; mask (…, K) bool; tau ≥ 0, the scorer's noise in the unit of the
        scores; compat "author" returns s − s̄ where σ ≤ 1e-6, as the authors' code does.
    Returns: (…, K), without unit, detached. Σ u = 0, and Σ u² = K when τ = 0 and the scores differ.
    Raises: TypeError, ValueError for NaN or infinite scores, wrong shapes, negative tau, unknown compat.

    >>> standardize(torch.tensor([1.0, 0.0, -1.0]))
    tensor([ 1.2247,  0.0000, -1.2247])
    """
    checks.choice("compat", compat, COMPAT)
    tau = checks.non_negative("tau", tau)
    s, keep = checks.group("scores", scores, mask, checks.scores)
    return _standardize(s, keep, tau, compat)


# The scores come in a dtype of their own, which says what is rounding.


def _standardize(scores: Tensor, mask: Tensor, tau: float = 0.0, compat: str | None = None) -> Tensor:
    floating = scores.is_floating_point()
    s = _floats(scores.detach() if floating else torch.where(mask, _above_lowest(scores, mask), 0.0))
    # Integers become float32, yet were exact: they are judged, as in the reference, as float64.
    resolution = torch.finfo(s.dtype if floating else torch.float64).eps
    count = mask.sum(-1, keepdim=True).clamp(min=1)
    # Scores are first divided by their largest magnitude, so that squares neither overflow nor vanish.
    largest = s.abs().amax(-1, keepdim=True)
    # By a normal number, since the reciprocal of a subnormal one overflows.
    scale = largest.clamp(min=torch.finfo(s.dtype).tiny)
    s = s / scale
    centred = torch.where(mask, s - s.sum(-1, keepdim=True) / count, 0.0)
    sigma = (centred.square().sum(-1, keepdim=True) / count).sqrt()
    top = torch.where(mask, s, -math.inf).amax(-1, keepdim=True)
    constant = top - torch.where(mask, s, math.inf).amin(-1, keepdim=True) <= CONSTANT_ULPS * resolution
    width = torch.where(constant, 1.0, torch.hypot(sigma, tau / scale))
    u = torch.where(constant, 0.0, centred / width)
    if compat == "author":
        u = torch.where(sigma * scale <= AUTHOR_SIGMA_FLOOR, centred * scale, u)
    return u


def _floats(x: Tensor) -> Tensor:
    # Half precision is computed in float32 (deviation D4).
    return x.to(torch.promote_types(x.dtype, torch.float32) if x.is_floating_point() else torch.get_default_dtype())


def _above_lowest(scores: Tensor, mask: Tensor) -> Tensor:
    # Standardised scores ignore a shift, and float32 cannot tell 16,777,216 from 16,777,217: shift while still exact.
    whole = scores.long()
    above = whole - torch.where(mask, whole, torch.iinfo(whole.dtype).max).amin(-1, keepdim=True)
    # A difference of 2⁶³ or more has wrapped around to a negative number.
    return above.to(torch.get_default_dtype()) + torch.where(above < 0, INTEGERS, 0.0)
