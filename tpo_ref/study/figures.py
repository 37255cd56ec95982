"""Figures: mean over seeds with a band of one standard error, published values as open circles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tpo_ref.study import drawing
from tpo_ref.study.drawing import TITLE_SIZE, Axes, Figure
from tpo_ref.study.protocol import Claim, Experiment, Panel, Results, Suite
from tpo_ref.study.styles import style

Floats = NDArray[np.float64]

# Inches; beyond three panels, or four of a suite, a new row begins.
PANEL_WIDTHS, PANEL_HEIGHT, LEGEND_HEIGHT = {1: 6.4, 2: 4.6, 3: 3.8, 4: 3.4}, 3.4, 0.75
ROW_HEIGHT = 2.7
MOST_COLUMNS, MOST_SUITE_COLUMNS = 3, 4
BAND_OPACITY = 0.2
MARK_SIZE, ABOVE_CURVES, LINE_WIDTH = 6, 5, 0.8
# Inches a legend entry takes at most; as many columns as fit, so that none is cut.
LEGEND_ENTRY_WIDTH = 2.1
PERCENT = 100.0
# Powers of ten alone would leave a percentage between 2 and 100 with two labels.
PERCENT_TICKS = (0.1, 0.2, 0.5, 1, 2, 3, 5, 10, 20, 50, 100)
WIDE_PERCENT_TICKS, MOST_TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100), 8
FLOOR_COLOUR = "0.6"
# Curves of so few points show them.
FEW_POINTS = 10


def draw(experiment: Experiment, scale: str, results: Results, path: Path) -> Path:
    """Draw every panel of an experiment into one file, whose suffix chooses the format; written atomically."""
    return _draw_panels(experiment, experiment.panels, scale, results, path, experiment.title)


def has_health(experiment: Experiment, results: Results) -> bool:
    """Whether any method has what the figure of the anchor's health draws."""
    return any(panel.array in arrays for panel in experiment.health for arrays in results.values())


def draw_health(experiment: Experiment, scale: str, results: Results, path: Path) -> Path:
    """Draw the health of the anchor, for the methods that have groups; ValueError when there is none of them."""
    panels = [panel for panel in experiment.health if any(panel.array in arrays for arrays in results.values())]
    if not panels:
        raise ValueError(
            f"{experiment.id}: got {', '.join(results)}, expected a method with groups and an anchor to look at"
        )
    return _draw_panels(experiment, panels, scale, results, path, f"{experiment.title}: the anchor")


def draw_suite(suite: Suite, members: Mapping[str, tuple[Experiment, Results]], scale: str, path: Path) -> Path:
    """Draw the first panel of every member that has results into one file, with one legend."""
    labels = dict(zip(suite.members, suite.labels or suite.members, strict=True))
    with drawing.look():
        figure, axes = _grid(len(members), MOST_SUITE_COLUMNS)
        marks: list[Claim] = []
        for axis, (name, (experiment, results)) in zip(axes, members.items(), strict=True):
            own = _marks(experiment, scale, results)
            _draw_panel(axis, experiment, experiment.panels[0], results, own)
            axis.set_title(labels[name], fontsize=TITLE_SIZE)
            marks += [claim for claim in own if claim.mark and claim.mark[0] == experiment.panels[0].array]
        _label_once(axes)
        smaller = any(experiment.departs(scale) for experiment, _ in members.values())
        tasks = ", smaller tasks than the paper's" if smaller else ""
        figure.suptitle(f"{suite.title}\n{scale} scale{tasks}, mean ± standard error over seeds", fontsize=TITLE_SIZE)
        return _finish(figure, axes, marks, path)


def _draw_panels(
    experiment: Experiment, panels: Sequence[Panel], scale: str, results: Results, path: Path, title: str
) -> Path:
    with drawing.look():
        figure, axes = _grid(len(panels), MOST_COLUMNS)
        marks = _marks(experiment, scale, results)
        for axis, panel in zip(axes, panels, strict=True):
            _draw_panel(axis, experiment, panel, results, marks)
        seeds = len(next(iter(results.values()))[experiment.panels[0].array])
        departs = experiment.departs(scale)
        lines = [title, f"{scale} scale, mean ± standard error of {seeds} seeds", *([departs] if departs else [])]
        figure.suptitle("\n".join(lines), fontsize=TITLE_SIZE)
        arrays = {panel.array for panel in panels}
        return _finish(figure, axes, [claim for claim in marks if claim.mark and claim.mark[0] in arrays], path)


