"""One coefficient per completion by any update rule: c = −∂L/∂ℓ, from flat rows, as `groups` makes TPO's."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from tpo_ref.study.chosen_rules import choose
from tpo_torch import rules, simplex
from tpo_torch.llm.packing import Coefficients, Packing
from tpo_torch.llm.target import TargetSettings
from tpo_torch.rules import CANDIDATES, Rule
from tpo_torch.standardize import standardize


@functools.cache
def _built(text: str) -> Rule:
    built: Rule = choose(text).build(rules)
    return built


def rule_of(settings: TargetSettings) -> Rule | None:
    """The rule that the settings name, made once a process; None for TPO's own family.

    Raises: as `tpo_ref.study.chosen_rules.choose`, which imports a file that is named.
    """
    return _built(settings.rule) if settings.rule else None


def rule_coefficients(
    rule: Rule,
    packing: Packing,
    keep: Tensor,
    logp: Tensor,
    logp_old: Tensor,
    scores: Tensor,
    lengths: Tensor | None,
    batches: Tensor | None,
) -> Coefficients:
    """The coefficients of rows that are put into groups: of the mean over candidates where the rule's loss is a sum.

    Args: packing of the rows; keep (G, K), takes part; logp, logp_old, scores, lengths (N,); batches (N,), which batch
        each row belongs to, for a rule that looks at all groups of one; None for one.
    Returns: `Coefficients` with q = p: there is no target.
    """
    now, old, s = (packing.to_groups(x) for x in (logp, logp_old, scores))
    n = torch.ones_like(now) if lengths is None else torch.where(keep, packing.to_groups(lengths), 1).to(now.dtype)
    g, loss = torch.zeros_like(now), torch.zeros_like(now[:, 0])
    of_batch = torch.zeros_like(packing.ids) if batches is None else packing.to_groups(batches)[:, 0]
    for batch in torch.unique(of_batch) if rule.whole_batch else (None,):
        here = slice(None) if batch is None else of_batch == batch
        given = (now[here], old[here], s[here], keep[here], n[here])
        g[here], loss[here] = rule.gradient(*given).to(g.dtype), rule.loss(*given).detach().to(g.dtype)
    if rule.reduction == CANDIDATES:
        count = keep.sum(-1, keepdim=True).clamp(min=1)
        g, loss = g / count, loss / count[:, 0]
    p_old, p = simplex.softmax(old, keep), simplex.softmax(now, keep)
    by_row = (standardize(s, keep), p_old, p, p, 0.0 - g)
    u, p_old, p, q, c = (packing.to_rows(torch.where(keep, part.to(g.dtype), 0.0)) for part in by_row)
    return Coefficients(u, p_old, p, q, c, loss, packing.to_rows(keep), packing.ids)
