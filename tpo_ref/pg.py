"""Plain policy gradients: REINFORCE, Group PG, and the cross-entropy oracle they are measured against."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from tpo_ref import checks, simplex
from tpo_ref.checks import Floats


def pg_loss(logp: ArrayLike, advantages: ArrayLike) -> Floats:
    """REINFORCE: each log-probability, weighted by its advantage.

    Paper: PG

    L = −Σ A_i ℓ_i. The estimators of A stand in `advantages`.

    Args: logp (…, K) in nats; advantages (…, K), in the unit of the scores. Where A = 0, logp may hold anything.
    Returns: (…), one loss per group, summed over its candidates.
    Raises: TypeError, ValueError for a bad dtype or shape, NaN or infinity.

    >>> float(pg_loss([-1.0, -2.0], [1.0, -1.0]))
    -1.0
    """
    a = checks.finite("advantages", advantages)
    x = checks.finite_log_weights("logp", logp, a != 0, a.shape)
    return np.asarray(-(a * x).sum(-1))


def pg_grad(logp: ArrayLike, advantages: ArrayLike) -> Floats:
    """Gradient of `pg_loss` in the group logits.

    Paper: PG

    ∂L/∂ℓ = −A, whatever ℓ is: nothing in it says when to stop.

    Args, Raises: as `pg_loss`. Returns: (…, K).

    >>> pg_grad([-1.0, -2.0], [1.0, -1.0]).tolist()
    [-1.0, 1.0]
    """
    a = checks.finite("advantages", advantages)
    checks.finite_log_weights("logp", logp, a != 0, a.shape)
    return 0.0 - a


def group_pg_loss(logp: ArrayLike, u: ArrayLike, eta: float = 1.0) -> Floats:
    """TPO's signal without TPO's target.

    Paper: Group PG

    L = −Σ (u_i/η) ℓ_i with u from `standardize`.

    Args: logp (…, K) in nats; u (…, K); eta > 0. Where u = 0, logp may hold anything (a masked candidate).
    Returns: (…), one loss per group, summed over its candidates.
    Raises: TypeError, ValueError for a bad dtype, shape or eta, NaN or infinity.

    >>> float(group_pg_loss([-1.0, -2.0], [1.0, -1.0], eta=2.0))
    -0.5
    """
    eta = checks.positive("eta", eta)
    return pg_loss(logp, checks.finite("u", u) / eta)


def group_pg_grad(logp: ArrayLike, u: ArrayLike, eta: float = 1.0) -> Floats:
    """Gradient of `group_pg_loss` in the group logits.

    Paper: Group PG

    ∂L/∂ℓ = −u/η: Σ g = 0, as for TPO, but g never shrinks as p moves.

    Args, Raises: as `group_pg_loss`. Returns: (…, K).

    >>> group_pg_grad([-1.0, -2.0], [1.0, -1.0], eta=2.0).tolist()
    [-0.5, 0.5]
    """
    eta = checks.positive("eta", eta)
    return pg_grad(logp, checks.finite("u", u) / eta)


def ce_loss(logits: ArrayLike, label: ArrayLike) -> Floats:
    """Cross-entropy with the right answer: the oracle that knows the label.

    Paper: CE

    L = −log π_y with π = softmax(z).

    Args: logits (…, V) in nats, −inf allowed; label (…) integers in 0…V−1.
    Returns: (…), in nats; inf where π_y = 0.
    Raises: TypeError, ValueError for a bad dtype or shape, NaN, a label that is no class.

    >>> float(ce_loss([0.0, 0.0], 1).round(4))
    0.6931
    """
    raw = checks.array("logits", logits)
    y = checks.labels("label", label, raw.shape[:-1], raw.shape[-1])
    logs: Floats = np.take_along_axis(simplex.log_softmax(raw), y[..., None], axis=-1)[..., 0]
    return np.asarray(-logs)


def ce_grad(logits: ArrayLike, label: ArrayLike) -> Floats:
    """Gradient of `ce_loss` in the logits.

    Paper: CE

    ∂L/∂z = π − e_y.

    Args, Raises: as `ce_loss`. Returns: (…, V).

    >>> ce_grad([0.0, 0.0], 1).tolist()
    [0.5, -0.5]
    """
    raw = checks.array("logits", logits)
    y = checks.labels("label", label, raw.shape[:-1], raw.shape[-1])
    return np.asarray(simplex.softmax(raw) - (np.arange(raw.shape[-1]) == y[..., None]))
