"""What the experiments of token reversal have in common: how one is put together, drawn, and made small."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tpo_ref.study import estimates
from tpo_ref.study.claims import per_seed
from tpo_ref.study.context import Context
from tpo_ref.study.protocol import Arrays, Claim, Claims, Experiment, Panel, Scale
from tpo_torch.reversal.settings import ALIASES, ReversalSettings

# Where a run is allowed to stop, and where the paper counts its steps: a seed-mean error of 1 %.
SOLVED = 0.01
# Of a smoke test, which takes seconds and shows only that everything runs.
SMOKE: dict[str, Any] = {"horizon": 3, "batch": 16, "group": 4, "episodes": 12}
SMOKE_SEEDS, SMOKE_COST = 2, "10 s"
BOTH = ("cpu", "paper")

# Below .1 % a batch of a thousand tokens shows one error or none.
DENSE = (Panel("error", "error of the training batch, %", percent=True, limits=(0.001, 1.0)),)
TERMINAL = (Panel("error", "share of wrong answers", log=False, limits=(0.0, 1.0)),)
_SHARE: Any = {"log": False, "limits": (0.0, 1.0), "partial": True}
HEALTH = (
    Panel("anchor_entropy", "entropy of p_old / log K", **_SHARE),
    Panel("anchor_dominance", "sd(log p_old)·η / R, alarm above 1", line=1.0, partial=True),
    Panel("anchor_tv", "TV(q, p_old)", **_SHARE),
    Panel("anchor_unmoved", "share of groups with TV < .01", **_SHARE),
    Panel("zero_variance", "share of groups without a signal", **_SHARE),
    Panel("duplicates", "share of repeated answers", **_SHARE),
)

# How far the ratio form may be from TPO in AUC, either way, for us to say that it changes nothing here.
RATIO_TOLERANCE = 0.06


def _run(method: str, settings: Any, seeds: Sequence[int], context: Context) -> Arrays:
    # Torch is loaded when an experiment runs: listing needs none.
    from tpo_torch.reversal.runs import run

    return run(method, settings, seeds, context)


def sequence(
    *,
    id: str,
    title: str,
    paper: str,
    methods: tuple[str, ...],
    settings: ReversalSettings,
    seeds: int,
    cost: str,
    cpu: Scale[ReversalSettings],
    claims: Claims = tuple,
    published: Mapping[str, Mapping[str, str]] | None = None,
    panels: tuple[Panel, ...] | None = None,
    results_of: str | None = None,
) -> Experiment:
    """An experiment on token reversal: the paper's settings, seeds and cost, and its scale for two cores."""
    terminal = settings.reward == "terminal"
    smoke = replace(settings, **{name: min(value, getattr(settings, name)) for name, value in SMOKE.items()})
    aliases = {name: method for name, method in ALIASES.items() if method in methods}
    return Experiment(
        id=id,
        title=title,
        paper=paper,
        run=_run,
        methods=methods,
        scales={
            "smoke": Scale(smoke, SMOKE_SEEDS, SMOKE_COST),
            "cpu": cpu,
            "paper": Scale(settings, seeds, cost),
        },
        panels=panels or (TERMINAL if terminal else DENSE),
        score="error",
        claims=claims,
        x_label="episode",
        results_of=results_of,
        extra="torch",
        devices=True,
        aliases=aliases,
        statistics=("auc", "last", "final", "solved") if terminal else ("auc", "steps", "last", "solved"),
        published=published or {},
        health=HEALTH,
        # A single token earns no terminal reward.
        groupings=("group", "batch") if terminal else ("group", "token", "batch"),
    )


def ratio_claim(ratio: str, plain: str, scales: tuple[str, ...] = ("paper",)) -> Claim:
    """The ratio form learns as fast as TPO, or not: our question, judged whichever way it comes out."""
    return per_seed(
        text=f"AUC({ratio}) − AUC({plain}) of error",
        methods=(ratio, plain),
        value=lambda r: estimates.auc(r[ratio]["error"]) - estimates.auc(r[plain]["error"]),
        accept=dict.fromkeys(scales, (-RATIO_TOLERANCE, RATIO_TOLERANCE)),
        source="ours",
    )
