"""TPO: target, loss, gradient, objective, coefficients, and the ratio form. Last axis = group."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from tpo_ref import checks, simplex
from tpo_ref.checks import Floats
from tpo_ref.standardize import standardize


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
    raw = checks.array("logp_old", logp_old)
    keep = checks.mask_for(mask, raw.shape)
    x = checks.log_weights("logp_old", raw, keep)
    u = np.where(x > -np.inf, checks.finite("u", u, keep, raw.shape), -np.inf)
    with np.errstate(over="ignore"):
        tilt = _from_top(u) / eta
    # Removing each maximum first keeps the digits of both terms, leaves softmax(logp_old) bit for bit when u is
    # constant, and makes the limit η → 0 exact: p_old restricted to the best candidates.
    return simplex.softmax(_from_top(x) + tilt, keep)


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
    raw = checks.array("logp", logp)
    keep = checks.mask_for(mask, raw.shape)
    q = checks.distribution("q", q, keep, raw.shape)
    logs = simplex.log_softmax(raw, keep, name="logp")
    with np.errstate(invalid="ignore"):
        terms = q * logs
    return np.asarray(-np.where(q > 0, terms, 0.0).sum(-1))


def tpo_grad(logp: ArrayLike, q: ArrayLike, mask: ArrayLike | None = None) -> Floats:
    """Gradient of `tpo_loss` in the group logits.

    Paper: Prop. 1

    ∂L/∂ℓ = p − q, hence Σ g = 0, |g_i| ≤ 1, and g = 0 exactly at the target.

    Args, Raises: as `tpo_loss`. Returns: (…, K).

    >>> tpo_grad([0.0, 0.0], [0.75, 0.25]).tolist()
    [-0.25, 0.25]
    """
    raw = checks.array("logp", logp)
    keep = checks.mask_for(mask, raw.shape)
    return simplex.softmax(raw, keep, name="logp") - checks.distribution("q", q, keep, raw.shape)


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
    raw = checks.array("logp_old", logp_old)
    keep = checks.mask_for(mask, raw.shape)
    r = checks.distribution("r", r, keep, raw.shape)
    u = checks.finite("u", u, keep, raw.shape)
    # From log p_old, since p_old itself underflows under a wide anchor.
    gap = np.log(np.where(r > 0, r, 1.0)) - np.where(r > 0, simplex.log_softmax(raw, keep, name="logp_old"), 0.0)
    return np.asarray((r * (u - eta * gap)).sum(-1))


def tpo_coefficients(logp: ArrayLike, q: ArrayLike, mask: ArrayLike | None = None) -> Floats:
    """One number per candidate that carries the whole gradient.

    Paper: Prop. 1 (read backwards)

    c = q − p under stop-gradient. Σ_i −c_i ℓ_i has the gradient of `tpo_loss`, and is a plain sum over candidates.

    Args, Raises: as `tpo_loss`. Returns: (…, K), Σ c = 0; exactly 0 where q = softmax(logp).

    >>> tpo_coefficients([0.0, 0.0], [0.75, 0.25]).tolist()
    [0.25, -0.25]
    """
    # Subtracting from 0 rather than negating keeps −0 out.
    return 0.0 - tpo_grad(logp, q, mask)


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
    x = checks.finite_log_weights("logp", logp, c != 0, c.shape)
    return np.asarray(-(c * x).sum(-1))


def tpo_surrogate_grad(logp: ArrayLike, coefficients: ArrayLike) -> Floats:
    """Gradient of `tpo_surrogate_loss`.

    Paper: Prop. 1 (read backwards)

    ∂S/∂ℓ = −c, whatever ℓ is.

    Args, Raises: as `tpo_surrogate_loss`. Returns: (…, K).

    >>> tpo_surrogate_grad([-1.0, -2.0], [0.25, -0.25]).tolist()
    [-0.25, 0.25]
    """
    c = checks.finite("coefficients", coefficients)
    checks.finite_log_weights("logp", logp, c != 0, c.shape)
    return -c


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
    q = tpo_target(logp_old, standardize(scores, mask, tau, compat), eta, mask)
    return tpo_loss(logp, q, mask)


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
    raw = checks.array("u", u)
    keep = checks.mask_for(mask, raw.shape)
    return tpo_target(np.zeros(raw.shape), u, eta, keep)


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
    shift = _log_ratio(logp, logp_old, mask)
    return tpo_loss(shift, checks.distribution("w", w, checks.mask_for(mask, shift.shape), shift.shape), mask)


def tpo_ratio_grad(logp: ArrayLike, logp_old: ArrayLike, w: ArrayLike, mask: ArrayLike | None = None) -> Floats:
    """Gradient of `tpo_ratio_loss` in the group logits.

    Paper: none; as `tpo_ratio_loss`

    ∂L/∂ℓ = P − w; at the snapshot ℓ = ℓ_old it is 1/K − w and needs no log-probability at all.

    Args, Raises: as `tpo_ratio_loss`. Returns: (…, K).

    >>> tpo_ratio_grad([-1.0, -2.0], [-1.0, -2.0], [0.75, 0.25]).tolist()
    [-0.25, 0.25]
    """
    shift = _log_ratio(logp, logp_old, mask)
    return tpo_grad(shift, checks.distribution("w", w, checks.mask_for(mask, shift.shape), shift.shape), mask)


def _from_top(x: Floats) -> Floats:
    top = x.max(-1, keepdims=True)
    return x - np.where(np.isfinite(top), top, 0.0)


def _log_ratio(logp: ArrayLike, logp_old: ArrayLike, mask: ArrayLike | None) -> Floats:
    raw = checks.array("logp", logp)
    keep = checks.mask_for(mask, raw.shape)
    old = checks.finite_log_weights("logp_old", logp_old, keep, raw.shape)
    return np.where(keep, checks.log_weights("logp", raw, keep) - old, 0.0)
