"""DG: policy gradient gated by surprise. Last axis = group."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from tpo_ref import checks
from tpo_ref.checks import Floats


def dg_loss(logp: ArrayLike, advantages: ArrayLike, dg_eta: float = 1.0) -> Floats:
    """Policy gradient with a gate on each term: open for surprising good candidates, shut for surprising bad ones.

    Paper: DG

    L = −Σ w_i A_i ℓ_i with the gate w = σ(A·(−ℓ)/dg_eta) frozen (arXiv:2603.14608). dg_eta → ∞ is half of `pg_loss`.

    Args: logp (…, K) in nats; advantages (…, K); dg_eta > 0. Where A = 0, logp may hold anything.
    Returns: (…), one loss per group, summed over its candidates.
    Raises: TypeError, ValueError for a bad dtype, shape or dg_eta, NaN or infinity.

    >>> float(dg_loss([-1.0, -2.0], [1.0, 0.0]).round(4))
    0.7311
    """
    a, x, gate = _gated(logp, advantages, dg_eta)
    return np.asarray(-(gate * a * x).sum(-1))


def dg_grad(logp: ArrayLike, advantages: ArrayLike, dg_eta: float = 1.0) -> Floats:
    """Gradient of `dg_loss` in the group logits.

    Paper: DG

    ∂L/∂ℓ_i = −w_i A_i: the gate is held fixed, so this is no derivative of w A ℓ as a function of ℓ alone.

    Args, Raises: as `dg_loss`. Returns: (…, K).

    >>> dg_grad([-1.0, -2.0], [1.0, 0.0]).round(4).tolist()
    [-0.7311, 0.0]
    """
    a, _, gate = _gated(logp, advantages, dg_eta)
    return 0.0 - gate * a


def _gated(logp: ArrayLike, advantages: ArrayLike, dg_eta: float) -> tuple[Floats, Floats, Floats]:
    dg_eta = checks.positive("dg_eta", dg_eta)
    a = checks.finite("advantages", advantages)
    x = checks.finite_log_weights("logp", logp, a != 0, a.shape)
    return a, x, np.asarray(special.expit(-a * x / dg_eta))
