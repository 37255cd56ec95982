"""Are the candidates of a group any different, and does anything go with their log-probability."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from tpo_torch import checks, standardize


def duplicate_rate(tokens: Tensor, mask: Tensor | None = None) -> Tensor:
    """Share of a group that repeats an earlier candidate.

    Paper: ours

    1 − distinct/K, K counting the unmasked.

    Args: tokens (…, K, T), integers; candidates of unequal length padded alike; mask (…, K) bool.
    Returns: (…), in [0, 1 − 1/K]; NaN for a group that is masked throughout.
    Raises: TypeError, ValueError for a bad dtype, shape or mask.

    >>> duplicate_rate(torch.tensor([[1, 2], [1, 3], [1, 2], [1, 2]]))
    tensor(0.5000)
    """
    t = checks.array("tokens", tokens)
    if t.is_floating_point() or t.dtype == torch.bool:
        raise TypeError(f"tokens: got dtype {t.dtype}, expected integer token ids; were log-probabilities passed?")
    if t.ndim < 2:
        raise ValueError(f"tokens: got shape {tuple(t.shape)}, expected (..., K, T); add the axis of positions")
    return _duplicate_rate(t, checks.mask_for(mask, t[..., 0]))


def correlation(x: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
    """Correlation within a group: of ℓ_old with length, or with score.

    Paper: ours

    Pearson's, Σ (x − x̄)(y − ȳ)/(K sd_x sd_y). Of ℓ_old with length: does the anchor weigh brevity, not merit?

    Args: x, y (…, K), finite, any real dtype; mask (…, K) bool.
    Returns: (…), in [−1, 1]; NaN where x or y is constant in the sense of `standardize`.
    Raises: TypeError, ValueError for NaN or infinite numbers, a bad dtype, shape or mask.

    >>> correlation(torch.tensor([-1.0, -2.0, -3.0]), torch.tensor([10, 20, 30]))
    tensor(-1.)
    """
    a, keep = checks.group("x", x, mask, checks.scores)
    return _correlation(a, checks.scores("y", y, keep), keep)


# -- what is computed, of tensors that were checked ----------------------------------------------------------------


def _duplicate_rate(tokens: Tensor, mask: Tensor) -> Tensor:
    # Position by position, since all at once would need K² copies of every candidate.
    at = [x.unsqueeze(-1) == x.unsqueeze(-2) for x in tokens.unbind(-1)]
    equal = functools.reduce(torch.logical_and, at) & mask.unsqueeze(-2)
    repeated = equal.tril(-1).any(-1)
    return (repeated & mask).sum(-1) / mask.sum(-1)


def _correlation(x: Tensor, y: Tensor, mask: Tensor) -> Tensor:
    # Integers (lengths) take the precision of the other, not less.
    common = torch.promote_types(x.dtype, y.dtype)
    if common.is_floating_point:
        # Half precision cannot hold every length, and nothing is computed in it.
        common = torch.promote_types(common, torch.float32)
    ux, uy = (standardize._standardize(values.to(common), mask) for values in (x, y))
    both = (ux != 0).any(-1) & (uy != 0).any(-1)
    return torch.where(both, (ux * uy).sum(-1) / mask.sum(-1), math.nan).clamp(-1.0, 1.0)
