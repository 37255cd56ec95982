"""DAPO: PPO with more room upwards than downwards, and no update from groups that say nothing. Last axis = group."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tpo_ref import checks, standardize
from tpo_ref.checks import Bools, Floats
from tpo_ref.ppo import clipped_objective, clipped_objective_grad


def dapo_loss(
    logp: ArrayLike,
    logp_old: ArrayLike,
    advantages: ArrayLike,
    epsilon_low: float = 0.2,
    epsilon_high: float = 0.28,
) -> Floats:
    """Clipped policy gradient whose clip is wider above than below.

    Paper: DAPO

    L = −Σ min(r_i A_i, clip(r_i, 1−ε_low, 1+ε_high) A_i); one ratio per candidate, summed (deviation D33). Groups with
    `informative` False are to be dropped from the batch: their loss is 0, yet they would still be averaged over.

    Args: logp, logp_old (…, K) in nats, finite; advantages (…, K); epsilon_low, epsilon_high ≥ 0. A masked candidate is
        given as logp = logp_old, A = 0, and contributes exactly nothing.
    Returns: (…), one loss per group; inf where r of an A < 0 overflows.
    Raises: TypeError, ValueError for a bad dtype, shape or epsilon, NaN or infinity.

    >>> float(dapo_loss([0.0, -2.0], [-1.0, -2.0], [1.0, -1.0]).round(4))
    -0.28
    """
    low, high = checks.non_negative("epsilon_low", epsilon_low), checks.non_negative("epsilon_high", epsilon_high)
    return _dapo_loss(*checks.rollout(logp, logp_old, advantages), low, high)


def dapo_grad(
    logp: ArrayLike,
    logp_old: ArrayLike,
    advantages: ArrayLike,
    epsilon_low: float = 0.2,
    epsilon_high: float = 0.28,
) -> Floats:
    """Gradient of `dapo_loss` in the group logits.

    Paper: DAPO

    ∂L/∂ℓ_i = −A_i r_i 1_i with 1_i from `inside_clip`.

    Args, Raises: as `dapo_loss`. Returns: (…, K).

    >>> dapo_grad([0.0, -2.0], [-1.0, -2.0], [1.0, -1.0]).tolist()
    [0.0, 1.0]
    """
    low, high = checks.non_negative("epsilon_low", epsilon_low), checks.non_negative("epsilon_high", epsilon_high)
    return _dapo_grad(*checks.rollout(logp, logp_old, advantages), low, high)


def informative(scores: ArrayLike, mask: ArrayLike | None = None) -> Bools:
    """Which groups DAPO's dynamic sampling keeps.

    Paper: DAPO

    True where the scores of a group differ, "differ" meaning what it means in `standardize`: ptp(s) > 8·eps·max|s|.

    Args: scores (…, K); mask (…, K) bool, False = no candidate here.
    Returns: (…) bool; False for a group of one and for a group that is masked throughout.
    Raises: TypeError, ValueError for NaN or infinite scores, a bad dtype, shape or mask.

    >>> informative([[1.0, 0.0], [0.1, 0.1]]).tolist()
    [True, False]
    """
    s, keep = checks.group("scores", scores, mask, checks.scores)
    return _informative(s, keep)


# -- what is computed, of arrays that were checked -----------------------------------------------------------------
# Their masked entries are 0.


def _dapo_loss(logp: Floats, logp_old: Floats, advantages: Floats, epsilon_low: float, epsilon_high: float) -> Floats:
    return np.asarray(-clipped_objective(logp - logp_old, advantages, epsilon_low, epsilon_high).sum(-1))


def _dapo_grad(logp: Floats, logp_old: Floats, advantages: Floats, epsilon_low: float, epsilon_high: float) -> Floats:
    return 0.0 - clipped_objective_grad(logp - logp_old, advantages, epsilon_low, epsilon_high)


def _informative(scores: NDArray[Any], mask: Bools) -> Bools:
    return np.asarray((standardize._standardize(scores, mask) != 0).any(-1))
