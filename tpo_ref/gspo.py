"""GSPO: the clipped ratio of a whole sequence, per token of it. Last axis = group."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from tpo_ref import checks
from tpo_ref.checks import Floats
from tpo_ref.ppo import clipped_objective, clipped_objective_grad


def gspo_loss(
    logp: ArrayLike,
    logp_old: ArrayLike,
    advantages: ArrayLike,
    lengths: ArrayLike,
    epsilon_low: float = 3e-4,
    epsilon_high: float = 4e-4,
) -> Floats:
    """Clipped policy gradient on the geometric mean of a candidate's token ratios.

    Paper: GSPO

    L = −Σ min(s_i A_i, clip(s_i, 1−ε_low, 1+ε_high) A_i) with s_i = exp((ℓ_i − ℓ_old,i)/n_i). Summed over the group
    (deviation D33).

    Args: logp, logp_old (…, K) in nats, finite; advantages (…, K); lengths (…, K) tokens, ≥ 1; epsilon_low,
        epsilon_high ≥ 0. A masked candidate is given as logp = logp_old, A = 0, and contributes exactly nothing.
    Returns: (…), one loss per group; inf where s_i of an A < 0 overflows.
    Raises: TypeError, ValueError for a bad dtype, shape or epsilon, NaN or infinity, and for a length below 1.

    >>> float(gspo_loss([-1.0, -2.0], [-1.0, -2.0], [1.0, -0.5], [4, 2]))
    -0.5
    """
    low, high = checks.non_negative("epsilon_low", epsilon_low), checks.non_negative("epsilon_high", epsilon_high)
    new, old, a = checks.rollout(logp, logp_old, advantages)
    n = checks.lengths("lengths", lengths, np.ones(new.shape, dtype=np.bool_))
    return _gspo_loss(new, old, a, n, low, high)


def gspo_grad(
    logp: ArrayLike,
    logp_old: ArrayLike,
    advantages: ArrayLike,
    lengths: ArrayLike,
    epsilon_low: float = 3e-4,
    epsilon_high: float = 4e-4,
) -> Floats:
    """Gradient of `gspo_loss` in the group logits.

    Paper: GSPO

    ∂L/∂ℓ_i = −A_i s_i 1_i / n_i with 1_i from `inside_clip` on s_i.

    Args, Raises: as `gspo_loss`. Returns: (…, K).

    >>> gspo_grad([-1.0, -2.0], [-1.0, -2.0], [1.0, -0.5], [4, 2]).tolist()
    [-0.25, 0.25]
    """
    low, high = checks.non_negative("epsilon_low", epsilon_low), checks.non_negative("epsilon_high", epsilon_high)
    new, old, a = checks.rollout(logp, logp_old, advantages)
    n = checks.lengths("lengths", lengths, np.ones(new.shape, dtype=np.bool_))
    return _gspo_grad(new, old, a, n, low, high)


# -- what is computed, of arrays that were checked -----------------------------------------------------------------
# Their masked entries are 0, and 1 in lengths.


def _gspo_loss(
    logp: Floats, logp_old: Floats, advantages: Floats, lengths: Floats, epsilon_low: float, epsilon_high: float
) -> Floats:
    return np.asarray(-clipped_objective((logp - logp_old) / lengths, advantages, epsilon_low, epsilon_high).sum(-1))


def _gspo_grad(
    logp: Floats, logp_old: Floats, advantages: Floats, lengths: Floats, epsilon_low: float, epsilon_high: float
) -> Floats:
    x = (logp - logp_old) / lengths
    return (0.0 - clipped_objective_grad(x, advantages, epsilon_low, epsilon_high)) / lengths
