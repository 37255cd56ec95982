"""TPO for one sampled action per context: that action against everything else. Elementwise; every axis is batch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tpo_torch import checks


def tpo_single_target(logp_old: Tensor, advantages: Tensor, eta: float = 1.0, mask: Tensor | None = None) -> Tensor:
    """Log-odds of the target q: those of the old policy, moved by the advantage of the action it sampled.

    Paper: App. C (there A is ±N/√(N − 1) for N actions, whatever its size; deviation D7)

    t = log q/(1 − q) = log p_old/(1 − p_old) + A/η. It stays frozen for the whole update, however many epochs. Log-odds
    rather than q, since close to 1 only they keep the digits of 1 − q.

    Args: logp_old (…), log p_old(a) in nats, ≤ 0; advantages (…), of any scale; eta > 0, in their unit per nat of
        log-odds; mask (…) bool.
    Returns: (…), detached, in nats, finite; 0 where masked.
    Raises: TypeError, ValueError for a bad dtype, shape, mask or eta, NaN or infinity, or a logp_old above 0.

    >>> tpo_single_target(torch.tensor([0.5, 0.5]).log(), torch.tensor([1.0, -2.0]))
    tensor([ 1., -2.])
    """
    eta = checks.positive("eta", eta)
    x, keep = checks.group("logp_old", logp_old, mask, checks.log_probabilities)
    return _tpo_single_target(x, checks.finite("advantages", advantages, keep), eta, keep)


def tpo_single_loss(logp: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Cross-entropy of "the sampled action, or another one" to the target.

    Paper: App. C (at the snapshot; deviation D7)

    L = −q log p(a) − (1 − q) log(1 − p(a)); autograd gives ∂L/∂log p(a) = (p − q)/(1 − p), and p − q in the logit of a.
    Beside `tpo_loss` over all actions it leaves out how the others share 1 − p(a), which has no gradient at the
    snapshot.

    Args: logp (…), log p(a) in nats, ≤ 0; target (…), from `tpo_single_target`; mask (…) bool.
    Returns: (…), one loss per sample in nats; 0 where masked.
    Raises: TypeError, ValueError for a bad dtype, shape or mask, NaN or infinity, or a logp above 0.

    >>> tpo_single_loss(torch.tensor([0.5, 0.25]).log(), torch.zeros(2))
    tensor([0.6931, 0.8370])
    """
    x, keep = checks.group("logp", logp, mask, checks.log_probabilities)
    return _tpo_single_loss(x, checks.finite("target", target, keep), keep)


# -- what is computed, of tensors that were checked ----------------------------------------------------------------
# Their masked entries are 0.


def _tpo_single_target(logp_old: Tensor, advantages: Tensor, eta: float, mask: Tensor) -> Tensor:
    x = _below_one(logp_old.detach())
    t = x - _log1mexp(x) + advantages.detach() / eta
    most = torch.finfo(t.dtype).max
    return torch.where(mask, t.clamp(-most, most), 0.0)


def _tpo_single_loss(logp: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    x, t = _below_one(logp), target.detach()
    return torch.where(mask, -(torch.sigmoid(t) * x + torch.sigmoid(-t) * _log1mexp(x)), 0.0)


def _below_one(logp: Tensor) -> Tensor:
    # A log-softmax that returns 0 has rounded: 1 − p is read as half a unit in the last place of 1 (deviation D7). The
    # gradient passes as if nothing had been cut: it is that of the loss at the value taken.
    least = torch.finfo(logp.dtype).eps / 2
    return logp + (logp.clamp(max=-least) - logp).detach()


def _log1mexp(x: Tensor) -> Tensor:
    # log(1 − e^x) for x < 0; each form keeps its digits, and its derivative, on its side of 1 − p = ½ only.
    near = x > -math.log(2)
    far = torch.log1p(-torch.exp(torch.where(near, -1.0, x)))
    return torch.where(near, torch.log(-torch.expm1(torch.where(near, x, -1.0))), far)
