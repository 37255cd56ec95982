"""Why TPO and GRPO differ under a terminal reward: Figs 10-13 (diagnostics), 14 (K), 15 (epochs), and DG's Fig. 17.

Departures from the paper, each explained in spec/deviations.md:

- D60 Fig. 17 states no horizon; we take H = 5, and judge the order.
- D63 final errors of Figs 13 to 15 are held to a factor of three.
- All that `tpo_torch.reversal.runs` lists.
- D40 standard errors divide by n − 1.
- D41 claims are judged by the interval of ours.
"""

from __future__ import annotations

import math
from dataclasses import replace

from tpo_ref.study.claims import better, final, within_factor
from tpo_ref.study.protocol import Claim, Experiment, Panel, Scale, Suite
from tpo_torch.reversal.experiments.setup import BOTH, sequence
from tpo_torch.reversal.settings import ReversalSettings

FIG13, FIG14, FIG15, FIG17 = "Fig. 13", "Fig. 14", "Fig. 15", "Fig. 17a"

# The set-up of Figs 10-15, and what of it two cores can do in minutes.
LARGE = ReversalSettings(reward="terminal", horizon=8, batch=256, group=32, episodes=2_000)
CPU = replace(LARGE, horizon=6, batch=64, group=16, episodes=200)
SEEDS, CPU_SEEDS = 30, 3
PAIR = ("tpo", "grpo")
SHOWN = ("final", "auc", "solved")

# A final error hangs on the few seeds that are not done, so it is held to its order of magnitude: to a factor of 3
# (deviation D63).
FACTOR = 3.0
# Fig. 13: final error of GRPO, and of GRPO that leaves out the groups without a signal.
FIG13_FINAL = {"grpo": 0.063, "grpo_masked": 0.297}
# Fig. 14: final error by the size K of a group.
FIG14_FINAL = {4: (0.089, 0.194), 8: (0.052, 0.198), 16: (0.051, 0.092), 32: (0.026, 0.044), 64: (0.0036, 0.056)}
FIG14_COST = {4: "4 h", 8: "6 h", 16: "9 h", 32: "13 h", 64: "16 h"}
# Fig. 15: final error by the number of gradient steps; of TPO two readings and a bound for all. At four, Fig. 14 has
# 2.6 % for the same run where this has .05 %: TPO is held to the bound alone (deviation D63).
FIG15_GRPO = {1: 0.043, 2: 0.376, 4: 0.063, 8: 0.033, 16: 0.011}
FIG15_TPO = {1: 0.0002, 4: 0.0005}
FIG15_TPO_BELOW = 0.023
FIG15_COST = {1: "5 h", 2: "8 h", 4: "13 h", 8: "22 h", 16: "40 h"}
FIG15_CPU_COST = {1: "1 min", 2: "1 min", 4: "2 min", 8: "3 min", 16: "6 min"}
# Both vary one thing about the run of Fig. 10, which is one of theirs.
SHARED_GROUP, SHARED_EPOCHS, SHARED = 32, 4, "fig10"

# Fig. 17a: final error of DG with 1 and 4 gradient steps per episode. H is not stated, so only the order is judged
# (deviation D60).
FIG17_HORIZON, FIG17_SEEDS = 5, 20
FIG17_FINAL = {1: "2.0", 4: "48.3"}
FIG17_COST = {1: "8 min", 4: "14 min"}

FIG10_PANELS = (
    Panel("error", "share of wrong answers", log=False, limits=(0.0, 1.0)),
    Panel("gradient_norm", "norm of the first gradient"),
    Panel("all_fail", "share of groups that fail throughout", log=False, limits=(0.0, 1.0)),
    Panel("success", "share of prompts with a success", log=False, limits=(0.0, 1.0)),
    Panel("winner_weight", "mean coefficient of winners", log=False, partial=True),
    Panel("loser_weight", "mean coefficient of losers", log=False, partial=True),
)


def _final(method: str, published: float, source: str) -> Claim:
    mark = ("error", LARGE.episodes - 1, published)
    return final(method, "error", published, within_factor(published, FACTOR), source, mark)


def _percent(errors: dict[str, float]) -> dict[str, dict[str, str]]:
    return {"final": {method: f"{100 * error:.3g}" for method, error in errors.items()}}


