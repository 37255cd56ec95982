"""TPO for one sampled action per context: that action against everything else. Elementwise; every axis is batch."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from tpo_ref import checks
from tpo_ref.checks import Bools, Floats

# A log-softmax that returns 0 has rounded: 1 − p is read as half a unit in the last place of 1 (deviation D7).
LEAST_REST = float(np.finfo(np.float64).eps) / 2


def tpo_single_target(
    logp_old: ArrayLike, advantages: ArrayLike, eta: float = 1.0, mask: ArrayLike | None = None
) -> Floats:
    """Log-odds of the target q: those of the old policy, moved by the advantage of the action it sampled.

    Paper: App. C (there A is ±N/√(N − 1) for N actions, whatever its size; deviation D7)

    t = log q/(1 − q) = log p_old/(1 − p_old) + A/η. It stays frozen for the whole update, however many epochs. Log-odds
    rather than q, since close to 1 only they keep the digits of 1 − q.

    Args: logp_old (…), log p_old(a) in nats, ≤ 0; advantages (…), of any scale; eta > 0, in their unit per nat of
        log-odds; mask (…) bool.
    Returns: (…), in nats, finite; 0 where masked.
    Raises: TypeError, ValueError for a bad dtype, shape, mask or eta, NaN or infinity, or a logp_old above 0.

    >>> tpo_single_target(np.log([0.5, 0.5]), [1.0, -2.0]).tolist()
    [1.0, -2.0]
    """
    eta = checks.positive("eta", eta)
    x, keep = checks.group("logp_old", logp_old, mask, checks.log_probabilities)
    return _tpo_single_target(x, checks.finite("advantages", advantages, keep), eta, keep)


def tpo_single_loss(logp: ArrayLike, target: ArrayLike, mask: ArrayLike | None = None) -> Floats:
    """Cross-entropy of "the sampled action, or another one" to the target.

    Paper: App. C (at the snapshot; deviation D7)

    L = −q log p(a) − (1 − q) log(1 − p(a)). Beside `tpo_loss` over all actions it leaves out how the others share
    1 − p(a), which has no gradient at the snapshot.

    Args: logp (…), log p(a) in nats, ≤ 0; target (…), from `tpo_single_target`; mask (…) bool.
    Returns: (…), one loss per sample in nats; 0 where masked.
    Raises: TypeError, ValueError for a bad dtype, shape or mask, NaN or infinity, or a logp above 0.

    >>> tpo_single_loss(np.log([0.5, 0.25]), [0.0, 0.0]).round(4).tolist()
    [0.6931, 0.837]
    """
    x, keep = checks.group("logp", logp, mask, checks.log_probabilities)
    return _tpo_single_loss(x, checks.finite("target", target, keep), keep)


def tpo_single_grad(logp: ArrayLike, target: ArrayLike, mask: ArrayLike | None = None) -> Floats:
    """Gradient of `tpo_single_loss` in log p(a).

    Paper: App. C (at the snapshot; deviation D7)

    ∂L/∂log p(a) = (p − q)/(1 − p), at least −1 and 0 at the target. Through a softmax it becomes p − q in the logit of
    a and −π_j(p − q)/(1 − p) in another one: within [−1, 1], and summing to 0.

    Args, Raises: as `tpo_single_loss`. Returns: (…).

    >>> tpo_single_grad(np.log([0.5, 0.25]), [np.log(3), np.log(3)]).round(4).tolist()
    [-0.5, -0.6667]
    """
    x, keep = checks.group("logp", logp, mask, checks.log_probabilities)
    return _tpo_single_grad(x, checks.finite("target", target, keep), keep)


# -- what is computed, of arrays that were checked -----------------------------------------------------------------
# Their masked entries are 0.


def _tpo_single_target(logp_old: Floats, advantages: Floats, eta: float, mask: Bools) -> Floats:
    x = _below_one(logp_old)
    with np.errstate(over="ignore"):
        tilt = advantages / eta
    most = np.finfo(np.float64).max
    return np.where(mask, np.clip(x - _log1mexp(x) + tilt, -most, most), 0.0)


def _tpo_single_loss(logp: Floats, target: Floats, mask: Bools) -> Floats:
    x = _below_one(logp)
    return np.where(mask, -(special.expit(target) * x + special.expit(-target) * _log1mexp(x)), 0.0)


def _tpo_single_grad(logp: Floats, target: Floats, mask: Bools) -> Floats:
    x = _below_one(logp)
    log_odds = x - _log1mexp(x)
    # q(e^gap − 1), and above the target the same with e^gap taken out: no difference of almost equal numbers.
    gap = log_odds - target
    size = np.where(gap < 0, special.expit(target), special.expit(-target) * np.exp(log_odds))
    return np.where(mask, np.sign(gap) * size * -np.expm1(-np.abs(gap)), 0.0)


def _below_one(logp: Floats) -> Floats:
    return np.minimum(logp, -LEAST_REST)


def _log1mexp(x: Floats) -> Floats:
    # log(1 − e^x) for x < 0; each form keeps its digits on its side of 1 − p = ½.
    near = x > -math.log(2)
    return np.where(near, np.log(-np.expm1(x)), np.log1p(-np.exp(np.where(near, -1.0, x))))
