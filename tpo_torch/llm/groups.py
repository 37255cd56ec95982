"""One coefficient per completion, from flat rows: the step that needs whole groups, and the only one that does.

A training stack cuts a batch by rows, shuffles them and spreads them over ranks. Here rows are put back into their
groups by an id, the target is built, and each row gets c = q − p. After that no group is needed any more: the gradient
of Σ −c_i ℓ_i is p − q in whatever pieces it is computed (spec/llm.md).
"""

from __future__ import annotations

import torch
from torch import Tensor

from tpo_torch import checks, scale, simplex, tpo, variants
from tpo_torch.diagnostics import signal
from tpo_torch.llm.packing import Coefficients, Packing, pack
from tpo_torch.llm.rule_groups import rule_coefficients, rule_of
from tpo_torch.llm.target import ANCHORS, ZERO_VARIANCE, TargetSettings
from tpo_torch.rules import POLICY

__all__ = [
    "ANCHORS",
    "ZERO_VARIANCE",
    "Coefficients",
    "Packing",
    "TargetSettings",
    "group_coefficients",
    "pack",
    "scorable",
]


def scorable(scores: Tensor, lengths: Tensor) -> Tensor:
    """Which rows can take part: a finite score, and at least one token that the policy chose.

    An empty completion has ℓ = 0, more than any other can have, and would win every softmax.

    Args: scores (N,), NaN or ±inf where there is none; lengths (N,) trained tokens.
    Returns: (N,) bool.

    >>> scorable(torch.tensor([1.0, float("nan"), 0.0]), torch.tensor([3, 2, 0])).tolist()
    [True, False, False]
    """
    checks.same_shape("lengths", lengths, tuple(scores.shape))
    return torch.isfinite(scores) & (lengths > 0)


def group_coefficients(
    logp: Tensor | None,
    logp_old: Tensor | None,
    scores: Tensor,
    groups: Tensor,
    settings: TargetSettings,
    lengths: Tensor | None = None,
    valid: Tensor | None = None,
    deviation: Tensor | None = None,
    batches: Tensor | None = None,
) -> Coefficients:
    """The target of every group and one coefficient per row, c = −∂L/∂ℓ; or those of the rule that the settings name.

    Paper: Eq. 2, Prop. 1 (the other anchors: deviation D5)

    policy: c = q − p. ratio: c = w − P with P = softmax(ℓ − ℓ_old). length: (q̃ − p̃)/n. tempered: (q̃ − p̃)/T. Under
    the reverse divergence q − p becomes −p(d − Σ p d), d = log p − log q. Where logp is logp_old and the scores of a
    group are equal, c is 0 to the last bit, whatever the settings.

    Args: logp, logp_old (N,) sums of token log-probabilities, None for both where the policy has not moved and the
        anchor is "ratio", which then needs neither; scores (N,) raw rewards; groups (N,) ids, all rows of a group
        among these N; lengths (N,) tokens summed over, for anchor "length"; valid (N,) bool, False = takes no part;
        deviation (N,) of the scores of the batch that each row was generated in, for score_scale "batch_std"; batches
        (N,) integers, the batch that each row belongs to, for a rule that looks at all of one, None for a single one.
    Returns: `Coefficients`, detached, in the wider dtype of the inputs.
    Raises: TypeError, ValueError for other shapes, non-finite numbers in a valid row, or missing log-probabilities.

    >>> ids, rewards = torch.tensor([0, 1, 0, 1]), torch.tensor([1.0, 5.0, 0.0, 5.0])
    >>> group_coefficients(torch.zeros(4), torch.zeros(4), rewards, ids, TargetSettings("policy")).c
    tensor([ 0.3808,  0.0000, -0.3808,  0.0000])
    """
    rule = rule_of(settings)
    unread = settings.anchor == "ratio" if rule is None else rule.reads != POLICY
    if (logp is None or logp_old is None) and not (unread and logp is logp_old):
        raise ValueError(f"logp: got none, expected log-probabilities; only an unmoved ratio needs none: {settings}")
    packing = pack(groups)
    rows = {
        "scores": scores,
        "logp": logp,
        "logp_old": logp_old,
        "lengths": lengths,
        "valid": valid,
        "deviation": deviation,
        "batches": batches,
    }
    for name, column in rows.items():
        if column is not None:
            checks.same_shape(name, column, tuple(groups.shape))
        if column is not None and name.startswith("logp") and not column.is_floating_point():
            raise TypeError(f"{name}: got {column.dtype}, expected log-probabilities; were token ids passed?")
    keep = packing.mask if valid is None else packing.mask & packing.to_groups(checks.mask_for(valid, groups, "valid"))
    if rule is not None:
        nothing = scores.new_zeros(scores.shape, dtype=torch.promote_types(scores.dtype, torch.float32))
        old = nothing if logp_old is None else logp_old.detach()
        now = old if logp is None else logp.detach()
        return rule_coefficients(rule, packing, keep, now, old, scores, lengths, batches)
    u = _tilts(settings, packing.to_groups(scores), keep, packing, deviation)
    u = u.to(torch.promote_types(u.dtype, u.dtype if logp_old is None else logp_old.dtype))
    old = torch.zeros_like(u) if logp_old is None else packing.to_groups(logp_old.detach()).to(u.dtype)
    now = old if logp is None or logp is logp_old else packing.to_groups(logp.detach()).to(u.dtype)
    x_old, x, unit = _anchored(settings, old, now, keep, None if lengths is None else packing.to_groups(lengths))
    x_old, x = checks.log_weights("logp_old", x_old, keep), checks.log_weights("logp", x, keep)
    if settings.divergence == "reverse":
        checks.finite_log_weights("logp_old", x_old, keep)
        checks.finite("scores", u / settings.eta, keep)
    q = tpo._tpo_target(x_old, u, settings.eta, keep)
    c, loss = _fitted(settings, x, x_old, u, q, keep)
    weight = torch.where(signal._zero_variance(u, keep) == 1, settings.idle_weight, 1.0).to(q.dtype)
    by_row = (
        u,
        simplex._softmax(x_old, keep),
        simplex._softmax(x, keep),
        q,
        # Plus zero, so that a masked group has 0 and not −0.
        torch.where(keep, c * weight.unsqueeze(-1) / unit, 0.0) + 0.0,
    )
    u, p_old, p, q, c = (packing.to_rows(torch.where(keep, part, 0.0)) for part in by_row)
    return Coefficients(u, p_old, p, q, c, loss * weight, packing.to_rows(keep), packing.ids)


