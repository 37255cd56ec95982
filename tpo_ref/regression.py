"""Weighted regression: AWR and MPO raise every candidate, the better ones more. Last axis = group."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special

from tpo_ref import checks, simplex
from tpo_ref.checks import Bools, Floats

# Below this share of the scores' range every weight but the best candidate's has vanished (deviation D34).
FLOOR_OF_RANGE = 1e-6
# brentq works on log η: an absolute error there is a relative error of η.
ROOT_TOLERANCE = 1e-13


def awr_loss(
    logp: ArrayLike, advantages: ArrayLike, beta: float = 1.0, w_max: float = 20.0, mask: ArrayLike | None = None
) -> Floats:
    """Log-likelihood of the candidates, weighted by the exponential of their advantage.

    Paper: AWR

    L = −Σ w_i ℓ_i with w = min(e^{A/β}, w_max).

    Args: logp (…, K) in nats; advantages (…, K); beta > 0, in the unit of the advantages; w_max > 0; mask (…, K) bool.
        A masked candidate must be masked: A = 0 has weight 1.
    Returns: (…), one loss per group, summed over its candidates.
    Raises: TypeError, ValueError for a bad dtype, shape, mask, beta or w_max, NaN or infinity.

    >>> float(awr_loss([-1.0, -2.0], [0.0, 100.0]))
    41.0
    """
    beta, w_max = checks.positive("beta", beta), checks.positive("w_max", w_max)
    a, keep = checks.group("advantages", advantages, mask, checks.finite)
    return _awr_loss(checks.finite_log_weights("logp", logp, keep), a, beta, w_max, keep)


def awr_grad(
    logp: ArrayLike, advantages: ArrayLike, beta: float = 1.0, w_max: float = 20.0, mask: ArrayLike | None = None
) -> Floats:
    """Gradient of `awr_loss` in the group logits.

    Paper: AWR

    ∂L/∂ℓ = −w: never zero, and negative everywhere, so Σ g < 0 even in a zero-variance group.

    Args, Raises: as `awr_loss`. Returns: (…, K).

    >>> awr_grad([-1.0, -2.0], [0.0, 100.0]).tolist()
    [-1.0, -20.0]
    """
    beta, w_max = checks.positive("beta", beta), checks.positive("w_max", w_max)
    a, keep = checks.group("advantages", advantages, mask, checks.finite)
    return _awr_grad(checks.finite_log_weights("logp", logp, keep), a, beta, w_max, keep)


def mpo_temperature(
    scores: ArrayLike, epsilon: float, logp_old: ArrayLike | None = None, mask: ArrayLike | None = None
) -> Floats:
    """The temperature that spends a KL budget exactly.

    Paper: MPO

    η* = argmin_η ηε + η log Σ p_old e^{s/η}, p_old uniform when logp_old is None. The derivative of this convex dual is
    ε − KL(q_η‖p_old) with q_η ∝ p_old e^{s/η}. One η* per group (deviation D34). A budget that even the best candidate
    alone cannot spend gives the floor, 1e-6 of the scores' range; constant scores give 1, as every η fits them.

    Args: scores (…, K) raw; epsilon > 0, in nats; logp_old (…, K) in nats, −inf allowed; mask (…, K) bool.
    Returns: (…), in the unit of the scores.
    Raises: TypeError, ValueError for a bad dtype, shape, mask or epsilon, NaN or infinite scores.

    >>> float(mpo_temperature([1.0, 0.0], 0.1).round(4))
    1.0599
    """
    epsilon = checks.divisor("epsilon", epsilon)
    s, keep = checks.group("scores", scores, mask, checks.finite)
    old = None if logp_old is None else checks.log_weights("logp_old", logp_old, keep)
    return _mpo_temperature(s, epsilon, old, keep)


def mpo_weights(
    scores: ArrayLike, temperature: ArrayLike, logp_old: ArrayLike | None = None, mask: ArrayLike | None = None
) -> Floats:
    """The non-parametric policy that MPO regresses on.

    Paper: MPO

    w = softmax(s/η*), or w ∝ p_old e^{s/η*} when the candidates are an enumeration and not a sample.

    Args: scores (…, K) raw; temperature (…) > 0, from `mpo_temperature`; logp_old (…, K) in nats; mask (…, K) bool.
    Returns: (…, K), summing to 1 over the unmasked.
    Raises: TypeError, ValueError for a bad dtype, shape, mask or temperature, NaN or infinite scores.

    >>> mpo_weights([1.0, -1.0], 1.0).round(4).tolist()
    [0.8808, 0.1192]
    """
    s, keep = checks.group("scores", scores, mask, checks.finite)
    eta = checks.figures("temperature", temperature)
    checks.same_shape("temperature", eta, s.shape[:-1])
    if not (np.isfinite(eta) & (eta > 0)).all():
        raise ValueError(f"temperature: got {eta.min():g}, expected finite and above 0; use mpo_temperature")
    old = None if logp_old is None else checks.log_weights("logp_old", logp_old, keep)
    return _mpo_weights(s, eta, old, keep)


def mpo_loss(logp: ArrayLike, w: ArrayLike, mask: ArrayLike | None = None) -> Floats:
    """Log-likelihood of the candidates under fixed weights.

    Paper: MPO

    L = −Σ w_i ℓ_i; unlike `tpo_loss`, ℓ is not renormalised over the group.

    Args: logp (…, K) in nats, finite where w > 0; w (…, K), from `mpo_weights`; mask (…, K) bool, the one w was made
        with.
    Returns: (…), one loss per group in nats.
    Raises: TypeError, ValueError for a bad dtype, shape or mask, NaN, or a w that is no distribution.

    >>> float(mpo_loss([-1.0, -2.0], [0.5, 0.5]))
    1.5
    """
    shares, keep = checks.group("w", w, mask, checks.distribution)
    return _mpo_loss(checks.finite_log_weights("logp", logp, shares > 0), shares, keep)


def mpo_grad(logp: ArrayLike, w: ArrayLike, mask: ArrayLike | None = None) -> Floats:
    """Gradient of `mpo_loss` in the group logits.

    Paper: MPO

    ∂L/∂ℓ = −w: Σ g = −1 whatever ℓ and the scores are, so it never extinguishes.

    Args, Raises: as `mpo_loss`. Returns: (…, K).

    >>> mpo_grad([-1.0, -2.0], [0.75, 0.25]).tolist()
    [-0.75, -0.25]
    """
    shares, keep = checks.group("w", w, mask, checks.distribution)
    return _mpo_grad(checks.finite_log_weights("logp", logp, shares > 0), shares, keep)


# -- what is computed, of arrays that were checked -----------------------------------------------------------------
# Their masked entries hold what the checks put there: −inf in logits, 0 elsewhere.


def _awr_loss(logp: Floats, advantages: Floats, beta: float, w_max: float, mask: Bools) -> Floats:
    return np.asarray(-(_awr_weights(advantages, beta, w_max, mask) * logp).sum(-1))


def _awr_grad(logp: Floats, advantages: Floats, beta: float, w_max: float, mask: Bools) -> Floats:
    return 0.0 - _awr_weights(advantages, beta, w_max, mask)


def _awr_weights(advantages: Floats, beta: float, w_max: float, mask: Bools) -> Floats:
    with np.errstate(over="ignore"):
        return np.where(mask, np.minimum(np.exp(advantages / beta), w_max), 0.0)


def _mpo_temperature(scores: Floats, epsilon: float, logp_old: Floats | None, mask: Bools) -> Floats:
    logs = _log_prior(logp_old, mask)
    eta = np.ones(scores.shape[:-1])
    for group in np.ndindex(eta.shape):
        support = np.isfinite(logs[group])
        eta[group] = _temperature(scores[group][support], logs[group][support], epsilon)
    return eta


def _mpo_weights(scores: Floats, temperature: Floats, logp_old: Floats | None, mask: Bools) -> Floats:
    logs = _log_prior(logp_old, mask)
    support = np.isfinite(logs)
    best = np.where(support, scores, -np.inf).max(-1, keepdims=True)
    # Scores enter relative to the best: near the temperature's floor they would drown log p_old in rounding.
    tilt = np.where(support, scores - np.where(np.isfinite(best), best, 0.0), 0.0) / temperature[..., None]
    return simplex._softmax(logs + tilt, mask)


def _mpo_loss(logp: Floats, w: Floats, mask: Bools) -> Floats:
    return np.asarray(-(w * logp).sum(-1))


def _mpo_grad(logp: Floats, w: Floats, mask: Bools) -> Floats:
    return 0.0 - w


def _log_prior(logp_old: Floats | None, mask: Bools) -> Floats:
    """log p_old, uniform over the unmasked when None; −inf outside the support."""
    return simplex._log_softmax(np.where(mask, 0.0, -np.inf) if logp_old is None else logp_old, mask)


def _temperature(s: Floats, logs: Floats, epsilon: float) -> float:
    """Root of ε − KL(q_η‖p) for one group, all of it in the support."""
    span = float(np.ptp(s)) if s.size else 0.0
    if span == 0:
        return 1.0
    below_best = (s - s.max()) / span

    def unspent(log_eta: float) -> float:
        tilt = below_best / np.exp(log_eta)
        log_mean = special.logsumexp(logs + tilt)
        return float(epsilon - (np.exp(logs + tilt - log_mean) @ tilt - log_mean))

    # KL ≤ R²/(8η²) bounds the root from above (Hoeffding's lemma).
    lowest, highest = np.log(FLOOR_OF_RANGE), -np.log(8 * epsilon) / 2
    if unspent(lowest) >= 0:
        return span * FLOOR_OF_RANGE
    return span * float(np.exp(optimize.brentq(unspent, lowest, highest, xtol=ROOT_TOLERANCE)))