FIG10 = sequence(
    id="fig10",
    title="What drives an update, terminal reward, H = 8, K = 32",
    paper="Figs 10-13",
    methods=("tpo", "grpo", "grpo_masked", "grpo_no_kl"),
    settings=LARGE,
    seeds=SEEDS,
    cost="30 h",
    cpu=Scale(CPU, CPU_SEEDS, "3 min"),
    claims=lambda: (
        *(_final(method, error, FIG13) for method, error in FIG13_FINAL.items()),
        better("grpo", "grpo_masked", "error", FIG13, ("paper",)),
        better("tpo", "grpo", "error", FIG13, BOTH),
    ),
    published=_percent(FIG13_FINAL),
    panels=FIG10_PANELS,
)


def _fig14(group: int) -> Experiment:
    errors = dict(zip(PAIR, FIG14_FINAL[group], strict=True))
    return sequence(
        id=f"fig14-k{group}",
        title=f"Size of a group: K = {group}, terminal reward, H = 8",
        paper=FIG14,
        methods=PAIR,
        settings=replace(LARGE, group=group),
        seeds=SEEDS,
        cost=FIG14_COST[group],
        cpu=Scale(replace(CPU, group=group), CPU_SEEDS, "2 min"),
        claims=lambda: (
            *(_final(method, error, FIG14) for method, error in errors.items()),
            better("tpo", "grpo", "error", FIG14, BOTH),
        ),
        published=_percent(errors),
        results_of=SHARED if group == SHARED_GROUP else None,
    )


def _fig15(epochs: int) -> Experiment:
    # Four is what both methods take by themselves, said in the same words as there so that the run is the same.
    own = None if epochs == SHARED_EPOCHS else epochs
    tpo = final("tpo", "error", FIG15_TPO.get(epochs), (-math.inf, FIG15_TPO_BELOW), FIG15)
    errors = {"grpo": FIG15_GRPO[epochs]} | ({"tpo": FIG15_TPO[epochs]} if epochs in FIG15_TPO else {})
    return sequence(
        id=f"fig15-e{epochs}",
        title=f"Gradient steps per episode: {epochs}, terminal reward, H = 8, K = 32",
        paper=FIG15,
        methods=PAIR,
        settings=replace(LARGE, epochs=own),
        seeds=SEEDS,
        cost=FIG15_COST[epochs],
        cpu=Scale(replace(CPU, epochs=own), CPU_SEEDS, FIG15_CPU_COST[epochs]),
        claims=lambda: (tpo, _final("grpo", FIG15_GRPO[epochs], FIG15), better("tpo", "grpo", "error", FIG15, BOTH)),
        published=_percent(errors),
        results_of=SHARED if own is None else None,
    )


def _fig17(epochs: int) -> Experiment:
    settings = ReversalSettings(reward="terminal", horizon=FIG17_HORIZON, episodes=2_000, epochs=epochs)
    return sequence(
        id=f"fig17-e{epochs}",
        title=f"DG with {epochs} gradient step{'s' if epochs > 1 else ''} per episode, terminal reward, H = 5",
        paper=FIG17,
        methods=("dg",),
        settings=settings,
        seeds=FIG17_SEEDS,
        cost=FIG17_COST[epochs],
        cpu=Scale(replace(settings, episodes=1_000), CPU_SEEDS, "1 min"),
        published={"final": {"dg": FIG17_FINAL[epochs]}},
    )


def _epochs(count: int) -> str:
    return f"{count} epoch{'s' if count > 1 else ''}"


_FIG14 = tuple(_fig14(group) for group in FIG14_FINAL)
_FIG15 = tuple(_fig15(epochs) for epochs in FIG15_GRPO)
_FIG17 = tuple(_fig17(epochs) for epochs in FIG17_FINAL)

EXPERIMENTS = (FIG10, *_FIG14, *_FIG15, *_FIG17)
SUITES = (
    Suite(
        id="fig14",
        title="Size of a group",
        paper=FIG14,
        members=tuple(e.id for e in _FIG14),
        statistics=SHOWN,
        labels=tuple(f"K = {group}" for group in FIG14_FINAL),
    ),
    Suite(
        id="fig15",
        title="Gradient steps per episode",
        paper=FIG15,
        members=tuple(e.id for e in _FIG15),
        statistics=SHOWN,
        labels=tuple(map(_epochs, FIG15_GRPO)),
    ),
    Suite(
        id="fig17",
        title="DG's gradient steps per episode",
        paper=FIG17,
        members=tuple(e.id for e in _FIG17),
        statistics=SHOWN,
        labels=tuple(map(_epochs, FIG17_FINAL)),
        claims=lambda: (better("fig17-e1/dg", "fig17-e4/dg", "error", FIG17, BOTH),),
    ),
)
