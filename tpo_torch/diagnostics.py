"""Is the anchor healthy, is there a signal, who gets the weight: figures of one update. Last axis = group.

Each function gives one number per group: 1 or 0 for yes or no, and NaN where a group has no answer, which
`group_mean` leaves out (deviation D53). So the mean of a yes or no is a share. All are detached.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from tpo_torch import checks, simplex
from tpo_torch.standardize import CONSTANT_ULPS, standardize

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
    raw = checks.array("logp_old", logp_old)
    keep = checks.mask_for(mask, raw)
    return _entropy_share(simplex.softmax(raw.detach(), keep, name="logp_old"), keep)


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
    x, u, _ = _anchor(logp_old, u, mask)
    return _dominance(x, u, eta)


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
    raw = checks.array("p", p)
    keep = checks.mask_for(mask, raw)
    p, q = (checks.distribution(name, x, keep, tuple(raw.shape)) for name, x in (("p", raw), ("q", q)))
    # No NaN exceeds 0.
    return _yes(~_shares_a_mode(p, q), (p.sum(-1) > 0) & (q.sum(-1) > 0), p)


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
    x, u, keep = _anchor(logp_old, u, mask)
    return torch.where(_presence(x, u, keep), _ceiling(simplex.log_softmax(x, keep), u), math.nan)


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
    x, u, keep = _anchor(logp_old, u, mask)
    base = x - _top(x)
    here = x != -math.inf
    tilt = torch.where(here, (u - _top(torch.where(here, u, -math.inf))) / eta, -math.inf)
    # From one base, so that a constant u leaves the target equal to the anchor bit for bit.
    log_p, log_q = simplex.log_softmax(base, keep), simplex.log_softmax(base + tilt, keep)
    p, q = log_p.exp(), log_q.exp()
    present, dominance, tv = _presence(x, u, keep), _dominance(x, u, eta), simplex.tv(q, p)
    figures = AnchorHealth(
        entropy=_entropy_share(p, keep),
        ess_old=simplex.effective_sample_size(p),
        ess_target=simplex.effective_sample_size(q),
        dominance=dominance,
        dominated=_yes(dominance > DOMINANCE_ALARM, dominance >= 0, tv),
        mode_moved=_yes(~_shares_a_mode(p, q), present, tv),
        tv=tv,
        unmoved=_yes(tv < UNMOVED_TV, present, tv),
        kl=_kl(log_q, log_p),
        kl_ceiling=_ceiling(log_p, u),
    )
    return AnchorHealth(*(torch.where(present, figure, math.nan) for figure in figures))


def group_mean(values: Tensor, keep_axes: int = 0) -> Tensor:
    """Mean over groups, leaving out those that have no answer.

    Paper: ours

    Args: values (…), one number per group, NaN where there is none; keep_axes, how many leading axes (seeds) stay.
    Returns: 0-d, or the kept axes; NaN where no group has an answer.
    Raises: TypeError, ValueError for a bad dtype, no values, or more axes kept than there are.

    >>> group_mean(torch.tensor([1.0, math.nan, 0.0]))
    tensor(0.5000)
    """
    a = checks.array("values", checks.dense("values", values).unsqueeze(0))[0].detach()
    if checks.whole("keep_axes", keep_axes, 0) > a.ndim:
        raise ValueError(f"keep_axes: got {keep_axes}, expected at most {a.ndim}, the axes of values")
    floats = a if a.is_floating_point() else a.to(torch.get_default_dtype())
    flat = floats.to(torch.promote_types(floats.dtype, torch.float32)).reshape(*a.shape[:keep_axes], -1)
    present = ~flat.isnan()
    return torch.where(present, flat, 0.0).sum(-1) / present.sum(-1)


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
    return AnchorHealth(*(group_mean(x, keep_axes) for x in anchor_health(logp_old, u, eta, mask)))


def duplicate_rate(tokens: Tensor, mask: Tensor | None = None) -> Tensor:
    """Share of a group that repeats an earlier candidate.

    Paper: ours

    1 − distinct/K, K counting the unmasked.

    Args: tokens (…, K, T), integers; candidates of unequal length padded alike; mask (…, K) bool.
    Returns: (…), in [0, 1 − 1/K]; NaN for a group that is masked throughout.
    Raises: TypeError, ValueError for a bad dtype, shape or mask.

    >>> duplicate_rate(torch.tensor([[1, 2], [1, 3], [1, 2], [1, 2]]))
    tensor(0.5000)
    """
    t = checks.array("tokens", tokens)
    if t.is_floating_point() or t.dtype == torch.bool:
        raise TypeError(f"tokens: got dtype {t.dtype}, expected integer token ids; were log-probabilities passed?")
    if t.ndim < 2:
        raise ValueError(f"tokens: got shape {tuple(t.shape)}, expected (..., K, T); add the axis of positions")
    keep = checks.mask_for(mask, t[..., 0])
    # Position by position, since all at once would need K² copies of every candidate.
    at = [x.unsqueeze(-1) == x.unsqueeze(-2) for x in t.unbind(-1)]
    equal = functools.reduce(torch.logical_and, at) & keep.unsqueeze(-2)
    repeated = equal.tril(-1).any(-1)
    return (repeated & keep).sum(-1) / keep.sum(-1)


def correlation(x: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
    """Correlation within a group: of ℓ_old with length, or with score.

    Paper: ours

    Pearson's, Σ (x − x̄)(y − ȳ)/(K sd_x sd_y). Of ℓ_old with length: does the anchor weigh brevity, not merit?

    Args: x, y (…, K), finite, any real dtype; mask (…, K) bool.
    Returns: (…), in [−1, 1]; NaN where x or y is constant in the sense of `standardize`.
    Raises: TypeError, ValueError for NaN or infinite numbers, a bad dtype, shape or mask.

    >>> correlation(torch.tensor([-1.0, -2.0, -3.0]), torch.tensor([10, 20, 30]))
    tensor(-1.)
    """
    raw = checks.array("x", x)
    keep = checks.mask_for(mask, raw)
    for name, given in (("x", x), ("y", y)):
        checks.finite(name, given, keep, tuple(raw.shape))
    # Integers (lengths) take the precision of the other, not less.
    common = torch.promote_types(x.dtype, y.dtype)
    ux, uy = standardize(x.to(common), keep), standardize(y.to(common), keep)
    both = (ux != 0).any(-1) & (uy != 0).any(-1)
    return torch.where(both, (ux * uy).sum(-1) / keep.sum(-1), math.nan).clamp(-1.0, 1.0)


def all_fail(scores: Tensor, mask: Tensor | None = None) -> Tensor:
    """Whether no candidate of a group succeeded.

    Paper: ours (Figs 10–12 plot its mean)

    1 if every score ≤ 0.

    Args: scores (…, K), 0 = failed; mask (…, K) bool.
    Returns: (…), 1 or 0; NaN for a group that is masked throughout.
    Raises: TypeError, ValueError for NaN or infinite scores, a bad dtype, shape or mask.

    >>> all_fail(torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
    tensor([0., 1.])
    """
    raw = checks.array("scores", scores)
    keep = checks.mask_for(mask, raw)
    s = checks.finite("scores", raw, keep).detach()
    return _yes((s <= 0).all(-1), keep.any(-1) & ~s.isnan().any(-1), s)


def zero_variance(u: Tensor, mask: Tensor | None = None) -> Tensor:
    """Whether the scores of a group ask for nothing.

    Paper: ours (App. A's u = 0)

    1 if max u = min u, exactly: `standardize` has removed rounding.

    Args: u (…, K); mask (…, K) bool.
    Returns: (…), 1 or 0; NaN for a group that is masked throughout.
    Raises: TypeError, ValueError for NaN or infinite u, a bad dtype, shape or mask.

    >>> zero_variance(torch.tensor([[1.0, -1.0], [0.0, 0.0]]))
    tensor([0., 1.])
    """
    raw = checks.array("u", u)
    keep = checks.mask_for(mask, raw)
    reach = _range(checks.finite("u", raw, keep).detach(), keep)
    # −inf for a group that is masked throughout; no NaN is at least 0.
    return _yes(reach == 0, reach >= 0, reach)


def winners_losers_weight(coefficients: Tensor, scores: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean push on the candidates that scored above their group's mean, and on those below.

    Paper: ours (Figs 10–12 plot a weight on winners and losers; deviation D52)

    mean of −g_i over {s_i > s̄} and over {s_i < s̄}; a difference from s̄ within rounding is neither.

    Args: coefficients (…, K), −∂L/∂ℓ, as `tpo_coefficients` gives; scores (…, K); mask (…, K) bool.
    Returns: winners (…), losers (…); NaN where a group has none.
    Raises: TypeError, ValueError for NaN or infinity, a bad dtype, shape or mask.

    >>> winners_losers_weight(torch.tensor([0.5, -0.25, -0.25]), torch.tensor([1.0, 0.0, 0.0]))
    (tensor(0.5000), tensor(-0.2500))
    """
    raw = checks.array("coefficients", coefficients)
    keep = checks.mask_for(mask, raw)
    c = checks.finite("coefficients", raw, keep).detach()
    s = checks.finite("scores", scores, keep, tuple(raw.shape)).detach()
    s = s / s.abs().amax(-1, keepdim=True).clamp(min=torch.finfo(s.dtype).tiny)
    above = torch.where(keep, s - s.sum(-1, keepdim=True) / keep.sum(-1, keepdim=True).clamp(min=1), 0.0)
    slack = CONSTANT_ULPS * torch.finfo(s.dtype).eps
    winners, losers = above > slack, above < -slack
    return (c * winners).sum(-1) / winners.sum(-1), (c * losers).sum(-1) / losers.sum(-1)


def _anchor(logp_old: Tensor, u: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    raw = checks.array("logp_old", logp_old)
    keep = checks.mask_for(mask, raw)
    x, u = checks.log_weights("logp_old", raw, keep), checks.finite("u", u, keep, tuple(raw.shape))
    return x.detach(), u.detach(), keep


def _presence(x: Tensor, u: Tensor, keep: Tensor) -> Tensor:
    # A NaN that was not refused shows in every figure of its group (deviation D6).
    return keep.any(-1) & ~(x.isnan() | u.isnan()).any(-1)


def _entropy_share(p: Tensor, keep: Tensor) -> Tensor:
    count = keep.sum(-1)
    return torch.where(count > 1, simplex.entropy(p) / count.clamp(min=2).to(p.dtype).log(), math.nan)


def _dominance(x: Tensor, u: Tensor, eta: float) -> Tensor:
    here = x != -math.inf
    count = here.sum(-1, keepdim=True).clamp(min=1)
    x = torch.where(here, x - _top(x), 0.0)
    sd = (torch.where(here, x - x.sum(-1, keepdim=True) / count, 0.0).square().sum(-1) / count[..., 0]).sqrt()
    reach = _range(u, here)
    return torch.where(reach > 0, sd * eta / reach, math.nan)


def _ceiling(log_p: Tensor, u: Tensor) -> Tensor:
    here = log_p != -math.inf
    u = torch.where(here, u, -math.inf)
    best = here & (u == u.amax(-1, keepdim=True))
    # Zero when all are best, and then rounding could make it negative.
    return (-simplex.logsumexp(log_p, best)).clamp(min=0)


def _kl(log_q: Tensor, log_p: Tensor) -> Tensor:
    # In logarithms, since p_old underflows under a wide anchor; each term ≥ 0, as in `simplex.kl`.
    q, p = log_q.exp(), log_p.exp()
    gap = torch.where(q == 0, 0.0, log_q) - torch.where(q == 0, 0.0, log_p)
    return (q * gap - q + p).clamp(min=0).sum(-1)


def _shares_a_mode(p: Tensor, q: Tensor) -> Tensor:
    return ((p == p.amax(-1, keepdim=True)) & (q == q.amax(-1, keepdim=True))).any(-1)


def _range(x: Tensor, keep: Tensor) -> Tensor:
    return torch.where(keep, x, -math.inf).amax(-1) - torch.where(keep, x, math.inf).amin(-1)


def _top(x: Tensor) -> Tensor:
    top = x.amax(-1, keepdim=True)
    return torch.where(top == -math.inf, 0.0, top)


def _yes(condition: Tensor, present: Tensor, like: Tensor) -> Tensor:
    return torch.where(present, condition.to(like.dtype), math.nan)
