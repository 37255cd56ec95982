"""Summaries of results as plain data, and the same as text: what was measured beside what was published."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tpo_ref.study import estimates, files, results
from tpo_ref.study.claims import Verdict
from tpo_ref.study.estimates import Estimate
from tpo_ref.study.protocol import Experiment, Results
from tpo_ref.study.results import Result
from tpo_ref.study.styles import style

DIGITS = 3
# From here on numbers are counts, and shown whole.
WHOLE_FROM, WHOLE_ERROR_FROM = 1000, 100
# Where the paper counts the steps that a token-level task takes.
FIRST_LEVEL = 0.01
# Two methods whose areas differ by less than this many standard errors of the paired difference are called a tie.
TIE_ERRORS = 2.0

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Column:
    """One statistic of a method's curves (S, T): its heading, and its estimate over seeds."""

    heading: str
    estimate: Callable[[NDArray[Any]], Estimate]
    count: bool = False

    def text(self, estimate: Mapping[str, Any], unit: float = 1) -> str:
        """An estimate as the column shows it, times a unit unless it is a count."""
        return counted(estimate) if self.count else text(estimate, unit)


COLUMNS = {
    "auc": Column("AUC", lambda curves: estimates.mean(estimates.auc(curves))),
    "final": Column("final mean", lambda curves: estimates.mean(estimates.final(curves))),
    "median": Column("final median", lambda curves: estimates.median(estimates.final(curves))),
    "last": Column(f"mean of last {estimates.LAST}", lambda curves: estimates.mean(estimates.last(curves))),
    "steps": Column("steps to 1 %", lambda curves: estimates.first_below(curves, FIRST_LEVEL)),
    "solved": Column("solved seeds", lambda curves: estimates.mean(estimates.solved(curves).astype(float)), count=True),
}
# Those of every summary, whatever its table shows.
ALWAYS = ("auc", "final", "median")


def summary(experiment: Experiment, found: Results) -> Rows:
    """One row per method, smallest area under the score curve first; no rows without a score.

    `behind` is the area less that of the best method that is no oracle, paired by seed. The area has a bootstrap
    interval beside its standard error.
    """
    if experiment.score is None:
        return []
    curves = {method: np.asarray(arrays[experiment.score], dtype=float) for method, arrays in found.items()}
    areas = {method: estimates.auc(of) for method, of in curves.items()}
    order = sorted(areas, key=lambda method: areas[method].mean())
    best = next((method for method in order if not style(method).oracle), order[0])
    shown = tuple(dict.fromkeys((*ALWAYS, *experiment.statistics)))
    rows: Rows = []
    for method in order:
        row: dict[str, Any] = {"method": method, "label": style(method).label, "seeds": len(areas[method])}
        row |= {name: plain(COLUMNS[name].estimate(curves[method])) for name in shown}
        low, high = estimates.interval(areas[method])
        row["auc"] |= {"low": _finite(low), "high": _finite(high)}
        rows.append({**row, "behind": plain(estimates.mean(areas[method] - areas[best]))})
    return rows


def leaders(rows: Rows) -> list[str]:
    """The method with the smallest area, oracles aside, and those that this many seeds cannot tell from it."""
    first, *others = _competitors(rows)
    return [first["label"], *(row["label"] for row in others if _tied(row["behind"]))]


def smallest_final(rows: Rows) -> str:
    """The method with the smallest final mean, oracles aside."""
    return str(min(_competitors(rows), key=lambda row: row["final"]["value"])["label"])


def winner(rows: Rows) -> str:
    """A plain sentence: which method has the smallest area, oracles aside, and which it cannot be told apart from.

    >>> row = lambda m, v: {"method": m, "label": m.upper(), "seeds": 9, "auc": {"value": v, "error": 0.01},
    ...                     "behind": {"value": v - 0.1, "error": 0.01}}
    >>> winner([row("tpo", 0.1), row("pg", 0.5)])
    'TPO has the smallest area under the error curve, 0.1 ± 0.01 (9 seeds).'
    """
    first, *tied = leaders(rows)
    best = next(row for row in rows if row["label"] == first)
    sentence = f"{first} has the smallest area under the error curve, {text(best['auc'])}"
    if best["seeds"] == 1:
        return f"{sentence} (1 seed, which decides nothing)."
    tie = f"; within {TIE_ERRORS:g} standard errors of it: {', '.join(tied)}" if tied else ""
    return f"{sentence} ({best['seeds']} seeds){tie}."


