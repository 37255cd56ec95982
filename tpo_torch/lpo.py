"""Listwise policy optimization (arXiv:2605.06139) by its own name: TPO's ratio form under either divergence."""

from __future__ import annotations

import torch
from torch import Tensor

from tpo_torch import checks
from tpo_torch.scale import scale_scores
from tpo_torch.tpo import tpo_ratio_loss, tpo_weights
from tpo_torch.variants import tpo_reverse_loss

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
    temperature = checks.positive("temperature", temperature)
    u = scale_scores(scores, scale, mask)
    if divergence == "forward":
        return tpo_ratio_loss(logp, logp_old, tpo_weights(u, temperature, mask), mask)
    raw = checks.array("logp", logp)
    keep = checks.mask_for(mask, raw)
    old = checks.finite_log_weights("logp_old", logp_old, keep, tuple(raw.shape)).detach()
    shift = torch.where(keep, checks.log_weights("logp", raw, keep) - old, 0.0)
    return tpo_reverse_loss(shift, torch.zeros_like(shift), u, temperature, mask)
