"""Plain policy gradients: REINFORCE, Group PG, and the cross-entropy oracle they are measured against."""

from __future__ import annotations

import torch
from torch import Tensor

from tpo_torch import checks, simplex


def pg_loss(logp: Tensor, advantages: Tensor) -> Tensor:
    """REINFORCE: each log-probability, weighted by its advantage.

    Paper: PG

    L = −Σ A_i ℓ_i, A frozen: ∂L/∂ℓ = −A. The estimators of A stand in `advantages`.

    Args: logp (…, K) in nats; advantages (…, K), in the unit of the scores. Where A = 0, logp may hold anything.
    Returns: (…), one loss per group, summed over its candidates.
    Raises: TypeError, ValueError for a bad dtype or shape, NaN or infinity.

    >>> pg_loss(torch.tensor([-1.0, -2.0]), torch.tensor([1.0, -1.0]))
    tensor(-1.)
    """
    a = checks.finite("advantages", advantages)
    return _pg_loss(checks.finite_log_weights("logp", logp, a != 0), a)


def group_pg_loss(logp: Tensor, u: Tensor, eta: float = 1.0) -> Tensor:
    """Policy gradient with TPO's standardised scores as advantages, and no target distribution.

    Paper: Group PG

    L = −Σ (u_i/η) ℓ_i with u from `standardize`, frozen: ∂L/∂ℓ = −u/η.

    Args: logp (…, K) in nats; u (…, K); eta > 0. Where u = 0, logp may hold anything (a masked candidate).
    Returns: (…), one loss per group, summed over its candidates.
    Raises: TypeError, ValueError for a bad dtype, shape or eta, NaN or infinity.

    >>> group_pg_loss(torch.tensor([-1.0, -2.0]), torch.tensor([1.0, -1.0]), eta=2.0)
    tensor(-0.5000)
    """
    eta, tilt = checks.positive("eta", eta), checks.finite("u", u)
    a = checks.finite("u", tilt / eta)
    return _group_pg_loss(checks.finite_log_weights("logp", logp, a != 0), tilt, eta)


def ce_loss(logits: Tensor, label: Tensor) -> Tensor:
    """Cross-entropy with the right answer: the oracle that knows the label.

    Paper: CE

    L = −log π_y with π = softmax(z): ∂L/∂z = π − e_y.

    Args: logits (…, V) in nats, −inf allowed; label (…) integers in 0…V−1.
    Returns: (…), in nats; inf where π_y = 0.
    Raises: TypeError, ValueError for a bad dtype or shape, NaN, a label that is no class.

    >>> ce_loss(torch.zeros(2), torch.tensor(1))
    tensor(0.6931)
    """
    x, _ = checks.group("logits", logits, None)
    return _ce_loss(x, checks.labels("label", label, tuple(x.shape[:-1]), x.shape[-1]))


# -- what is computed, of tensors that were checked ----------------------------------------------------------------
# Where an advantage is 0, so is the log-probability.


def _pg_loss(logp: Tensor, advantages: Tensor) -> Tensor:
    return -(advantages.detach() * logp).sum(-1)


def _group_pg_loss(logp: Tensor, u: Tensor, eta: float) -> Tensor:
    return _pg_loss(logp, u / eta)


def _ce_loss(logits: Tensor, label: Tensor) -> Tensor:
    return -torch.gather(simplex._log_softmax(logits), -1, label.long().unsqueeze(-1)).squeeze(-1)
