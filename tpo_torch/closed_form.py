"""Closed forms that pin experiments: App. B and App. C of the paper, misalignment."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tpo_torch import checks

# Added to each squared norm of the cosine, so that a zero gradient scores 1 and not NaN.
COSINE_FLOOR = 1e-12


def beta_ce(p: Tensor) -> Tensor:
    """Update of the cross-entropy oracle along v = e_y − π, one-hot reward.

    Paper: App. B

    β = 1: the correct answer pulls with full strength wherever the policy is.

    Args: p (…, N), the probabilities π(y) of the correct action.
    Returns: (…, N). Raises: TypeError, ValueError unless 0 ≤ p ≤ 1.

    >>> beta_ce(torch.tensor([0.1, 0.9]))
    tensor([1., 1.])
    """
    return torch.ones_like(checks.probabilities("p", p))


def beta_pg(p: Tensor) -> Tensor:
    """Expected update of REINFORCE along v = e_y − π, one-hot reward, any baseline.

    Paper: App. B

    β = p: a rare success is rarely seen.

    Args, Raises: as `beta_ce`. Returns: (…, N).

    >>> beta_pg(torch.tensor([0.1, 0.9]))
    tensor([0.1000, 0.9000])
    """
    return checks.probabilities("p", p) + 0.0


def beta_dg(p: Tensor, dg_eta: float = 1.0) -> Tensor:
    """Update of DG along v = e_y − π, one-hot reward, baseline 0.

    Paper: App. B

    β = p·σ(−log p/dg_eta) = p/(1 + p^(1/dg_eta)): at most PG's, and at least half of it.

    Args: p as `beta_ce`; dg_eta > 0, the temperature of the gate.
    Returns: (…, N). Raises: as `beta_ce`, and for dg_eta.

    >>> beta_dg(torch.tensor([0.25, 1.0]))
    tensor([0.2000, 0.5000])
    """
    dg_eta = checks.positive("dg_eta", dg_eta)
    p = checks.probabilities("p", p)
    return p / (1 + p ** (1 / dg_eta))


def beta_grpo(p: Tensor) -> Tensor:
    """Expected update of GRPO along v = e_y − π, one-hot reward standardised over infinitely many samples.

    Paper: App. B

    β = √(p/(1 − p)); inf at p = 1, where v = 0.

    Args, Raises: as `beta_ce`. Returns: (…, N).

    >>> beta_grpo(torch.tensor([0.5, 0.1]))
    tensor([1.0000, 0.3333])
    """
    p = checks.probabilities("p", p)
    return torch.sqrt(p / (1 - p))


def beta_tpo(p: Tensor, arms: int, eta: float = 1.0) -> Tensor:
    """Update of TPO along v = e_y − π, one-hot reward standardised over all arms, each listed once.

    Paper: App. B

    β = p(λ − 1)/(1 − p + λp) with λ = exp(A/(η√(A − 1))). It is not the expectation over K sampled candidates, and it
    too is linear as p → 0.

    Args: p as `beta_ce`; arms A ≥ 2; eta > 0.
    Returns: (…, N), in [0, 1). Raises: as `beta_ce`, and for arms, eta.

    >>> beta_tpo(torch.tensor([0.1]), arms=10)
    tensor([0.7300])
    """
    return _saturating(checks.probabilities("p", p), _log_odds_factor(arms, eta))


def app_c_ce(pi: Tensor, label: Tensor) -> Tensor:
    """Ascent direction of the cross-entropy oracle in the logits.

    Paper: App. C

    v = e_y − π.

    Args: pi (…, A), class probabilities; label (…) int, the correct class.
    Returns: (…, A). Raises: TypeError, ValueError for a pi that is no distribution, or labels outside 0…A − 1.

    >>> app_c_ce(torch.tensor([0.75, 0.25]), torch.tensor(1))
    tensor([-0.7500,  0.7500])
    """
    pi, y = _classes(pi, label)
    return y - pi


def app_c_pg(pi: Tensor, label: Tensor) -> Tensor:
    """Expected ascent direction of REINFORCE over the one sampled action.

    Paper: App. C

    E_a[(1{a = y} − b)(e_a − π)] = p·v, with p = π(y), v = e_y − π, whatever the baseline b.

    Args, Raises: as `app_c_ce`. Returns: (…, A).

    >>> app_c_pg(torch.tensor([0.75, 0.25]), torch.tensor(1))
    tensor([-0.1875,  0.1875])
    """
    pi, y = _classes(pi, label)
    return _at(pi, y) * (y - pi)


def app_c_pg_batchnorm(pi: Tensor, label: Tensor, sigma: float) -> Tensor:
    """Expected ascent direction of REINFORCE with advantages divided by their batch deviation.

    Paper: App. C

    (p/σ_B)·v: the direction of PG, one step size for the whole batch. The authors' MNIST code calls it GRPO.

    Args: pi, label as `app_c_ce`; sigma > 0, the standard deviation of the advantages over the batch.
    Returns: (…, A). Raises: as `app_c_ce`, and for sigma.

    >>> app_c_pg_batchnorm(torch.tensor([0.75, 0.25]), torch.tensor(1), sigma=0.5)
    tensor([-0.3750,  0.3750])
    """
    return app_c_pg(pi, label) / checks.positive("sigma", sigma)


def app_c_group_pg(pi: Tensor, label: Tensor) -> Tensor:
    """Expected ascent direction of Group PG, scores (r − b)e_a standardised over the classes, u_a log π_a.

    Paper: App. C

    2√(A − 1)·p·v, 6p·v for ten classes: a failure pushes exactly as hard as a success pulls.

    Args, Raises: as `app_c_ce`. Returns: (…, A).

    >>> app_c_group_pg(torch.tensor([0.75, 0.25]), torch.tensor(1))
    tensor([-0.3750,  0.3750])
    """
    pi, y = _classes(pi, label)
    return 2 * math.sqrt(pi.shape[-1] - 1) * _at(pi, y) * (y - pi)


def app_c_dg(pi: Tensor, label: Tensor, dg_eta: float = 1.0) -> Tensor:
    """Expected ascent direction of DG over the one sampled action, baseline b = Σ π².

    Paper: App. C

    p(1 − b)σ((1 − b)log(1/p)/dg_eta)·v − b Σ_{j≠y} π_j σ(−b·log(1/π_j)/dg_eta)(e_j − π).

    Args: pi, label as `app_c_ce`; dg_eta > 0, the temperature of the gate.
    Returns: (…, A). Raises: as `app_c_ce`, and for dg_eta.

    >>> app_c_dg(torch.tensor([0.5, 0.5]), torch.tensor(0))
    tensor([ 0.1250, -0.1250])
    """
    dg_eta = checks.positive("dg_eta", dg_eta)
    pi, y = _classes(pi, label)
    advantage = y - pi.square().sum(-1, keepdim=True)
    # 0·log 0 = 0: an impossible action is never sampled, whatever its gate.
    log_pi = torch.log(torch.where(pi > 0, pi, 1.0))
    return _spread(pi * advantage * torch.sigmoid(-advantage * log_pi / dg_eta), pi)


def app_c_tpo(pi: Tensor, label: Tensor, eta: float = 1.0) -> Tensor:
    """Expected ascent direction of TPO over the one sampled action, scores (r − b)e_a standardised over the classes.

    Paper: App. C

    p·β₊v + Σ_{j≠y} π_jγ(π_j)(π − e_j), β₊ = p(Λ − 1)/(1 − p + Λp), γ(t) = t(Λ − 1)/(Λ(1 − t) + t),
    Λ = exp(A/(η√(A − 1))), exp(10/(3η)) for ten classes: u = z(e_y) after a success, −z(e_j) after a failure.

    Args: pi, label as `app_c_ce`; eta > 0.
    Returns: (…, A). Raises: as `app_c_ce`, and for eta.

    >>> app_c_tpo(torch.tensor([0.5, 0.5]), torch.tensor(0))
    tensor([ 0.3808, -0.3808])
    """
    pi, y = _classes(pi, label)
    log_factor = _log_odds_factor(pi.shape[-1], eta)
    # γ is the pull on the other classes together: a failure of j is, to them, a success of 1 − π_j.
    pull = torch.where(y > 0, _saturating(pi, log_factor), -_retreat(pi, log_factor))
    return _spread(pi * pull, pi)


def cosine_misalignment(g: Tensor, h: Tensor) -> Tensor:
    """How far two directions differ, whatever their lengths.

    Paper: Fig. 2

    1 − ⟨g,h⟩/(√(‖g‖² + 1e-12)·√(‖h‖² + 1e-12)); 0 for parallel directions, 1 when either is zero.

    Args: g, h (…, N), any unit.
    Returns: (…), in [0, 2]. Raises: TypeError, ValueError for a bad dtype or shape, or NaN.

    >>> cosine_misalignment(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([3.0, 2.0, 1.0]))
    tensor(0.2857)
    """
    g = checks.finite("g", g)
    h = checks.finite("h", h, like=g)
    lengths = torch.sqrt((g * g).sum(-1) + COSINE_FLOOR) * torch.sqrt((h * h).sum(-1) + COSINE_FLOOR)
    return 1 - (g * h).sum(-1) / lengths


def misalignment_floor(error: Tensor) -> Tensor:
    """Bound on what the guard alone adds to the misalignment of a direction to the oracle π(y)(e_y − π).

    Paper: Fig. 2

    1e-12/‖π(y)(e_y − π)‖² ≤ 1e-12/((1 − ε)ε)² with ε = 1 − π(y), at most 1: so far apart are two parallel
    directions said to be, the first no shorter than the oracle. What is smaller cannot be told from 0. An oracle that
    is longer, such as e_y − π, or several contexts taken jointly, has a lower floor (deviation D85).

    Args: error ε (…, N), 1 − π(y). Returns: (…, N), in (0, 1]. Raises: TypeError, ValueError unless 0 ≤ ε ≤ 1.

    >>> misalignment_floor(torch.tensor([0.5, 1e-4, 0.0]))
    tensor([1.6000e-11, 1.0002e-04, 1.0000e+00])
    """
    error = checks.probabilities("error", error)
    return COSINE_FLOOR / (((1 - error) * error) ** 2).clamp(min=COSINE_FLOOR)


def _saturating(t: Tensor, log_factor: float) -> Tensor:
    # t(Λ − 1)/(1 − t + Λt), divided through by Λ, which may overflow.
    top, bottom = -math.expm1(-log_factor) * t, t + (1 - t) * math.exp(-log_factor)
    return torch.where(t == 0, 0.0, top / bottom)


def _retreat(t: Tensor, log_factor: float) -> Tensor:
    # t(Λ − 1)/(Λ(1 − t) + t), divided through by Λ.
    top, bottom = -math.expm1(-log_factor) * t, (1 - t) + t * math.exp(-log_factor)
    return torch.where(t == 1, 0.0, top / bottom)


def _log_odds_factor(arms: int, eta: float) -> float:
    # The standardised one-hot reward ranges from −1/√(A − 1) to √(A − 1).
    arms = checks.whole("arms", arms, 2)
    return arms / (checks.positive("eta", eta) * math.sqrt(arms - 1))


def _spread(c: Tensor, pi: Tensor) -> Tensor:
    # Σ_j c_j (e_j − π).
    return c - pi * c.sum(-1, keepdim=True)


def _at(pi: Tensor, y: Tensor) -> Tensor:
    return (pi * y).sum(-1, keepdim=True)


def _classes(pi: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    raw = checks.array("pi", pi)
    pi = checks.distribution("pi", raw, torch.ones_like(raw, dtype=torch.bool), tuple(raw.shape))
    y = checks.labels("label", label, tuple(pi.shape[:-1]), pi.shape[-1])
    checks.same_device("label", y, pi)
    return pi, (y[..., None] == torch.arange(pi.shape[-1], device=pi.device)).to(pi.dtype)
