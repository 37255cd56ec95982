"""REBEL: regress differences of log-ratios on differences of scores. Last axis = group."""

from __future__ import annotations

import torch
from torch import Tensor

from tpo_torch import checks


def rebel_loss(
    logp: Tensor, logp_old: Tensor, scores: Tensor, eta_r: float = 1.0, mask: Tensor | None = None
) -> Tensor:
    """Squared error of every pairwise log-ratio difference against the pair's score difference.

    Paper: REBEL

    L = (1/2K²) Σ_ij (a_i − a_j)² with a = x/η_R − s, x = ℓ − ℓ_old: the variance of a over the group, hence O(K). It is
    zero exactly where x = η_R s + const, TPO's fixed point with u/η := η_R s (deviation D37: all pairs). Autograd gives
    ∂L/∂ℓ_i = (2/(K η_R)) (a_i − ā): a zero-variance group keeps a pull to ℓ_old, which is 0 at the snapshot.

    Args: logp, logp_old (…, K) in nats, finite; scores (…, K) raw; eta_r > 0, nats per unit of score; mask (…, K) bool.
    Returns: (…), one loss per group, in squared units of score.
    Raises: TypeError, ValueError for a bad dtype, shape, mask or eta_r, NaN or infinity.

    >>> logp = torch.tensor([-1.0, -2.0])
    >>> rebel_loss(logp, logp, torch.tensor([1.0, 0.0]))
    tensor(0.2500)
    """
    eta_r = checks.divisor("eta_r", eta_r)
    new, keep = checks.group("logp", logp, mask, checks.finite_log_weights)
    old, s = checks.finite_log_weights("logp_old", logp_old, keep), checks.finite("scores", scores, keep)
    return _rebel_loss(new, old, s, eta_r, keep)


# -- what is computed, of tensors that were checked ----------------------------------------------------------------
# Their masked entries are 0.


def _rebel_loss(logp: Tensor, logp_old: Tensor, scores: Tensor, eta_r: float, mask: Tensor) -> Tensor:
    a = (logp - logp_old.detach()) / eta_r - scores.detach()
    count = mask.sum(-1, keepdim=True).clamp(min=1)
    off = torch.where(mask, a - a.sum(-1, keepdim=True) / count, 0.0)
    return (off.square() / count).sum(-1)
