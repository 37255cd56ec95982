"""Other anchors and another divergence on TPO's interface: for when the anchor degenerates. Last axis = group."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from tpo_ref import checks, simplex, tpo
from tpo_ref.checks import Bools, Floats


def tpo_no_anchor_loss(logp: ArrayLike, w: ArrayLike, mask: ArrayLike | None = None) -> Floats:
    """TPO with the old policy left out of the target.

    Paper: Sec. 5 (ablation, Fig. 8)

    q = w = softmax(u/η), L = −Σ q log p. Its fixed point ignores ℓ_old and is wrong: `closed_form.no_anchor_root`.

    Args: logp (…, K) in nats; w (…, K), from `tpo_weights`; mask (…, K) bool.
    Returns: (…), one loss per group in nats. Raises: TypeError, ValueError as `tpo_loss`.

    >>> float(tpo_no_anchor_loss([0.0, 0.0], [1.0, 0.0]).round(4))
    0.6931
    """
    x, keep = checks.group("logp", logp, mask)
    return _tpo_no_anchor_loss(x, checks.distribution("w", w, keep), keep)


def tpo_no_anchor_grad(logp: ArrayLike, w: ArrayLike, mask: ArrayLike | None = None) -> Floats:
    """Gradient of `tpo_no_anchor_loss`.

    Paper: Sec. 5 (ablation, Fig. 8)

    ∂L/∂ℓ = p − w.

    Args, Raises: as `tpo_no_anchor_loss`. Returns: (…, K).

    >>> tpo_no_anchor_grad([0.0, 0.0], [0.75, 0.25]).tolist()
    [-0.25, 0.25]
    """
    x, keep = checks.group("logp", logp, mask)
    return _tpo_no_anchor_grad(x, checks.distribution("w", w, keep), keep)


def tpo_tempered_loss(
    logp: ArrayLike,
    logp_old: ArrayLike,
    u: ArrayLike,
    eta: float = 1.0,
    temperature: float = 1.0,
    mask: ArrayLike | None = None,
) -> Floats:
    """TPO with both group distributions flattened by a temperature.

    Paper: none (deviation D5)

    p̃ = softmax(ℓ/T), q̃ ∝ softmax(ℓ_old/T) exp(u/η), L = −Σ q̃ log p̃. Its fixed point is ℓ = ℓ_old + T u/η + const, so
    choose η·T to keep the tilt of T = 1.

    Args: logp, logp_old (…, K) in nats; u (…, K); eta, temperature > 0; mask (…, K) bool.
    Returns: (…), one loss per group in nats. Raises: TypeError, ValueError as `tpo_target`, `tpo_loss`.

    >>> float(tpo_tempered_loss([0.0, 0.0], [0.0, 0.0], [1.0, -1.0], temperature=4.0).round(4))
    0.6931
    """
    eta, temperature = checks.positive("eta", eta), checks.positive("temperature", temperature)
    x, keep = checks.group("logp", logp, mask)
    old = checks.log_weights("logp_old", logp_old, keep)
    for name, logits in (("logp", x), ("logp_old", old)):
        # Divided by a tiny temperature, they may all be −inf.
        checks.log_weights(name, logits / temperature, keep)
    return _tpo_tempered_loss(x, old, checks.finite("u", u, keep), eta, temperature, keep)


def tpo_tempered_grad(
    logp: ArrayLike,
    logp_old: ArrayLike,
    u: ArrayLike,
    eta: float = 1.0,
    temperature: float = 1.0,
    mask: ArrayLike | None = None,
) -> Floats:
    """Gradient of `tpo_tempered_loss`.

    Paper: none (deviation D5)

    ∂L/∂ℓ = (p̃ − q̃)/T.

    Args, Raises: as `tpo_tempered_loss`. Returns: (…, K).

    >>> tpo_tempered_grad([0.0, 0.0], [0.0, 0.0], [0.0, 0.0], temperature=2.0).tolist()
    [0.0, 0.0]
    """
    eta, temperature = checks.positive("eta", eta), checks.positive("temperature", temperature)
    x, keep = checks.group("logp", logp, mask)
    old = checks.log_weights("logp_old", logp_old, keep)
    for name, logits in (("logp", x), ("logp_old", old)):
        # Divided by a tiny temperature, they may all be −inf.
        checks.log_weights(name, logits / temperature, keep)
    return _tpo_tempered_grad(x, old, checks.finite("u", u, keep), eta, temperature, keep)


def tpo_length_normalised_loss(
    logp: ArrayLike,
    logp_old: ArrayLike,
    u: ArrayLike,
    lengths: ArrayLike,
    eta: float = 1.0,
    mask: ArrayLike | None = None,
) -> Floats:
    """TPO on mean token log-probabilities.

    Paper: none (deviation D5)

    p̃ = softmax(ℓ/n), q̃ ∝ softmax(ℓ_old/n) exp(u/η), L = −Σ q̃ log p̃. It asks for a tilt per token: scale η with n.

    Args: logp, logp_old (…, K) in nats; u (…, K); lengths (…, K) tokens, ≥ 1; eta > 0; mask (…, K) bool.
    Returns: (…), one loss per group in nats. Raises: TypeError, ValueError as `tpo_target`, and for a length below 1.

    >>> float(tpo_length_normalised_loss([-4.0, -2.0], [-4.0, -2.0], [1.0, -1.0], [2, 1]).round(4))
    0.6931
    """
    eta = checks.positive("eta", eta)
    x, keep = checks.group("logp", logp, mask)
    old, n = checks.log_weights("logp_old", logp_old, keep), checks.lengths("lengths", lengths, keep)
    return _tpo_length_normalised_loss(x, old, checks.finite("u", u, keep), n, eta, keep)


def tpo_length_normalised_grad(
    logp: ArrayLike,
    logp_old: ArrayLike,
    u: ArrayLike,
    lengths: ArrayLike,
    eta: float = 1.0,
    mask: ArrayLike | None = None,
) -> Floats:
    """Gradient of `tpo_length_normalised_loss`.

    Paper: none (deviation D5)

    ∂L/∂ℓ_i = (p̃ − q̃)_i / n_i; it no longer sums to zero unless the lengths are equal.

    Args, Raises: as `tpo_length_normalised_loss`. Returns: (…, K).

    >>> tpo_length_normalised_grad([-4.0, -2.0], [-4.0, -2.0], [0.0, 0.0], [2, 1]).tolist()
    [0.0, 0.0]
    """
    eta = checks.positive("eta", eta)
    x, keep = checks.group("logp", logp, mask)
    old, n = checks.log_weights("logp_old", logp_old, keep), checks.lengths("lengths", lengths, keep)
    return _tpo_length_normalised_grad(x, old, checks.finite("u", u, keep), n, eta, keep)


def tpo_reverse_kl_loss(logp: ArrayLike, q: ArrayLike, mask: ArrayLike | None = None) -> Floats:
    """The target fitted by the mode-seeking divergence instead of cross-entropy.

    Paper: none (deviation D5)

    L = KL(p‖q). At the snapshot, in ratio form (ℓ := ℓ − ℓ_old, q := w), its gradient is exactly Group PG's over K.

    Args: logp (…, K) in nats; q (…, K), a distribution; mask (…, K) bool.
    Returns: (…), one loss per group in nats; inf where p > 0 and q = 0. Raises: TypeError, ValueError as `tpo_loss`.

    >>> float(tpo_reverse_kl_loss([0.0, 0.0], [0.5, 0.5]))
    0.0
    """
    x, keep = checks.group("logp", logp, mask)
    return _tpo_reverse_kl_loss(x, checks.distribution("q", q, keep), keep)


def tpo_reverse_kl_grad(logp: ArrayLike, q: ArrayLike, mask: ArrayLike | None = None) -> Floats:
    """Gradient of `tpo_reverse_kl_loss`.

    Paper: none (deviation D5)

    ∂L/∂ℓ_i = p_i (d_i − Σ p d) with d = log p − log q; NaN in a group whose loss is inf.

    Args, Raises: as `tpo_reverse_kl_loss`. Returns: (…, K).

    >>> tpo_reverse_kl_grad([0.0, 0.0], [0.5, 0.5]).tolist()
    [0.0, 0.0]
    """
    x, keep = checks.group("logp", logp, mask)
    return _tpo_reverse_kl_grad(x, checks.distribution("q", q, keep), keep)


def tpo_reverse_loss(
    logp: ArrayLike, logp_old: ArrayLike, u: ArrayLike, eta: float = 1.0, mask: ArrayLike | None = None
) -> Floats:
    """Reverse KL from the policy to the target of (logp_old, u, eta), never infinite.

    Paper: none (deviation D81)

    L = KL(p‖q) with q ∝ p_old exp(u/η): `tpo_reverse_kl_loss` of `tpo_target`, computed from log q, which does not
    underflow as q does.

    Args: logp, logp_old (…, K) in nats, logp_old finite; u (…, K); eta > 0; mask (…, K) bool.
    Returns: (…), one loss per group in nats. Raises: TypeError, ValueError as `tpo_target`.

    >>> float(tpo_reverse_loss([0.0, 0.0], [0.0, 0.0], [1.0, -1.0]).round(4))
    0.4338
    """
    eta = checks.positive("eta", eta)
    x, keep = checks.group("logp", logp, mask)
    old = checks.finite_log_weights("logp_old", logp_old, keep)
    tilt = checks.finite("u", u, keep)
    checks.finite("u", tilt / eta, keep)
    return _tpo_reverse_loss(x, old, tilt, eta, keep)


def tpo_reverse_grad(
    logp: ArrayLike, logp_old: ArrayLike, u: ArrayLike, eta: float = 1.0, mask: ArrayLike | None = None
) -> Floats:
    """Gradient of `tpo_reverse_loss`.

    Paper: none (deviation D81)

    ∂L/∂ℓ_i = p_i (d_i − Σ p d) with d = log p − log p_old − u/η; exactly 0 where ℓ is ℓ_old and u = 0.

    Args, Raises: as `tpo_reverse_loss`. Returns: (…, K).

    >>> tpo_reverse_grad([0.0, 0.0], [0.0, 0.0], [1.0, -1.0]).tolist()
    [-0.5, 0.5]
    """
    eta = checks.positive("eta", eta)
    x, keep = checks.group("logp", logp, mask)
    old = checks.finite_log_weights("logp_old", logp_old, keep)
    tilt = checks.finite("u", u, keep)
    checks.finite("u", tilt / eta, keep)
    return _tpo_reverse_grad(x, old, tilt, eta, keep)


def tpo_reverse_coefficients(
    logp: ArrayLike, logp_old: ArrayLike, u: ArrayLike, eta: float = 1.0, mask: ArrayLike | None = None
) -> Floats:
    """One number per candidate that carries the whole gradient of `tpo_reverse_loss`.

    Paper: none (deviation D81)

    c = −p (d − Σ p d) with d = log p − log p_old − u/η; the surrogate −Σ c ℓ of `tpo_surrogate_loss` has the gradient.

    Args, Raises: as `tpo_reverse_loss`. Returns: (…, K), Σ c = 0; exactly 0 where ℓ is ℓ_old and u = 0.

    >>> tpo_reverse_coefficients([0.0, 0.0], [0.0, 0.0], [1.0, -1.0]).tolist()
    [0.5, -0.5]
    """
    eta = checks.positive("eta", eta)
    x, keep = checks.group("logp", logp, mask)
    old = checks.finite_log_weights("logp_old", logp_old, keep)
    tilt = checks.finite("u", u, keep)
    checks.finite("u", tilt / eta, keep)
    return _tpo_reverse_coefficients(x, old, tilt, eta, keep)


# -- what is computed, of arrays that were checked -----------------------------------------------------------------
# Their masked entries hold what the checks put there: −inf in logits, 0 elsewhere.


def _tpo_no_anchor_loss(logp: Floats, w: Floats, mask: Bools) -> Floats:
    return tpo._tpo_loss(logp, w, mask)


def _tpo_no_anchor_grad(logp: Floats, w: Floats, mask: Bools) -> Floats:
    return tpo._tpo_grad(logp, w, mask)


def _tpo_tempered_loss(
    logp: Floats, logp_old: Floats, u: Floats, eta: float, temperature: float, mask: Bools
) -> Floats:
    return tpo._tpo_loss(logp / temperature, tpo._tpo_target(logp_old / temperature, u, eta, mask), mask)


def _tpo_tempered_grad(
    logp: Floats, logp_old: Floats, u: Floats, eta: float, temperature: float, mask: Bools
) -> Floats:
    return tpo._tpo_grad(logp / temperature, tpo._tpo_target(logp_old / temperature, u, eta, mask), mask) / temperature


def _tpo_length_normalised_loss(
    logp: Floats, logp_old: Floats, u: Floats, lengths: Floats, eta: float, mask: Bools
) -> Floats:
    return tpo._tpo_loss(logp / lengths, tpo._tpo_target(logp_old / lengths, u, eta, mask), mask)


def _tpo_length_normalised_grad(
    logp: Floats, logp_old: Floats, u: Floats, lengths: Floats, eta: float, mask: Bools
) -> Floats:
    return tpo._tpo_grad(logp / lengths, tpo._tpo_target(logp_old / lengths, u, eta, mask), mask) / lengths


def _tpo_reverse_kl_loss(logp: Floats, q: Floats, mask: Bools) -> Floats:
    p, d = _log_gap(logp, q, mask)
    return np.asarray((p * d).sum(-1))


def _tpo_reverse_kl_grad(logp: Floats, q: Floats, mask: Bools) -> Floats:
    p, d = _log_gap(logp, q, mask)
    with np.errstate(invalid="ignore"):
        return np.asarray(p * (d - (p * d).sum(-1, keepdims=True)))


def _tpo_reverse_loss(logp: Floats, logp_old: Floats, u: Floats, eta: float, mask: Bools) -> Floats:
    p, d, normaliser = _log_gap_to_target(logp, logp_old, u, eta, mask)
    return np.asarray((p * d).sum(-1) + normaliser)


def _tpo_reverse_grad(logp: Floats, logp_old: Floats, u: Floats, eta: float, mask: Bools) -> Floats:
    p, d, _ = _log_gap_to_target(logp, logp_old, u, eta, mask)
    # Plus zero, so that a gradient of nothing is 0 and not −0.
    return np.asarray(p * (d - (p * d).sum(-1, keepdims=True)) + 0.0)


def _tpo_reverse_coefficients(logp: Floats, logp_old: Floats, u: Floats, eta: float, mask: Bools) -> Floats:
    return 0.0 - _tpo_reverse_grad(logp, logp_old, u, eta, mask)


def _log_gap(logp: Floats, q: Floats, mask: Bools) -> tuple[Floats, Floats]:
    p = simplex._softmax(logp, mask)
    with np.errstate(divide="ignore", invalid="ignore"):
        d = simplex._log_softmax(logp, mask) - np.log(q)
    # 0·log 0 = 0 where p = 0, whatever q is there.
    return p, np.where(p > 0, d, 0.0)


def _log_gap_to_target(
    logp: Floats, logp_old: Floats, u: Floats, eta: float, mask: Bools
) -> tuple[Floats, Floats, Floats]:
    """Return p, log p − log p_old − u/η, and by group the log of the sum that q is divided by."""
    tilt = u / eta
    logs = simplex._log_softmax(logp, mask)
    logs_old = simplex._log_softmax(np.where(mask, logp_old, -np.inf), mask)
    p = np.exp(logs)
    inside = mask & (p > 0)
    gap = np.where(inside, logs, 0.0) - np.where(inside, logs_old, 0.0) - np.where(inside, tilt, 0.0)
    normaliser = simplex._logsumexp(np.where(mask, logs_old + tilt, -np.inf), mask)
    return p, gap, np.where(mask.any(-1), normaliser, 0.0)
