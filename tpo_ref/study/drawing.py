"""What every picture shares: the look, a grid of panels, one legend below them, and a file that is whole or absent."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes as Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogFormatter, MaxNLocator

from tpo_ref.study import files

DPI = 160
TITLE_SIZE = 10
LOOK: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "lines.linewidth": 1.6,
}

# What the legend shows for each label.
Handles = Mapping[str, Any]


@contextmanager
def look() -> Iterator[None]:
    """The context in which a picture is drawn and saved: the same whatever a user's own matplotlibrc says."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(LOOK)
        yield


def grid(count: int, columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """Make a figure of so many panels, row by row; places that are left over in the last row stay empty.

    Args: count, of panels; columns; width, height, of the whole figure in inches.
    """
    rows = -(-count // columns)
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for unused in axes[count:]:
        unused.remove()
    return figure, axes[:count]


def handles_of(axes: Iterable[Axes]) -> dict[str, Any]:
    """Return what the panels have labelled, each label once; the last panel with a label shows it."""
    return {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}


def open_circle() -> Line2D:
    """Return the handle of a published value."""
    return Line2D([], [], marker="o", mfc="none", mec="black", linestyle="none")


def finish(figure: Figure, handles: Handles, columns: int, path: Path) -> Path:
    """Put one legend below all panels and write the file atomically; its suffix chooses the format."""
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=columns, frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix.lstrip("."), dpi=DPI)
    files.write_bytes(path, buffer.getvalue())
    return path


def number_log_ticks(axis: Axes) -> None:
    """Write the numbers of a logarithmic axis between the powers of ten too."""
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter(LogFormatter())


def count_steps(axis: Axes) -> None:
    """Put the ticks of the horizontal axis at whole numbers."""
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
