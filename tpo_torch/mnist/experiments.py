"""The MNIST contextual bandit: Fig. 4a (test error) and Fig. 4b (mechanism) with their published numbers.

Departures from the paper, each explained in spec/deviations.md:

- All that `runs` lists.
- D40 standard errors divide by n − 1.
- D41 claims are judged by the interval of ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tpo_ref.study import estimates
from tpo_ref.study.claims import around, better, final, first_step, per_seed
from tpo_ref.study.context import Context
from tpo_ref.study.protocol import Arrays, Catalogue, Claim, Experiment, Panel, Scale
from tpo_torch.mnist.settings import MnistSettings
from tpo_torch.mnist.table import ALIASES, METHODS

FIG4A, FIG4B = "Fig. 4a", "Fig. 4b"

# Fig. 4a: final test error after 10,000 updates with the tolerance we accept. Means of PG, GRPO and Group PG hang on
# one or two seeds that lose a class: hence their width, and the medians in the tables.
FINAL = {
    "tpo": (0.029, 0.0015),
    "dg": (0.0315, 0.0015),
    "pg": (0.053, 0.015),
    "pg_batchnorm": (0.059, 0.015),
    "group_pg": (0.072, 0.03),
}
# 5 % is reached at labels 1,600 and 2,200; a label is the start of a block of 200 updates (deviation D21). The
# median is judged too, since a single seed that has lost a class holds the mean up.
LEVEL, LEVEL_REACHED, LEVEL_TOLERANCE = 0.05, {"tpo": 1_800, "dg": 2_400}, 200
PAPER_UPDATES = 10_000
# Fig. 4b: excess gain in the bin of the most concentrated errors.
TOP_BIN, TPO_TOP_GAIN, TPO_TOP_TOLERANCE = 3, 0.073, 0.002
TOP_MIDPOINT = 0.875

SMOKE = MnistSettings(updates=400, mechanism_update=400)
CPU = MnistSettings(updates=2_200)
SCALES = {
    "smoke": Scale(SMOKE, 2, "10 s"),
    "cpu": Scale(CPU, 5, "40 s"),
    "paper": Scale(MnistSettings(), 20, "7 min"),
}


def _accuracy_claims() -> tuple[Claim, ...]:
    claims = []
    for method, (published, tolerance) in FINAL.items():
        mark = ("test_error", PAPER_UPDATES, published)
        claims.append(final(method, "test_error", published, around(published, absolute=tolerance), FIG4A, mark))
    for method, update in LEVEL_REACHED.items():
        accept = around(update, absolute=LEVEL_TOLERANCE)
        for name, centre in (("mean", np.mean), ("median", np.median)):
            text = f"{method}: updates to 5 % test error, {name} of seeds"
            scales = tuple(name for name in ("cpu", "paper") if update <= SCALES[name].settings.updates)
            claims.append(
                first_step(
                    method,
                    "test_error",
                    LEVEL,
                    update,
                    accept,
                    FIG4A,
                    x="update",
                    text=text,
                    centre=centre,
                    scales=scales,
                )
            )
    order = [("tpo", "dg"), ("tpo", "pg"), ("tpo", "pg_batchnorm"), ("tpo", "group_pg"), ("ce", "tpo")]
    return (*claims, *(better(w, v, "test_error", FIG4A, ("cpu", "paper")) for w, v in order))


def _mechanism_claims() -> tuple[Claim, ...]:
    tpo = per_seed(
        text="tpo: excess gain in the top bin",
        methods=("tpo",),
        value=lambda r: _top_bin(r["tpo"]["mechanism_gain"]),
        accept={"paper": around(TPO_TOP_GAIN, absolute=TPO_TOP_TOLERANCE)},
        source=FIG4B,
        published=TPO_TOP_GAIN,
        mark=("mechanism_gain", TOP_MIDPOINT, TPO_TOP_GAIN),
    )
    dg = Claim(
        text="dg: excess gain in the top bin is slightly negative",
        source=FIG4B,
        methods=("dg",),
        statistic=lambda r: estimates.mean(_top_bin(r["dg"]["mechanism_gain"])),
        accept={"cpu": (-math.inf, 0.0), "paper": (-math.inf, 0.0)},
    )
    return (tpo, dg)


def _top_bin(gain: np.ndarray) -> np.ndarray:
    top = gain[:, TOP_BIN]
    # A seed without a misclassified image in the bin says nothing about it.
    return np.asarray(top[~np.isnan(top)])


def _run(method: str, settings: Any, seeds: Sequence[int], context: Context) -> Arrays:
    # Torch is loaded when an experiment runs: listing needs none.
    from tpo_torch.mnist import runs

    return runs.run(method, settings, seeds, runs.load_data(), context)


EXPERIMENTS = (
    Experiment(
        id="mnist",
        title="MNIST contextual bandit",
        paper=FIG4A,
        run=_run,
        methods=METHODS,
        scales=SCALES,
        panels=(Panel("test_error", "greedy test error, %", percent=True),),
        score="test_error",
        claims=_accuracy_claims,
        x="update",
        x_label="update",
        extra="torch",
        devices=True,
        aliases=ALIASES,
        groupings=("classes", "sampled", "batch", "batch-baseline"),
    ),
    Experiment(
        id="mnist-mechanism",
        title="MNIST: gain from how wrong classes share the error",
        paper=FIG4B,
        run=_run,
        methods=("tpo", "dg", "pg"),
        scales=SCALES,
        panels=(Panel("mechanism_gain", "excess first-order gain of π(y)", log=False),),
        score=None,
        claims=_mechanism_claims,
        x="mechanism_concentration",
        x_label="share of the wrong mass held by the strongest wrong class",
        results_of="mnist",
        extra="torch",
        devices=True,
    ),
)

CATALOGUE = Catalogue(EXPERIMENTS)
