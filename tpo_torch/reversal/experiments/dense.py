"""Token reversal paid by the token: Table 1 (alphabets), Table 2 (targets and rewards), Table 5 (temperature).

Departures from the paper, each explained in spec/deviations.md:

- D61 two cells of Table 1 that Table 2 contradicts are shown, not judged.
- All that `tpo_torch.reversal.runs` lists.
- D40 standard errors divide by n − 1.
- D41 claims are judged by the interval of ours.
"""

from __future__ import annotations

import itertools

from tpo_ref.study.claims import around, better, first_step, stays_above
from tpo_ref.study.protocol import Claim, Experiment, Scale, Suite
from tpo_torch.reversal.experiments.setup import BOTH, SOLVED, ratio_claim, sequence
from tpo_torch.reversal.settings import ReversalSettings

TABLE1, TABLE2, TABLE5 = "Table 1", "Table 2", "Table 5"

# Table 1: steps to 1 % at V = 2, 4, 8, 16, with the relative tolerance we accept. At V = 2 the paper's Table 2 gives
# 352 and "never" where Table 1 gives 904 and 872 for the same task: those two are shown, not judged
# (deviation D61).
VOCABS = (2, 4, 8, 16)
TABLE1_STEPS = {
    "tpo_token": (58, 74, 103, 102),
    "dg": (199, 273, 314, 393),
    "grpo_token": (904, 141, 124, 148),
    "ppo": (872, 181, 191, 259),
}
TABLE1_TOLERANCE = {"tpo_token": 0.2, "dg": 0.2, "grpo_token": 0.4, "ppo": 0.4}
TABLE1_METHODS = ("tpo_token", "dg", "grpo_token", "ppo", "tpo_token_ratio")
TABLE1_COST = {2: "40 min", 4: "15 min", 8: "17 min", 16: "20 min"}

# Table 2: the same at V = 2 for each reward and target; None where the level is never reached within the budget.
TARGETS = ("copy", "flip", "reverse_copy", "reverse_flip")
NEVER = (None, None, None, None)
TABLE2_STEPS: dict[str, dict[str, tuple[int | None, ...]]] = {
    "bag": {
        "tpo_token": (81, 56, 55, 59),
        "dg": (219, 201, 202, 200),
        "grpo_token": (338, 104, 352, 209),
        "ppo": (170, 146, None, 143),
    },
    "sequential": {
        "tpo_token": (295, 321, 159, 276),
        "dg": (439, 349, 515, 309),
        "grpo_token": NEVER,
        "ppo": NEVER,
    },
}
REWARD_NAMES = {"bag": "bag of tokens", "sequential": "sequential reward"}
TABLE2_TOLERANCE = {"bag": 0.25, "sequential": 0.4}
TABLE2_COST = {"bag": "8 min", "sequential": "25 min"}
TABLE2_CPU_COST = {"bag": "1 min", "sequential": "3 min"}
# The task of Table 1 at V = 2, and the methods whose number depends on which of the two tables one reads.
DISPUTED_TARGET, DISPUTED = "reverse_copy", ("grpo_token", "ppo")

# Table 5: the same for TPO's temperature. From .5 up the paper's numbers rise.
TABLE5_STEPS = {0.25: 72, 0.5: 67, 1.0: 96, 2.0: 141, 4.0: 260}
TABLE5_TOLERANCE, RISING_FROM = 0.3, 0.5
TABLE5_COST = {0.25: "4 min", 0.5: "4 min", 1.0: "5 min", 2.0: "7 min", 4.0: "10 min"}
TABLE5_CPU_COST = {0.25: "2 min", 0.5: "2 min", 1.0: "3 min", 2.0: "4 min", 4.0: "6 min"}

PAPER_SEEDS, FEWER_SEEDS, CPU_SEEDS = 20, 10, 5
# Those whose numbers are the steadiest, and the cheapest to run.
CPU_METHODS = ("tpo_token", "dg")
LINES = ("tpo_token", "dg", "grpo_token", "ppo")


def _steps(method: str, published: int, tolerance: float, source: str, scales: tuple[str, ...]) -> Claim:
    text = f"{method}: steps to {SOLVED:.0%} error"
    accept = around(published, tolerance)
    return first_step(method, "error", SOLVED, published, accept, source, text=text, scales=scales)


def _order(scales: tuple[str, ...], source: str) -> Claim:
    return better("tpo_token", "dg", "error", source, scales)


