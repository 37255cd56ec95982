"""Distributions over one group: softmax with masks, divergences, effective sample size. Last axis = group."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from tpo_ref import checks
from tpo_ref.checks import Bools, Floats


def log_softmax(logits: ArrayLike, mask: ArrayLike | None = None, *, name: str = "logits") -> Floats:
    """Log of the group distribution p.

    Paper: Eq. 1

    log p_i = ℓ_i − log Σ_j exp ℓ_j over the unmasked candidates; −inf at a masked one.

    Args: logits (…, K) in nats, −inf allowed; mask (…, K) bool, False = no candidate here; name, in errors.
    Returns: (…, K). A group that is masked throughout is −inf throughout (deviation D3).
    Raises: TypeError, ValueError for a dtype, shape or value that is no log-probability.

    >>> log_softmax([0.0, 0.0]).round(4).tolist()
    [-0.6931, -0.6931]
    """
    x, keep = checks.group(name, logits, mask)
    return _log_softmax(x, keep)


def softmax(logits: ArrayLike, mask: ArrayLike | None = None, *, name: str = "logits") -> Floats:
    """The group distribution p.

    Paper: Eq. 1

    p_i = exp ℓ_i / Σ_j exp ℓ_j over the unmasked candidates; 0 at a masked one.

    Args: logits (…, K) in nats, −inf allowed; mask (…, K) bool.
    Returns: (…, K), summing to 1; a group that is masked throughout is 0 throughout (deviation D3).
    Raises: TypeError, ValueError as `log_softmax`.

    >>> softmax([0.0, 0.0, 5.0], mask=[True, True, False]).tolist()
    [0.5, 0.5, 0.0]
    """
    x, keep = checks.group(name, logits, mask)
    return _softmax(x, keep)


def logsumexp(logits: ArrayLike, mask: ArrayLike | None = None, *, name: str = "logits") -> Floats:
    """Log of the total weight of a group.

    Paper: Eq. 1 (its normaliser)

    log Σ_j exp ℓ_j, so that log p_i = ℓ_i − logsumexp(ℓ).

    Args: logits (…, K) in nats; mask (…, K) bool.
    Returns: (…), −inf for a group that is masked throughout.
    Raises: TypeError, ValueError as `log_softmax`.

    >>> float(logsumexp([0.0, 0.0]).round(4))
    0.6931
    """
    x, keep = checks.group(name, logits, mask)
    return _logsumexp(x, keep)


def kl(p: ArrayLike, q: ArrayLike) -> Floats:
    """Kullback–Leibler divergence.

    Paper: Eq. 4 (its penalty)

    KL(p‖q) = Σ p log(p/q) in nats, with 0 log 0 = 0; inf where p > 0 and q = 0.

    Args: p, q (…, K), non-negative.
    Returns: (…).
    Raises: TypeError, ValueError for a dtype, shape or value that is no distribution.

    >>> float(kl([1.0, 0.0], [0.5, 0.5]).round(4))
    0.6931
    """
    a = checks.masses("p", p)
    return _kl(a, checks.masses("q", q, shape=a.shape))


def entropy(p: ArrayLike) -> Floats:
    """Shannon entropy.

    Paper: Eq. 3 (its lower bound)

    H(p) = −Σ p log p in nats, with 0 log 0 = 0.

    Args: p (…, K), non-negative. Returns: (…), in [0, log K].
    Raises: TypeError, ValueError for a dtype, shape or value that is no distribution.

    >>> float(entropy([0.5, 0.5]).round(4))
    0.6931
    """
    return _entropy(checks.masses("p", p))


def tv(p: ArrayLike, q: ArrayLike) -> Floats:
    """Total variation distance.

    Paper: ours; spec/tpo.md uses it to say how far a target is from its anchor

    TV(p, q) = ½ Σ |p − q|.

    Args: p, q (…, K), non-negative. Returns: (…), in [0, 1].
    Raises: TypeError, ValueError for a dtype, shape or value that is no distribution.

    >>> float(tv([1.0, 0.0], [0.0, 1.0]))
    1.0
    """
    a = checks.masses("p", p)
    return _tv(a, checks.masses("q", q, shape=a.shape))


def effective_sample_size(p: ArrayLike) -> Floats:
    """How many candidates a distribution really weighs.

    Paper: ours; an anchor-health figure, spec/tpo.md

    1 / Σ p²; 0 for a group that is masked throughout.

    Args: p (…, K), non-negative. Returns: (…), in [1, K].
    Raises: TypeError, ValueError for a dtype, shape or value that is no distribution.

    >>> float(effective_sample_size([0.5, 0.5, 0.0]))
    2.0
    """
    return _effective_sample_size(checks.masses("p", p))


# -- what is computed, of arrays that were checked -----------------------------------------------------------------
# Their masked entries hold what the checks put there: −inf in logits, 0 elsewhere.


def _log_softmax(logits: Floats, mask: Bools | None = None) -> Floats:
    if mask is None:
        return np.asarray(special.log_softmax(logits, axis=-1))
    return np.where(mask, special.log_softmax(_inhabited(logits, mask), axis=-1), -np.inf)


def _softmax(logits: Floats, mask: Bools | None = None) -> Floats:
    if mask is None:
        return np.asarray(special.softmax(logits, axis=-1))
    return np.where(mask, special.softmax(_inhabited(logits, mask), axis=-1), 0.0)


def _logsumexp(logits: Floats, mask: Bools) -> Floats:
    return np.where(mask.any(-1), special.logsumexp(_inhabited(logits, mask), axis=-1), -np.inf)


def _kl(p: Floats, q: Floats) -> Floats:
    inside = p > 0
    with np.errstate(divide="ignore"):
        # A difference of logs, since p/q overflows where q is subnormal.
        gap = np.log(np.where(inside, p, 1.0)) - np.log(np.where(inside, q, 1.0))
    return _sum_of_terms(p, q, gap)


def _kl_of_logs(log_p: Floats, log_q: Floats) -> Floats:
    # For a q that underflows, as the old policy does under a wide anchor.
    p, q = np.exp(log_p), np.exp(log_q)
    return _sum_of_terms(p, q, np.where(p > 0, log_p, 0.0) - np.where(p > 0, log_q, 0.0))


def _sum_of_terms(p: Floats, q: Floats, gap: Floats) -> Floats:
    # The − p + q terms sum to zero and make every term ≥ 0, so that a negative one can only be rounding.
    return np.asarray(np.maximum(p * gap - p + q, 0.0).sum(-1))


def _entropy(p: Floats) -> Floats:
    return np.asarray(special.entr(p).sum(-1))


def _tv(p: Floats, q: Floats) -> Floats:
    return np.asarray(np.abs(p - q).sum(-1) / 2)


def _effective_sample_size(p: Floats) -> Floats:
    squares = (p * p).sum(-1)
    return np.asarray(np.divide(1.0, squares, out=np.zeros_like(squares), where=squares > 0))


def _inhabited(logits: Floats, mask: Bools) -> Floats:
    # A group without candidates has no distribution; any finite logits keep its arithmetic quiet.
    return np.where(mask.any(-1, keepdims=True), logits, 0.0)
