"""GRPO: PPO's clip on group advantages, with a penalty for leaving the snapshot; per sequence or per token."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from tpo_ref import checks
from tpo_ref.checks import Bools, Floats
from tpo_ref.ppo import clipped_objective, clipped_objective_grad, log_ratio


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
    x = log_ratio(logp, logp_old)
    a = checks.finite("advantages", advantages, shape=x.shape)
    return np.asarray(_each(x, a, epsilon, beta).sum(-1))


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
    x = log_ratio(logp, logp_old)
    a = checks.finite("advantages", advantages, shape=x.shape)
    return _each_grad(x, a, epsilon, beta)


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
    x, a, weight = _tokens(logp, logp_old, advantages, token_mask, mean_over_tokens)
    epsilon, beta = checks.non_negative("epsilon", epsilon), checks.non_negative("beta", beta)
    return np.asarray((_each(x, a, epsilon, beta) * weight).sum((-2, -1)))


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
    x, a, weight = _tokens(logp, logp_old, advantages, token_mask, mean_over_tokens)
    epsilon, beta = checks.non_negative("epsilon", epsilon), checks.non_negative("beta", beta)
    return _each_grad(x, a, epsilon, beta) * weight


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


def _tokens(
    logp: ArrayLike, logp_old: ArrayLike, advantages: ArrayLike, token_mask: ArrayLike | None, mean: bool
) -> tuple[Floats, Floats, Floats]:
    """Log-ratios, advantages and weights of every token; a masked one has log-ratio, advantage and weight 0."""
    checks.choice("mean_over_tokens", mean, (False, True))
    raw = checks.array("logp", logp)
    if raw.ndim == 1:
        raise ValueError(f"logp: got shape {raw.shape}, expected (..., K, T) with the tokens last; use grpo_loss")
    keep: Bools = checks.mask_for(token_mask, raw.shape, "token_mask")
    per_candidate = checks.finite("advantages", advantages, shape=raw.shape[:-1])
    own = np.maximum(keep.sum(-1, keepdims=True), 1) if mean else 1
    return log_ratio(raw, logp_old, keep), np.where(keep, per_candidate[..., None], 0.0), keep / own
