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
    raw = checks.array(name, logits)
    keep = checks.mask_for(mask, raw.shape)
    x = checks.log_weights(name, raw, keep)
    inhabited = np.where(keep.any(-1, keepdims=True), x, 0.0)
    return np.where(keep, special.log_softmax(inhabited, axis=-1), -np.inf)


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
    raw = checks.array(name, logits)
    keep = checks.mask_for(mask, raw.shape)
    x = checks.log_weights(name, raw, keep)
    inhabited = np.where(keep.any(-1, keepdims=True), x, 0.0)
    return np.where(keep, special.softmax(inhabited, axis=-1), 0.0)


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
    raw = checks.array(name, logits)
    keep = checks.mask_for(mask, raw.shape)
    x = checks.log_weights(name, raw, keep)
    inhabited = np.where(keep.any(-1, keepdims=True), x, 0.0)
    return np.where(keep.any(-1), special.logsumexp(inhabited, axis=-1), -np.inf)


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
    p, q = _pair(p, q)
    inside = p > 0
    with np.errstate(divide="ignore"):
        # A difference of logs, since p/q overflows where q is subnormal.
        gap = np.log(np.where(inside, p, 1.0)) - np.log(np.where(inside, q, 1.0))
    # The − p + q terms sum to zero and make every term ≥ 0, so that a negative one can only be rounding.
    return np.asarray(np.maximum(np.where(inside, p, 0.0) * gap - p + q, 0.0).sum(-1))


def entropy(p: ArrayLike) -> Floats:
    """Shannon entropy.

    Paper: Eq. 3 (its lower bound)

    H(p) = −Σ p log p in nats, with 0 log 0 = 0.

    Args: p (…, K), non-negative. Returns: (…), in [0, log K].
    Raises: TypeError, ValueError for a dtype, shape or value that is no distribution.

    >>> float(entropy([0.5, 0.5]).round(4))
    0.6931
    """
    p, _ = _pair(p, p)
    return np.asarray(special.entr(p).sum(-1))


def tv(p: ArrayLike, q: ArrayLike) -> Floats:
    """Total variation distance.

    Paper: ours; spec/tpo.md uses it to say how far a target is from its anchor

    TV(p, q) = ½ Σ |p − q|.

    Args: p, q (…, K), non-negative. Returns: (…), in [0, 1].
    Raises: TypeError, ValueError for a dtype, shape or value that is no distribution.

    >>> float(tv([1.0, 0.0], [0.0, 1.0]))
    1.0
    """
    p, q = _pair(p, q)
    return np.asarray(np.abs(p - q).sum(-1) / 2)


def effective_sample_size(p: ArrayLike) -> Floats:
    """How many candidates a distribution really weighs.

    Paper: ours; an anchor-health figure, spec/tpo.md

    1 / Σ p²; 0 for a group that is masked throughout.

    Args: p (…, K), non-negative. Returns: (…), in [1, K].
    Raises: TypeError, ValueError for a dtype, shape or value that is no distribution.

    >>> float(effective_sample_size([0.5, 0.5, 0.0]))
    2.0
    """
    p, _ = _pair(p, p)
    squares = (p * p).sum(-1)
    return np.asarray(np.divide(1.0, squares, out=np.zeros_like(squares), where=squares > 0))


def _pair(p: ArrayLike, q: ArrayLike) -> tuple[Floats, Floats]:
    a = checks.array("p", p)
    everywhere: Bools = np.ones(a.shape, dtype=np.bool_)
    a = checks.finite("p", a)
    b = checks.finite("q", q, everywhere, a.shape)
    for name, x in (("p", a), ("q", b)):
        if (x < 0).any():
            raise ValueError(f"{name}: got the negative entry {x.min():g}, expected a distribution over the group")
    return a, b
