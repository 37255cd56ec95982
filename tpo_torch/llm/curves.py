"""The curves of finished and running runs, read from their folders for one picture of several."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tpo_ref.study import run_figures
from tpo_ref.study.run_figures import Curve, Run
from tpo_torch.llm.record import Folder

# What is drawn, by the names of the log; runs of a method that has none of a curve are left out of its panel.
REWARD, ACCURACY, DISTANCE, TILT = "reward", "eval/accuracy", "tpo/kl_target", "anchor/tv"


def figure(folders: Sequence[Path], path: Path) -> Path:
    """Draw the runs of several folders together; the suffix of the path chooses the format.

    Raises: ValueError for a folder that holds no run, or whose log is empty.
    """
    return run_figures.draw([read(folder) for folder in folders], path)


def read(folder: Path) -> Run:
    """The curves of one run; ValueError for a folder that holds no run, or has logged nothing yet."""
    place = Folder(folder)
    settings, history = place.read()["settings"], place.history()
    curves = {name: _curve(history, name) for name in (REWARD, ACCURACY, DISTANCE, TILT)}
    if not any(len(curve.steps) for curve in curves.values()):
        raise ValueError(f"{folder}: got a run that has logged nothing yet; wait for its first step")
    return Run(
        name=settings["name"] + (f", seed {settings['seed']}" if settings["seed"] else ""),
        style=_style(settings),
        reward=curves[REWARD],
        accuracy=curves[ACCURACY],
        kl=curves[DISTANCE],
        tv=curves[TILT],
    )


def _style(settings: Mapping[str, Any]) -> str:
    """The run's method as the tables of styles know it."""
    ratio = settings["method"] == "tpo" and settings["tpo"].get("anchor") == "ratio"
    return "tpo_ratio" if ratio else str(settings["method"])


def _curve(history: Sequence[Mapping[str, Any]], name: str) -> Curve:
    found = [entry for entry in history if entry.get(name) is not None]
    error = [math.nan if entry.get(f"{name}_se") is None else entry[f"{name}_se"] for entry in found]
    return Curve(_array([e["step"] for e in found]), _array([e[name] for e in found]), _array(error))


def _array(values: Sequence[float]) -> NDArray[np.float64]:
    return np.array(values, dtype=np.float64)
