"""REBEL: regress differences of log-ratios on differences of scores. Last axis = group."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from tpo_ref import checks
from tpo_ref.checks import Bools, Floats


def rebel_loss(
    logp: ArrayLike, logp_old: ArrayLike, scores: ArrayLike, eta_r: float = 1.0, mask: ArrayLike | None = None
) -> Floats:
    """Squared error of every pairwise log-ratio difference against the pair's score difference.

    Paper: REBEL

    L = (1/2K²) Σ_ij (a_i − a_j)² with a = x/η_R − s, x = ℓ − ℓ_old: the variance of a over the group, hence O(K). It is
    zero exactly where x = η_R s + const, TPO's fixed point with u/η := η_R s (deviation D37: all pairs).

    Args: logp, logp_old (…, K) in nats, finite; scores (…, K) raw; eta_r > 0, nats per unit of score; mask (…, K) bool.
    Returns: (…), one loss per group, in squared units of score.
    Raises: TypeError, ValueError for a bad dtype, shape, mask or eta_r, NaN or infinity.

    >>> float(rebel_loss([-1.0, -2.0], [-1.0, -2.0], [1.0, 0.0]))
    0.25
    """
    eta_r = checks.divisor("eta_r", eta_r)
    new, keep = checks.group("logp", logp, mask, checks.finite_log_weights)
    old, s = checks.finite_log_weights("logp_old", logp_old, keep), checks.finite("scores", scores, keep)
    return _rebel_loss(new, old, s, eta_r, keep)


def rebel_grad(
    logp: ArrayLike, logp_old: ArrayLike, scores: ArrayLike, eta_r: float = 1.0, mask: ArrayLike | None = None
) -> Floats:
    """Gradient of `rebel_loss` in the group logits.

    Paper: REBEL

    ∂L/∂ℓ_i = (2/(K η_R)) (a_i − ā): Σ g = 0. A zero-variance group keeps a pull to ℓ_old, which is 0 at the snapshot.

    Args, Raises: as `rebel_loss`. Returns: (…, K).

    >>> rebel_grad([-1.0, -2.0], [-1.0, -2.0], [1.0, 0.0]).tolist()
    [-0.5, 0.5]
    """
    eta_r = checks.divisor("eta_r", eta_r)
    new, keep = checks.group("logp", logp, mask, checks.finite_log_weights)
    old, s = checks.finite_log_weights("logp_old", logp_old, keep), checks.finite("scores", scores, keep)
    return _rebel_grad(new, old, s, eta_r, keep)


# -- what is computed, of arrays that were checked -----------------------------------------------------------------
# Their masked entries are 0.


def _rebel_loss(logp: Floats, logp_old: Floats, scores: Floats, eta_r: float, mask: Bools) -> Floats:
    off, count = _residual(logp, logp_old, scores, eta_r, mask)
    return np.asarray((off**2 / count).sum(-1))


def _rebel_grad(logp: Floats, logp_old: Floats, scores: Floats, eta_r: float, mask: Bools) -> Floats:
    off, count = _residual(logp, logp_old, scores, eta_r, mask)
    return 2 * off / (count * eta_r)


def _residual(logp: Floats, logp_old: Floats, scores: Floats, eta_r: float, mask: Bools) -> tuple[Floats, Floats]:
    """a − ā, 0 at a masked candidate; the number of candidates in each group, at least 1."""
    a = (logp - logp_old) / eta_r - scores
    count = np.maximum(mask.sum(-1, keepdims=True), 1)
    return np.where(mask, a - a.sum(-1, keepdims=True) / count, 0.0), count.astype(np.float64)
