"""Weighted regression: AWR and MPO raise every candidate, the better ones more. Last axis = group."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tpo_torch import checks, simplex

# Below this share of the scores' range every weight but the best candidate's has vanished (deviation D34).
FLOOR_OF_RANGE = 1e-6
# Halvings of an interval of log η: enough for the last digit of float64; a fixed number needs no look at the values.
BISECTIONS = 60


def awr_loss(
    logp: Tensor, advantages: Tensor, beta: float = 1.0, w_max: float = 20.0, mask: Tensor | None = None
) -> Tensor:
    """Log-likelihood of the candidates, weighted by the exponential of their advantage.

    Paper: AWR

    L = −Σ w_i ℓ_i with w = min(e^{A/β}, w_max), frozen: ∂L/∂ℓ = −w, never zero, even in a zero-variance group.

    Args: logp (…, K) in nats; advantages (…, K); beta > 0, in the unit of the advantages; w_max > 0; mask (…, K) bool.
        A masked candidate must be masked: A = 0 has weight 1.
    Returns: (…), one loss per group, summed over its candidates.
    Raises: TypeError, ValueError for a bad dtype, shape, mask, beta or w_max, NaN or infinity.

    >>> awr_loss(torch.tensor([-1.0, -2.0]), torch.tensor([0.0, 100.0]))
    tensor(41.)
    """
    beta, w_max = checks.positive("beta", beta), checks.positive("w_max", w_max)
    a, keep = checks.group("advantages", advantages, mask, checks.finite)
    return _awr_loss(checks.finite_log_weights("logp", logp, keep), a, beta, w_max, keep)


def mpo_temperature(
    scores: Tensor, epsilon: float, logp_old: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """The temperature that spends a KL budget exactly.

    Paper: MPO

    η* = argmin_η ηε + η log Σ p_old e^{s/η}, p_old uniform when logp_old is None. The derivative of this convex dual is
    ε − KL(q_η‖p_old) with q_η ∝ p_old e^{s/η}. One η* per group (deviation D34). A budget that even the best candidate
    alone cannot spend gives the floor, 1e-6 of the scores' range; constant scores give 1, as every η fits them.

    Args: scores (…, K) raw; epsilon > 0, in nats; logp_old (…, K) in nats, −inf allowed; mask (…, K) bool.
    Returns: (…), detached, in the unit of the scores.
    Raises: TypeError, ValueError for a bad dtype, shape, mask or epsilon, NaN or infinite scores.

    >>> mpo_temperature(torch.tensor([1.0, 0.0]), 0.1)
    tensor(1.0599)
    """
    epsilon = checks.divisor("epsilon", epsilon)
    s, keep = checks.group("scores", scores, mask, checks.finite)
    old = None if logp_old is None else checks.log_weights("logp_old", logp_old, keep)
    return _mpo_temperature(s, epsilon, old, keep)


def mpo_weights(
    scores: Tensor, temperature: Tensor, logp_old: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """The non-parametric policy that MPO regresses on.

    Paper: MPO

    w = softmax(s/η*), or w ∝ p_old e^{s/η*} when the candidates are an enumeration and not a sample.

    Args: scores (…, K) raw; temperature (…) > 0, from `mpo_temperature`; logp_old (…, K) in nats; mask (…, K) bool.
    Returns: (…, K), detached, summing to 1 over the unmasked.
    Raises: TypeError, ValueError for a bad dtype, shape, mask or temperature, NaN or infinite scores.

    >>> mpo_weights(torch.tensor([1.0, -1.0]), torch.tensor(1.0))
    tensor([0.8808, 0.1192])
    """
    s, keep = checks.group("scores", scores, mask, checks.finite)
    eta = checks.dense("temperature", temperature)
    checks.same_device("temperature", eta, s)
    checks.same_shape("temperature", eta, tuple(s.shape[:-1]))
    if not checks.all_hold(torch.isfinite(eta) & (eta > 0)):
        raise ValueError(f"temperature: got {float(eta.min()):g}, expected finite and above 0; use mpo_temperature")
    old = None if logp_old is None else checks.log_weights("logp_old", logp_old, keep)
    return _mpo_weights(s, eta, old, keep)


def mpo_loss(logp: Tensor, w: Tensor, mask: Tensor | None = None) -> Tensor:
    """Log-likelihood of the candidates under fixed weights.

    Paper: MPO

    L = −Σ w_i ℓ_i; unlike `tpo_loss`, ℓ is not renormalised over the group: ∂L/∂ℓ = −w, Σ g = −1, never extinguished.

    Args: logp (…, K) in nats, finite where w > 0; w (…, K), from `mpo_weights`; mask (…, K) bool, the one w was made
        with.
    Returns: (…), one loss per group in nats.
    Raises: TypeError, ValueError for a bad dtype, shape or mask, NaN, or a w that is no distribution.

    >>> mpo_loss(torch.tensor([-1.0, -2.0]), torch.tensor([0.5, 0.5]))
    tensor(1.5000)
    """
    shares, keep = checks.group("w", w, mask, checks.distribution)
    return _mpo_loss(checks.finite_log_weights("logp", logp, shares > 0), shares, keep)


# -- what is computed, of tensors that were checked ----------------------------------------------------------------
# Their masked entries hold what the checks put there: −inf in logits, 0 elsewhere.


def _awr_loss(logp: Tensor, advantages: Tensor, beta: float, w_max: float, mask: Tensor) -> Tensor:
    w = torch.exp(advantages.detach() / beta).clamp(max=w_max)
    # At a masked candidate ℓ = 0, cut from the graph, so that its weight does not matter.
    return -(w * logp).sum(-1)


def _mpo_temperature(scores: Tensor, epsilon: float, logp_old: Tensor | None, mask: Tensor) -> Tensor:
    s, logs = scores.detach(), _log_prior(scores, logp_old, mask)
    support = logs > -math.inf
    best = torch.where(support, s, -math.inf).amax(-1, keepdim=True)
    span = best - torch.where(support, s, math.inf).amin(-1, keepdim=True)
    varied = ~(span <= 0)
    below_best = torch.where(support & varied, (s - best) / torch.where(varied, span, 1.0), 0.0)
    # A group without candidates has no distribution; any finite one keeps its arithmetic quiet.
    logs = torch.where(support.any(-1, keepdim=True), logs, 0.0)
    low = torch.full_like(span, math.log(FLOOR_OF_RANGE))
    # KL ≤ R²/(8η²) bounds the root from above (Hoeffding's lemma).
    high = torch.full_like(span, max(-math.log(8 * epsilon) / 2, math.log(FLOOR_OF_RANGE)))
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        tilt = below_best / torch.exp(middle)
        tilted = logs + tilt
        spent = (torch.softmax(tilted, -1) * tilt).sum(-1, keepdim=True) - torch.logsumexp(tilted, -1, keepdim=True)
        low, high = torch.where(spent > epsilon, middle, low), torch.where(spent > epsilon, high, middle)
    return torch.where(varied, span * torch.exp((low + high) / 2), 1.0).squeeze(-1)


def _mpo_weights(scores: Tensor, temperature: Tensor, logp_old: Tensor | None, mask: Tensor) -> Tensor:
    s, logs = scores.detach(), _log_prior(scores, logp_old, mask)
    support = logs > -math.inf
    best = torch.where(support, s, -math.inf).amax(-1, keepdim=True)
    # Scores enter relative to the best: near the temperature's floor they would drown log p_old in rounding.
    tilt = torch.where(support, s - best, 0.0) / temperature.detach().unsqueeze(-1)
    return simplex._softmax(logs + tilt, mask)


def _mpo_loss(logp: Tensor, w: Tensor, mask: Tensor) -> Tensor:
    return -(w.detach() * logp).sum(-1)


def _log_prior(scores: Tensor, logp_old: Tensor | None, mask: Tensor) -> Tensor:
    """log p_old, uniform over the unmasked when None, in the dtype of the scores; −inf outside the support."""
    if logp_old is None:
        logp_old = torch.zeros_like(scores).masked_fill(~mask, -math.inf)
    return simplex._log_softmax(logp_old.detach(), mask)
