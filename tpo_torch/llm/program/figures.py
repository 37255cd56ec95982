"""The figure of language-model runs: several together, one colour per method as everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tpo_ref.study import drawing
from tpo_ref.study.drawing import TITLE_SIZE, Axes
from tpo_ref.study.styles import style

Floats = NDArray[np.float64]

# Inches; beyond two panels a new row begins.
PANEL_WIDTH, HEIGHT, ROOM_PER_ROW, LEGEND_ENTRY_WIDTH = 4.4, 3.0, 0.22, 2.6
MOST_COLUMNS = 2
MARK_SIZE, CAP = 4, 2.5
# The raw curve, or a band of one standard error over seeds, behind its mean over a window of this share of the steps,
# and at least so many of them.
RAW_OPACITY, WINDOW_SHARE, SMALLEST_WINDOW = 0.25, 0.1, 5
# The panels: label, name of the curve, and whether each value is marked and has an error bar.
PANELS = (
    ("mean training reward", "reward", False),
    ("greedy accuracy, held out", "accuracy", True),
    ("KL(q‖p), nats", "kl", False),
    ("TV(target, anchor)", "tv", False),
)
POOLED = "mean and one standard error over seeds; reward and the lower panels smoothed"
SINGLE = "faint: each step, bold: running mean; bars: one standard error over prompts"
# Runs of one method differ in dashes and marks.
DASHES: tuple[Any, ...] = (":", (0, (6, 2, 1, 2)), (0, (1, 1)), (0, (8, 3)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


@dataclass(frozen=True)
class Curve:
    """Values (T,) at optimizer steps (T,), with standard errors, NaN where there is none."""

    steps: Floats
    values: Floats
    errors: Floats


@dataclass(frozen=True)
class RunCurves:
    """One run: its name, the style of its method, and its curves, empty where it has none.

    Args: reward, mean of each training batch; accuracy, of greedy answers to held-out prompts; kl, KL(q‖p) in nats; tv,
        mean total variation between target and anchor; seeds, that the curves are means over.
    """

    name: str
    style: str
    reward: Curve
    accuracy: Curve
    kl: Curve
    tv: Curve
    seeds: int = 1


def draw(runs: Sequence[RunCurves], path: Path) -> Path:
    """Draw runs together into one file, whose suffix chooses the format; written atomically; ValueError for none."""
    if not runs:
        raise ValueError("runs: got none, expected at least one folder of a run")
    panels = [panel for panel in PANELS if any(len(getattr(run, panel[1]).steps) for run in runs)]
    several = len({run.name for run in runs}) > 1
    with drawing.look():
        across = min(len(panels), MOST_COLUMNS)
        columns = max(1, int(PANEL_WIDTH * across // LEGEND_ENTRY_WIDTH))
        height = HEIGHT * -(-len(panels) // across) + ROOM_PER_ROW * (1 + -(-len(runs) // columns))
        figure, axes = drawing.grid(len(panels), across, PANEL_WIDTH * across, height)
        for axis, (label, name, marked) in zip(axes, panels, strict=True):
            for index, run in enumerate(runs):
                if len(getattr(run, name).steps):
                    (_marked if marked else _smooth)(axis, getattr(run, name), _look(run, runs[:index], several))
            if marked:
                axis.set_ylim(bottom=0)
            drawing.count_steps(axis)
            axis.set_xlabel("optimizer step")
            axis.set_ylabel(label)
        pooled = any(run.seeds > 1 for run in runs)
        figure.suptitle(
            f"{', '.join(dict.fromkeys(run.name for run in runs))}\n{POOLED if pooled else SINGLE}", fontsize=TITLE_SIZE
        )
        # The panels with marks come last, so that the legend shows the marks.
        by_marks = [axis for _, axis in sorted(zip(panels, axes, strict=True), key=lambda pair: pair[0][2])]
        by_label = drawing.handles_of(by_marks)
        handles = {label: by_label[label] for label in drawing.handles_of(axes)}
        return drawing.finish(figure, handles, columns, path)


def smoothed(values: Floats) -> Floats:
    """Mean over a centred window of a tenth of the steps, shorter at both ends, (T,) to (T,).

    >>> smoothed(np.array([0.0, 0.0, 3.0, 0.0, 0.0]))
    array([1.  , 0.75, 0.6 , 0.75, 1.  ])
    """
    window = max(SMALLEST_WINDOW, int(len(values) * WINDOW_SHARE))
    kernel = np.ones(window)
    half = window // 2
    counted = np.convolve(np.ones(len(values)), kernel)[half : half + len(values)]
    return np.asarray(np.convolve(values, kernel)[half : half + len(values)] / counted, dtype=np.float64)


def _look(run: RunCurves, before: Sequence[RunCurves], several: bool) -> dict[str, Any]:
    method = style(run.style)
    repetition = sum(other.style == run.style for other in before)
    label = f"{method.label}: {run.name}" if several else method.label
    label += f", {run.seeds} seeds" if run.seeds > 1 else ""
    dash = (method.dash, *DASHES)[repetition % (1 + len(DASHES))]
    return {"color": method.colour, "linestyle": dash, "label": label, "marker": MARKERS[len(before) % len(MARKERS)]}


def _smooth(axis: Axes, curve: Curve, look: dict[str, Any]) -> None:
    look = {name: value for name, value in look.items() if name != "marker"}
    middle = smoothed(curve.values)
    if np.isfinite(curve.errors).all():
        wide = smoothed(curve.errors)
        axis.fill_between(curve.steps, middle - wide, middle + wide, color=look["color"], alpha=RAW_OPACITY, lw=0)
    else:
        axis.plot(curve.steps, curve.values, color=look["color"], alpha=RAW_OPACITY)
    axis.plot(curve.steps, middle, **look)


def _marked(axis: Axes, curve: Curve, look: dict[str, Any]) -> None:
    errors = np.where(np.isfinite(curve.errors), curve.errors, 0.0)
    axis.errorbar(curve.steps, curve.values, yerr=errors, markersize=MARK_SIZE, capsize=CAP, **look)