def _competitors(rows: Rows) -> Rows:
    return [row for row in rows if not style(row["method"]).oracle] or rows


def _tied(behind: Mapping[str, Any]) -> bool:
    return behind["error"] is None or bool(behind["value"] < TIE_ERRORS * behind["error"])


def judged(verdicts: Sequence[Verdict]) -> Rows:
    """One row per claim: published number, accepted interval, ours with standard error, verdict."""
    return [
        {
            "claim": v.claim.text,
            "source": v.claim.source,
            "published": v.claim.published,
            "accepted": [_finite(v.low), _finite(v.high)],
            "ours": plain(v.ours),
            "verdict": v.word,
        }
        for v in verdicts
    ]


def report(experiment: Experiment, scale: str, found: Mapping[str, Result], verdicts: Sequence[Verdict]) -> Any:
    """An experiment at a scale as plain json: settings, methods, claims, how each run was made and judged."""
    runs = {method: {name: result.record[name] for name in results.RECORDED} for method, result in found.items()}
    settings = next(iter(found.values())).record["settings"]
    rows = summary(experiment, {method: result.arrays for method, result in found.items()})
    return {
        "format": results.FORMAT,
        "experiment": experiment.id,
        "title": experiment.title,
        "paper": experiment.paper,
        "scale": scale,
        "departs": experiment.departs(scale),
        "settings": settings,
        "statistics": list(experiment.statistics),
        "methods": rows,
        "winner": winner(rows) if rows else None,
        "claims": judged(verdicts),
        "runs": runs,
        "judged_by": results.provenance(),
    }


def load_report(path: Path) -> dict[str, Any]:
    """A stored report; ValueError when truncated or of another format."""
    content = files.read_json(path)
    if content.get("format") != results.FORMAT:
        raise ValueError(f"{path}: got format {content.get('format')}, expected {results.FORMAT}; make it again")
    return content


def method_table(rows: Rows, shown: Sequence[str] = ALWAYS) -> list[list[str]]:
    """Header and body of the table of methods, with the statistics that are shown."""
    columns = {name: COLUMNS[name] for name in shown}
    head = ["method", "seeds", *(column.heading for column in columns.values())]
    body = [[r["label"], str(r["seeds"]), *(c.text(r[name]) for name, c in columns.items())] for r in rows]
    return [head, *body]


def claim_table(rows: Rows) -> list[list[str]]:
    """Header and body of the table of claims."""
    head = ["claim", "source", "published", "accepted", "ours", "verdict"]
    body = [
        [
            r["claim"],
            r["source"],
            "" if r["published"] is None else number(r["published"]),
            interval(*r["accepted"]),
            text(r["ours"]),
            r["verdict"],
        ]
        for r in rows
    ]
    return [head, *body]


def markdown(table: list[list[str]]) -> str:
    """A table as aligned markdown, for chapters that print it.

    >>> print(markdown([["a", "b"], ["1", "22"]]))
    | a | b  |
    |---|----|
    | 1 | 22 |
    """
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in table]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])


def number(x: float | None) -> str:
    """Three significant digits; "never" for a level that was not reached."""
    if x is None or math.isnan(x):
        return "never"
    return f"{x:,.0f}" if abs(x) >= WHOLE_FROM else f"{x:.{DIGITS}g}"


def text(estimate: Mapping[str, Any], unit: float = 1) -> str:
    """A value with its standard error, both times a unit."""
    value, error = (None if x is None else x * unit for x in (estimate["value"], estimate["error"]))
    if value is None or error is None:
        return number(value)
    return f"{number(value)} ± {f'{error:,.0f}' if error >= WHOLE_ERROR_FROM else f'{error:.2g}'}"


def counted(estimate: Mapping[str, Any]) -> str:
    """A share of the seeds as their number."""
    return f"{round(estimate['value'] * estimate['n'])} of {estimate['n']}"


def interval(low: float | None, high: float | None) -> str:
    """An accepted interval, open where a bound is None."""
    if high is None:
        return f"> {number(low)}"
    return f"< {number(high)}" if low is None else f"{number(low)} to {number(high)}"


def plain(estimate: Estimate) -> dict[str, Any]:
    """An estimate as plain json: None where it has no number."""
    return {"value": _finite(estimate.value), "error": _finite(estimate.error), "n": estimate.n}


def _finite(x: float) -> float | None:
    return x if math.isfinite(x) else None
