"""DG: policy gradient gated by surprise. Last axis = group."""

from __future__ import annotations

import torch
from torch import Tensor

from tpo_torch import checks


def dg_loss(logp: Tensor, advantages: Tensor, dg_eta: float = 1.0) -> Tensor:
    """Policy gradient with a gate on each term: open for surprising good candidates, shut for surprising bad ones.

    Paper: DG

    L = −Σ w_i A_i ℓ_i with the gate w = σ(A·(−ℓ)/dg_eta) frozen (arXiv:2603.14608): ∂L/∂ℓ_i = −w_i A_i. dg_eta → ∞ is
    half of `pg_loss`.

    Args: logp (…, K) in nats; advantages (…, K); dg_eta > 0. Where A = 0, logp may hold anything.
    Returns: (…), one loss per group, summed over its candidates.
    Raises: TypeError, ValueError for a bad dtype, shape or dg_eta, NaN or infinity.

    >>> dg_loss(torch.tensor([-1.0, -2.0]), torch.tensor([1.0, 0.0]))
    tensor(0.7311)
    """
    dg_eta, a = checks.positive("dg_eta", dg_eta), checks.finite("advantages", advantages)
    return _dg_loss(checks.finite_log_weights("logp", logp, a != 0), a, dg_eta)


# -- what is computed, of tensors that were checked ----------------------------------------------------------------
# Where an advantage is 0, so is the log-probability.


def _dg_loss(logp: Tensor, advantages: Tensor, dg_eta: float) -> Tensor:
    a = advantages.detach()
    gate = torch.sigmoid(-a * logp.detach() / dg_eta)
    return -(gate * a * logp).sum(-1)
