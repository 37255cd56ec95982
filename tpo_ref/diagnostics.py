"""Is the anchor healthy, is there a signal, who gets the weight: figures of one update. Last axis = group.

Each function gives one number per group: 1 or 0 for yes or no, and NaN where a group has no answer, which
`group_mean` leaves out (deviation D53). So the mean of a yes or no is a share.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from tpo_ref import checks, simplex
from tpo_ref.checks import Bools, Floats
from tpo_ref.standardize import CONSTANT_ULPS, standardize

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
    raw = checks.array("logp_old", logp_old)
    keep = checks.mask_for(mask, raw.shape)
    return _entropy_share(simplex.softmax(raw, keep, name="logp_old"), keep)


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
    x, u, _ = _anchor(logp_old, u, mask)
    return _dominance(x, u, eta)


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
    raw = checks.array("p", p)
    keep = checks.mask_for(mask, raw.shape)
    p, q = checks.distribution("p", raw, keep, raw.shape), checks.distribution("q", q, keep, raw.shape)
    return _yes(~_shares_a_mode(p, q), keep.any(-1))


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
    x, u, keep = _anchor(logp_old, u, mask)
    return np.where(keep.any(-1), _ceiling(simplex.log_softmax(x, keep), u), np.nan)


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
    x, u, keep = _anchor(logp_old, u, mask)
    base = x - _top(x)
    with np.errstate(over="ignore"):
        tilt = np.where(x > -np.inf, (u - _top(np.where(x > -np.inf, u, -np.inf))) / eta, -np.inf)
    # From one base, so that a constant u leaves the target equal to the anchor bit for bit.
    log_p, log_q = simplex.log_softmax(base, keep), simplex.log_softmax(base + tilt, keep)
    p, q = np.exp(log_p), np.exp(log_q)
    present, dominance, tv = keep.any(-1), _dominance(x, u, eta), simplex.tv(q, p)
    figures = AnchorHealth(
        entropy=_entropy_share(p, keep),
        ess_old=simplex.effective_sample_size(p),
        ess_target=simplex.effective_sample_size(q),
        dominance=dominance,
        dominated=_yes(dominance > DOMINANCE_ALARM, dominance >= 0),
        mode_moved=_yes(~_shares_a_mode(p, q), present),
        tv=tv,
        unmoved=_yes(tv < UNMOVED_TV, present),
        kl=_kl(log_q, log_p),
        kl_ceiling=_ceiling(log_p, u),
    )
    return AnchorHealth(*(np.where(present, figure, np.nan) for figure in figures))


def group_mean(values: ArrayLike, keep_axes: int = 0) -> Floats:
    """Mean over groups, leaving out those that have no answer.

    Paper: ours

    Args: values (…), one number per group, NaN where there is none; keep_axes, how many leading axes (seeds) stay.
    Returns: 0-d, or the kept axes; NaN where no group has an answer.
    Raises: TypeError, ValueError for a bad dtype, no values, or more axes kept than there are.

    >>> float(group_mean([1.0, np.nan, 0.0]))
    0.5
    """
    a = checks.float64(checks.array("values", checks.converted("values", values)[np.newaxis])[0])
    if checks.whole("keep_axes", keep_axes, 0) > a.ndim:
        raise ValueError(f"keep_axes: got {keep_axes}, expected at most {a.ndim}, the axes of values")
    flat = a.reshape(*a.shape[:keep_axes], -1)
    present = ~np.isnan(flat)
    return _ratio(np.where(present, flat, 0.0).sum(-1), present.sum(-1))


def summarise(
    logp_old: ArrayLike, u: ArrayLike, eta: float = 1.0, mask: ArrayLike | None = None, keep_axes: int = 0
) -> AnchorHealth:
    """`anchor_health`, each figure averaged over groups by `group_mean`.

    Paper: ours (of p_old and q of Eq. 2)

    Args, Raises: as `anchor_health` and `group_mean`. Returns: `AnchorHealth` of 0-d arrays, or of the kept axes.

    >>> float(summarise([[0.0, 0.0], [-2.0, -8.0]], [[0.0, 0.0], [1.0, -1.0]]).dominance)  # of one group of two
    1.5
    """
    return AnchorHealth(*(group_mean(x, keep_axes) for x in anchor_health(logp_old, u, eta, mask)))


def duplicate_rate(tokens: ArrayLike, mask: ArrayLike | None = None) -> Floats:
    """Share of a group that repeats an earlier candidate.

    Paper: ours

    1 − distinct/K, K counting the unmasked.

    Args: tokens (…, K, T), integers; candidates of unequal length padded alike; mask (…, K) bool.
    Returns: (…), in [0, 1 − 1/K]; NaN for a group that is masked throughout.
    Raises: TypeError, ValueError for a bad dtype, shape or mask.

    >>> float(duplicate_rate([[1, 2], [1, 3], [1, 2], [1, 2]]))
    0.5
    """
    t = checks.array("tokens", tokens)
    if t.dtype.kind not in "iu":
        raise TypeError(f"tokens: got dtype {t.dtype}, expected integer token ids; were log-probabilities passed?")
    if t.ndim < 2:
        raise ValueError(
            f"tokens: got shape {t.shape}, expected (..., K, T); add the axis of positions: tokens[:, None]"
        )
    keep = checks.mask_for(mask, t.shape[:-1])
    equal = (t[..., :, None, :] == t[..., None, :, :]).all(-1) & keep[..., None, :]
    repeated = np.tril(equal, -1).any(-1)
    return _ratio((repeated & keep).sum(-1), keep.sum(-1))


def correlation(x: ArrayLike, y: ArrayLike, mask: ArrayLike | None = None) -> Floats:
    """Correlation within a group: of ℓ_old with length, or with score.

    Paper: ours

    Pearson's, Σ (x − x̄)(y − ȳ)/(K sd_x sd_y). Of ℓ_old with length: does the anchor weigh brevity, not merit?

    Args: x, y (…, K), finite, any real dtype; mask (…, K) bool.
    Returns: (…), in [−1, 1]; NaN where x or y is constant in the sense of `standardize`.
    Raises: TypeError, ValueError for NaN or infinite numbers, a bad dtype, shape or mask.

    >>> float(correlation([-1.0, -2.0, -3.0], [10, 20, 30]).round(4))
    -1.0
    """
    raw = checks.array("x", x)
    keep = checks.mask_for(mask, raw.shape)
    for name, values in (("x", x), ("y", y)):
        checks.finite(name, values, keep, raw.shape)
    ux, uy = standardize(raw, keep), standardize(y, keep)
    both = (ux != 0).any(-1) & (uy != 0).any(-1)
    return np.clip(_ratio((ux * uy).sum(-1), np.where(both, keep.sum(-1), 0)), -1.0, 1.0)


def all_fail(scores: ArrayLike, mask: ArrayLike | None = None) -> Floats:
    """Whether no candidate of a group succeeded.

    Paper: ours (Figs 10–12 plot its mean)

    1 if every score ≤ 0.

    Args: scores (…, K), 0 = failed; mask (…, K) bool.
    Returns: (…), 1 or 0; NaN for a group that is masked throughout.
    Raises: TypeError, ValueError for NaN or infinite scores, a bad dtype, shape or mask.

    >>> all_fail([[0.0, 1.0], [0.0, 0.0]]).tolist()
    [0.0, 1.0]
    """
    raw = checks.array("scores", scores)
    keep = checks.mask_for(mask, raw.shape)
    return _yes((checks.finite("scores", raw, keep) <= 0).all(-1), keep.any(-1))


def zero_variance(u: ArrayLike, mask: ArrayLike | None = None) -> Floats:
    """Whether the scores of a group ask for nothing.

    Paper: ours (App. A's u = 0)

    1 if max u = min u, exactly: `standardize` has removed rounding.

    Args: u (…, K); mask (…, K) bool.
    Returns: (…), 1 or 0; NaN for a group that is masked throughout.
    Raises: TypeError, ValueError for NaN or infinite u, a bad dtype, shape or mask.

    >>> zero_variance([[1.0, -1.0], [0.0, 0.0]]).tolist()
    [0.0, 1.0]
    """
    raw = checks.array("u", u)
    keep = checks.mask_for(mask, raw.shape)
    return _yes(_range(checks.finite("u", raw, keep), keep) == 0, keep.any(-1))


def winners_losers_weight(
    coefficients: ArrayLike, scores: ArrayLike, mask: ArrayLike | None = None
) -> tuple[Floats, Floats]:
    """Mean push on the candidates that scored above their group's mean, and on those below.

    Paper: ours (Figs 10–12 plot a weight on winners and losers; deviation D52)

    mean of −g_i over {s_i > s̄} and over {s_i < s̄}; a difference from s̄ within rounding is neither.

    Args: coefficients (…, K), −∂L/∂ℓ, as `tpo_coefficients` gives; scores (…, K); mask (…, K) bool.
    Returns: winners (…), losers (…); NaN where a group has none.
    Raises: TypeError, ValueError for NaN or infinity, a bad dtype, shape or mask.

    >>> [float(x) for x in winners_losers_weight([0.5, -0.25, -0.25], [1.0, 0.0, 0.0])]
    [0.5, -0.25]
    """
    raw = checks.array("coefficients", coefficients)
    keep = checks.mask_for(mask, raw.shape)
    c, s = checks.finite("coefficients", raw, keep), checks.finite("scores", scores, keep, raw.shape)
    largest = np.abs(s).max(-1, keepdims=True)
    s = s / np.where(largest > 0, largest, 1.0)
    above = np.where(keep, s - s.sum(-1, keepdims=True) / np.maximum(keep.sum(-1, keepdims=True), 1), 0.0)
    slack = CONSTANT_ULPS * np.finfo(np.float64).eps
    winners, losers = above > slack, above < -slack
    return _ratio((c * winners).sum(-1), winners.sum(-1)), _ratio((c * losers).sum(-1), losers.sum(-1))


def _anchor(logp_old: ArrayLike, u: ArrayLike, mask: ArrayLike | None) -> tuple[Floats, Floats, Bools]:
    raw = checks.array("logp_old", logp_old)
    keep = checks.mask_for(mask, raw.shape)
    return checks.log_weights("logp_old", raw, keep), checks.finite("u", u, keep, raw.shape), keep


def _entropy_share(p: Floats, keep: Bools) -> Floats:
    return _ratio(simplex.entropy(p), np.log(np.maximum(keep.sum(-1), 1)))


def _dominance(x: Floats, u: Floats, eta: float) -> Floats:
    here = x > -np.inf
    count = np.maximum(here.sum(-1, keepdims=True), 1)
    x = np.where(here, x - _top(x), 0.0)
    sd = np.sqrt((np.where(here, x - x.sum(-1, keepdims=True) / count, 0.0) ** 2).sum(-1) / count[..., 0])
    return _ratio(sd * eta, np.maximum(_range(u, here), 0.0))


def _ceiling(log_p: Floats, u: Floats) -> Floats:
    u = np.where(log_p > -np.inf, u, -np.inf)
    best = (log_p > -np.inf) & (u == u.max(-1, keepdims=True))
    # Zero when all are best, and then rounding could make it negative.
    return np.maximum(-simplex.logsumexp(log_p, best), 0.0)


def _kl(log_q: Floats, log_p: Floats) -> Floats:
    # In logarithms, since p_old underflows under a wide anchor; each term ≥ 0, as in `simplex.kl`.
    q, p = np.exp(log_q), np.exp(log_p)
    gap = np.where(q > 0, log_q, 0.0) - np.where(q > 0, log_p, 0.0)
    return np.asarray(np.maximum(q * gap - q + p, 0.0).sum(-1))


def _shares_a_mode(p: Floats, q: Floats) -> Bools:
    both = (p == p.max(-1, keepdims=True)) & (q == q.max(-1, keepdims=True))
    return np.asarray(both.any(-1))


def _range(x: Floats, keep: Bools) -> Floats:
    return np.asarray(np.where(keep, x, -np.inf).max(-1) - np.where(keep, x, np.inf).min(-1))


def _top(x: Floats) -> Floats:
    top = x.max(-1, keepdims=True)
    return np.where(np.isfinite(top), top, 0.0)


def _yes(condition: ArrayLike, present: ArrayLike) -> Floats:
    return np.where(present, np.asarray(condition, dtype=np.float64), np.nan)


def _ratio(a: ArrayLike, b: ArrayLike) -> Floats:
    return np.asarray(np.divide(a, b, out=np.full(np.shape(b), np.nan), where=np.asarray(b) != 0))