def _tilts(
    settings: TargetSettings, scores: Tensor, keep: Tensor, packing: Packing, deviation: Tensor | None
) -> Tensor:
    """u (G, K) of scores (G, K), and the deviation (N,) of the batch that each row belongs to."""
    checked = checks.successes if settings.score_scale == "group_mean" else checks.scores
    s, sigma = checked("scores", scores, keep), None
    if settings.score_scale == "batch_std":
        if deviation is None:
            raise ValueError("deviation: got none, expected that of the batch; score_scale 'batch_std' divides by it")
        sigma = checks.deviations("deviation", packing.to_groups(deviation)[:, :1], s)
    return scale._scale_scores(s, settings.score_scale, keep, settings.tau, sigma)


def _fitted(
    settings: TargetSettings, x: Tensor, x_old: Tensor, u: Tensor, q: Tensor, keep: Tensor
) -> tuple[Tensor, Tensor]:
    """c (G, K) in units of x, and the loss (G,), under the divergence that is asked for."""
    if settings.divergence == "reverse":
        cores = variants._tpo_reverse_coefficients, variants._tpo_reverse_loss
        c, loss = (core(x, x_old, u, settings.eta, keep) for core in cores)
        return c, loss
    return tpo._tpo_coefficients(x, q, keep), tpo._tpo_loss(x, q, keep)


def _anchored(
    settings: TargetSettings, old: Tensor, now: Tensor, keep: Tensor, lengths: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | float]:
    """What the softmaxes of anchor and policy are taken of, and what ∂x/∂ℓ divides the gradient by."""
    scale: Tensor | float = 1.0
    if settings.anchor == "ratio":
        return torch.zeros_like(old), torch.where(keep, now - old, 0.0), scale
    if settings.anchor == "tempered":
        scale = settings.anchor_temperature
    if settings.anchor == "length":
        if lengths is None:
            raise ValueError("lengths: got none, expected the tokens of each row; anchor 'length' divides by them")
        scale = torch.where(keep, lengths, 1).to(old.dtype)
    return old / scale, now / scale, scale
