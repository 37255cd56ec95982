"""Plain policy gradients: REINFORCE, Group PG, and the cross-entropy oracle they are measured against."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

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
    return _pg_loss(checks.finite_log_weights("logp", logp, a != 0), a)


def pg_grad(logp: ArrayLike, advantages: ArrayLike) -> Floats:
    """Gradient of `pg_loss` in the group logits.

    Paper: PG

    ∂L/∂ℓ = −A, whatever ℓ is: nothing in it says when to stop.

    Args, Raises: as `pg_loss`. Returns: (…, K).

    >>> pg_grad([-1.0, -2.0], [1.0, -1.0]).tolist()
    [-1.0, 1.0]
    """
    a = checks.finite("advantages", advantages)
    return _pg_grad(checks.finite_log_weights("logp", logp, a != 0), a)


def group_pg_loss(logp: ArrayLike, u: ArrayLike, eta: float = 1.0) -> Floats:
    """Policy gradient with TPO's standardised scores as advantages, and no target distribution.

    Paper: Group PG

    L = −Σ (u_i/η) ℓ_i with u from `standardize`.

    Args: logp (…, K) in nats; u (…, K); eta > 0. Where u = 0, logp may hold anything (a masked candidate).
    Returns: (…), one loss per group, summed over its candidates.
    Raises: TypeError, ValueError for a bad dtype, shape or eta, NaN or infinity.

    >>> float(group_pg_loss([-1.0, -2.0], [1.0, -1.0], eta=2.0))
    -0.5
    """
    eta, tilt = checks.positive("eta", eta), checks.finite("u", u)
    a = checks.finite("u", tilt / eta)
    return _group_pg_loss(checks.finite_log_weights("logp", logp, a != 0), tilt, eta)


def group_pg_grad(logp: ArrayLike, u: ArrayLike, eta: float = 1.0) -> Floats:
    """Gradient of `group_pg_loss` in the group logits.

    Paper: Group PG

    ∂L/∂ℓ = −u/η: Σ g = 0, as for TPO, but g never shrinks as p moves.

    Args, Raises: as `group_pg_loss`. Returns: (…, K).

    >>> group_pg_grad([-1.0, -2.0], [1.0, -1.0], eta=2.0).tolist()
    [-0.5, 0.5]
    """
    eta, tilt = checks.positive("eta", eta), checks.finite("u", u)
    a = checks.finite("u", tilt / eta)
    return _group_pg_grad(checks.finite_log_weights("logp", logp, a != 0), tilt, eta)


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
    x, _ = checks.group("logits", logits, None)
    return _ce_loss(x, checks.labels("label", label, x.shape[:-1], x.shape[-1]))


def ce_grad(logits: ArrayLike, label: ArrayLike) -> Floats:
    """Gradient of `ce_loss` in the logits.

    Paper: CE

    ∂L/∂z = π − e_y.

    Args, Raises: as `ce_loss`. Returns: (…, V).

    >>> ce_grad([0.0, 0.0], 1).tolist()
    [0.5, -0.5]
    """
    x, _ = checks.group("logits", logits, None)
    return _ce_grad(x, checks.labels("label", label, x.shape[:-1], x.shape[-1]))


# -- what is computed, of arrays that were checked -----------------------------------------------------------------
# Where an advantage is 0, so is the log-probability.


def _pg_loss(logp: Floats, advantages: Floats) -> Floats:
    return np.asarray(-(advantages * logp).sum(-1))


def _pg_grad(logp: Floats, advantages: Floats) -> Floats:
    return 0.0 - advantages


def _group_pg_loss(logp: Floats, u: Floats, eta: float) -> Floats:
    return _pg_loss(logp, u / eta)


def _group_pg_grad(logp: Floats, u: Floats, eta: float) -> Floats:
    return _pg_grad(logp, u / eta)


def _ce_loss(logits: Floats, label: NDArray[Any]) -> Floats:
    logs: Floats = np.take_along_axis(simplex._log_softmax(logits), label[..., None], axis=-1)[..., 0]
    return np.asarray(-logs)


def _ce_grad(logits: Floats, label: NDArray[Any]) -> Floats:
    return np.asarray(simplex._softmax(logits) - (np.arange(logits.shape[-1]) == label[..., None]))
