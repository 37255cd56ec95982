"""Distributions over one group: softmax with masks, divergences, effective sample size. Last axis = group."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tpo_torch import checks


def log_softmax(logits: Tensor, mask: Tensor | None = None, *, name: str = "logits") -> Tensor:
    """Log of the group distribution p.

    Paper: Eq. 1

    log p_i = ℓ_i − log Σ_j exp ℓ_j over the unmasked candidates; −inf at a masked one.

    Args: logits (…, K) in nats, −inf allowed; mask (…, K) bool, False = no candidate here; name, in errors.
    Returns: (…, K), float32 or wider. A group that is masked throughout is −inf throughout (deviation D3).
    Raises: TypeError, ValueError for a dtype, shape or value that is no log-probability.

    >>> log_softmax(torch.zeros(2))
    tensor([-0.6931, -0.6931])
    """
    x, keep = checks.group(name, logits, mask)
    return _log_softmax(x, keep)


def softmax(logits: Tensor, mask: Tensor | None = None, *, name: str = "logits") -> Tensor:
    """The group distribution p.

    Paper: Eq. 1

    p_i = exp ℓ_i / Σ_j exp ℓ_j over the unmasked candidates; 0 at a masked one.

    Args: logits (…, K) in nats, −inf allowed; mask (…, K) bool.
    Returns: (…, K), summing to 1; a group that is masked throughout is 0 throughout (deviation D3).
    Raises: TypeError, ValueError as `log_softmax`.

    >>> softmax(torch.tensor([0.0, 0.0, 5.0]), mask=torch.tensor([True, True, False]))
    tensor([0.5000, 0.5000, 0.0000])
    """
    x, keep = checks.group(name, logits, mask)
    return _softmax(x, keep)


def logsumexp(logits: Tensor, mask: Tensor | None = None, *, name: str = "logits") -> Tensor:
    """Log of the total weight of a group.

    Paper: Eq. 1 (its normaliser)

    log Σ_j exp ℓ_j, so that log p_i = ℓ_i − logsumexp(ℓ).

    Args: logits (…, K) in nats; mask (…, K) bool.
    Returns: (…), −inf for a group that is masked throughout.
    Raises: TypeError, ValueError as `log_softmax`.

    >>> logsumexp(torch.zeros(2))
    tensor(0.6931)
    """
    x, keep = checks.group(name, logits, mask)
    return _logsumexp(x, keep)


def kl(p: Tensor, q: Tensor) -> Tensor:
    """Kullback–Leibler divergence.

    Paper: Eq. 4 (its penalty)

    KL(p‖q) = Σ p log(p/q) in nats, with 0 log 0 = 0; inf where p > 0 and q = 0.

    Args: p, q (…, K), non-negative.
    Returns: (…).
    Raises: TypeError, ValueError for a dtype, shape or value that is no distribution.

    >>> kl(torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5]))
    tensor(0.6931)
    """
    a = checks.masses("p", p)
    return _kl(a, checks.masses("q", q, like=a))


def entropy(p: Tensor) -> Tensor:
    """Shannon entropy.

    Paper: Eq. 3 (its lower bound)

    H(p) = −Σ p log p in nats, with 0 log 0 = 0.

    Args: p (…, K), non-negative. Returns: (…), in [0, log K].
    Raises: TypeError, ValueError for a dtype, shape or value that is no distribution.

    >>> entropy(torch.tensor([0.5, 0.5]))
    tensor(0.6931)
    """
    return _entropy(checks.masses("p", p))


def tv(p: Tensor, q: Tensor) -> Tensor:
    """Total variation distance.

    Paper: ours; spec/tpo.md uses it to say how far a target is from its anchor

    TV(p, q) = ½ Σ |p − q|.

    Args: p, q (…, K), non-negative. Returns: (…), in [0, 1].
    Raises: TypeError, ValueError for a dtype, shape or value that is no distribution.

    >>> tv(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
    tensor(1.)
    """
    a = checks.masses("p", p)
    return _tv(a, checks.masses("q", q, like=a))


def effective_sample_size(p: Tensor) -> Tensor:
    """How many candidates a distribution really weighs.

    Paper: ours; an anchor-health figure, spec/tpo.md

    1 / Σ p²; 0 for a group that is masked throughout.

    Args: p (…, K), non-negative. Returns: (…), in [1, K].
    Raises: TypeError, ValueError for a dtype, shape or value that is no distribution.

    >>> effective_sample_size(torch.tensor([0.5, 0.5, 0.0]))
    tensor(2.)
    """
    return _effective_sample_size(checks.masses("p", p))


# -- what is computed, of tensors that were checked ----------------------------------------------------------------
# Their masked entries hold what the checks put there: −inf in logits, 0 elsewhere.


def _log_softmax(logits: Tensor, mask: Tensor | None = None) -> Tensor:
    if mask is None:
        return torch.log_softmax(logits, -1)
    return torch.where(mask, torch.log_softmax(_inhabited(logits, mask), -1), -math.inf)


def _softmax(logits: Tensor, mask: Tensor | None = None) -> Tensor:
    if mask is None:
        return torch.softmax(logits, -1)
    return torch.where(mask, torch.softmax(_inhabited(logits, mask), -1), 0.0)


def _logsumexp(logits: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask.any(-1), torch.logsumexp(_inhabited(logits, mask), -1), -math.inf)


def _kl(p: Tensor, q: Tensor) -> Tensor:
    inside = p != 0
    gap = torch.log(torch.where(inside, p, 1.0)) - torch.log(torch.where(inside, q, 1.0))
    return _sum_of_terms(p, q, gap)


def _kl_of_logs(log_p: Tensor, log_q: Tensor) -> Tensor:
    # For a q that underflows, as the old policy does under a wide anchor.
    p, q = log_p.exp(), log_q.exp()
    return _sum_of_terms(p, q, torch.where(p == 0, 0.0, log_p) - torch.where(p == 0, 0.0, log_q))


def _sum_of_terms(p: Tensor, q: Tensor, gap: Tensor) -> Tensor:
    # The − p + q terms sum to zero and make every term ≥ 0, so that a negative one can only be rounding.
    terms = p * gap - p + q
    # Clamping would also stop the gradient of a rounded term, hence the detached correction.
    return (terms + torch.relu(-terms).detach()).sum(-1)


def _entropy(p: Tensor) -> Tensor:
    # torch.special.entr has the same value, but an infinite slope at p = 0 that turns a softmax's gradient into NaN.
    return -(p * torch.log(torch.where(p > 0, p, 1.0))).sum(-1)


def _tv(p: Tensor, q: Tensor) -> Tensor:
    return (p - q).abs().sum(-1) / 2


def _effective_sample_size(p: Tensor) -> Tensor:
    squares = (p * p).sum(-1)
    return torch.where(squares == 0, 0.0, 1 / squares)


def _inhabited(logits: Tensor, mask: Tensor) -> Tensor:
    # A group without candidates has no distribution; any finite logits keep its arithmetic, and its gradient, quiet.
    return torch.where(mask.any(-1, keepdim=True), logits, 0.0)
