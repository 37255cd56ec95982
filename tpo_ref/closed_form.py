"""Closed forms that pin experiments: App. B and App. C of the paper, misalignment, the no-anchor plateau."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special

from tpo_ref import checks
from tpo_ref.checks import Floats

# Added to each squared norm of the cosine, so that a zero gradient scores 1 and not NaN.
COSINE_FLOOR = 1e-12
# The bracket of the root is widened by this share: at K = 2 the root lies exactly on its end.
# Completions of a prompt, all of whose divisions into right and wrong are summed over.
LARGEST_GROUP = 10**6
BRACKET_MARGIN = 0.01


def beta_ce(p: ArrayLike) -> Floats:
    """Update of the cross-entropy oracle along v = e_y − π, one-hot reward.

    Paper: App. B

    β = 1: the correct answer pulls with full strength wherever the policy is.

    Args: p (…, N), the probabilities π(y) of the correct action.
    Returns: (…, N). Raises: TypeError, ValueError unless 0 ≤ p ≤ 1.

    >>> beta_ce([0.1, 0.9]).tolist()
    [1.0, 1.0]
    """
    return np.ones_like(checks.probabilities("p", p))


def beta_pg(p: ArrayLike) -> Floats:
    """Expected update of REINFORCE along v = e_y − π, one-hot reward, any baseline.

    Paper: App. B

    β = p: a rare success is rarely seen.

    Args, Raises: as `beta_ce`. Returns: (…, N).

    >>> beta_pg([0.1, 0.9]).tolist()
    [0.1, 0.9]
    """
    return checks.probabilities("p", p) + 0.0


def beta_dg(p: ArrayLike, dg_eta: float = 1.0) -> Floats:
    """Update of DG along v = e_y − π, one-hot reward, baseline 0.

    Paper: App. B

    β = p·σ(−log p/dg_eta) = p/(1 + p^(1/dg_eta)): at most PG's, and at least half of it.

    Args: p as `beta_ce`; dg_eta > 0, the temperature of the gate.
    Returns: (…, N). Raises: as `beta_ce`, and for dg_eta.

    >>> beta_dg([0.25, 1.0]).tolist()
    [0.2, 0.5]
    """
    dg_eta = checks.positive("dg_eta", dg_eta)
    p = checks.probabilities("p", p)
    return np.asarray(p / (1 + p ** (1 / dg_eta)))


def beta_grpo(p: ArrayLike) -> Floats:
    """Expected update of GRPO along v = e_y − π, one-hot reward standardised over infinitely many samples.

    Paper: App. B

    β = √(p/(1 − p)); inf at p = 1, where v = 0.

    Args, Raises: as `beta_ce`. Returns: (…, N).

    >>> beta_grpo([0.5, 0.1]).round(4).tolist()
    [1.0, 0.3333]
    """
    p = checks.probabilities("p", p)
    with np.errstate(divide="ignore"):
        return np.asarray(np.sqrt(p / (1 - p)))


def beta_tpo(p: ArrayLike, arms: int, eta: float = 1.0) -> Floats:
    """Update of TPO along v = e_y − π, one-hot reward standardised over all arms, each listed once.

    Paper: App. B

    β = p(λ − 1)/(1 − p + λp) with λ = exp(A/(η√(A − 1))). It is not the expectation over K sampled candidates, and it
    too is linear as p → 0.

    Args: p as `beta_ce`; arms A ≥ 2; eta > 0.
    Returns: (…, N), in [0, 1). Raises: as `beta_ce`, and for arms, eta.

    >>> beta_tpo([0.1], arms=10).round(2).tolist()
    [0.73]
    """
    return _saturating(checks.probabilities("p", p), _log_odds_factor(arms, eta))


def app_c_ce(pi: ArrayLike, label: ArrayLike) -> Floats:
    """Ascent direction of the cross-entropy oracle in the logits.

    Paper: App. C

    v = e_y − π.

    Args: pi (…, A), class probabilities; label (…) int, the correct class.
    Returns: (…, A). Raises: TypeError, ValueError for a pi that is no distribution, or labels outside 0…A − 1.

    >>> app_c_ce([0.75, 0.25], 1).tolist()
    [-0.75, 0.75]
    """
    pi, y = _classes(pi, label)
    return y - pi


def app_c_pg(pi: ArrayLike, label: ArrayLike) -> Floats:
    """Expected ascent direction of REINFORCE over the one sampled action.

    Paper: App. C

    E_a[(1{a = y} − b)(e_a − π)] = p·v, with p = π(y), v = e_y − π, whatever the baseline b.

    Args, Raises: as `app_c_ce`. Returns: (…, A).

    >>> app_c_pg([0.75, 0.25], 1).tolist()
    [-0.1875, 0.1875]
    """
    pi, y = _classes(pi, label)
    return np.asarray(_at(pi, y) * (y - pi))


def app_c_pg_batchnorm(pi: ArrayLike, label: ArrayLike, sigma: float) -> Floats:
    """Expected ascent direction of REINFORCE with advantages divided by their batch deviation.

    Paper: App. C

    (p/σ_B)·v: the direction of PG, one step size for the whole batch. The authors' MNIST code calls it GRPO.

    Args: pi, label as `app_c_ce`; sigma > 0, the standard deviation of the advantages over the batch.
    Returns: (…, A). Raises: as `app_c_ce`, and for sigma.

    >>> app_c_pg_batchnorm([0.75, 0.25], 1, sigma=0.5).tolist()
    [-0.375, 0.375]
    """
    return app_c_pg(pi, label) / checks.positive("sigma", sigma)


def app_c_group_pg(pi: ArrayLike, label: ArrayLike) -> Floats:
    """Expected ascent direction of Group PG, scores (r − b)e_a standardised over the classes, u_a log π_a.

    Paper: App. C

    2√(A − 1)·p·v, 6p·v for ten classes: a failure pushes exactly as hard as a success pulls.

    Args, Raises: as `app_c_ce`. Returns: (…, A).

    >>> app_c_group_pg([0.75, 0.25], 1).tolist()
    [-0.375, 0.375]
    """
    pi, y = _classes(pi, label)
    return np.asarray(2 * math.sqrt(pi.shape[-1] - 1) * _at(pi, y) * (y - pi))


def app_c_dg(pi: ArrayLike, label: ArrayLike, dg_eta: float = 1.0) -> Floats:
    """Expected ascent direction of DG over the one sampled action, baseline b = Σ π².

    Paper: App. C

    p(1 − b)σ((1 − b)log(1/p)/dg_eta)·v − b Σ_{j≠y} π_j σ(−b·log(1/π_j)/dg_eta)(e_j − π).

    Args: pi, label as `app_c_ce`; dg_eta > 0, the temperature of the gate.
    Returns: (…, A). Raises: as `app_c_ce`, and for dg_eta.

    >>> app_c_dg([0.5, 0.5], 0).round(4).tolist()
    [0.125, -0.125]
    """
    dg_eta = checks.positive("dg_eta", dg_eta)
    pi, y = _classes(pi, label)
    advantage = y - (pi**2).sum(-1, keepdims=True)
    # 0·log 0 = 0: an impossible action is never sampled, whatever its gate.
    log_pi = np.log(np.where(pi > 0, pi, 1.0))
    return _spread(pi * advantage * special.expit(-advantage * log_pi / dg_eta), pi)


def app_c_tpo(pi: ArrayLike, label: ArrayLike, eta: float = 1.0) -> Floats:
    """Expected ascent direction of TPO over the one sampled action, scores (r − b)e_a standardised over the classes.

    Paper: App. C

    p·β₊v + Σ_{j≠y} π_jγ(π_j)(π − e_j), β₊ = p(Λ − 1)/(1 − p + Λp), γ(t) = t(Λ − 1)/(Λ(1 − t) + t),
    Λ = exp(A/(η√(A − 1))), exp(10/(3η)) for ten classes: u = z(e_y) after a success, −z(e_j) after a failure.

    Args: pi, label as `app_c_ce`; eta > 0.
    Returns: (…, A). Raises: as `app_c_ce`, and for eta.

    >>> app_c_tpo([0.5, 0.5], 0).round(4).tolist()
    [0.3808, -0.3808]
    """
    pi, y = _classes(pi, label)
    log_factor = _log_odds_factor(pi.shape[-1], eta)
    # γ is the pull on the other classes together: a failure of j is, to them, a success of 1 − π_j.
    pull = np.where(y > 0, _saturating(pi, log_factor), -_retreat(pi, log_factor))
    return _spread(pi * pull, pi)


def cosine_misalignment(g: ArrayLike, h: ArrayLike) -> Floats:
    """How far two directions differ, whatever their lengths.

    Paper: Fig. 2

    1 − ⟨g,h⟩/(√(‖g‖² + 1e-12)·√(‖h‖² + 1e-12)); 0 for parallel directions, 1 when either is zero.

    Args: g, h (…, N), any unit.
    Returns: (…), in [0, 2]. Raises: TypeError, ValueError for a bad dtype or shape, or NaN.

    >>> float(cosine_misalignment([1.0, 2.0, 3.0], [3.0, 2.0, 1.0]).round(4))
    0.2857
    """
    g = checks.finite("g", g)
    h = checks.finite("h", h, shape=g.shape)
    lengths = np.sqrt((g * g).sum(-1) + COSINE_FLOOR) * np.sqrt((h * h).sum(-1) + COSINE_FLOOR)
    return np.asarray(1 - (g * h).sum(-1) / lengths)


def misalignment_floor(error: ArrayLike) -> Floats:
    """Bound on what the guard alone adds to the misalignment of a direction to the oracle π(y)(e_y − π).

    Paper: Fig. 2

    1e-12/‖π(y)(e_y − π)‖² ≤ 1e-12/((1 − ε)ε)² with ε = 1 − π(y), at most 1: so far apart are two parallel
    directions said to be, the first no shorter than the oracle. What is smaller cannot be told from 0. An oracle that
    is longer, such as e_y − π, or several contexts taken jointly, has a lower floor (deviation D85).

    Args: error ε (…, N), 1 − π(y). Returns: (…, N), in (0, 1]. Raises: TypeError, ValueError unless 0 ≤ ε ≤ 1.

    >>> misalignment_floor([0.5, 0.0]).tolist()
    [1.6e-11, 1.0]
    """
    error = checks.probabilities("error", error)
    return np.asarray(COSINE_FLOOR / np.maximum(((1 - error) * error) ** 2, COSINE_FLOOR))


def no_anchor_root(horizon: int, vocab: int = 2, group_size: int = 8, eta: float = 1.0) -> float:
    """Error at which TPO without its anchor comes to rest, among V^H symmetric answers with one correct.

    Paper: Fig. 8

    Solve Σ_m Bin(m; K, p)[mλ_m/(mλ_m + K − m) − mρ/(mρ + K − m)] = 0, m = 1…K − 1, with ρ = (N − 1)p/(1 − p),
    N = V^H, λ_m = exp(K/(η√(m(K − m)))): the tilt of a group with m successes against the odds it has reached.

    Args: horizon ≥ 1; vocab ≥ 2; group_size K ≥ 2; eta > 0.
    Returns: the stationary error 1 − p. Raises: TypeError, ValueError for a bad argument.

    >>> round(no_anchor_root(horizon=7), 4)
    0.8855
    """
    eta = checks.positive("eta", eta)
    horizon, vocab = checks.whole("horizon", horizon, 1), checks.whole("vocab", vocab, 2)
    k = checks.whole("group_size", group_size, 2, LARGEST_GROUP)
    m = np.arange(1, k)
    log_lambda = k / (eta * np.sqrt(m * (k - m)))
    # log(V^H − 1), of which V^H alone may have more digits than fit in memory.
    log_answers = horizon * math.log(vocab)
    prior = log_answers + math.log1p(-math.exp(-log_answers))
    log_odds, log_ways = np.log(m / (k - m)), np.log(special.binom(k, m))

    def drift(log_rho: float) -> float:
        # Groups without a verdict (m = 0, K) do not move a symmetric policy, so the weights may be renormalised.
        weights = special.softmax(log_ways + m * (log_rho - prior))
        # σ(a) − σ(b) as σ(−b) − σ(−a), which keeps its digits where both are close to 1.
        return float(weights @ (special.expit(-log_odds - log_rho) - special.expit(-log_odds - log_lambda)))

    top = float(log_lambda.max()) * (1 + BRACKET_MARGIN)
    return float(special.expit(prior - optimize.brentq(drift, 0.0, top)))


def _saturating(t: Floats, log_factor: float) -> Floats:
    # t(Λ − 1)/(1 − t + Λt), divided through by Λ, which may overflow.
    top, bottom = -math.expm1(-log_factor) * t, t + (1 - t) * math.exp(-log_factor)
    return np.divide(top, bottom, out=np.zeros_like(t), where=t > 0)


def _retreat(t: Floats, log_factor: float) -> Floats:
    # t(Λ − 1)/(Λ(1 − t) + t), divided through by Λ.
    top, bottom = -math.expm1(-log_factor) * t, (1 - t) + t * math.exp(-log_factor)
    return np.divide(top, bottom, out=np.zeros_like(t), where=t < 1)


def _log_odds_factor(arms: int, eta: float) -> float:
    # The standardised one-hot reward ranges from −1/√(A − 1) to √(A − 1).
    arms = checks.whole("arms", arms, 2)
    return arms / (checks.positive("eta", eta) * math.sqrt(arms - 1))


def _spread(c: Floats, pi: Floats) -> Floats:
    # Σ_j c_j (e_j − π).
    return np.asarray(c - pi * c.sum(-1, keepdims=True))


def _at(pi: Floats, y: Floats) -> Floats:
    return np.asarray((pi * y).sum(-1, keepdims=True))


def _classes(pi: ArrayLike, label: ArrayLike) -> tuple[Floats, Floats]:
    raw = checks.array("pi", pi)
    pi = checks.distribution("pi", raw, np.ones(raw.shape, dtype=np.bool_), raw.shape)
    y = checks.labels("label", label, pi.shape[:-1], pi.shape[-1])
    return pi, (y[..., None] == np.arange(pi.shape[-1])).astype(np.float64)
