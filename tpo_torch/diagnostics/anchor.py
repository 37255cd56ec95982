"""Is the anchor healthy: how the old policy weighs its candidates, and how far scores can tilt that."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from tpo_torch import checks, simplex, tpo
from tpo_torch.diagnostics import means

# Above this dominance the old log-probabilities spread further than the scores can tilt them.
DOMINANCE_ALARM = 1.0
# Below this distance the target is the anchor, for all that training can notice.
UNMOVED_TV = 0.01


class AnchorHealth(NamedTuple):
    """One number per group, or the mean of each over groups; NaN where there is none."""

    entropy: Tensor  # H(p_old)/log K, in [0, 1]
    ess_old: Tensor  # effective sample size of p_old, in [1, K]
    ess_target: Tensor  # the same of q
    dominance: Tensor  # sd(ℓ_old)·η/R
    dominated: Tensor  # 1 if dominance > DOMINANCE_ALARM
    mode_moved: Tensor  # 1 if the most likely candidate is another one in q
    tv: Tensor  # TV(q, p_old)
    unmoved: Tensor  # 1 if tv < UNMOVED_TV
    kl: Tensor  # KL(q‖p_old) in nats
    kl_ceiling: Tensor  # its supremum over η, in nats


def normalised_entropy(logp_old: Tensor, mask: Tensor | None = None) -> Tensor:
    """How evenly the old policy weighs its candidates.

    Paper: ours

    H(p_old)/log K, from 0 (one-hot) to 1 (uniform), K counting the unmasked.

    Args: logp_old (…, K) in nats, −inf allowed; mask (…, K) bool, False = no candidate here.
    Returns: (…); NaN for a group of fewer than two candidates.
    Raises: TypeError, ValueError for a bad dtype, shape or mask, or NaN.

    >>> normalised_entropy(torch.tensor([0.0, 0.0, -math.inf]))
    tensor(0.6309)
    """
    x, keep = checks.group("logp_old", logp_old, mask)
    return _normalised_entropy(x, keep)


def anchor_dominance(logp_old: Tensor, u: Tensor, eta: float = 1.0, mask: Tensor | None = None) -> Tensor:
    """Spread of the old log-probabilities in units of the reach of the tilt; above 1 is an alarm.

    Paper: ours

    sd(ℓ_old)·η/R with R = max u − min u, both over candidates of positive probability; sd with ddof 0.

    Args: logp_old (…, K) in nats, −inf allowed; u (…, K); eta > 0; mask (…, K) bool.
    Returns: (…), without unit; NaN where R = 0, since no tilt is asked for.
    Raises: TypeError, ValueError for a bad dtype, shape, mask, eta, or NaN.

    >>> anchor_dominance(torch.tensor([-2.0, -8.0]), torch.tensor([1.0, -1.0]))
    tensor(1.5000)
    """
    eta = checks.positive("eta", eta)
    x, keep = checks.group("logp_old", logp_old, mask)
    return _anchor_dominance(x, checks.finite("u", u, keep), eta)


def mode_moves(p: Tensor, q: Tensor, mask: Tensor | None = None) -> Tensor:
    """Whether the most likely candidate changes.

    Paper: ours

    1 if argmax q ≠ argmax p, where a tie counts as no change: no candidate is a maximum of both.

    Args: p, q (…, K), distributions; mask (…, K) bool.
    Returns: (…), 1 or 0; NaN for a group that is masked throughout.
    Raises: TypeError, ValueError for a bad dtype, shape or mask, NaN, or what is no distribution.

    >>> q = torch.tensor([[0.3, 0.7], [0.3, 0.7]])
    >>> mode_moves(torch.tensor([[0.6, 0.4], [0.5, 0.5]]), q)
    tensor([1., 0.])
    """
    before, keep = checks.group("p", p, mask, checks.distribution)
    return _mode_moves(before, checks.distribution("q", q, keep))


def kl_ceiling(logp_old: Tensor, u: Tensor, mask: Tensor | None = None) -> Tensor:
    """How far a target can be from its anchor, however small η.

    Paper: ours

    sup_η KL(q‖p_old) = −log p_old(argmax u), the sum over all candidates tied at the largest u; of those with positive
    probability. KL grows as η falls, since its derivative in 1/η is Var_q(u)/η, and tends to this as η → 0.

    Args: logp_old, u, mask as `anchor_dominance`.
    Returns: (…) in nats; NaN for a group that is masked throughout.
    Raises: TypeError, ValueError as `anchor_dominance`.

    >>> kl_ceiling(torch.tensor([0.5, 0.25, 0.25]).log(), torch.tensor([-1.0, 0.5, 0.5]))
    tensor(0.6931)
    """
    x, keep = checks.group("logp_old", logp_old, mask)
    return _kl_ceiling(x, checks.finite("u", u, keep), keep)


def anchor_health(logp_old: Tensor, u: Tensor, eta: float = 1.0, mask: Tensor | None = None) -> AnchorHealth:
    """Every figure of a group that follows from its anchor and its tilt, each softmax made once.

    Paper: ours (of p_old and q of Eq. 2)

    Args: logp_old, u, eta, mask as `anchor_dominance`.
    Returns: `AnchorHealth` of (…) arrays; all NaN for a group that is masked throughout.
    Raises: TypeError, ValueError as `anchor_dominance`.

    >>> health = anchor_health(torch.tensor([-2.0, -8.0]), torch.tensor([1.0, -1.0]))
    >>> health.dominance, health.dominated, health.tv
    (tensor(1.5000), tensor(1.), tensor(0.0021))
    """
    eta = checks.positive("eta", eta)
    x, keep = checks.group("logp_old", logp_old, mask)
    return _anchor_health(x, checks.finite("u", u, keep), eta, keep)


def summarise(
    logp_old: Tensor, u: Tensor, eta: float = 1.0, mask: Tensor | None = None, keep_axes: int = 0
) -> AnchorHealth:
    """`anchor_health`, each figure averaged over groups by `group_mean`.

    Paper: ours (of p_old and q of Eq. 2)

    Args, Raises: as `anchor_health` and `group_mean`. Returns: `AnchorHealth` of 0-d arrays, or of the kept axes.

    >>> logp_old, u = torch.tensor([[0.0, 0.0], [-2.0, -8.0]]), torch.tensor([[0.0, 0.0], [1.0, -1.0]])
    >>> summarise(logp_old, u).dominance  # of one group of two
    tensor(1.5000)
    """
    eta = checks.positive("eta", eta)
    x, keep = checks.group("logp_old", logp_old, mask)
    keep_axes = checks.axes("keep_axes", keep_axes, x.ndim - 1)
    return _summarise(x, checks.finite("u", u, keep), eta, keep, keep_axes)


# -- what is computed, of tensors that were checked ----------------------------------------------------------------
# Their masked entries hold what the checks put there: −inf in logits, 0 elsewhere.


def _normalised_entropy(logp_old: Tensor, mask: Tensor) -> Tensor:
    return _entropy_share(simplex._softmax(logp_old.detach(), mask), mask)


def _anchor_dominance(logp_old: Tensor, u: Tensor, eta: float) -> Tensor:
    x, u = logp_old.detach(), u.detach()
    here = x != -math.inf
    count = here.sum(-1, keepdim=True).clamp(min=1)
    x = torch.where(here, tpo._from_top(x), 0.0)
    sd = (torch.where(here, x - x.sum(-1, keepdim=True) / count, 0.0).square().sum(-1) / count[..., 0]).sqrt()
    reach = means._range(u, here)
    return torch.where(reach > 0, sd * eta / reach, math.nan)


def _mode_moves(p: Tensor, q: Tensor) -> Tensor:
    # No NaN exceeds 0.
    return means._yes(~_shares_a_mode(p, q), (p.sum(-1) > 0) & (q.sum(-1) > 0), p)


def _kl_ceiling(logp_old: Tensor, u: Tensor, mask: Tensor) -> Tensor:
    x, u = logp_old.detach(), u.detach()
    return torch.where(_presence(x, u, mask), _ceiling(simplex._log_softmax(x, mask), u), math.nan)


def _anchor_health(logp_old: Tensor, u: Tensor, eta: float, mask: Tensor) -> AnchorHealth:
    x, u = logp_old.detach(), u.detach()
    # From one base, so that a constant u leaves the target equal to the anchor bit for bit.
    log_p = simplex._log_softmax(tpo._from_top(x), mask)
    log_q = simplex._log_softmax(tpo._tilted(x, u, eta), mask)
    p, q = log_p.exp(), log_q.exp()
    present, dominance, tv = _presence(x, u, mask), _anchor_dominance(x, u, eta), simplex._tv(q, p)
    figures = AnchorHealth(
        entropy=_entropy_share(p, mask),
        ess_old=simplex._effective_sample_size(p),
        ess_target=simplex._effective_sample_size(q),
        dominance=dominance,
        dominated=means._yes(dominance > DOMINANCE_ALARM, dominance >= 0, tv),
        mode_moved=means._yes(~_shares_a_mode(p, q), present, tv),
        tv=tv,
        unmoved=means._yes(tv < UNMOVED_TV, present, tv),
        kl=simplex._kl_of_logs(log_q, log_p),
        kl_ceiling=_ceiling(log_p, u),
    )
    return AnchorHealth(*(torch.where(present, figure, math.nan) for figure in figures))


def _summarise(logp_old: Tensor, u: Tensor, eta: float, mask: Tensor, keep_axes: int) -> AnchorHealth:
    return AnchorHealth(*(means._group_mean(x, keep_axes) for x in _anchor_health(logp_old, u, eta, mask)))


def _presence(x: Tensor, u: Tensor, mask: Tensor) -> Tensor:
    # A NaN that was not refused shows in every figure of its group (deviation D6).
    return mask.any(-1) & ~(x.isnan() | u.isnan()).any(-1)


def _entropy_share(p: Tensor, mask: Tensor) -> Tensor:
    count = mask.sum(-1)
    return torch.where(count > 1, simplex._entropy(p) / count.clamp(min=2).to(p.dtype).log(), math.nan)


def _shares_a_mode(p: Tensor, q: Tensor) -> Tensor:
    return ((p == p.amax(-1, keepdim=True)) & (q == q.amax(-1, keepdim=True))).any(-1)


def _ceiling(log_p: Tensor, u: Tensor) -> Tensor:
    here = log_p != -math.inf
    u = torch.where(here, u, -math.inf)
    best = here & (u == u.amax(-1, keepdim=True))
    # Zero when all are best, and then rounding could make it negative.
    return (-simplex._logsumexp(torch.where(best, log_p, -math.inf), best)).clamp(min=0)
