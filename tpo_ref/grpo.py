"""GRPO: PPO's clip on group advantages, with a penalty for leaving the snapshot; per sequence or per token."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from tpo_ref import checks
from tpo_ref.checks import Bools, Floats
from tpo_ref.ppo import clipped_objective, clipped_objective_grad


def grpo_loss(
    logp: ArrayLike, logp_old: ArrayLike, advantages: ArrayLike, epsilon: float = 0.2, beta: float = 0.04
) -> Floats:
    """Clipped policy gradient with a KL penalty, one ratio for each whole candidate.

    Paper: GRPO

    L = −Σ [min(r_i A_i, clip(r_i, 1−ε, 1+ε) A_i) − β k3_i], r = e^x, x = ℓ − ℓ_old, k3 = e^{−x} + x − 1 ≥ 0. beta = 0
    is "GRPO, no KL". Summed over the group (deviation D33), without a clamp on x (deviation D30).

    Args: logp, logp_old (…, K) in nats, finite; advantages (…, K), from `group_standardised`; epsilon, beta ≥ 0. A
        masked candidate is given as logp = logp_old, A = 0, and contributes exactly nothing.
    Returns: (…), one loss per group; inf where r of an A < 0, or β/r, overflows.
    Raises: TypeError, ValueError for a bad dtype, shape, epsilon or beta, NaN or infinity.

    >>> float(grpo_loss([0.0, -2.0], [-1.0, -2.0], [1.0, -1.0], beta=0.0).round(4))
    -0.2
    """
    epsilon, beta = checks.non_negative("epsilon", epsilon), checks.non_negative("beta", beta)
    return _grpo_loss(*checks.rollout(logp, logp_old, advantages), epsilon, beta)


def grpo_grad(
    logp: ArrayLike, logp_old: ArrayLike, advantages: ArrayLike, epsilon: float = 0.2, beta: float = 0.04
) -> Floats:
    """Gradient of `grpo_loss` in the group logits.

    Paper: GRPO

    ∂L/∂ℓ_i = −A_i r_i 1_i + β(1 − 1/r_i) with 1_i from `inside_clip`. A zero-variance group (A = 0) keeps only the
    pull β(1 − 1/r), which is 0 at the snapshot.

    Args, Raises: as `grpo_loss`. Returns: (…, K).

    >>> grpo_grad([0.0, -2.0], [-1.0, -2.0], [1.0, -1.0], beta=0.0).tolist()
    [0.0, 1.0]
    """
    epsilon, beta = checks.non_negative("epsilon", epsilon), checks.non_negative("beta", beta)
    return _grpo_grad(*checks.rollout(logp, logp_old, advantages), epsilon, beta)


def grpo_token_loss(
    logp: ArrayLike,
    logp_old: ArrayLike,
    advantages: ArrayLike,
    token_mask: ArrayLike | None = None,
    epsilon: float = 0.2,
    beta: float = 0.04,
    mean_over_tokens: bool = False,
) -> Floats:
    """GRPO with one ratio for each token, every token of a candidate carrying the candidate's advantage.

    Paper: GRPO

    L = −Σ_i c_i Σ_t [min(r_it A_i, clip(r_it) A_i) − β k3_it]; c_i = 1, or 1/n_i when mean_over_tokens, n_i = the
    candidate's own number of tokens.

    Args: logp, logp_old (…, K, T) token log-probabilities in nats, finite where unmasked; advantages (…, K);
        token_mask (…, K, T) bool, False = no token here; epsilon, beta ≥ 0; mean_over_tokens.
    Returns: (…), one loss per group; a candidate without tokens contributes 0.
    Raises: TypeError, ValueError as `grpo_loss`, for a bad mask, and when there is no token axis.

    >>> logp = [[-1.0, -1.0], [-2.0, -2.0]]
    >>> float(grpo_token_loss(logp, logp, [1.0, -1.0], token_mask=[[True, True], [True, False]]))
    -1.0
    """
    checks.choice("mean_over_tokens", mean_over_tokens, (False, True))
    epsilon, beta = checks.non_negative("epsilon", epsilon), checks.non_negative("beta", beta)
    new, keep = checks.group("logp", logp, token_mask, checks.token_log_weights, "token_mask")
    old = checks.finite_log_weights("logp_old", logp_old, keep)
    a = checks.finite("advantages", advantages, shape=new.shape[:-1])
    return _grpo_token_loss(new, old, a, keep, epsilon, beta, mean_over_tokens)


def grpo_token_grad(
    logp: ArrayLike,
    logp_old: ArrayLike,
    advantages: ArrayLike,
    token_mask: ArrayLike | None = None,
    epsilon: float = 0.2,
    beta: float = 0.04,
    mean_over_tokens: bool = False,
) -> Floats:
    """Gradient of `grpo_token_loss` in the token log-probabilities.

    Paper: GRPO

    ∂L/∂ℓ_it = c_i [−A_i r_it 1_it + β(1 − 1/r_it)], exactly 0 at a masked token.

    Args, Raises: as `grpo_token_loss`. Returns: (…, K, T).

    >>> logp = [[-1.0, -1.0], [-2.0, -2.0]]
    >>> grpo_token_grad(logp, logp, [1.0, -1.0], mean_over_tokens=True).tolist()
    [[-0.5, -0.5], [0.5, 0.5]]
    """
    checks.choice("mean_over_tokens", mean_over_tokens, (False, True))
    epsilon, beta = checks.non_negative("epsilon", epsilon), checks.non_negative("beta", beta)
    new, keep = checks.group("logp", logp, token_mask, checks.token_log_weights, "token_mask")
    old = checks.finite_log_weights("logp_old", logp_old, keep)
    a = checks.finite("advantages", advantages, shape=new.shape[:-1])
    return _grpo_token_grad(new, old, a, keep, epsilon, beta, mean_over_tokens)


def _each(x: Floats, a: Floats, epsilon: float, beta: float) -> Floats:
    objective = clipped_objective(x, a, epsilon, epsilon)
    # Without the penalty nothing may be formed that overflows: 0·inf would be NaN.
    if beta == 0:
        return 0.0 - objective
    with np.errstate(over="ignore"):
        return np.asarray(beta * (np.expm1(-x) + x) - objective)


def _each_grad(x: Floats, a: Floats, epsilon: float, beta: float) -> Floats:
    slope = clipped_objective_grad(x, a, epsilon, epsilon)
    if beta == 0:
        return 0.0 - slope
    with np.errstate(over="ignore"):
        return np.asarray(0.0 - beta * np.expm1(-x) - slope)


# -- what is computed, of arrays that were checked -----------------------------------------------------------------
# Their masked entries are 0.


def _grpo_loss(logp: Floats, logp_old: Floats, advantages: Floats, epsilon: float, beta: float) -> Floats:
    return np.asarray(_each(logp - logp_old, advantages, epsilon, beta).sum(-1))


def _grpo_grad(logp: Floats, logp_old: Floats, advantages: Floats, epsilon: float, beta: float) -> Floats:
    return _each_grad(logp - logp_old, advantages, epsilon, beta)


def _grpo_token_loss(
    logp: Floats,
    logp_old: Floats,
    advantages: Floats,
    token_mask: Bools,
    epsilon: float,
    beta: float,
    mean_over_tokens: bool,
) -> Floats:
    a, weight = _per_token(advantages, token_mask, mean_over_tokens)
    return np.asarray((_each(logp - logp_old, a, epsilon, beta) * weight).sum((-2, -1)))


def _grpo_token_grad(
    logp: Floats,
    logp_old: Floats,
    advantages: Floats,
    token_mask: Bools,
    epsilon: float,
    beta: float,
    mean_over_tokens: bool,
) -> Floats:
    a, weight = _per_token(advantages, token_mask, mean_over_tokens)
    return _each_grad(logp - logp_old, a, epsilon, beta) * weight


def _per_token(advantages: Floats, token_mask: Bools, mean_over_tokens: bool) -> tuple[Floats, Floats]:
    """Advantage and weight of every token, both 0 at a masked one."""
    own = np.maximum(token_mask.sum(-1, keepdims=True), 1) if mean_over_tokens else 1
    return np.where(token_mask, advantages[..., None], 0.0), token_mask / own
