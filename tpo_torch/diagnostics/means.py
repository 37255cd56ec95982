"""The mean over groups, and what the other figures share."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tpo_torch import checks


def group_mean(values: Tensor, keep_axes: int = 0) -> Tensor:
    """Mean over groups, leaving out those that have no answer.

    Paper: ours

    Args: values (…), one number per group, NaN where there is none; keep_axes, how many leading axes (seeds) stay.
    Returns: 0-d, or the kept axes; NaN where no group has an answer.
    Raises: TypeError, ValueError for a bad dtype, no values, or more axes kept than there are.

    >>> group_mean(torch.tensor([1.0, math.nan, 0.0]))
    tensor(0.5000)
    """
    a = checks.figures("values", values)
    return _group_mean(a, checks.axes("keep_axes", keep_axes, a.ndim))


# -- what is computed, of tensors that were checked ----------------------------------------------------------------


def _group_mean(values: Tensor, keep_axes: int) -> Tensor:
    flat = values.detach().reshape(*values.shape[:keep_axes], -1)
    present = ~flat.isnan()
    return torch.where(present, flat, 0.0).sum(-1) / present.sum(-1)


def _range(x: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, x, -math.inf).amax(-1) - torch.where(mask, x, math.inf).amin(-1)


def _yes(condition: Tensor, present: Tensor, like: Tensor) -> Tensor:
    return torch.where(present, condition.to(like.dtype), math.nan)