def _table1(index: int, vocab: int) -> Experiment:
    settings = ReversalSettings(vocab=vocab, stop_below=SOLVED)
    judged = [m for m in LINES if not (vocab == VOCABS[0] and m in DISPUTED)]
    steps = [
        _steps(m, TABLE1_STEPS[m][index], TABLE1_TOLERANCE[m], TABLE1, BOTH if m in CPU_METHODS else ("paper",))
        for m in judged
    ]
    return sequence(
        id=f"table1-v{vocab}",
        title=f"Reverse copy, bag of tokens, V = {vocab}, H = 10",
        paper="Fig. 5, Table 1",
        methods=TABLE1_METHODS,
        settings=settings,
        seeds=PAPER_SEEDS,
        cost=TABLE1_COST[vocab],
        cpu=Scale(settings, CPU_SEEDS, "2 min", CPU_METHODS),
        claims=lambda: (*steps, _order(BOTH, TABLE1), ratio_claim("tpo_token_ratio", "tpo_token")),
        published={"steps": {m: str(TABLE1_STEPS[m][index]) for m in LINES}},
    )


def _table2(reward: str, target: str) -> Experiment:
    settings = ReversalSettings(reward=reward, target=target, stop_below=SOLVED)
    steps_of = {m: TABLE2_STEPS[reward][m][TARGETS.index(target)] for m in LINES}
    claims: list[Claim] = []
    for method, steps in steps_of.items():
        if (reward, target) == ("bag", DISPUTED_TARGET) and method in DISPUTED:
            continue
        scales = BOTH if method in CPU_METHODS else ("paper",)
        if steps is None:
            claims.append(stays_above(method, "error", SOLVED, TABLE2, scales))
        else:
            claims.append(_steps(method, steps, TABLE2_TOLERANCE[reward], TABLE2, scales))
    name = target.replace("_", " ")
    return sequence(
        id=f"table2-{reward}-{target.replace('_', '-')}",
        title=f"{name.capitalize()}, {REWARD_NAMES[reward]}, V = 2, H = 10",
        paper="Fig. 6, Table 2",
        methods=LINES,
        settings=settings,
        seeds=FEWER_SEEDS,
        cost=TABLE2_COST[reward],
        cpu=Scale(settings, CPU_SEEDS, TABLE2_CPU_COST[reward], CPU_METHODS),
        claims=lambda: (*claims, _order(BOTH, TABLE2)),
        published={"steps": {m: "never" if steps is None else str(steps) for m, steps in steps_of.items()}},
    )


def _table5(eta: float) -> Experiment:
    settings = ReversalSettings(eta=eta, stop_below=SOLVED)
    return sequence(
        id=f"table5-eta{eta:g}",
        title=f"TPO's temperature: η = {eta:g}",
        paper="Fig. 16, Table 5",
        methods=("tpo",),
        settings=settings,
        seeds=FEWER_SEEDS,
        cost=TABLE5_COST[eta],
        cpu=Scale(settings, CPU_SEEDS, TABLE5_CPU_COST[eta]),
        claims=lambda: (_steps("tpo", TABLE5_STEPS[eta], TABLE5_TOLERANCE, TABLE5, BOTH),),
        published={"steps": {"tpo": str(TABLE5_STEPS[eta])}},
    )


_TABLE1 = tuple(_table1(index, vocab) for index, vocab in enumerate(VOCABS))
_TABLE2 = tuple(_table2(reward, target) for reward in TABLE2_STEPS for target in TARGETS)
_TABLE5 = tuple(_table5(eta) for eta in TABLE5_STEPS)

EXPERIMENTS = (*_TABLE1, *_TABLE2, *_TABLE5)
SUITES = (
    Suite(
        id="table1",
        title="Dense reward: episodes to 1 % error",
        paper="Fig. 5, Table 1",
        members=tuple(e.id for e in _TABLE1),
        statistics=("steps",),
        labels=tuple(f"V = {vocab}" for vocab in VOCABS),
    ),
    Suite(
        id="table2",
        title="Targets and rewards: episodes to 1 % error",
        paper="Fig. 6, Table 2",
        members=tuple(e.id for e in _TABLE2),
        statistics=("steps",),
        labels=tuple(f"{reward}, {target.replace('_', ' ')}" for reward in TABLE2_STEPS for target in TARGETS),
    ),
    Suite(
        id="table5",
        title="TPO's temperature: episodes to 1 % error",
        paper="Fig. 16, Table 5",
        members=tuple(e.id for e in _TABLE5),
        statistics=("steps",),
        labels=tuple(f"η = {eta:g}" for eta in TABLE5_STEPS),
        claims=lambda: tuple(
            better(f"table5-eta{low:g}/tpo", f"table5-eta{high:g}/tpo", "error", TABLE5, BOTH)
            for low, high in itertools.pairwise(TABLE5_STEPS)
            if low >= RISING_FROM
        ),
    ),
)
