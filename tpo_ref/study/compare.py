"""Two runs side by side: how their learning curves differ, with an interval, and what may be concluded from it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tpo_ref.study import estimates, formats, registry, results, shares, tables
from tpo_ref.study.choices import Choices
from tpo_ref.study.origins import made_by_other_code
from tpo_ref.study.reports import ComparisonReport, ComparisonRow, Difference, RunIdentity
from tpo_ref.study.results import PlainKey, Result, StoredResults
from tpo_ref.study.runner import Request

SUFFIXES = (".json", ".npz")
# Runs that agree in these drew the same networks and the same tasks, seed by seed: their difference is paired.
DRAW_FIELDS = ("experiment", "settings", "seeds", "device")
# Resampling few seeds shows too little of their spread: of 10, a 95 % interval covers the truth in 9 cases of 10 or so.
ENOUGH_SEEDS = 10
AREA = "area under the error curve"

Pair = tuple[Result, Result]
# Loads or runs a request.
Ensure = Callable[[Request], StoredResults]
Curves = NDArray[Any]

STATISTICS: dict[str, Callable[[Curves], NDArray[np.float64]]] = {
    "auc": estimates.auc,
    "last": estimates.last,
    "solved": lambda curves: estimates.solved(curves).astype(np.float64),
    "final": estimates.final,
}


def comparison(names: tuple[str, str], choices: Choices, ensure: Ensure) -> ComparisonReport:
    """The comparison of two runs as the command line names them; whatever can be refused is refused before a run.

    Args: names, each EXPERIMENT/METHOD or the path of a stored result; choices for the former, without methods; ensure.
    """
    first, second = resolve(names[0], choices), resolve(names[1], choices)
    if choices.seeds is not None and isinstance(first, Result) and isinstance(second, Result):
        raise ValueError(f"seeds: got {choices.seeds}, but stored results have their own; leave --seeds out")
    check(names, (first, second))
    a, b = (run if isinstance(run, Result) else next(iter(ensure(run).values())) for run in (first, second))
    return compare(names, (a, b))


def resolve(place: str, choices: Choices) -> Request | Result:
    """The stored result at a path, or the request that EXPERIMENT/METHOD stands for.

    Raises: ValueError for neither, for an unknown name, or for a file that cannot be trusted.
    """
    if place.endswith(SUFFIXES):
        if Path(place).is_dir():
            raise ValueError(f"run: got {place!r}, which is a folder, expected the file of a stored result in it")
        return results.read(Path(place))
    name, slash, method = place.partition("/")
    if not (name and slash and method) or "/" in method:
        raise ValueError(
            f"run: got {place!r}, expected EXPERIMENT/METHOD (see `tpo list`), or the path of a stored .json or .npz"
        )
    experiment = registry.experiment(name)
    return Request(experiment, choices.scale, (method,), choices.seeds, choices.device, choices.out)


def check(names: tuple[str, str], runs: tuple[Request | Result, Request | Result]) -> str:
    """The name of the curve that both runs are scored by; ValueError unless they are two, with one score."""
    keys = [_key(run) for run in runs]
    if keys[0] == keys[1] and _checksum(runs[0]) == _checksum(runs[1]):
        raise ValueError(f"runs: got {names[0]} and {names[1]}, which are the same run, expected two different ones")
    scores = [registry.experiment(key.experiment).score for key in keys]
    for name, score in zip(names, scores, strict=True):
        if score is None:
            raise ValueError(f"{name}: has no curve that scores it; compare runs of an experiment with a score")
    if scores[0] != scores[1]:
        raise ValueError(
            f"runs: got {names[0]}, scored by {scores[0]}, and {names[1]}, scored by {scores[1]}, expected one score"
        )
    return str(scores[0])


def compare(names: tuple[str, str], runs: Pair) -> ComparisonReport:
    """Area, last episodes, solved seeds and final value of A, of B, and A − B with its interval.

    The difference is paired by seed where both runs drew the same, else its interval takes the seeds as independent.

    Args: names, what to call A and B; runs, their results.
    Raises: ValueError for one run twice, two scores, or curves that are damaged or of different length.
    """
    score = check(names, runs)
    a, b = (_curves(name, run, score) for name, run in zip(names, runs, strict=True))
    _check_same_steps(names, runs, (a, b))
    keys = [_key(run) for run in runs]
    own = runs[0].record.provenance
    differ = tuple(name for name in DRAW_FIELDS if getattr(keys[0], name) != getattr(keys[1], name))
    report = ComparisonReport(
        format=formats.COMPARISON,
        a=_identity(names[0], runs[0]),
        b=_identity(names[1], runs[1]),
        score=score,
        paired=not differ,
        differ_in=differ,
        same_code=not any(made_by_other_code(origin, own) for run in runs for origin in run.record.origins),
        level=estimates.LEVEL,
        statistics={
            name: (_shares_row if name == "solved" else _row)(_label(name, a), value(a), value(b), not differ)
            for name, value in STATISTICS.items()
        },
    )
    return dataclasses.replace(report, sentence=sentence(report))


def sentence(report: ComparisonReport) -> str:
    """The conclusion from the difference of areas, with a caution where seeds are few."""
    a, b = report.a.name, report.b.name
    area = report.statistics["auc"]
    value, low, high = area.difference.value, area.difference.low, area.difference.high
    if not math.isfinite(low):
        text = f"{a}'s {AREA} less {b}'s is {tables.number(value)}, but 1 seed decides nothing ({_seeds(report)})."
    elif low <= 0 <= high:
        text = f"{a} and {b} cannot be told apart by the {AREA}: their difference is {tables.number(value)}"
        text += f" ({_level(report)} {tables.interval(low, high)}, {_seeds(report)})."
    else:
        text = f"{a}'s {AREA} is {'higher' if low > 0 else 'lower'} than {b}'s by {tables.number(abs(value))}"
        bounds = (low, high) if low > 0 else (-high, -low)
        text += f" ({_level(report)} {tables.interval(*bounds)}, {_seeds(report)})."
    if math.isfinite(low) and min(area.a.n, area.b.n) < ENOUGH_SEEDS:
        text += f" With fewer than {ENOUGH_SEEDS} seeds such an interval is too narrow."
    return text if report.same_code else f"{text} The two come from different commits or versions."


def table(report: ComparisonReport) -> list[list[str]]:
    """Header and body of the table of a comparison."""
    head = ["", f"A: {report.a.name}", f"B: {report.b.name}", "A − B", _level(report)]
    body = []
    for name, row in report.statistics.items():
        text = tables.count_text if name == "solved" else tables.text
        low, high = row.difference.low, row.difference.high
        body.append(
            [row.label, text(row.a), text(row.b), tables.number(row.difference.value), tables.bounds(low, high)]
        )
    return [head, *body]


def _key(run: Request | Result) -> PlainKey:
    if isinstance(run, Result):
        return run.record.key
    (key,) = run.keys()
    return key.plain()


def _checksum(run: Request | Result) -> str | None:
    return run.record.arrays_sha256 if isinstance(run, Result) else None


def _curves(name: str, run: Result, score: str) -> Curves:
    seeds = len(run.record.key.seeds)
    if score not in run.arrays:
        raise ValueError(f"{name}: lacks the curve {score}, has {', '.join(run.arrays)}; run it again")
    curves = run.arrays[score]
    if curves.ndim != 2 or len(curves) != seeds or curves.dtype.kind not in "biuf":
        raise ValueError(
            f"{name}: got {score} of {curves.dtype} and shape {curves.shape}, expected numbers, {seeds} rows of steps"
        )
    whole = np.isfinite(estimates.to_budget(curves)).all(-1)
    bad_seeds = [str(seed) for seed, fine in zip(run.record.key.seeds, whole, strict=True) if not fine]
    if bad_seeds:
        raise ValueError(f"{name}: {score} is NaN or infinite in seeds {', '.join(bad_seeds)}, and cannot be ranked")
    return curves


def _check_same_steps(names: tuple[str, str], runs: Pair, curves: tuple[Curves, Curves]) -> None:
    lengths = [c.shape[-1] for c in curves]
    if lengths[0] != lengths[1]:
        raise ValueError(
            f"runs: got curves of {lengths[0]} steps ({names[0]}) and {lengths[1]} ({names[1]}), expected one length, "
            "or their areas mean different things; run both at one scale"
        )
    steps = [run.arrays.get(registry.experiment(run.record.key.experiment).x or "") for run in runs]
    if steps[0] is not None and steps[1] is not None and not np.array_equal(steps[0], steps[1]):
        raise ValueError(f"runs: got {names[0]} and {names[1]}, measured at different steps; run both at one scale")


def _row(label: str, a: NDArray[np.float64], b: NDArray[np.float64], paired: bool) -> ComparisonRow:
    low, high = estimates.interval(a - b) if paired else estimates.interval_between(a, b)
    value = float((a - b).mean() if paired else a.mean() - b.mean())
    return ComparisonRow(label, tables.interval_estimate(a), tables.interval_estimate(b), Difference(value, low, high))


def _shares_row(label: str, a: NDArray[np.float64], b: NDArray[np.float64], paired: bool) -> ComparisonRow:
    """The row of two shares of ones, whose intervals no resampling gives."""
    low, high = shares.difference(a > 0, b > 0, paired)
    difference = Difference(float(a.mean() - b.mean()), low, high)
    return ComparisonRow(label, tables.share_estimate(a), tables.share_estimate(b), difference)


def _label(name: str, curves: Curves) -> str:
    length = curves.shape[-1]
    return {
        "auc": "AUC",
        "last": f"last {min(estimates.LAST, length)}",
        "solved": f"solved: last {min(estimates.SOLVED_COUNT, length)} below {100 * estimates.SOLVED_LEVEL:g} %",
        "final": "final",
    }[name]


def _identity(name: str, run: Result) -> RunIdentity:
    record, origin = run.record, run.record.provenance
    made = (origin.commit, origin.versions, origin.machine)
    return RunIdentity(name, record.key, *made, record.seconds, record.resumed, record.earlier)


def _level(report: ComparisonReport) -> str:
    return f"{100 * report.level:g} % interval"


def _seeds(report: ComparisonReport) -> str:
    a, b = len(report.a.key.seeds), len(report.b.key.seeds)
    if report.paired:
        return f"{a} seed{'s' if a > 1 else ''} paired"
    return f"{a} and {b} seeds, not paired since the runs differ in {', '.join(report.differ_in)}"
