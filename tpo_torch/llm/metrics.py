"""The figures of one optimizer step, from one table of rows: the same however the batch was cut."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tpo_torch import diagnostics, simplex
from tpo_torch.llm.groups import Coefficients, TargetSettings, group_coefficients, pack
from tpo_torch.llm.packing import Packing
from tpo_torch.llm.rollouts import Round

# What TRL's loss logs and TPO has not: the figures of clipping, and of a loss whose value is not TPO's.
NOT_OURS = frozenset(
    {
        "clip_ratio/low_mean",
        "clip_ratio/low_min",
        "clip_ratio/high_mean",
        "clip_ratio/high_max",
        "clip_ratio/region_mean",
        "policy_loss",
    }
)
# What the loss of a divergence is called.
LOSS_NAMES = {"forward": "cross_entropy", "reverse": "reverse_kl"}
# What it logs by micro-batch, and the trainer again over the whole step.
BY_STEP = frozenset({"entropy", "kl"})


@contextmanager
def without_trls(logged: MutableMapping[str, Any], mode: str, names: frozenset[str]) -> Iterator[None]:
    """Leave out what is logged under these names inside, and nothing that was there before, such as a reward's own.

    Args: logged, lists of values by name, for each mode.

    >>> logged = {"train": defaultdict(list, kl=[7.0])}
    >>> with without_trls(logged, "train", BY_STEP):
    ...     logged["train"]["kl"].append(0.1)
    ...     logged["train"]["aux_loss"].append(1.0)
    >>> dict(logged["train"])
    {'kl': [7.0], 'aux_loss': [1.0]}
    """
    before, logged[mode] = logged[mode], defaultdict(list)
    try:
        yield
    finally:
        added, logged[mode] = logged[mode], before
        for name, values in added.items():
            if name not in names:
                before[name] += values


class CompletionRows(NamedTuple):
    """One table entry per completion, (R,) each, in double precision."""

    group: Tensor
    row: Tensor
    score: Tensor
    valid: Tensor
    deviation: Tensor  # of the scores of its round of generation
    round: Tensor  # the number of that round
    length: Tensor
    digest: Tensor
    finished: Tensor
    logp: Tensor
    logp_old: Tensor
    entropy: Tensor  # summed over trained tokens, nats
    kl: Tensor  # k3 to the reference, likewise
    sampler_gap: Tensor  # |log-probability of the sampler − of the trainer|, likewise; 0 where not known


class TokenSums(NamedTuple):
    """Sums over the trained tokens of each row, (B,)."""

    entropy: Tensor
    kl: Tensor
    sampler_gap: Tensor


class Window:
    """Collects the rows of one optimizer step as its micro-batches pass."""

    def __init__(self) -> None:
        self._parts: list[Tensor] = []

    def add(self, round_: Round, rows: Tensor, logp: Tensor, logp_old: Tensor, sums: TokenSums) -> None:
        """Add the rows of one micro-batch, by their numbers in the round."""
        number = torch.full_like(round_.scores, round_.number)
        group, score, valid, deviation, of_round, length, digest, finished = (
            x[rows]
            for x in (
                round_.groups,
                round_.scores,
                round_.valid,
                round_.deviation,
                number,
                round_.lengths,
                round_.digest,
                round_.finished,
            )
        )
        known = (group, rows, score, valid, deviation, of_round, length, digest, finished)
        columns = CompletionRows(*known, logp, logp_old, *sums)
        self._parts.append(torch.stack([x.double() for x in columns], -1))

    def close(self, gather: Callable[[Tensor], Tensor]) -> CompletionRows:
        """Return all rows of all processes in the order of their numbers, and start an empty window."""
        table = gather(torch.cat(self._parts))
        self._parts = []
        # A row that an optimizer step sees several times counts once.
        key = table[:, 0] * (table[:, 1].max() + 1) + table[:, 1]
        _, first = _first_of_each(key)
        return CompletionRows(*table[first].unbind(-1))


def token_sums(inputs: Mapping[str, Any], logps: Tensor, entropies: Tensor, mask: Tensor) -> TokenSums:
    """Entropy, KL to the reference and distance to the sampler, summed over the trained tokens of each row.

    Args: inputs of TRL's loss; logps, entropies, mask (B, T).
    """
    here = mask.bool()

    def total(x: Tensor) -> Tensor:
        return torch.where(here, x, 0.0).sum(-1, dtype=torch.double)

    nothing = torch.zeros(len(logps), dtype=torch.double, device=logps.device)
    reference, sampler = inputs.get("ref_per_token_logps"), inputs.get("sampling_per_token_logps")
    kl = nothing if reference is None else total(torch.expm1(reference - logps) - (reference - logps))
    gap = nothing if sampler is None else total((sampler - logps).abs().nan_to_num(0.0))
    return TokenSums(total(entropies), kl, gap)


def fit_of(rows: CompletionRows, settings: TargetSettings) -> Coefficients:
    """Return target and coefficients of the rows of an optimizer step, which must be whole groups."""
    groups, valid = rows.group.long(), rows.valid.bool()
    return group_coefficients(
        rows.logp, rows.logp_old, rows.score, groups, settings, rows.length, valid, rows.deviation, rows.round.long()
    )


def figures(rows: CompletionRows, fit: Coefficients, settings: TargetSettings, beta: float = 0.0) -> dict[str, float]:
    """Return the figures of one optimizer step for the log; NaN where no group has an answer.

    Args: rows of whole groups; fit, theirs; settings of the target; beta, the weight of the KL to the reference.
    Returns: `tpo/…`, figures of the target, and `anchor/…`, health of what the scores tilt, or `rule/…` of another
        rule; `group/…`, health of the batch, and `entropy`, `kl` by token.
    """
    valid = rows.valid.bool()
    packing = pack(rows.group.long())
    keep = packing.mask & packing.to_groups(valid)
    grouped = CompletionRows(*(packing.to_groups(column) for column in rows))
    u = torch.where(keep, packing.to_groups(fit.u), 0.0)
    tokens = rows.length.sum().clamp(min=1)
    of_rule = settings.rule != ""
    figures_ = {
        **(_of_rule(fit, keep) if of_rule else _of_target(rows, fit, settings, packing, keep, grouped)),
        "group/zero_variance": diagnostics.group_mean(diagnostics.zero_variance(u, keep)),
        "group/all_fail": diagnostics.group_mean(diagnostics.all_fail(grouped.score, keep)),
        "group/duplicates": diagnostics.group_mean(
            diagnostics.duplicate_rate(grouped.digest.long().unsqueeze(-1), keep)
        ),
        "group/invalid": 1 - valid.double().mean(),
        "group/truncated": 1 - rows.finished.mean(),
        "entropy": rows.entropy.sum() / tokens,
    }
    if beta:
        figures_["kl"] = rows.kl.sum() / tokens
    if bool((rows.sampler_gap > 0).any()):
        figures_["sampling/logp_gap"] = rows.sampler_gap.sum() / tokens
    return {name: float(x) for name, x in figures_.items()}


def _of_rule(fit: Coefficients, keep: Tensor) -> dict[str, Tensor]:
    """What a rule without a target has to say: its loss, and the largest coefficient."""
    loss = torch.where(keep.any(-1), fit.loss, math.nan)
    return {"rule/loss": diagnostics.group_mean(loss), "rule/max_coefficient": fit.c.abs().max()}


def _of_target(
    rows: CompletionRows,
    fit: Coefficients,
    settings: TargetSettings,
    packing: Packing,
    keep: Tensor,
    grouped: CompletionRows,
) -> dict[str, Tensor]:
    """The figures of TPO's target, and of the anchor that the scores tilt."""
    u, p, q = (torch.where(keep, packing.to_groups(x), 0.0) for x in (fit.u, fit.p, fit.q))
    mixed = diagnostics.zero_variance(u, keep) == 0
    old = packing.to_groups(anchor_logits(rows, settings))
    health = diagnostics.anchor_health(old, u, settings.eta, keep)
    # The cross-entropy of each group, or the reverse divergence: what is minimised.
    loss = torch.where(keep.any(-1), fit.loss, math.nan)
    # A p that underflows where q just does not would make it infinite.
    distance = torch.where(keep.any(-1), simplex.kl(q, p.clamp(min=torch.finfo(p.dtype).tiny)), math.nan)
    figures_ = {
        f"tpo/{LOSS_NAMES[settings.divergence]}": diagnostics.group_mean(loss),
        "tpo/kl_target": diagnostics.group_mean(distance),
        "tpo/target_entropy": diagnostics.group_mean(torch.where(keep.any(-1), simplex.entropy(q), math.nan)),
        "tpo/max_coefficient": fit.c.abs().max(),
        **{f"anchor/{name}": diagnostics.group_mean(x) for name, x in health._asdict().items()},
        "anchor/tv_median": torch.quantile(health.tv[mixed], 0.5) if bool(mixed.any()) else torch.tensor(math.nan),
        "anchor/length_correlation": diagnostics.group_mean(diagnostics.correlation(old, grouped.length, keep)),
        "anchor/score_correlation": diagnostics.group_mean(diagnostics.correlation(old, grouped.score, keep)),
    }
    if settings.anchor != "policy":
        policy = diagnostics.summarise(grouped.logp_old, u, settings.eta, keep)
        figures_ |= {"policy_anchor/tv": policy.tv, "policy_anchor/dominance": policy.dominance}
    return figures_


def anchor_logits(rows: CompletionRows, settings: TargetSettings) -> Tensor:
    """Return the logits of the anchor, (R,) nats."""
    if settings.anchor == "ratio":
        return torch.zeros_like(rows.logp_old)
    return rows.logp_old / anchor_scale(rows, settings)


def anchor_scale(rows: CompletionRows, settings: TargetSettings) -> Tensor | float:
    """Return what the anchor divides log-probabilities by, and so coefficients too: (R,), or 1 or T for all rows."""
    if settings.anchor == "length":
        return rows.length.clamp(min=1)
    return settings.anchor_temperature if settings.anchor == "tempered" else 1.0


def _first_of_each(key: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distinct values in ascending order, and where each stands first."""
    values, which = torch.unique(key, return_inverse=True)
    first = torch.full_like(values, len(key), dtype=torch.long)
    first.scatter_reduce_(0, which, torch.arange(len(key), device=key.device), "amin")
    return values, first
