"""TPO: target, loss, objective, coefficients, and the ratio form; gradients by autograd. Last axis = group."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tpo_torch import checks, simplex, standardize


def tpo_target(logp_old: Tensor, u: Tensor, eta: float = 1.0, mask: Tensor | None = None) -> Tensor:
    """The target q: the old group distribution, tilted towards high standardised scores.

    Paper: Eq. 2

    q_i ∝ p_i^old exp(u_i/η). It stays frozen for the whole update, however many epochs.

    Args: logp_old (…, K) in nats, −inf allowed; u (…, K); eta > 0; mask (…, K) bool.
    Returns: (…, K), detached, summing to 1 over the unmasked; with constant u exactly softmax(logp_old).
    Raises: TypeError, ValueError for a bad dtype, shape, mask, eta, or NaN.

    >>> tpo_target(torch.zeros(2), torch.tensor([1.0, -1.0]))
    tensor([0.8808, 0.1192])
    """
    eta = checks.positive("eta", eta)
    x, keep = checks.group("logp_old", logp_old, mask, fill=False)
    return _tpo_target(x, checks.finite("u", u, keep, like=x), eta, keep)


def tpo_loss(logp: Tensor, q: Tensor, mask: Tensor | None = None) -> Tensor:
    """Cross-entropy of the group distribution to the target.

    Paper: Eq. 3, Prop. 1

    L = −Σ q_i log p_i with p = softmax(ℓ); 0·log 0 = 0. Autograd gives ∂L/∂ℓ = p − q.

    Args: logp (…, K) in nats; q (…, K), a distribution; mask (…, K) bool, the one q was made with.
    Returns: (…), one loss per group in nats; 0 for a group that is masked throughout.
    Raises: TypeError, ValueError for a bad dtype, shape or mask, NaN, or a q that is no distribution.

    >>> tpo_loss(torch.zeros(2), torch.tensor([1.0, 0.0]))
    tensor(0.6931)
    """
    x, keep = checks.group("logp", logp, mask, fill=False)
    return _tpo_loss(x, checks.distribution("q", q, keep, like=x), keep)


def tpo_objective(r: Tensor, logp_old: Tensor, u: Tensor, eta: float = 1.0, mask: Tensor | None = None) -> Tensor:
    """The regularised objective that the target maximises over the simplex.

    Paper: Eq. 4

    J(r) = r·u − η KL(r‖p_old). For every r: J(q) − J(r) = η KL(r‖q), so q is its only maximiser.

    Args: r (…, K), a distribution; logp_old, u, eta, mask as `tpo_target`.
    Returns: (…), detached, in units of u; −inf where r > 0 and p_old = 0.
    Raises: TypeError, ValueError as `tpo_target`, and for an r that is no distribution.

    >>> tpo_objective(torch.tensor([1.0, 0.0]), torch.zeros(2), torch.tensor([1.0, -1.0]))
    tensor(0.3069)
    """
    eta = checks.positive("eta", eta)
    x, keep = checks.group("logp_old", logp_old, mask, fill=False)
    return _tpo_objective(checks.distribution("r", r, keep, like=x), x, checks.finite("u", u, keep, like=x), eta, keep)


def tpo_coefficients(logp: Tensor, q: Tensor, mask: Tensor | None = None) -> Tensor:
    """One number per candidate that carries the whole gradient.

    Paper: Prop. 1 (read backwards)

    c = q − p under stop-gradient. Σ_i −c_i ℓ_i has the gradient of `tpo_loss`, and is a plain sum over candidates.

    Args, Raises: as `tpo_loss`. Returns: (…, K), detached, Σ c = 0; exactly 0 where q = softmax(logp).

    >>> tpo_coefficients(torch.zeros(2), torch.tensor([0.75, 0.25]))
    tensor([ 0.2500, -0.2500])
    """
    x, keep = checks.group("logp", logp, mask, fill=False)
    return _tpo_coefficients(x, checks.distribution("q", q, keep, like=x), keep)


def tpo_surrogate_loss(logp: Tensor, coefficients: Tensor) -> Tensor:
    """The sum over candidates whose gradient is that of `tpo_loss`, cut into micro-batches at will.

    Paper: Prop. 1 (read backwards)

    S = −Σ c_i ℓ_i with c frozen: ∂S/∂ℓ = −c = p − q. Its value is not the loss, only its gradient is.

    Args: logp (…, K) in nats, of any subset of candidates; coefficients (…, K), from `tpo_coefficients`.
    Returns: (…).
    Raises: TypeError, ValueError for a bad dtype or shape, or NaN. Where c = 0, logp may be −inf (a masked candidate).

    >>> tpo_surrogate_loss(torch.tensor([-1.0, -2.0]), torch.tensor([0.25, -0.25]))
    tensor(-0.2500)
    """
    c = checks.finite("coefficients", coefficients)
    return _tpo_surrogate_loss(checks.finite_log_weights("logp", logp, c != 0), c)


def tpo(
    logp: Tensor,
    logp_old: Tensor,
    scores: Tensor,
    eta: float = 1.0,
    mask: Tensor | None = None,
    tau: float = 0.0,
    compat: str | None = None,
) -> Tensor:
    """The whole update of one group: standardise, build the target, fit to it.

    Paper: Alg. 1

    u = standardize(s); q ∝ p_old exp(u/η), frozen; L = −Σ q log softmax(ℓ).

    Args: logp, logp_old (…, K) in nats; scores (…, K) raw; eta > 0; mask (…, K) bool; tau, compat as `standardize`.
    Returns: (…), one loss per group in nats.
    Raises: as `standardize`, `tpo_target`, `tpo_loss`.

    >>> tpo(torch.zeros(2), torch.zeros(2), torch.tensor([1.0, 0.0]))
    tensor(0.6931)
    """
    checks.choice("compat", compat, standardize.COMPAT)
    eta, tau = checks.positive("eta", eta), checks.non_negative("tau", tau)
    s, keep = checks.group("scores", scores, mask, checks.scores)
    old = checks.log_weights("logp_old", logp_old, keep)
    return _tpo(checks.log_weights("logp", logp, keep), old, s, eta, keep, tau, compat)


def tpo_weights(u: Tensor, eta: float = 1.0, mask: Tensor | None = None) -> Tensor:
    """Softmax of the standardised scores alone.

    Paper: Eq. 2 without p_old

    w = softmax(u/η): the target of the ratio form (which keeps the anchor in its loss) and of the no-anchor ablation.

    Args: u (…, K); eta > 0; mask (…, K) bool.
    Returns: (…, K), detached, summing to 1 over the unmasked.
    Raises: TypeError, ValueError for a bad dtype, shape, mask or eta, or NaN.

    >>> tpo_weights(torch.tensor([1.0, -1.0]))
    tensor([0.8808, 0.1192])
    """
    eta = checks.positive("eta", eta)
    tilt, keep = checks.group("u", u, mask, checks.finite)
    return _tpo_weights(tilt, eta, keep)


def tpo_ratio_loss(logp: Tensor, logp_old: Tensor, w: Tensor, mask: Tensor | None = None) -> Tensor:
    """Cross-entropy of the softmax of log-ratios to the score weights.

    Paper: none; the listwise forward update of arXiv:2605.06139

    L = −Σ w_i log P_i with P = softmax(ℓ − ℓ_old). Stationary exactly where TPO is, whatever the anchor's spread.

    Args: logp, logp_old (…, K) in nats, logp_old finite; w (…, K), from `tpo_weights`; mask (…, K) bool.
    Returns: (…), one loss per group in nats.
    Raises: TypeError, ValueError as `tpo_loss`.

    >>> tpo_ratio_loss(torch.tensor([-1.0, -2.0]), torch.tensor([-1.0, -2.0]), torch.tensor([0.75, 0.25]))
    tensor(0.6931)
    """
    x, keep = checks.group("logp", logp, mask, fill=False)
    old = checks.finite_log_weights("logp_old", logp_old, keep, like=x)
    return _tpo_ratio_loss(x, old, checks.distribution("w", w, keep, like=x), keep)


# -- what is computed, of tensors that were checked ----------------------------------------------------------------
# Their masked entries hold what the checks put there: −inf in logits, 0 elsewhere.


def _tpo_target(logp_old: Tensor, u: Tensor, eta: float, mask: Tensor | None) -> Tensor:
    return simplex._softmax(_tilted(logp_old.detach(), u.detach(), eta), mask)


def _tpo_loss(logp: Tensor, q: Tensor, mask: Tensor | None) -> Tensor:
    q = q.detach()
    return -torch.where(q == 0, 0.0, q * simplex._log_softmax(logp, mask)).sum(-1)


def _tpo_objective(r: Tensor, logp_old: Tensor, u: Tensor, eta: float, mask: Tensor | None) -> Tensor:
    r, u, log_p = r.detach(), u.detach(), simplex._log_softmax(logp_old.detach(), mask)
    # From log p_old, since p_old itself underflows under a wide anchor.
    gap = torch.log(torch.where(r == 0, 1.0, r)) - torch.where(r == 0, 0.0, log_p)
    return (r * (u - eta * gap)).sum(-1)


def _tpo_coefficients(logp: Tensor, q: Tensor, mask: Tensor | None) -> Tensor:
    return q.detach() - simplex._softmax(logp.detach(), mask)


def _tpo_surrogate_loss(logp: Tensor, coefficients: Tensor) -> Tensor:
    return -(coefficients.detach() * logp).sum(-1)


def _tpo(
    logp: Tensor, logp_old: Tensor, scores: Tensor, eta: float, mask: Tensor, tau: float, compat: str | None
) -> Tensor:
    return _tpo_loss(logp, _tpo_target(logp_old, standardize._standardize(scores, mask, tau, compat), eta, mask), mask)


def _tpo_weights(u: Tensor, eta: float, mask: Tensor) -> Tensor:
    return _tpo_target(torch.zeros_like(u).masked_fill(~mask, -math.inf), u, eta, mask)


def _tpo_ratio_loss(logp: Tensor, logp_old: Tensor, w: Tensor, mask: Tensor | None) -> Tensor:
    return _tpo_loss(logp - logp_old.detach(), w, mask)


def _tilted(logp_old: Tensor, u: Tensor, eta: float) -> Tensor:
    """The logits that the target is the softmax of."""
    tilt = _from_top(torch.where(logp_old == -math.inf, -math.inf, u)) / eta
    # Removing each maximum first keeps the digits of both terms, leaves softmax(logp_old) bit for bit when u is
    # constant, and makes the limit η → 0 exact: p_old restricted to the best candidates.
    return _from_top(logp_old) + tilt


def _from_top(x: Tensor) -> Tensor:
    top = x.amax(-1, keepdim=True)
    return x - torch.where(top == -math.inf, 0.0, top)
