"""Listwise policy optimization (arXiv:2605.06139) by its own name: TPO's ratio form under either divergence."""

from __future__ import annotations

import torch
from torch import Tensor

from tpo_torch import checks, tpo, variants
from tpo_torch import scale as scales

DIVERGENCES = ("forward", "reverse")


def lpo_loss(
    logp: Tensor,
    logp_old: Tensor,
    scores: Tensor,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    divergence: str = "forward",
    scale: str = "group_std",
) -> Tensor:
    """Distance of the policy's shift within a group from the softmax of its scores.

    Paper: none; the listwise update of arXiv:2605.06139

    P = softmax(ℓ − ℓ_old), w = softmax(u/temperature), u the scores in the unit of `scale`. forward: −Σ w log P, which
    is `tpo_ratio_loss`; reverse: KL(P‖w), which at the snapshot is the policy gradient of the advantages u/temperature.

    Args: logp, logp_old (…, K) in nats, logp_old finite; scores (…, K) raw; temperature > 0; mask (…, K) bool;
        divergence, one of `DIVERGENCES`; scale, one of `tpo_torch.scale.SCALES`.
    Returns: (…), one loss per group in nats. Raises: TypeError, ValueError as `scale_scores` and `tpo_ratio_loss`.

    >>> lpo_loss(torch.zeros(2), torch.zeros(2), torch.tensor([1.0, 0.0]))
    tensor(0.6931)
    """
    checks.choice("divergence", divergence, DIVERGENCES)
    checks.choice("scale", scale, scales.SCALES)
    temperature = checks.positive("temperature", temperature)
    s, keep = checks.group("scores", scores, mask, checks.successes if scale == "group_mean" else checks.scores)
    x, old = checks.log_weights("logp", logp, keep), checks.finite_log_weights("logp_old", logp_old, keep)
    return _lpo_loss(x, old, s, temperature, keep, divergence, scale)


# -- what is computed, of tensors that were checked ----------------------------------------------------------------
# Their masked entries hold what the checks put there: −inf in logits, 0 elsewhere.


def _lpo_loss(
    logp: Tensor,
    logp_old: Tensor,
    scores: Tensor,
    temperature: float,
    mask: Tensor,
    divergence: str = "forward",
    scale: str = "group_std",
) -> Tensor:
    u = scales._scale_scores(scores, scale, mask)
    if divergence == "forward":
        return tpo._tpo_ratio_loss(logp, logp_old, tpo._tpo_weights(u, temperature, mask), mask)
    shift = logp - logp_old.detach()
    return variants._tpo_reverse_loss(shift, torch.zeros_like(shift), u, temperature, mask)
