"""PPO, and the clipped ratio that GRPO, DAPO and GSPO share with it. Last axis = group."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from tpo_ref import checks
from tpo_ref.checks import Bools, Floats

# "r exactly at the boundary" in floating point: log r this many units in the last place past it is rounding
# (deviation D38).
CLIP_ULPS = 4


def ppo_loss(logp: ArrayLike, logp_old: ArrayLike, advantages: ArrayLike, epsilon: float = 0.2) -> Floats:
    """Policy gradient that stops paying once a candidate's ratio has moved by ε in its favour.

    Paper: PPO

    L = −Σ min(r_i A_i, clip(r_i, 1−ε, 1+ε) A_i) with r = exp(ℓ − ℓ_old); no clamp on ℓ − ℓ_old (deviation D30).

    Args: logp, logp_old (…, K) in nats, finite; advantages (…, K); epsilon ≥ 0. A masked candidate is given as
        logp = logp_old, A = 0, and contributes exactly nothing.
    Returns: (…), one loss per group, summed over its candidates; inf where r of an A < 0 overflows.
    Raises: TypeError, ValueError for a bad dtype, shape or epsilon, NaN or infinity.

    >>> float(ppo_loss([-1.0, -2.0], [-1.0, -2.0], [1.0, -0.5]))
    -0.5
    """
    epsilon = checks.non_negative("epsilon", epsilon)
    return _ppo_loss(*checks.rollout(logp, logp_old, advantages), epsilon)


def ppo_grad(logp: ArrayLike, logp_old: ArrayLike, advantages: ArrayLike, epsilon: float = 0.2) -> Floats:
    """Gradient of `ppo_loss` in the group logits.

    Paper: PPO

    ∂L/∂ℓ_i = −A_i r_i 1_i with 1_i from `inside_clip`.

    Args, Raises: as `ppo_loss`. Returns: (…, K).

    >>> ppo_grad([0.0, -2.0], [-1.0, -2.0], [1.0, -0.5]).tolist()
    [0.0, 0.5]
    """
    epsilon = checks.non_negative("epsilon", epsilon)
    return _ppo_grad(*checks.rollout(logp, logp_old, advantages), epsilon)


def log_ratio(logp: ArrayLike, logp_old: ArrayLike, mask: ArrayLike | None = None) -> Floats:
    """How far each log-probability has moved since the snapshot.

    Paper: PPO (its ratio)

    x = ℓ − ℓ_old, so that r = exp x; 0 at a masked entry.

    Args: logp, logp_old (…, K) in nats, finite where unmasked; mask (…, K) bool.
    Returns: (…, K) in nats.
    Raises: TypeError, ValueError for a bad dtype, shape or mask, NaN or infinity.

    >>> log_ratio([-1.0, -2.0], [-1.5, -2.0]).tolist()
    [0.5, 0.0]
    """
    new, keep = checks.group("logp", logp, mask, checks.finite_log_weights)
    return np.asarray(new - checks.finite_log_weights("logp_old", logp_old, keep))


def inside_clip(x: Floats, advantages: Floats, epsilon_low: float, epsilon_high: float) -> Bools:
    """Which candidates still have a gradient.

    Paper: PPO (its clip)

    1_i = [A ≥ 0 and r ≤ 1+ε_high] or [A < 0 and r ≥ 1−ε_low]: the boundary, up to rounding, is inside. Decided on
    x = log r, which cannot overflow. Its complement, averaged, is the clip fraction.

    Args: x (…, K), a log-ratio; advantages (…, K); epsilon_low, epsilon_high ≥ 0; all checked by the rule that calls.
    Returns: (…, K) bool.

    >>> inside_clip(np.log([1.2, 1.3, 0.7, 0.7]), np.array([1.0, 1.0, 1.0, -1.0]), 0.2, 0.2).tolist()
    [True, False, True, False]
    """
    slack = CLIP_ULPS * float(np.finfo(x.dtype).eps)
    lowest = math.log1p(-epsilon_low) if epsilon_low < 1 else -math.inf
    return np.where(advantages >= 0, x <= math.log1p(epsilon_high) + slack, x >= lowest - slack)


def clipped_objective(x: Floats, advantages: Floats, epsilon_low: float, epsilon_high: float) -> Floats:
    """What each candidate adds to the objective.

    Paper: PPO (its clip)

    min(rA, clip(r, 1−ε_low, 1+ε_high) A) with r = exp x, which is rA where `inside_clip`, else A times the bound.

    Args: as `inside_clip`. Returns: (…, K), in the unit of the advantages.

    >>> clipped_objective(np.log([2.0, 0.5]), np.array([1.0, -1.0]), 0.2, 0.2).tolist()
    [1.2, -0.8]
    """
    bound = np.where(advantages >= 0, 1 + epsilon_high, 1 - epsilon_low)
    inside = inside_clip(x, advantages, epsilon_low, epsilon_high)
    with np.errstate(over="ignore"):
        return np.asarray(np.where(inside, np.exp(np.where(inside, x, 0.0)), bound) * advantages)


def clipped_objective_grad(x: Floats, advantages: Floats, epsilon_low: float, epsilon_high: float) -> Floats:
    """Slope of `clipped_objective` in x.

    Paper: PPO (its clip)

    A r where `inside_clip`, else exactly 0.

    Args: as `inside_clip`. Returns: (…, K), in the unit of the advantages.

    >>> clipped_objective_grad(np.log([2.0, 0.5]), np.array([1.0, 1.0]), 0.2, 0.2).tolist()
    [0.0, 0.5]
    """
    inside = inside_clip(x, advantages, epsilon_low, epsilon_high)
    with np.errstate(over="ignore"):
        return np.asarray(np.where(inside, np.exp(np.where(inside, x, 0.0)) * advantages, 0.0))


# -- what is computed, of arrays that were checked -----------------------------------------------------------------
# Their masked entries are 0.


def _ppo_loss(logp: Floats, logp_old: Floats, advantages: Floats, epsilon: float) -> Floats:
    return np.asarray(-clipped_objective(logp - logp_old, advantages, epsilon, epsilon).sum(-1))


def _ppo_grad(logp: Floats, logp_old: Floats, advantages: Floats, epsilon: float) -> Floats:
    return 0.0 - clipped_objective_grad(logp - logp_old, advantages, epsilon, epsilon)
