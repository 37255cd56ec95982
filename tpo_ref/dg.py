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
    dg_eta, a = checks.positive("dg_eta", dg_eta), checks.finite("advantages", advantages)
    return _dg_loss(checks.finite_log_weights("logp", logp, a != 0), a, dg_eta)


def dg_grad(logp: ArrayLike, advantages: ArrayLike, dg_eta: float = 1.0) -> Floats:
    """Gradient of `dg_loss` in the group logits.

    Paper: DG

    ∂L/∂ℓ_i = −w_i A_i: the gate is held fixed, so this is no derivative of w A ℓ as a function of ℓ alone.

    Args, Raises: as `dg_loss`. Returns: (…, K).

    >>> dg_grad([-1.0, -2.0], [1.0, 0.0]).round(4).tolist()
    [-0.7311, 0.0]
    """
    dg_eta, a = checks.positive("dg_eta", dg_eta), checks.finite("advantages", advantages)
    return _dg_grad(checks.finite_log_weights("logp", logp, a != 0), a, dg_eta)


# -- what is computed, of arrays that were checked -----------------------------------------------------------------
# Where an advantage is 0, so is the log-probability.


def _dg_loss(logp: Floats, advantages: Floats, dg_eta: float) -> Floats:
    return np.asarray(-(_gate(logp, advantages, dg_eta) * advantages * logp).sum(-1))


def _dg_grad(logp: Floats, advantages: Floats, dg_eta: float) -> Floats:
    return 0.0 - _gate(logp, advantages, dg_eta) * advantages


def _gate(logp: Floats, advantages: Floats, dg_eta: float) -> Floats:
    return np.asarray(special.expit(-advantages * logp / dg_eta))
