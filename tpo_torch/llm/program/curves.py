"""The curves of finished and running runs, read from their folders for one picture of several."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tpo_ref.study import estimates
from tpo_ref.study.estimates import Estimate
from tpo_ref.study.styles import style
from tpo_torch.llm.program import figures
from tpo_torch.llm.program.figures import Curve, Run
from tpo_torch.llm.program.record import Folder

# What is drawn, by the names of the log; runs of a method that has none of a curve are left out of its panel.
REWARD, ACCURACY, DISTANCE, TILT = "reward", "eval/accuracy", "tpo/kl_target", "anchor/tv"

CURVES = ("reward", "accuracy", "kl", "tv")
# Of the steps, those that count as the end of a run.
LAST_SHARE = 0.1


def figure(folders: Sequence[Path], path: Path) -> Path:
    """Draw the runs of several folders together, those that differ in their seed alone as one with a band.

    Args: folders; path, whose suffix chooses the format.
    Raises: ValueError for a folder that holds no run, or whose log is empty.
    """
    return figures.draw([pooled(group) for group in _by_name(folders).values()], path)


def summary(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """Numbers of the same runs, pooled alike: means over seeds with their standard errors, NaN for one seed.

    Returns: per name: seeds; reward, mean over all steps; last, over the last tenth of them; accuracy, of the last
        evaluation, None where a run has none.
    Raises: ValueError as `figure`.
    """
    return [
        {
            "name": name,
            "seeds": len(runs),
            "reward": _over(runs, lambda run: run.reward.values.mean()),
            "last": _over(
                runs, lambda run: run.reward.values[-max(1, round(LAST_SHARE * len(run.reward.values))) :].mean()
            ),
            "accuracy": _over(runs, lambda run: run.accuracy.values[-1])
            if all(len(run.accuracy.values) for run in runs)
            else None,
        }
        for name, runs in _by_name(folders).items()
    ]


def pooled(runs: Sequence[Run]) -> Run:
    """One run of the means over several, with the standard errors over them; the only one as it is.

    Raises: ValueError where they have logged other steps: one of them is not finished.
    """
    if len(runs) == 1:
        return runs[0]
    first = runs[0]
    made = {}
    for name in CURVES:
        curves = [getattr(run, name) for run in runs]
        if any(not np.array_equal(curve.steps, curves[0].steps) for curve in curves):
            raise ValueError(
                f"{first.name}: got seeds that have come to different steps; finish them, or draw them apart"
            )
        values = np.stack([curve.values for curve in curves])
        made[name] = Curve(curves[0].steps, values.mean(0), values.std(0, ddof=1) / len(runs) ** 0.5)
    return Run(first.name, first.style, **made, seeds=len(runs))


def read(folder: Path) -> Run:
    """The curves of one run; ValueError for a folder that holds no run, or has logged nothing yet."""
    place = Folder(folder)
    settings, history = place.read()["settings"], place.history()
    curves = {name: _curve(history, name) for name in (REWARD, ACCURACY, DISTANCE, TILT)}
    if not any(len(curve.steps) for curve in curves.values()):
        raise ValueError(f"{folder}: got a run that has logged nothing yet; wait for its first step")
    return Run(
        name=settings["name"],
        style=_style(settings),
        reward=curves[REWARD],
        accuracy=curves[ACCURACY],
        kl=curves[DISTANCE],
        tv=curves[TILT],
    )


def _by_name(folders: Sequence[Path]) -> dict[str, list[Run]]:
    """Runs that differ in their seed alone together, in the order given; ValueError for the same folder twice."""
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ValueError(f"runs: got {', '.join(map(str, folders))}, expected each folder once")
    alike: dict[str, dict[int, Path]] = {}
    for folder in folders:
        settings = Folder(folder).read()["settings"]
        key = json.dumps({**settings, "seed": None}, sort_keys=True)
        if settings["seed"] in alike.get(key, {}):
            # The same run made twice is no second seed.
            key += str(folder)
        alike.setdefault(key, {})[settings["seed"]] = folder
    found: dict[str, list[Run]] = {}
    for group in alike.values():
        runs = [read(folder) for folder in group.values()]
        name = f"{style(runs[0].style).label}: {runs[0].name}"
        if name in found:
            folder = next(iter(group.values()))
            runs = [replace(run, name=str(folder)) for run in runs]
            name = f"{style(runs[0].style).label}: {folder}"
        found[name] = runs
    return found


def _over(runs: Sequence[Run], number: Callable[[Run], Any]) -> Estimate:
    return estimates.mean(np.array([float(number(run)) for run in runs]))


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
