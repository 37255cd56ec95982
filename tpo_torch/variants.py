"""Other anchors and another divergence on TPO's interface: for when the anchor degenerates. Last axis = group."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tpo_torch import checks, simplex, tpo


def tpo_no_anchor_loss(logp: Tensor, w: Tensor, mask: Tensor | None = None) -> Tensor:
    """TPO with the old policy left out of the target.

    Paper: Sec. 5 (ablation, Fig. 8)

    q = w = softmax(u/η), L = −Σ q log p. Its fixed point ignores ℓ_old and is wrong: `closed_form.no_anchor_root`.

    Args: logp (…, K) in nats; w (…, K), from `tpo_weights`; mask (…, K) bool.
    Returns: (…), one loss per group in nats. Raises: TypeError, ValueError as `tpo_loss`.

    >>> tpo_no_anchor_loss(torch.zeros(2), torch.tensor([1.0, 0.0]))
    tensor(0.6931)
    """
    x, keep = checks.group("logp", logp, mask, fill=False)
    return _tpo_no_anchor_loss(x, checks.distribution("w", w, keep, like=x), keep)


def tpo_tempered_loss(
    logp: Tensor,
    logp_old: Tensor,
    u: Tensor,
    eta: float = 1.0,
    temperature: float = 1.0,
    mask: Tensor | None = None,
) -> Tensor:
    """TPO with both group distributions flattened by a temperature.

    Paper: none (deviation D5)

    p̃ = softmax(ℓ/T), q̃ ∝ softmax(ℓ_old/T) exp(u/η), L = −Σ q̃ log p̃. Its fixed point is ℓ = ℓ_old + T u/η + const, so
    choose η·T to keep the tilt of T = 1.

    Args: logp, logp_old (…, K) in nats; u (…, K); eta, temperature > 0; mask (…, K) bool.
    Returns: (…), one loss per group in nats. Raises: TypeError, ValueError as `tpo_target`, `tpo_loss`.

    >>> tpo_tempered_loss(torch.zeros(2), torch.zeros(2), torch.tensor([1.0, -1.0]), temperature=4.0)
    tensor(0.6931)
    """
    eta, temperature = checks.positive("eta", eta), checks.positive("temperature", temperature)
    x, keep = checks.group("logp", logp, mask, fill=False)
    old = checks.log_weights("logp_old", logp_old, keep, like=x)
    for name, logits in (("logp", x), ("logp_old", old)):
        # Divided by a tiny temperature, they may all be −inf.
        checks.log_weights(name, logits.detach() / temperature, keep)
    return _tpo_tempered_loss(x, old, checks.finite("u", u, keep, like=x), eta, temperature, keep)


def tpo_length_normalised_loss(
    logp: Tensor,
    logp_old: Tensor,
    u: Tensor,
    lengths: Tensor,
    eta: float = 1.0,
    mask: Tensor | None = None,
) -> Tensor:
    """TPO on mean token log-probabilities.

    Paper: none (deviation D5)

    p̃ = softmax(ℓ/n), q̃ ∝ softmax(ℓ_old/n) exp(u/η), L = −Σ q̃ log p̃. It asks for a tilt per token: scale η with n.

    Args: logp, logp_old (…, K) in nats; u (…, K); lengths (…, K) tokens, ≥ 1; eta > 0; mask (…, K) bool.
    Returns: (…), one loss per group in nats. Raises: TypeError, ValueError as `tpo_target`, and for a length below 1.

    >>> logp = torch.tensor([-4.0, -2.0])
    >>> tpo_length_normalised_loss(logp, logp, torch.tensor([1.0, -1.0]), torch.tensor([2, 1]))
    tensor(0.6931)
    """
    eta = checks.positive("eta", eta)
    x, keep = checks.group("logp", logp, mask, fill=False)
    old, n = checks.log_weights("logp_old", logp_old, keep, like=x), checks.lengths("lengths", lengths, keep, like=x)
    return _tpo_length_normalised_loss(x, old, checks.finite("u", u, keep, like=x), n, eta, keep)


def tpo_reverse_kl_loss(logp: Tensor, q: Tensor, mask: Tensor | None = None) -> Tensor:
    """The target fitted by the mode-seeking divergence instead of cross-entropy.

    Paper: none (deviation D5)

    L = KL(p‖q). At the snapshot, in ratio form (ℓ := ℓ − ℓ_old, q := w), its gradient is exactly Group PG's over K.

    Args: logp (…, K) in nats; q (…, K), a distribution; mask (…, K) bool.
    Returns: (…), one loss per group in nats; inf where p > 0 and q = 0. Raises: TypeError, ValueError as `tpo_loss`.

    >>> tpo_reverse_kl_loss(torch.zeros(2), torch.tensor([0.5, 0.5]))
    tensor(0.)
    """
    x, keep = checks.group("logp", logp, mask, fill=False)
    return _tpo_reverse_kl_loss(x, checks.distribution("q", q, keep, like=x), keep)


def tpo_reverse_loss(logp: Tensor, logp_old: Tensor, u: Tensor, eta: float = 1.0, mask: Tensor | None = None) -> Tensor:
    """Reverse KL from the policy to the target of (logp_old, u, eta), never infinite.

    Paper: none (deviation D81)

    L = KL(p‖q) with q ∝ p_old exp(u/η): `tpo_reverse_kl_loss` of `tpo_target`, computed from log q, which does not
    underflow as q does.

    Args: logp, logp_old (…, K) in nats, logp_old finite; u (…, K); eta > 0; mask (…, K) bool.
    Returns: (…), one loss per group in nats. Raises: TypeError, ValueError as `tpo_target`.

    >>> tpo_reverse_loss(torch.zeros(2), torch.zeros(2), torch.tensor([1.0, -1.0]))
    tensor(0.4338)
    """
    eta = checks.positive("eta", eta)
    x, keep = checks.group("logp", logp, mask)
    old = checks.finite_log_weights("logp_old", logp_old, keep)
    tilt = checks.finite("u", u, keep)
    checks.finite("u", tilt / eta, keep)
    return _tpo_reverse_loss(x, old, tilt, eta, keep)


def tpo_reverse_coefficients(
    logp: Tensor, logp_old: Tensor, u: Tensor, eta: float = 1.0, mask: Tensor | None = None
) -> Tensor:
    """One number per candidate that carries the whole gradient of `tpo_reverse_loss`.

    Paper: none (deviation D81)

    c = −p (d − Σ p d) with d = log p − log p_old − u/η; the surrogate −Σ c ℓ of `tpo_surrogate_loss` has the gradient.

    Args, Raises: as `tpo_reverse_loss`. Returns: (…, K), detached, Σ c = 0; exactly 0 where ℓ is ℓ_old and u = 0.

    >>> tpo_reverse_coefficients(torch.zeros(2), torch.zeros(2), torch.tensor([1.0, -1.0])).tolist()
    [0.5, -0.5]
    """
    eta = checks.positive("eta", eta)
    x, keep = checks.group("logp", logp, mask)
    old = checks.finite_log_weights("logp_old", logp_old, keep)
    tilt = checks.finite("u", u, keep)
    checks.finite("u", tilt / eta, keep)
    return _tpo_reverse_coefficients(x, old, tilt, eta, keep)


# -- what is computed, of tensors that were checked ----------------------------------------------------------------
# Their masked entries hold what the checks put there: −inf in logits, 0 elsewhere.


def _tpo_no_anchor_loss(logp: Tensor, w: Tensor, mask: Tensor | None) -> Tensor:
    return tpo._tpo_loss(logp, w, mask)


def _tpo_tempered_loss(
    logp: Tensor, logp_old: Tensor, u: Tensor, eta: float, temperature: float, mask: Tensor | None
) -> Tensor:
    return tpo._tpo_loss(logp / temperature, tpo._tpo_target(logp_old / temperature, u, eta, mask), mask)


def _tpo_length_normalised_loss(
    logp: Tensor, logp_old: Tensor, u: Tensor, lengths: Tensor, eta: float, mask: Tensor | None
) -> Tensor:
    n = lengths.detach()
    return tpo._tpo_loss(logp / n, tpo._tpo_target(logp_old / n, u, eta, mask), mask)


def _tpo_reverse_kl_loss(logp: Tensor, q: Tensor, mask: Tensor | None) -> Tensor:
    logs = simplex._log_softmax(logp, mask)
    p = torch.exp(logs)
    # 0·log 0 = 0 where p = 0; both branches of `where` must be finite there, or autograd makes 0·inf = NaN.
    inside = p != 0
    d = torch.where(inside, logs, 0.0) - torch.log(torch.where(inside, q.detach(), 1.0))
    return (torch.where(inside, p, 0.0) * d).sum(-1)


def _tpo_reverse_loss(logp: Tensor, logp_old: Tensor, u: Tensor, eta: float, mask: Tensor) -> Tensor:
    p, d, normaliser = _log_gap_to_target(logp, logp_old, u, eta, mask)
    return (p * d).sum(-1) + normaliser


def _tpo_reverse_coefficients(logp: Tensor, logp_old: Tensor, u: Tensor, eta: float, mask: Tensor) -> Tensor:
    p, d, _ = _log_gap_to_target(logp.detach(), logp_old, u, eta, mask)
    # Plus zero, so that a coefficient of nothing is 0 and not −0.
    return 0.0 - p * (d - (p * d).sum(-1, keepdim=True))


def _log_gap_to_target(
    logp: Tensor, logp_old: Tensor, u: Tensor, eta: float, mask: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return p, log p − log p_old − u/η, and by group the log of the sum that q is divided by."""
    old, tilt = logp_old.detach(), u.detach() / eta
    logs = simplex._log_softmax(logp, mask)
    logs_old = simplex._log_softmax(torch.where(mask, old, -math.inf), mask)
    # Both branches of `where` must be finite where p = 0, or autograd makes 0·inf = NaN.
    inside = mask & (logs.detach().exp() != 0)
    logs = torch.where(inside, logs, 0.0)
    gap = logs - torch.where(inside, logs_old, 0.0) - torch.where(inside, tilt, 0.0)
    normaliser = simplex._logsumexp(torch.where(mask, logs_old + tilt, -math.inf), mask)
    return torch.where(inside, logs.exp(), 0.0), gap, torch.where(mask.any(-1), normaliser, 0.0)
