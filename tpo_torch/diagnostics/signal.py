"""Do the scores of a group ask for anything, and who gets the weight."""

from __future__ import annotations

import torch
from torch import Tensor

from tpo_torch import checks
from tpo_torch.diagnostics import means
from tpo_torch.standardize import CONSTANT_ULPS


def all_fail(scores: Tensor, mask: Tensor | None = None) -> Tensor:
    """Whether no candidate of a group succeeded.

    Paper: ours (Figs 10–12 plot its mean)

    1 if every score ≤ 0.

    Args: scores (…, K), 0 = failed; mask (…, K) bool.
    Returns: (…), 1 or 0; NaN for a group that is masked throughout.
    Raises: TypeError, ValueError for NaN or infinite scores, a bad dtype, shape or mask.

    >>> all_fail(torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
    tensor([0., 1.])
    """
    s, keep = checks.group("scores", scores, mask, checks.finite)
    return _all_fail(s, keep)


def zero_variance(u: Tensor, mask: Tensor | None = None) -> Tensor:
    """Whether the scores of a group ask for nothing.

    Paper: ours (App. A's u = 0)

    1 if max u = min u, exactly: `standardize` has removed rounding.

    Args: u (…, K); mask (…, K) bool.
    Returns: (…), 1 or 0; NaN for a group that is masked throughout.
    Raises: TypeError, ValueError for NaN or infinite u, a bad dtype, shape or mask.

    >>> zero_variance(torch.tensor([[1.0, -1.0], [0.0, 0.0]]))
    tensor([0., 1.])
    """
    tilt, keep = checks.group("u", u, mask, checks.finite)
    return _zero_variance(tilt, keep)


def winners_losers_weight(coefficients: Tensor, scores: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean push on the candidates that scored above their group's mean, and on those below.

    Paper: ours (Figs 10–12 plot a weight on winners and losers; deviation D52)

    mean of −g_i over {s_i > s̄} and over {s_i < s̄}; a difference from s̄ within rounding is neither.

    Args: coefficients (…, K), −∂L/∂ℓ, as `tpo_coefficients` gives; scores (…, K); mask (…, K) bool.
    Returns: winners (…), losers (…); NaN where a group has none.
    Raises: TypeError, ValueError for NaN or infinity, a bad dtype, shape or mask.

    >>> winners_losers_weight(torch.tensor([0.5, -0.25, -0.25]), torch.tensor([1.0, 0.0, 0.0]))
    (tensor(0.5000), tensor(-0.2500))
    """
    c, keep = checks.group("coefficients", coefficients, mask, checks.finite)
    return _winners_losers_weight(c, checks.finite("scores", scores, keep), keep)


# -- what is computed, of tensors that were checked ----------------------------------------------------------------
# Their masked entries are 0.


def _all_fail(scores: Tensor, mask: Tensor) -> Tensor:
    s = scores.detach()
    return means._yes((s <= 0).all(-1), mask.any(-1) & ~s.isnan().any(-1), s)


def _zero_variance(u: Tensor, mask: Tensor) -> Tensor:
    reach = means._range(u.detach(), mask)
    # −inf for a group that is masked throughout; no NaN is at least 0.
    return means._yes(reach == 0, reach >= 0, reach)


def _winners_losers_weight(coefficients: Tensor, scores: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    c, s = coefficients.detach(), scores.detach()
    s = s / s.abs().amax(-1, keepdim=True).clamp(min=torch.finfo(s.dtype).tiny)
    above = torch.where(mask, s - s.sum(-1, keepdim=True) / mask.sum(-1, keepdim=True).clamp(min=1), 0.0)
    slack = CONSTANT_ULPS * torch.finfo(s.dtype).eps
    winners, losers = above > slack, above < -slack
    return (c * winners).sum(-1) / winners.sum(-1), (c * losers).sum(-1) / losers.sum(-1)
