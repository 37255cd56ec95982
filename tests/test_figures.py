"""Figures: every experiment draws, in any format, and every method has a look of its own."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from tpo_ref.study import figures
from tpo_ref.study.experiments import EXPERIMENTS
from tpo_ref.study.methods import STYLES
from tpo_ref.study.protocol import Experiment


def curves(experiment: Experiment, seeds: int) -> dict[str, dict[str, np.ndarray]]:
    """Plausible arrays for every panel: decaying, positive, as long as the last published mark needs."""
    x = np.arange(0, 12_000, 200)
    arrays = {panel.array: np.exp(-x / 3000) * np.ones((seeds, 1)) for panel in experiment.panels}
    if experiment.x:
        arrays[experiment.x] = x
    return dict.fromkeys(experiment.methods, arrays)


@pytest.mark.parametrize("name", EXPERIMENTS)
@pytest.mark.parametrize("seeds", [1, 3])
def test_every_experiment_draws(name: str, seeds: int, tmp_path: Path) -> None:
    experiment = EXPERIMENTS[name]
    path = figures.draw(experiment, "paper", curves(experiment, seeds), tmp_path / "x.png")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_every_method_of_every_experiment_has_a_style() -> None:
    assert {m for e in EXPERIMENTS.values() for m in e.methods} <= set(STYLES)


def test_methods_of_one_figure_differ_in_colour_and_in_dash() -> None:
    for experiment in EXPERIMENTS.values():
        for a, b in itertools.combinations(experiment.methods, 2):
            assert STYLES[a].colour != STYLES[b].colour, (a, b)
            assert STYLES[a].dash != STYLES[b].dash, (a, b)
