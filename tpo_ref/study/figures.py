"""Figures: mean over seeds with a band of one standard error, published values as open circles."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy import stats

from tpo_ref.study import files
from tpo_ref.study.methods import style
from tpo_ref.study.protocol import Claim, Experiment, Panel, Results

PANEL_WIDTHS, PANEL_HEIGHT, LEGEND_HEIGHT = {1: 6.4, 2: 4.6}, 3.4, 0.75
DPI = 160
BAND_OPACITY = 0.2
TITLE_SIZE, MARK_SIZE, ABOVE_CURVES = 10, 6, 5
# Inches a legend entry takes at most; as many columns as fit, so that none is cut.
LEGEND_ENTRY_WIDTH = 2.1
PERCENT = 100.0
# Powers of ten alone would leave a percentage between 2 and 100 with two labels.
PERCENT_TICKS = (0.1, 0.2, 0.5, 1, 2, 3, 5, 10, 20, 50, 100)
# Curves of so few points show them.
FEW_POINTS = 10
LOOK: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "lines.linewidth": 1.6,
}


def draw(experiment: Experiment, scale: str, results: Results, path: Path) -> Path:
    """Draw every panel of an experiment into one file, whose suffix chooses the format; written atomically."""
    with mpl.rc_context(LOOK):
        count = len(experiment.panels)
        width = PANEL_WIDTHS[count] * count
        figure = Figure(figsize=(width, PANEL_HEIGHT + LEGEND_HEIGHT), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(1, count, squeeze=False)[0]
        marks = [c for c in experiment.claims if c.mark and scale in c.accept and set(c.methods) <= set(results)]
        for axis, panel in zip(axes, experiment.panels, strict=True):
            _draw_panel(axis, experiment, panel, results, marks)
        seeds = len(next(iter(results.values()))[experiment.panels[0].array])
        figure.suptitle(
            f"{experiment.title}\n{scale} scale, mean ± standard error of {seeds} seeds", fontsize=TITLE_SIZE
        )
        handles, labels = axes[0].get_legend_handles_labels()
        if marks:
            handles.append(Line2D([], [], marker="o", mfc="none", mec="black", linestyle="none"))
            labels.append("published" if all(c.source.startswith("Fig") for c in marks) else "closed form")
        figure.legend(
            handles, labels, loc="outside lower center", ncols=int(width // LEGEND_ENTRY_WIDTH), frameon=False
        )
        buffer = io.BytesIO()
        figure.savefig(buffer, format=path.suffix.lstrip("."), dpi=DPI)
    files.write_bytes(path, buffer.getvalue())
    return path


def _draw_panel(axis: Any, experiment: Experiment, panel: Panel, results: Results, marks: list[Claim]) -> None:
    unit = PERCENT if panel.percent else 1.0
    for method, arrays in results.items():
        curves = np.asarray(arrays[panel.array], dtype=float) * unit
        x = np.arange(curves.shape[-1]) if experiment.x is None else np.asarray(arrays[experiment.x])
        look = style(method)
        x, mean, error = _band(x, curves)
        marker = "." if len(x) <= FEW_POINTS else None
        axis.plot(x, mean, color=look.colour, linestyle=look.dash, marker=marker, label=look.label)
        axis.fill_between(x, mean - error, mean + error, color=look.colour, alpha=BAND_OPACITY, linewidth=0)
    _draw_marks(axis, panel, marks, unit)
    if panel.log:
        axis.set_yscale("log")
        if panel.percent:
            low, high = axis.get_ylim()
            axis.set_yticks([tick for tick in PERCENT_TICKS if low <= tick <= high])
            axis.yaxis.set_major_formatter("{x:g}")
            axis.yaxis.set_minor_formatter("")
    axis.set_xlabel(experiment.x_label)
    axis.set_ylabel(panel.label)


def _band(x: Any, curves: Any) -> tuple[Any, Any, Any]:
    """Where every seed has a value: mean over seeds and its standard error, 0 for a single seed."""
    everywhere = ~np.isnan(curves).any(0)
    mean, error = curves[:, everywhere].mean(0), np.zeros(everywhere.sum())
    if len(curves) > 1:
        error = stats.sem(curves[:, everywhere])
    return x[everywhere], mean, error


def _draw_marks(axis: Any, panel: Panel, marks: list[Claim], unit: float) -> None:
    for claim in marks:
        assert claim.mark is not None
        array, x, y = claim.mark
        if array != panel.array:
            continue
        colour = style(claim.methods[0]).colour
        # A mark without a step is a level, the value a curve should settle at: it stands at the end of the axis.
        step = axis.get_lines()[0].get_xdata()[-1] if np.isnan(x) else x
        axis.plot([step], [y * unit], "o", mfc="none", mec=colour, ms=MARK_SIZE, zorder=ABOVE_CURVES, linestyle="none")
