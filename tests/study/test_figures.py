"""Figures: every kind of experiment draws, in any format, stopped runs too, and every method has a look of its own."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest

from tpo_ref.study import figures
from tpo_ref.study.protocol import Experiment
from tpo_ref.study.registry import EXPERIMENTS, SUITES
from tpo_ref.study.styles import STYLES

# Of experiments that differ in their numbers alone, the first is drawn.
KINDS = list({(e.panels, e.x, e.score): name for name, e in reversed(EXPERIMENTS.items())}.values())
PNG = b"\x89PNG"


def curves(
    experiment: Experiment, seeds: int, stop: int = 60, health: bool = False
) -> dict[str, dict[str, np.ndarray]]:
    """Plausible arrays for every panel: decaying, positive, as long as the last published mark needs, then stopped."""
    x = np.arange(0, 12_000, 200)
    curve = np.exp(-x / 3000) * np.ones((seeds, 1))
    curve[:, stop:] = np.nan
    arrays = {panel.array: curve for panel in (*experiment.panels, *(experiment.health if health else ()))}
    if experiment.x:
        arrays[experiment.x] = x
    return dict.fromkeys(experiment.methods, arrays)


def drawn_in(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The axes of the figures that are drawn from here on."""
    seen: list[Any] = []
    finish = figures._finish

    def watched(figure: Any, axes: Any, marks: Any, path: Path) -> Path:
        seen.extend(axes)
        return finish(figure, axes, marks, path)

    monkeypatch.setattr(figures, "_finish", watched)
    return seen


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("seeds", [1, 3])
def test_every_kind_of_experiment_draws(name: str, seeds: int, tmp_path: Path) -> None:
    experiment = EXPERIMENTS[name]
    path = figures.draw(experiment, "paper", curves(experiment, seeds), tmp_path / "x.png")
    assert path.read_bytes().startswith(PNG)


def test_a_stopped_run_is_drawn_up_to_its_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    axes = drawn_in(monkeypatch)
    experiment = EXPERIMENTS["table1-v2"]
    figures.draw(experiment, "smoke", curves(experiment, 3, stop=20), tmp_path / "x.png")
    assert {len(line.get_xdata()) for line in axes[0].get_lines()} == {20}


def test_below_its_floor_a_curve_is_the_floor_in_grey(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    axes = drawn_in(monkeypatch)
    # At error .5 the floor is 1.6e-11; at 1e-3 it is 1.002e-6.
    arrays = {"error": np.tile([0.5, 1e-3], (2, 1)), "misalignment": np.full((2, 2), 1e-9)}
    figures.draw(EXPERIMENTS["tabular-single"], "smoke", {"tpo": arrays}, tmp_path / "x.png")
    grey, curve = axes[1].get_lines()
    assert grey.get_color() == figures.FLOOR_COLOUR
    np.testing.assert_allclose(grey.get_ydata(), [np.nan, 1.002003e-6], rtol=1e-6)
    np.testing.assert_array_equal(curve.get_ydata(), [1e-9, np.nan])


def test_a_partial_array_is_averaged_over_the_seeds_that_have_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    axes = drawn_in(monkeypatch)
    experiment = EXPERIMENTS["fig10"]
    arrays = {panel.array: np.ones((2, 3)) for panel in experiment.panels}
    arrays |= {name: np.array([[1.0, np.nan, np.nan], [3.0, 5.0, np.nan]]) for name in ("error", "winner_weight")}
    figures.draw(experiment, "smoke", {"tpo": arrays}, tmp_path / "x.png")
    shown = {axis.get_ylabel(): axis.get_lines()[0].get_ydata() for axis in axes}
    np.testing.assert_array_equal(shown["mean coefficient of winners"], [2, 5])
    # The error itself has a value wherever a run has not stopped: a seed without one is not passed over.
    np.testing.assert_array_equal(shown["share of wrong answers"], [2])


def test_the_health_of_the_anchor_leaves_out_methods_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    axes = drawn_in(monkeypatch)
    experiment = EXPERIMENTS["table1-v2"]
    results = {**curves(experiment, 2), "tpo_token": curves(experiment, 2, health=True)["tpo_token"]}
    path = figures.draw_health(experiment, "smoke", results, tmp_path / "x.png")
    assert path.read_bytes().startswith(PNG)
    assert len(axes) == len(experiment.health)
    assert {axis.get_legend_handles_labels()[1][0] for axis in axes} == {STYLES["tpo_token"].label}


def test_an_array_that_no_method_has_takes_no_panel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    axes = drawn_in(monkeypatch)
    experiment = EXPERIMENTS["table1-v2"]
    arrays = {name: curve for name, curve in curves(experiment, 2, health=True)["dg"].items() if name != "duplicates"}
    figures.draw_health(experiment, "smoke", {"tpo_token": arrays}, tmp_path / "x.png")
    assert len(axes) == len(experiment.health) - 1
    assert not figures.has_health(experiment, curves(experiment, 2))
    with pytest.raises(ValueError, match="expected a method with groups"):
        figures.draw_health(experiment, "smoke", curves(experiment, 2), tmp_path / "x.png")


@pytest.mark.parametrize("name", ["table2", "reversal"])
def test_a_suite_draws_each_member_once_with_one_legend(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    axes = drawn_in(monkeypatch)
    suite = SUITES[name]
    members = {m: (EXPERIMENTS[m], curves(EXPERIMENTS[m], 2, stop=30)) for m in suite.members}
    path = figures.draw_suite(suite, members, "paper", tmp_path / "x.png")
    assert [axis.get_title() for axis in axes] == list(suite.labels)
    (figure,) = {axis.figure for axis in axes}
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert len(set(labels)) == len(labels)
    assert matplotlib.image.imread(path).std() > 0


def test_every_method_of_every_experiment_has_a_style() -> None:
    assert {m for e in EXPERIMENTS.values() for m in e.methods} <= set(STYLES)


def test_methods_of_one_figure_differ_in_colour_and_in_dash() -> None:
    for experiment in EXPERIMENTS.values():
        for a, b in itertools.combinations(experiment.methods, 2):
            assert STYLES[a].colour != STYLES[b].colour, (a, b)
            assert STYLES[a].dash != STYLES[b].dash, (a, b)