def _grid(count: int, most: int) -> tuple[Figure, list[Axes]]:
    columns = min(count, most)
    rows = -(-count // columns)
    height = PANEL_HEIGHT if rows == 1 else rows * ROW_HEIGHT
    return drawing.grid(count, columns, PANEL_WIDTHS[columns] * columns, height + LEGEND_HEIGHT)


def _label_once(axes: Sequence[Axes]) -> None:
    """Leave out a label that the panel to the left has too."""
    labels = [axis.get_ylabel() for axis in axes]
    for index, axis in enumerate(axes):
        if index % MOST_SUITE_COLUMNS and labels[index] == labels[index - 1]:
            axis.set_ylabel("")


def _finish(figure: Figure, axes: Sequence[Axes], marks: Sequence[Claim], path: Path) -> Path:
    """One legend for all panels, and the file."""
    handles = drawing.handles_of(axes)
    if marks:
        handles[_origin(marks)] = drawing.open_circle()
    return drawing.finish(figure, handles, int(figure.get_figwidth() // LEGEND_ENTRY_WIDTH), path)


def _origin(marks: Sequence[Claim]) -> str:
    published = {claim.published is not None for claim in marks}
    return "published, or closed form" if len(published) > 1 else "published" if published.pop() else "closed form"


def _marks(experiment: Experiment, scale: str, results: Results) -> list[Claim]:
    return [c for c in experiment.claims() if c.mark and scale in c.accept and set(c.methods) <= set(results)]


def _draw_panel(axis: Axes, experiment: Experiment, panel: Panel, results: Results, marks: Sequence[Claim]) -> None:
    unit = PERCENT if panel.percent else 1.0
    for method, arrays in results.items():
        if panel.array not in arrays:
            continue
        curves = np.asarray(arrays[panel.array], dtype=float) * unit
        x = np.arange(curves.shape[-1]) if experiment.x is None else np.asarray(arrays[experiment.x])
        look = style(method)
        x, mean, error = _band(x, curves, panel.partial)
        marker = "." if len(x) <= FEW_POINTS else None
        if panel.floor is not None:
            mean = _draw_floor(axis, x, mean, np.asarray(panel.floor(arrays), dtype=float).mean(0) * unit)
        axis.plot(x, mean, color=look.colour, linestyle=look.dash, marker=marker, label=look.label)
        axis.fill_between(x, mean - error, mean + error, color=look.colour, alpha=BAND_OPACITY, linewidth=0)
    if panel.line is not None:
        axis.axhline(panel.line, color="black", linestyle="--", linewidth=LINE_WIDTH)
    _draw_marks(axis, panel, marks, unit)
    if panel.log:
        axis.set_yscale("log")
        if panel.line is not None:
            # Numbers near the line are read off, where powers of ten would say little.
            drawing.number_log_ticks(axis)
    if panel.limits is not None:
        axis.set_ylim(*(limit * unit for limit in panel.limits))
    if panel.log and panel.percent:
        _percent_ticks(axis)
    axis.set_xlabel(experiment.x_label)
    axis.set_ylabel(panel.label)


def _draw_floor(axis: Axes, x: NDArray[Any], mean: Floats, floor: Floats) -> Floats:
    """Draw the floor in grey where a mean curve lies below it; the curve without those steps."""
    hidden = mean < floor[: len(mean)]
    if hidden.any():
        axis.plot(x, np.where(hidden, floor[: len(mean)], np.nan), color=FLOOR_COLOUR, label="numerical floor")
    return np.where(hidden, np.nan, mean)


def _percent_ticks(axis: Axes) -> None:
    low, high = axis.get_ylim()
    ticks = [tick for tick in PERCENT_TICKS if low <= tick <= high]
    axis.set_yticks(ticks if len(ticks) <= MOST_TICKS else [t for t in WIDE_PERCENT_TICKS if low <= t <= high])
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter("")


def _band(x: NDArray[Any], curves: Floats, partial: bool) -> tuple[NDArray[Any], Floats, Floats]:
    """Where every seed has a value, or any when partial: their mean and its standard error, 0 for a single value."""
    has = ~np.isnan(curves)
    columns = has.any(0) if partial else has.all(0)
    x, curves, has = x[columns], curves[:, columns], has[:, columns]
    count = has.sum(0)
    mean = np.where(has, curves, 0).sum(0) / count
    squares = np.where(has, (curves - mean) ** 2, 0).sum(0)
    return x, mean, np.sqrt(squares / np.maximum(count - 1, 1) / count)


def _draw_marks(axis: Axes, panel: Panel, marks: Sequence[Claim], unit: float) -> None:
    for claim in marks:
        assert claim.mark is not None
        array, x, y = claim.mark
        if array != panel.array:
            continue
        colour = style(claim.methods[0]).colour
        # A mark without a step is a level, the value a curve should settle at: it stands at the end of the axis.
        step = np.asarray(axis.get_lines()[0].get_xdata())[-1] if np.isnan(x) else x
        axis.plot([step], [y * unit], "o", mfc="none", mec=colour, ms=MARK_SIZE, zorder=ABOVE_CURVES, linestyle="none")
