"""In what unit the scores of a group are measured before they tilt a target: the score scale, by name."""

from __future__ import annotations

import torch
from torch import Tensor

from tpo_torch import advantages, checks, standardize

SCALES = ("group_std", "none", "group_mean", "batch_std")
# Those that divide by a standard deviation, to which the scorer's noise can be added.
WITH_NOISE = ("group_std", "batch_std")


def scale_scores(
    scores: Tensor,
    scale: str = "group_std",
    mask: Tensor | None = None,
    tau: float = 0.0,
    deviation: Tensor | None = None,
) -> Tensor:
    """Centred scores u of each group in the unit that `scale` names.

    Paper: App. A (group_std); none (the others: deviation D80)

    group_std: u = (s − s̄)/√(σ² + τ²), as `standardize`. none: u = s − s̄, as Dr. GRPO. group_mean: u = (s − s̄)/s̄, as
    MaxRL. batch_std: u = (s − s̄)/√(σ_b² + τ²), σ_b the population standard deviation of the scores of the whole batch.
    A group of equal scores has u = 0 in all of them.

    Args: scores (…, K), any unit, not negative for group_mean; scale, one of `SCALES`; mask (…, K) bool; tau ≥ 0, the
        scorer's noise in the unit of the scores, for the two that divide by a deviation; deviation, σ_b ≥ 0, (1,) or
        (…, 1), where the batch is larger than these scores; by default that of all of them, as `batch_deviation`.
    Returns: (…, K), detached, Σ u = 0; without unit, except under none, which keeps that of the scores.
    Raises: TypeError, ValueError for NaN or infinite scores, wrong shapes, an unknown scale, or a tau or deviation that
        the scale does not take.

    >>> scale_scores(torch.tensor([[4.0, 0.0], [1.0, 1.0]]), "none").tolist()
    [[2.0, -2.0], [0.0, 0.0]]
    """
    checks.choice("scale", scale, SCALES)
    tau = checks.non_negative("tau", tau)
    if tau and scale not in WITH_NOISE:
        raise ValueError(f"tau: got {tau:g}, expected 0 under scale {scale!r}, which divides by no deviation")
    if deviation is not None and scale != "batch_std":
        raise ValueError(f"deviation: got one, expected none under scale {scale!r}; it belongs to 'batch_std'")
    s, keep = checks.group("scores", scores, mask, checks.successes if scale == "group_mean" else checks.scores)
    sigma = None if deviation is None else checks.deviations("deviation", deviation, s)
    return _scale_scores(s, scale, keep, tau, sigma)


def batch_deviation(scores: Tensor, mask: Tensor | None = None) -> Tensor:
    """Population standard deviation of the scores of a whole batch, every axis.

    Paper: none (deviation D80)

    Args: scores (…), any unit; mask (…) bool, False = not counted.
    Returns: (1,), detached, in the unit of the scores; 0 without scores. Raises: TypeError, ValueError for NaN or
        infinite scores.

    >>> batch_deviation(torch.tensor([[2.0, 0.0], [2.0, 0.0]]))
    tensor([1.])
    """
    s, keep = checks.group("scores", scores, mask, checks.finite)
    return _batch_deviation(s, keep)


# -- what is computed, of tensors that were checked ----------------------------------------------------------------
# Scores come in a dtype of their own, which says what is rounding; the masked ones are 0.


def _scale_scores(
    scores: Tensor, scale: str, mask: Tensor, tau: float = 0.0, deviation: Tensor | None = None
) -> Tensor:
    if scale == "group_std":
        return standardize._standardize(scores, mask, tau)
    if scale == "none":
        return advantages._centred(scores, mask)
    if scale == "group_mean":
        return advantages._maxrl(scores, mask)
    sigma = _batch_deviation(standardize._floats(scores), mask) if deviation is None else deviation.detach()
    width = torch.hypot(sigma, torch.as_tensor(tau, dtype=sigma.dtype, device=sigma.device))
    return advantages._centred(scores, mask) / torch.where(width > 0, width, 1.0)


def _batch_deviation(scores: Tensor, mask: Tensor) -> Tensor:
    s = scores.detach()
    count = mask.sum().clamp(min=1)
    # Squares are taken of numbers up to 1, so that they neither overflow nor vanish.
    unit = s.abs().amax().clamp(min=torch.finfo(s.dtype).tiny)
    s = s / unit
    away = torch.where(mask, s - s.sum() / count, 0.0)
    return (unit * (away.square().sum() / count).sqrt()).reshape(1)
