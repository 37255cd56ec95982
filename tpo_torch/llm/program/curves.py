"""The curves of finished and running runs, read from their folders for one picture of several."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from tpo_ref.study import chosen_rules, estimates
from tpo_ref.study.estimates import Estimate
from tpo_ref.study.styles import style
from tpo_torch.llm.program import figures
from tpo_torch.llm.program.figures import Curve, RunCurves
from tpo_torch.llm.program.record import Folder
from tpo_torch.llm.program.settings.switching import GRPO
from tpo_torch.llm.target import TargetSettings

# The names of the curves in the log; a panel leaves out the runs of a method that has no such curve.
REWARD, ACCURACY, DISTANCE, TILT = "reward", "eval/accuracy", "tpo/kl_target", "anchor/tv"

CURVES = ("reward", "accuracy", "kl", "tv")
# The share of the steps that counts as the end of a run.
LAST_SHARE = 0.1


class Summary(TypedDict):
    """The numbers of the runs of one name, over their seeds."""

    name: str
    seeds: int
    # Mean over all steps, and over the last tenth of them.
    reward: Estimate
    last: Estimate
    # Of the last evaluation; None where a run has none.
    accuracy: Estimate | None


def figure(folders: Sequence[Path], path: Path) -> Path:
    """Draw the runs of several folders together, those that differ in their seed alone as one with a band.

    Args: folders; path, whose suffix chooses the format.
    Raises: ValueError for a folder that holds no run, or whose log is empty.
    """
    return figures.draw([pooled(group) for group in _by_name(folders).values()], path)


def summary(folders: Sequence[Path]) -> list[Summary]:
    """Return numbers of the same runs, pooled alike: means over seeds with their standard errors, NaN for one seed.

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


def pooled(runs: Sequence[RunCurves]) -> RunCurves:
    """Return one run of the means over several, with the standard errors over them; a single run as it is.

    Raises: ValueError where they have logged other steps: one of them is not finished.
    """
    if len(runs) == 1:
        return runs[0]
    first = runs[0]
    means = {}
    for name in CURVES:
        curves = [getattr(run, name) for run in runs]
        if any(not np.array_equal(curve.steps, curves[0].steps) for curve in curves):
            raise ValueError(
                f"{first.name}: got seeds that have come to different steps; finish them, or draw them apart"
            )
        values = np.stack([curve.values for curve in curves])
        means[name] = Curve(curves[0].steps, values.mean(0), values.std(0, ddof=1) / len(runs) ** 0.5)
    return RunCurves(first.name, first.style, **means, seeds=len(runs))


def read(folder: Path) -> RunCurves:
    """Read the curves of one run; ValueError for a folder that holds no run, or has logged nothing yet."""
    place = Folder(folder)
    settings, history = place.read()["settings"], place.history()
    curves = {name: _curve(history, name) for name in (REWARD, ACCURACY, DISTANCE, TILT)}
    if not any(len(curve.steps) for curve in curves.values()):
        raise ValueError(f"{folder}: got a run that has logged nothing yet; wait for its first step")
    return RunCurves(
        name=settings["name"],
        style=_style(settings),
        reward=curves[REWARD],
        accuracy=curves[ACCURACY],
        kl=curves[DISTANCE],
        tv=curves[TILT],
    )


def _by_name(folders: Sequence[Path]) -> dict[str, list[RunCurves]]:
    """Put runs that differ in their seed alone together, in the order given; ValueError for the same folder twice."""
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ValueError(f"runs: got {', '.join(map(str, folders))}, expected each folder once")
    alike: dict[str, dict[int, Path]] = {}
    for folder in folders:
        settings = Folder(folder).read()["settings"]
        key = json.dumps({**settings, "seed": None}, sort_keys=True)
        if settings["seed"] in alike.get(key, {}):
            # A second run of one seed is no further seed.
            key += str(folder)
        alike.setdefault(key, {})[settings["seed"]] = folder
    by_name: dict[str, list[RunCurves]] = {}
    for group in alike.values():
        runs = [read(folder) for folder in group.values()]
        name = f"{style(runs[0].style).label}: {runs[0].name}"
        if name in by_name:
            folder = next(iter(group.values()))
            runs = [replace(run, name=str(folder)) for run in runs]
            name = f"{style(runs[0].style).label}: {folder}"
        by_name[name] = runs
    return by_name


def _over(runs: Sequence[RunCurves], number: Callable[[RunCurves], float]) -> Estimate:
    return estimates.mean(np.array([float(number(run)) for run in runs]))


def _style(settings: Mapping[str, Any]) -> str:
    """The run's method as the tables of styles know it."""
    method = str(settings["method"])
    if method == GRPO:
        return method
    if settings.get("rule"):
        return chosen_rules.method_of(settings["rule"])
    usual = TargetSettings()
    forms = {name: settings["tpo"].get(name, getattr(usual, name)) for name in ("anchor", "divergence", "score_scale")}
    return "_".join([method, *(str(value) for name, value in forms.items() if value != getattr(usual, name))])


def _curve(history: Sequence[Mapping[str, Any]], name: str) -> Curve:
    entries = [entry for entry in history if entry.get(name) is not None]
    error = [math.nan if entry.get(f"{name}_se") is None else entry[f"{name}_se"] for entry in entries]
    return Curve(
        _array([entry["step"] for entry in entries]), _array([entry[name] for entry in entries]), _array(error)
    )


def _array(values: Sequence[float]) -> NDArray[np.float64]:
    return np.array(values, dtype=np.float64)
