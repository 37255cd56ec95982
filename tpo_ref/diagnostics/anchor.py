"""Is the anchor healthy: how the old policy weighs its candidates, and how far scores can tilt that."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from tpo_ref import checks, simplex, tpo
from tpo_ref.checks import Bools, Floats
from tpo_ref.diagnostics import means

# Above this dominance the old log-probabilities spread further than the scores can tilt them.
DOMINANCE_ALARM = 1.0
# Below this distance the target is the anchor, for all that training can notice.
UNMOVED_TV = 0.01


class AnchorHealth(NamedTuple):
    """One number per group, or the mean of each over groups; NaN where there is none."""

    entropy: Floats  # H(p_old)/log K, in [0, 1]
    ess_old: Floats  # effective sample size of p_old, in [1, K]
    ess_target: Floats  # the same of q
    dominance: Floats  # sd(ℓ_old)·η/R
    dominated: Floats  # 1 if dominance > DOMINANCE_ALARM
    mode_moved: Floats  # 1 if the most likely candidate is another one in q
    tv: Floats  # TV(q, p_old)
    unmoved: Floats  # 1 if tv < UNMOVED_TV
    kl: Floats  # KL(q‖p_old) in nats
    kl_ceiling: Floats  # its supremum over η, in nats


def normalised_entropy(logp_old: ArrayLike, mask: ArrayLike | None = None) -> Floats:
    """How evenly the old policy weighs its candidates.

    Paper: ours

    H(p_old)/log K, from 0 (one-hot) to 1 (uniform), K counting the unmasked.

    Args: logp_old (…, K) in nats, −inf allowed; mask (…, K) bool, False = no candidate here.
    Returns: (…); NaN for a group of fewer than two candidates.
    Raises: TypeError, ValueError for a bad dtype, shape or mask, or NaN.

    >>> float(normalised_entropy([0.0, 0.0, -np.inf]).round(4))
    0.6309
    """
    x, keep = checks.group("logp_old", logp_old, mask)
    return _normalised_entropy(x, keep)


def anchor_dominance(logp_old: ArrayLike, u: ArrayLike, eta: float = 1.0, mask: ArrayLike | None = None) -> Floats:
    """Spread of the old log-probabilities in units of the reach of the tilt; above 1 is an alarm.

    Paper: ours

    sd(ℓ_old)·η/R with R = max u − min u, both over candidates of positive probability; sd with ddof 0.

    Args: logp_old (…, K) in nats, −inf allowed; u (…, K); eta > 0; mask (…, K) bool.
    Returns: (…), without unit; NaN where R = 0, since no tilt is asked for.
    Raises: TypeError, ValueError for a bad dtype, shape, mask, eta, or NaN.

    >>> float(anchor_dominance([-2.0, -8.0], [1.0, -1.0]))
    1.5
    """
    eta = checks.positive("eta", eta)
    x, keep = checks.group("logp_old", logp_old, mask)
    return _anchor_dominance(x, checks.finite("u", u, keep), eta)


def mode_moves(p: ArrayLike, q: ArrayLike, mask: ArrayLike | None = None) -> Floats:
    """Whether the most likely candidate changes.

    Paper: ours

    1 if argmax q ≠ argmax p, where a tie counts as no change: no candidate is a maximum of both.

    Args: p, q (…, K), distributions; mask (…, K) bool.
    Returns: (…), 1 or 0; NaN for a group that is masked throughout.
    Raises: TypeError, ValueError for a bad dtype, shape or mask, NaN, or what is no distribution.

    >>> mode_moves([[0.6, 0.4], [0.5, 0.5]], [[0.3, 0.7], [0.3, 0.7]]).tolist()
    [1.0, 0.0]
    """
    before, keep = checks.group("p", p, mask, checks.distribution)
    return _mode_moves(before, checks.distribution("q", q, keep), keep)


def kl_ceiling(logp_old: ArrayLike, u: ArrayLike, mask: ArrayLike | None = None) -> Floats:
    """How far a target can be from its anchor, however small η.

    Paper: ours

    sup_η KL(q‖p_old) = −log p_old(argmax u), the sum over all candidates tied at the largest u; of those with positive
    probability. KL grows as η falls, since its derivative in 1/η is Var_q(u)/η, and tends to this as η → 0.

    Args: logp_old, u, mask as `anchor_dominance`.
    Returns: (…) in nats; NaN for a group that is masked throughout.
    Raises: TypeError, ValueError as `anchor_dominance`.

    >>> float(kl_ceiling(np.log([0.5, 0.25, 0.25]), [-1.0, 0.5, 0.5]).round(4))
    0.6931
    """
    x, keep = checks.group("logp_old", logp_old, mask)
    return _kl_ceiling(x, checks.finite("u", u, keep), keep)


def anchor_health(logp_old: ArrayLike, u: ArrayLike, eta: float = 1.0, mask: ArrayLike | None = None) -> AnchorHealth:
    """Every figure of a group that follows from its anchor and its tilt, each softmax made once.

    Paper: ours (of p_old and q of Eq. 2)

    Args: logp_old, u, eta, mask as `anchor_dominance`.
    Returns: `AnchorHealth` of (…) arrays; all NaN for a group that is masked throughout.
    Raises: TypeError, ValueError as `anchor_dominance`.

    >>> health = anchor_health([-2.0, -8.0], [1.0, -1.0])
    >>> float(health.dominance), float(health.dominated), float(health.tv.round(4))
    (1.5, 1.0, 0.0021)
    """
    eta = checks.positive("eta", eta)
    x, keep = checks.group("logp_old", logp_old, mask)
    return _anchor_health(x, checks.finite("u", u, keep), eta, keep)


def summarise(
    logp_old: ArrayLike, u: ArrayLike, eta: float = 1.0, mask: ArrayLike | None = None, keep_axes: int = 0
) -> AnchorHealth:
    """`anchor_health`, each figure averaged over groups by `group_mean`.

    Paper: ours (of p_old and q of Eq. 2)

    Args, Raises: as `anchor_health` and `group_mean`. Returns: `AnchorHealth` of 0-d arrays, or of the kept axes.

    >>> float(summarise([[0.0, 0.0], [-2.0, -8.0]], [[0.0, 0.0], [1.0, -1.0]]).dominance)  # of one group of two
    1.5
    """
    eta = checks.positive("eta", eta)
    x, keep = checks.group("logp_old", logp_old, mask)
    keep_axes = checks.axes("keep_axes", keep_axes, x.ndim - 1)
    return _summarise(x, checks.finite("u", u, keep), eta, keep, keep_axes)


# -- what is computed, of arrays that were checked -----------------------------------------------------------------
# Their masked entries hold what the checks put there: −inf in logits, 0 elsewhere.


def _normalised_entropy(logp_old: Floats, mask: Bools) -> Floats:
    return _entropy_share(simplex._softmax(logp_old, mask), mask)


def _anchor_dominance(logp_old: Floats, u: Floats, eta: float) -> Floats:
    here = logp_old > -np.inf
    count = np.maximum(here.sum(-1, keepdims=True), 1)
    x = np.where(here, tpo._from_top(logp_old), 0.0)
    sd = np.sqrt((np.where(here, x - x.sum(-1, keepdims=True) / count, 0.0) ** 2).sum(-1) / count[..., 0])
    return means._ratio(sd * eta, np.maximum(means._range(u, here), 0.0))


def _mode_moves(p: Floats, q: Floats, mask: Bools) -> Floats:
    shared = (p == p.max(-1, keepdims=True)) & (q == q.max(-1, keepdims=True))
    return means._yes(~shared.any(-1), mask.any(-1))


def _kl_ceiling(logp_old: Floats, u: Floats, mask: Bools) -> Floats:
    return np.where(mask.any(-1), _ceiling(simplex._log_softmax(logp_old, mask), u), np.nan)


def _anchor_health(logp_old: Floats, u: Floats, eta: float, mask: Bools) -> AnchorHealth:
    # From one base, so that a constant u leaves the target equal to the anchor bit for bit.
    log_p = simplex._log_softmax(tpo._from_top(logp_old), mask)
    log_q = simplex._log_softmax(tpo._tilted(logp_old, u, eta), mask)
    p, q = np.exp(log_p), np.exp(log_q)
    present, dominance, tv = mask.any(-1), _anchor_dominance(logp_old, u, eta), simplex._tv(q, p)
    figures = AnchorHealth(
        entropy=_entropy_share(p, mask),
        ess_old=simplex._effective_sample_size(p),
        ess_target=simplex._effective_sample_size(q),
        dominance=dominance,
        dominated=means._yes(dominance > DOMINANCE_ALARM, dominance >= 0),
        mode_moved=_mode_moves(p, q, mask),
        tv=tv,
        unmoved=means._yes(tv < UNMOVED_TV, present),
        kl=simplex._kl_of_logs(log_q, log_p),
        kl_ceiling=_ceiling(log_p, u),
    )
    return AnchorHealth(*(np.where(present, figure, np.nan) for figure in figures))


def _summarise(logp_old: Floats, u: Floats, eta: float, mask: Bools, keep_axes: int) -> AnchorHealth:
    return AnchorHealth(*(means._group_mean(x, keep_axes) for x in _anchor_health(logp_old, u, eta, mask)))


def _entropy_share(p: Floats, mask: Bools) -> Floats:
    return means._ratio(simplex._entropy(p), np.log(np.maximum(mask.sum(-1), 1)))


def _ceiling(log_p: Floats, u: Floats) -> Floats:
    u = np.where(log_p > -np.inf, u, -np.inf)
    best = (log_p > -np.inf) & (u == u.max(-1, keepdims=True))
    # Zero when all are best, and then rounding could make it negative.
    return np.maximum(-simplex._logsumexp(np.where(best, log_p, -np.inf), best), 0.0)
