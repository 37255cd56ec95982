"""TPO: target, loss, gradient, objective, coefficients, and the ratio form. Last axis = group."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tpo_ref import checks, simplex, standardize
from tpo_ref.checks import Bools, Floats


def tpo_target(logp_old: ArrayLike, u: ArrayLike, eta: float = 1.0, mask: ArrayLike | None = None) -> Floats:
    """The target q: the old group distribution, tilted towards high standardised scores.

    Paper: Eq. 2

    q_i ∝ p_i^old exp(u_i/η). It stays frozen for the whole update, however many epochs.

    Args: logp_old (…, K) in nats, −inf allowed; u (…, K); eta > 0; mask (…, K) bool.
    Returns: (…, K), summing to 1 over the unmasked; with constant u exactly softmax(logp_old).
    Raises: TypeError, ValueError for a bad dtype, shape, mask, eta, or NaN.

    >>> tpo_target([0.0, 0.0], [1.0, -1.0]).round(4).tolist()
    [0.8808, 0.1192]
    """
    eta = checks.positive("eta", eta)
    x, keep = checks.group("logp_old", logp_old, mask)
    return _tpo_target(x, checks.finite("u", u, keep), eta, keep)


def tpo_loss(logp: ArrayLike, q: ArrayLike, mask: ArrayLike | None = None) -> Floats:
    """Cross-entropy of the group distribution to the target.

    Paper: Eq. 3

    L = −Σ q_i log p_i with p = softmax(ℓ); 0·log 0 = 0. L − H(q) = KL(q‖p).

    Args: logp (…, K) in nats; q (…, K), a distribution; mask (…, K) bool, the one q was made with.
    Returns: (…), one loss per group in nats; 0 for a group that is masked throughout.
    Raises: TypeError, ValueError for a bad dtype, shape or mask, NaN, or a q that is no distribution.

    >>> float(tpo_loss([0.0, 0.0], [1.0, 0.0]).round(4))
    0.6931
    """
    x, keep = checks.group("logp", logp, mask)
    return _tpo_loss(x, checks.distribution("q", q, keep), keep)


def tpo_grad(logp: ArrayLike, q: ArrayLike, mask: ArrayLike | None = None) -> Floats:
    """Gradient of `tpo_loss` in the group logits.

    Paper: Prop. 1

    ∂L/∂ℓ = p − q, hence Σ g = 0, |g_i| ≤ 1, and g = 0 exactly at the target.

    Args, Raises: as `tpo_loss`. Returns: (…, K).

    >>> tpo_grad([0.0, 0.0], [0.75, 0.25]).tolist()
    [-0.25, 0.25]
    """
    x, keep = checks.group("logp", logp, mask)
    return _tpo_grad(x, checks.distribution("q", q, keep), keep)


def tpo_objective(
    r: ArrayLike, logp_old: ArrayLike, u: ArrayLike, eta: float = 1.0, mask: ArrayLike | None = None
) -> Floats:
    """The regularised objective that the target maximises over the simplex.

    Paper: Eq. 4

    J(r) = r·u − η KL(r‖p_old). For every r: J(q) − J(r) = η KL(r‖q), so q is its only maximiser.

    Args: r (…, K), a distribution; logp_old, u, eta, mask as `tpo_target`.
    Returns: (…), in units of u; −inf where r > 0 and p_old = 0.
    Raises: TypeError, ValueError as `tpo_target`, and for an r that is no distribution.

    >>> float(tpo_objective([1.0, 0.0], [0.0, 0.0], [1.0, -1.0]).round(4))
    0.3069
    """
    eta = checks.positive("eta", eta)
    x, keep = checks.group("logp_old", logp_old, mask)
    return _tpo_objective(checks.distribution("r", r, keep), x, checks.finite("u", u, keep), eta, keep)


def tpo_coefficients(logp: ArrayLike, q: ArrayLike, mask: ArrayLike | None = None) -> Floats:
    """One number per candidate that carries the whole gradient.

    Paper: Prop. 1 (read backwards)

    c = q − p under stop-gradient. Σ_i −c_i ℓ_i has the gradient of `tpo_loss`, and is a plain sum over candidates.

    Args, Raises: as `tpo_loss`. Returns: (…, K), Σ c = 0; exactly 0 where q = softmax(logp).

    >>> tpo_coefficients([0.0, 0.0], [0.75, 0.25]).tolist()
    [0.25, -0.25]
    """
    x, keep = checks.group("logp", logp, mask)
    return _tpo_coefficients(x, checks.distribution("q", q, keep), keep)


def tpo_surrogate_loss(logp: ArrayLike, coefficients: ArrayLike) -> Floats:
    """The sum over candidates whose gradient is that of `tpo_loss`, cut into micro-batches at will.

    Paper: Prop. 1 (read backwards)

    S = −Σ c_i ℓ_i with c frozen: ∂S/∂ℓ = −c = p − q. Its value is not the loss, only its gradient is.

    Args: logp (…, K) in nats, of any subset of candidates; coefficients (…, K), from `tpo_coefficients`.
    Returns: (…).
    Raises: TypeError, ValueError for a bad dtype or shape, or NaN. Where c = 0, logp may be −inf (a masked candidate).

    >>> float(tpo_surrogate_loss([-1.0, -2.0], [0.25, -0.25]))
    -0.25
    """
    c = checks.finite("coefficients", coefficients)
    return _tpo_surrogate_loss(checks.finite_log_weights("logp", logp, c != 0), c)


def tpo_surrogate_grad(logp: ArrayLike, coefficients: ArrayLike) -> Floats:
    """Gradient of `tpo_surrogate_loss`.

    Paper: Prop. 1 (read backwards)

    ∂S/∂ℓ = −c, whatever ℓ is.

    Args, Raises: as `tpo_surrogate_loss`. Returns: (…, K).

    >>> tpo_surrogate_grad([-1.0, -2.0], [0.25, -0.25]).tolist()
    [-0.25, 0.25]
    """
    c = checks.finite("coefficients", coefficients)
    return _tpo_surrogate_grad(checks.finite_log_weights("logp", logp, c != 0), c)


def tpo(
    logp: ArrayLike,
    logp_old: ArrayLike,
    scores: ArrayLike,
    eta: float = 1.0,
    mask: ArrayLike | None = None,
    tau: float = 0.0,
    compat: str | None = None,
) -> Floats:
    """The whole update of one group: standardise, build the target, fit to it.

    Paper: Alg. 1

    u = standardize(s); q ∝ p_old exp(u/η), frozen; L = −Σ q log softmax(ℓ).

    Args: logp, logp_old (…, K) in nats; scores (…, K) raw; eta > 0; mask (…, K) bool; tau, compat as `standardize`.
    Returns: (…), one loss per group in nats.
    Raises: as `standardize`, `tpo_target`, `tpo_loss`.

    >>> float(tpo([0.0, 0.0], [0.0, 0.0], [1.0, 0.0]).round(4))
    0.6931
    """
    checks.choice("compat", compat, standardize.COMPAT)
    eta, tau = checks.positive("eta", eta), checks.non_negative("tau", tau)
    s, keep = checks.group("scores", scores, mask, checks.scores)
    old = checks.log_weights("logp_old", logp_old, keep)
    return _tpo(checks.log_weights("logp", logp, keep), old, s, eta, keep, tau, compat)


def tpo_weights(u: ArrayLike, eta: float = 1.0, mask: ArrayLike | None = None) -> Floats:
    """Softmax of the standardised scores alone.

    Paper: Eq. 2 without p_old

    w = softmax(u/η): the target of the ratio form (which keeps the anchor in its loss) and of the no-anchor ablation.

    Args: u (…, K); eta > 0; mask (…, K) bool.
    Returns: (…, K), summing to 1 over the unmasked.
    Raises: TypeError, ValueError for a bad dtype, shape, mask or eta, or NaN.

    >>> tpo_weights([1.0, -1.0]).round(4).tolist()
    [0.8808, 0.1192]
    """
    eta = checks.positive("eta", eta)
    tilt, keep = checks.group("u", u, mask, checks.finite)
    return _tpo_weights(tilt, eta, keep)


def tpo_ratio_loss(logp: ArrayLike, logp_old: ArrayLike, w: ArrayLike, mask: ArrayLike | None = None) -> Floats:
    """Cross-entropy of the softmax of log-ratios to the score weights.

    Paper: none; the listwise forward update of arXiv:2605.06139

    L = −Σ w_i log P_i with P = softmax(ℓ − ℓ_old). Stationary exactly where TPO is, whatever the anchor's spread.

    Args: logp, logp_old (…, K) in nats, logp_old finite; w (…, K), from `tpo_weights`; mask (…, K) bool.
    Returns: (…), one loss per group in nats.
    Raises: TypeError, ValueError as `tpo_loss`.

    >>> float(tpo_ratio_loss([-1.0, -2.0], [-1.0, -2.0], [0.75, 0.25]).round(4))
    0.6931
    """
    x, keep = checks.group("logp", logp, mask)
    old = checks.finite_log_weights("logp_old", logp_old, keep)
    return _tpo_ratio_loss(x, old, checks.distribution("w", w, keep), keep)


def tpo_ratio_grad(logp: ArrayLike, logp_old: ArrayLike, w: ArrayLike, mask: ArrayLike | None = None) -> Floats:
    """Gradient of `tpo_ratio_loss` in the group logits.

    Paper: none; as `tpo_ratio_loss`

    ∂L/∂ℓ = P − w; at the snapshot ℓ = ℓ_old it is 1/K − w and needs no log-probability at all.

    Args, Raises: as `tpo_ratio_loss`. Returns: (…, K).

    >>> tpo_ratio_grad([-1.0, -2.0], [-1.0, -2.0], [0.75, 0.25]).tolist()
    [-0.25, 0.25]
    """
    x, keep = checks.group("logp", logp, mask)
    old = checks.finite_log_weights("logp_old", logp_old, keep)
    return _tpo_ratio_grad(x, old, checks.distribution("w", w, keep), keep)


# -- what is computed, of arrays that were checked -----------------------------------------------------------------
# Their masked entries hold what the checks put there: −inf in logits, 0 elsewhere.


def _tpo_target(logp_old: Floats, u: Floats, eta: float, mask: Bools) -> Floats:
    return simplex._softmax(_tilted(logp_old, u, eta), mask)


def _tpo_loss(logp: Floats, q: Floats, mask: Bools) -> Floats:
    with np.errstate(invalid="ignore"):
        terms = q * simplex._log_softmax(logp, mask)
    return np.asarray(-np.where(q > 0, terms, 0.0).sum(-1))


def _tpo_grad(logp: Floats, q: Floats, mask: Bools) -> Floats:
    return simplex._softmax(logp, mask) - q


def _tpo_objective(r: Floats, logp_old: Floats, u: Floats, eta: float, mask: Bools) -> Floats:
    # From log p_old, since p_old itself underflows under a wide anchor.
    gap = np.log(np.where(r > 0, r, 1.0)) - np.where(r > 0, simplex._log_softmax(logp_old, mask), 0.0)
    return np.asarray((r * (u - eta * gap)).sum(-1))


def _tpo_coefficients(logp: Floats, q: Floats, mask: Bools) -> Floats:
    # Subtracting from 0 rather than negating keeps −0 out.
    return 0.0 - _tpo_grad(logp, q, mask)


def _tpo_surrogate_loss(logp: Floats, coefficients: Floats) -> Floats:
    return np.asarray(-(coefficients * logp).sum(-1))


def _tpo_surrogate_grad(logp: Floats, coefficients: Floats) -> Floats:
    return -coefficients


def _tpo(
    logp: Floats, logp_old: Floats, scores: NDArray[Any], eta: float, mask: Bools, tau: float, compat: str | None
) -> Floats:
    return _tpo_loss(logp, _tpo_target(logp_old, standardize._standardize(scores, mask, tau, compat), eta, mask), mask)


def _tpo_weights(u: Floats, eta: float, mask: Bools) -> Floats:
    return _tpo_target(np.where(mask, 0.0, -np.inf), u, eta, mask)


def _tpo_ratio_loss(logp: Floats, logp_old: Floats, w: Floats, mask: Bools) -> Floats:
    return _tpo_loss(logp - logp_old, w, mask)


def _tpo_ratio_grad(logp: Floats, logp_old: Floats, w: Floats, mask: Bools) -> Floats:
    return _tpo_grad(logp - logp_old, w, mask)


def _tilted(logp_old: Floats, u: Floats, eta: float) -> Floats:
    """The logits that the target is the softmax of."""
    with np.errstate(over="ignore"):
        tilt = _from_top(np.where(logp_old > -np.inf, u, -np.inf)) / eta
    # Removing each maximum first keeps the digits of both terms, leaves softmax(logp_old) bit for bit when u is
    # constant, and makes the limit η → 0 exact: p_old restricted to the best candidates.
    return _from_top(logp_old) + tilt


def _from_top(x: Floats) -> Floats:
    top = x.max(-1, keepdims=True)
    return x - np.where(np.isfinite(top), top, 0.0)
