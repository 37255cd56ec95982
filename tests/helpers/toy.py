"""A toy experiment for the tests of the study layer: curves that decay at a rate named by the method."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tpo_ref.study import claims
from tpo_ref.study.context import Context
from tpo_ref.study.protocol import Experiment, Panel, Scale

RATES = {"tpo": 0.2, "pg": 0.05}
STEPS = 40
# A file whose presence makes the runner die as `kill -9` would; it removes the file first, so that a rerun lives.
DEATH_NOTE = "TOY_DEATH_NOTE"


@dataclass(frozen=True)
class ToySettings:
    steps: int = STEPS


def decay(method: str, settings: ToySettings, seeds: Sequence[int], context: Context) -> dict[str, np.ndarray]:
    note = os.environ.get(DEATH_NOTE)
    if method == "pg" and note and Path(note).exists():
        Path(note).unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    wobble = np.array([np.random.default_rng(s).uniform(0.95, 1.05) for s in seeds])
    return {"error": np.exp(-RATES[method] * wobble[:, None] * np.arange(settings.steps))}


def make(accept: tuple[float, float] = (10.0, 14.0)) -> Experiment:
    return Experiment(
        id="toy",
        title="Toy",
        paper="none",
        run=lambda *arguments: decay(*arguments),
        methods=("tpo", "pg"),
        scales={"smoke": Scale(ToySettings(), 3, "none"), "paper": Scale(ToySettings(), 5, "none")},
        panels=(Panel("error", "error"),),
        score="error",
        claims=lambda: (
            claims.first_step("tpo", "error", 0.1, 12, accept, "toy"),
            claims.better("tpo", "pg", "error", "toy", ("paper",)),
        ),
        aliases={"reinforce": "pg"},
    )


TOY = make()
