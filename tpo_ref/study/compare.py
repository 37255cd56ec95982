"""Two runs side by side: how their learning curves differ, with an interval, and what may be concluded from it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tpo_ref.study import estimates, registry, results, tables
from tpo_ref.study.results import Result
from tpo_ref.study.runner import Request

SUFFIXES = (".json", ".npz")
# Runs that agree in these drew the same networks and the same tasks, seed by seed: their difference is paired.
DRAWN_BY = ("experiment", "settings", "seeds", "device")
# Resampling few seeds shows too little of their spread: of 10, a 95 % interval covers the truth in 9 cases of 10 or so.
ENOUGH_SEEDS = 10
AREA = "area under the error curve"

Pair = tuple[Result, Result]
Options = tuple[str, int | None, str, Path]
Curves = NDArray[Any]

STATISTICS: dict[str, Callable[[Curves], NDArray[np.float64]]] = {
    "auc": estimates.auc,
    "last": estimates.last,
    "solved": lambda curves: estimates.solved(curves).astype(np.float64),
    "final": estimates.final,
}


def between(
    given: tuple[str, str], options: Options, ensure: Callable[[Request], Mapping[str, Result]]
) -> dict[str, Any]:
    """The comparison of two runs as the command line names them; whatever can be refused is refused before a run.

    Args: given, each EXPERIMENT/METHOD or the path of a stored result; options, scale, seeds, device and folder of the
        former; ensure, which loads or runs a request.
    """
    asked = (resolve(given[0], *options), resolve(given[1], *options))
    seeds = options[1]
    if seeds is not None and not any(isinstance(run, Request) for run in asked):
        raise ValueError(f"seeds: got {seeds}, but stored results have their own; leave --seeds out")
    check(given, asked)
    a, b = (run if isinstance(run, Result) else next(iter(ensure(run).values())) for run in asked)
    return compare(given, (a, b))


def resolve(given: str, scale: str, seeds: int | None, device: str, out: Path) -> Request | Result:
    """The stored result at a path, or the request that EXPERIMENT/METHOD stands for.

    Raises: ValueError for neither, for an unknown name, or for a file that cannot be trusted.
    """
    if given.endswith(SUFFIXES):
        return results.read(Path(given))
    name, slash, method = given.partition("/")
    if not (name and slash and method) or "/" in method:
        raise ValueError(
            f"run: got {given!r}, expected EXPERIMENT/METHOD (see `tpo list`), or the path of a stored .json or .npz"
        )
    return Request(registry.experiment(name), scale, (method,), seeds, device, out)


def check(names: tuple[str, str], runs: tuple[Request | Result, Request | Result]) -> str:
    """The name of the curve that both runs are scored by; ValueError unless they are two, with one score."""
    keys = [_key(run) for run in runs]
    if keys[0] == keys[1] and _checksum(runs[0]) == _checksum(runs[1]):
        raise ValueError(f"runs: got {names[0]} and {names[1]}, which are the same run, expected two different ones")
    scores = [registry.experiment(key["experiment"]).score for key in keys]
    for name, score in zip(names, scores, strict=True):
        if score is None:
            raise ValueError(f"{name}: has no curve that scores it; compare runs of an experiment with a score")
    if scores[0] != scores[1]:
        raise ValueError(
            f"runs: got {names[0]}, scored by {scores[0]}, and {names[1]}, scored by {scores[1]}, expected one score"
        )
    return str(scores[0])


def compare(names: tuple[str, str], runs: Pair) -> dict[str, Any]:
    """Area, last episodes, solved seeds and final value of A, of B, and A − B with its interval, as plain data.

    The difference is paired by seed where both runs drew the same, else its interval takes the seeds as independent.

    Args: names, what to call A and B; runs, their results.
    Raises: ValueError for one run twice, two scores, or curves that are damaged or of different length.
    """
    score = check(names, runs)
    a, b = (_curves(name, run, score) for name, run in zip(names, runs, strict=True))
    _check_same_steps(names, runs, (a, b))
    keys = [_key(run) for run in runs]
    differ = [name for name in DRAWN_BY if keys[0][name] != keys[1][name]]
    rows = {
        name: {"label": _label(name, a), **_difference(value(a), value(b), paired=not differ)}
        for name, value in STATISTICS.items()
    }
    report = {
        "format": results.FORMAT,
        "a": _described(names[0], runs[0]),
        "b": _described(names[1], runs[1]),
        "score": score,
        "paired": not differ,
        "differ_in": differ,
        "same_code": not results.made_by_other_code(runs[0].record, runs[1].record),
        "level": estimates.LEVEL,
        "statistics": rows,
    }
    return {**report, "sentence": sentence(report)}


def sentence(report: Mapping[str, Any]) -> str:
    """What the difference of areas says, and when it says little or nothing."""
    a, b = report["a"]["name"], report["b"]["name"]
    area = report["statistics"]["auc"]
    value, low, high = (area["difference"][name] for name in ("value", "low", "high"))
    if low is None:
        said = f"{a}'s {AREA} less {b}'s is {tables.number(value)}, but 1 seed decides nothing ({_seeds(report)})."
    elif low <= 0 <= high:
        said = f"{a} and {b} cannot be told apart by the {AREA}: their difference is {tables.number(value)}"
        said += f" ({_level(report)} {tables.interval(low, high)}, {_seeds(report)})."
    else:
        said = f"{a}'s {AREA} is {'higher' if low > 0 else 'lower'} than {b}'s by {tables.number(abs(value))}"
        bounds = (low, high) if low > 0 else (-high, -low)
        said += f" ({_level(report)} {tables.interval(*bounds)}, {_seeds(report)})."
    if low is not None and min(area["a"]["n"], area["b"]["n"]) < ENOUGH_SEEDS:
        said += f" With fewer than {ENOUGH_SEEDS} seeds such an interval is too narrow."
    return said if report["same_code"] else f"{said} The two come from different commits or versions."


def table(report: Mapping[str, Any]) -> list[list[str]]:
    """Header and body of the table of a comparison."""
    head = ["", f"A: {report['a']['name']}", f"B: {report['b']['name']}", "A − B", _level(report)]
    body = []
    for name, row in report["statistics"].items():
        show = _count if name == "solved" else tables.text
        low, high = row["difference"]["low"], row["difference"]["high"]
        between = "none" if low is None else tables.interval(low, high)
        body.append([row["label"], show(row["a"]), show(row["b"]), tables.number(row["difference"]["value"]), between])
    return [head, *body]


def _key(run: Request | Result) -> dict[str, Any]:
    if isinstance(run, Result):
        return {name: run.record[name] for name in results.KEYED}
    (key,) = run.keys()
    # As a stored record would say it: json has lists where a key has tuples.
    return dict(json.loads(json.dumps(key.described())))


def _checksum(run: Request | Result) -> str | None:
    return run.record["arrays_sha256"] if isinstance(run, Result) else None


def _curves(name: str, run: Result, score: str) -> Curves:
    seeds = len(run.record["seeds"])
    if score not in run.arrays:
        raise ValueError(f"{name}: lacks the curve {score}, has {', '.join(run.arrays)}; run it again")
    curves = run.arrays[score]
    if curves.ndim != 2 or len(curves) != seeds or curves.dtype.kind not in "biuf":
        raise ValueError(
            f"{name}: got {score} of {curves.dtype} and shape {curves.shape}, expected numbers, {seeds} rows of steps"
        )
    whole = np.isfinite(estimates.carried(curves)).all(-1)
    broken = [str(seed) for seed, fine in zip(run.record["seeds"], whole, strict=True) if not fine]
    if broken:
        raise ValueError(f"{name}: {score} is NaN or infinite in seeds {', '.join(broken)}, and cannot be ranked")
    return curves


def _check_same_steps(names: tuple[str, str], runs: Pair, curves: tuple[Curves, Curves]) -> None:
    lengths = [c.shape[-1] for c in curves]
    if lengths[0] != lengths[1]:
        raise ValueError(
            f"runs: got curves of {lengths[0]} steps ({names[0]}) and {lengths[1]} ({names[1]}), expected one length, "
            "or their areas mean different things; run both at one scale"
        )
    at = [run.arrays.get(registry.experiment(run.record["experiment"]).x or "") for run in runs]
    if at[0] is not None and at[1] is not None and not np.array_equal(at[0], at[1]):
        raise ValueError(f"runs: got {names[0]} and {names[1]}, measured at different steps; run both at one scale")


def _difference(a: NDArray[np.float64], b: NDArray[np.float64], paired: bool) -> dict[str, Any]:
    low, high = estimates.interval(a - b) if paired else estimates.interval_between(a, b)
    value = float((a - b).mean() if paired else a.mean() - b.mean())
    return {"a": _estimate(a), "b": _estimate(b), "difference": {"value": value, **_bounds(low, high)}}


def _estimate(values: NDArray[np.float64]) -> dict[str, Any]:
    found = estimates.mean(values)
    error = found.error if math.isfinite(found.error) else None
    return {"value": found.value, "error": error, "n": found.n, **_bounds(*estimates.interval(values))}


def _bounds(low: float, high: float) -> dict[str, float | None]:
    return {"low": low, "high": high} if math.isfinite(low) else {"low": None, "high": None}


def _label(name: str, curves: Curves) -> str:
    length = curves.shape[-1]
    return {
        "auc": "AUC",
        "last": f"last {min(estimates.LAST, length)}",
        "solved": f"solved: last {min(estimates.SOLVED_COUNT, length)} below {100 * estimates.SOLVED_LEVEL:g} %",
        "final": "final",
    }[name]


def _described(name: str, run: Result) -> dict[str, Any]:
    return {"name": name, **{n: run.record[n] for n in (*results.KEYED, *results.RECORDED)}}


def _count(estimate: Mapping[str, Any]) -> str:
    return f"{round(estimate['value'] * estimate['n'])} of {estimate['n']}"


def _level(report: Mapping[str, Any]) -> str:
    return f"{100 * report['level']:g} % interval"


def _seeds(report: Mapping[str, Any]) -> str:
    a, b = (len(report[run]["seeds"]) for run in ("a", "b"))
    if report["paired"]:
        return f"{a} seed{'s' if a > 1 else ''} paired"
    return f"{a} and {b} seeds, not paired since the runs differ in {', '.join(report['differ_in'])}"
