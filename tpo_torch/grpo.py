"""GRPO: PPO's clip on group advantages, with a penalty for leaving the snapshot; per sequence or per token."""

from __future__ import annotations

import torch
from torch import Tensor

from tpo_torch import checks
from tpo_torch.ppo import _slope, clipped_objective


def grpo_loss(logp: Tensor, logp_old: Tensor, advantages: Tensor, epsilon: float = 0.2, beta: float = 0.04) -> Tensor:
    """Clipped policy gradient with a KL penalty, one ratio for each whole candidate.

    Paper: GRPO

    L = −Σ [min(r_i A_i, clip(r_i, 1−ε, 1+ε) A_i) − β k3_i], r = e^x, x = ℓ − ℓ_old, k3 = e^{−x} + x − 1 ≥ 0. beta = 0
    is "GRPO, no KL". Summed over the group (deviation D33), without a clamp on x (deviation D30). Autograd gives
    ∂L/∂ℓ_i = −A_i r_i 1_i + β(1 − 1/r_i): a zero-variance group (A = 0) keeps only the pull β(1 − 1/r).

    Args: logp, logp_old (…, K) in nats, finite; advantages (…, K), from `group_standardised`; epsilon, beta ≥ 0. A
        masked candidate is given as logp = logp_old, A = 0, and contributes exactly nothing.
    Returns: (…), one loss per group; inf where r of an A < 0, or β/r, overflows.
    Raises: TypeError, ValueError for a bad dtype, shape, epsilon or beta, NaN or infinity.

    >>> new, old = torch.tensor([0.0, -2.0]), torch.tensor([-1.0, -2.0])
    >>> grpo_loss(new, old, torch.tensor([1.0, -1.0]), beta=0.0)
    tensor(-0.2000)
    """
    epsilon, beta = checks.non_negative("epsilon", epsilon), checks.non_negative("beta", beta)
    return _grpo_loss(*checks.rollout(logp, logp_old, advantages), epsilon, beta)


def grpo_token_loss(
    logp: Tensor,
    logp_old: Tensor,
    advantages: Tensor,
    token_mask: Tensor | None = None,
    epsilon: float = 0.2,
    beta: float = 0.04,
    mean_over_tokens: bool = False,
) -> Tensor:
    """GRPO with one ratio for each token, every token of a candidate carrying the candidate's advantage.

    Paper: GRPO

    L = −Σ_i c_i Σ_t [min(r_it A_i, clip(r_it) A_i) − β k3_it]; c_i = 1, or 1/n_i when mean_over_tokens, n_i = the
    candidate's own number of tokens. The gradient is exactly 0 at a masked token.

    Args: logp, logp_old (…, K, T) token log-probabilities in nats, finite where unmasked; advantages (…, K);
        token_mask (…, K, T) bool, False = no token here; epsilon, beta ≥ 0; mean_over_tokens.
    Returns: (…), one loss per group; a candidate without tokens contributes 0.
    Raises: TypeError, ValueError as `grpo_loss`, for a bad mask, and when there is no token axis.

    >>> logp = torch.tensor([[-1.0, -1.0], [-2.0, -2.0]])
    >>> mask = torch.tensor([[True, True], [True, False]])
    >>> grpo_token_loss(logp, logp, torch.tensor([1.0, -1.0]), token_mask=mask)
    tensor(-1.)
    """
    checks.choice("mean_over_tokens", mean_over_tokens, (False, True))
    epsilon, beta = checks.non_negative("epsilon", epsilon), checks.non_negative("beta", beta)
    new, keep = checks.group("logp", logp, token_mask, checks.token_log_weights, "token_mask")
    old = checks.finite_log_weights("logp_old", logp_old, keep)
    a = checks.finite("advantages", advantages, like=new[..., 0])
    return _grpo_token_loss(new, old, a, keep, epsilon, beta, mean_over_tokens)


def _each(x: Tensor, a: Tensor, epsilon: float, beta: float) -> Tensor:
    objective = clipped_objective(x, a, epsilon, epsilon)
    # Without the penalty nothing may be formed that overflows: 0·inf would be NaN.
    if beta == 0:
        return -objective
    return beta * (torch.expm1(-x) + x) - objective


# -- what is computed, of tensors that were checked ----------------------------------------------------------------
# Their masked entries are 0.


def _grpo_loss(logp: Tensor, logp_old: Tensor, advantages: Tensor, epsilon: float, beta: float) -> Tensor:
    return _each(logp - logp_old.detach(), advantages.detach(), epsilon, beta).sum(-1)


def _grpo_grad(logp: Tensor, logp_old: Tensor, advantages: Tensor, epsilon: float, beta: float) -> Tensor:
    x = logp - logp_old
    g = 0.0 - _slope(x, advantages, epsilon, epsilon)
    return g - beta * torch.expm1(-x) if beta else g


def _grpo_token_loss(
    logp: Tensor,
    logp_old: Tensor,
    advantages: Tensor,
    token_mask: Tensor,
    epsilon: float,
    beta: float,
    mean_over_tokens: bool,
) -> Tensor:
    x = logp - logp_old.detach()
    own = token_mask.sum(-1, keepdim=True).clamp(min=1) if mean_over_tokens else 1
    a = torch.where(token_mask, advantages.detach().unsqueeze(-1), 0.0)
    return (_each(x, a, epsilon, beta) * (token_mask.to(x.dtype) / own)).sum((-2, -1))
