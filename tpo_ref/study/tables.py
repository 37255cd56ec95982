"""Reports of results, and the same as tables of text: what was measured beside what was published."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tpo_ref.study import estimates, formats, judging
from tpo_ref.study.claims import Verdict
from tpo_ref.study.estimates import Estimate
from tpo_ref.study.origins import provenance
from tpo_ref.study.protocol import Experiment, Results
from tpo_ref.study.reports import ALWAYS, ClaimRow, ExperimentReport, IntervalEstimate, MethodRow, RunRow
from tpo_ref.study.results import Record, StoredResults
from tpo_ref.study.styles import style

DIGITS = 3
# From here on numbers are counts, and shown whole.
WHOLE_FROM, WHOLE_ERROR_FROM = 1000, 100
# Where the paper counts the steps that a token-level task takes.
FIRST_LEVEL = 0.01
# A method whose area is larger by less than this share of the smallest is as good.
LEAST_SHARE = 0.02


@dataclass(frozen=True)
class Column:
    """One statistic of a method's curves (S, T): its heading, and its estimate over seeds."""

    heading: str
    estimate: Callable[[NDArray[Any]], Estimate]
    count: bool = False

    def text(self, estimate: Estimate, unit: float = 1) -> str:
        """An estimate as the column shows it, times a unit unless it is a count."""
        return count_text(estimate) if self.count else text(estimate, unit)


COLUMNS = {
    "auc": Column("AUC", lambda curves: estimates.mean(estimates.auc(curves))),
    "final": Column("final mean", lambda curves: estimates.mean(estimates.final(curves))),
    "median": Column("final median", lambda curves: estimates.median(estimates.final(curves))),
    "last": Column(f"mean of last {estimates.LAST}", lambda curves: estimates.mean(estimates.last(curves))),
    "steps": Column("steps to 1 %", lambda curves: estimates.first_below(curves, FIRST_LEVEL)),
    "solved": Column("solved seeds", lambda curves: estimates.share(estimates.solved(curves)), count=True),
}


def summary(experiment: Experiment, results: Results) -> tuple[MethodRow, ...]:
    """One row per method, smallest area under the score curve first; no rows without a score.

    The area has a bootstrap interval beside its standard error.
    """
    if experiment.score is None:
        return ()
    curves = {method: np.asarray(arrays[experiment.score], dtype=float) for method, arrays in results.items()}
    areas = {method: estimates.auc(curve) for method, curve in curves.items()}
    order = sorted(areas, key=lambda method: areas[method].mean())
    best = next((method for method in order if not style(method).oracle), order[0])
    # The area has a field of its own.
    _, *others = dict.fromkeys((*ALWAYS, *experiment.statistics))
    return tuple(
        MethodRow(
            method,
            style(method).label,
            len(areas[method]),
            auc=interval_estimate(areas[method]),
            statistics={name: COLUMNS[name].estimate(curves[method]) for name in others},
            behind=estimates.mean(areas[method] - areas[best]),
        )
        for method in order
    )


def interval_estimate(values: NDArray[np.float64]) -> IntervalEstimate:
    """The mean over seeds with its standard error and its bootstrap interval."""
    mean, (low, high) = estimates.mean(values), estimates.interval(values)
    return IntervalEstimate(mean.value, mean.error, mean.n, low, high)


def share_estimate(ones: NDArray[np.float64]) -> IntervalEstimate:
    """The share of seeds that have a one, with its exact interval; NaN for one seed."""
    found = estimates.share(ones > 0)
    return IntervalEstimate(found.value, found.error, found.n, *judging.interval(found))


def ranking(rows: Sequence[MethodRow]) -> tuple[list[str], list[str], list[str]]:
    """The method with the smallest area, oracles aside, beside those that are not behind it.

    A method is behind when the interval of its paired difference lies wholly above 2 % of the smallest area, at 95 %
    for all methods together (`judging.judge`).

    Returns: labels of the smallest; of those within 2 % of it; of those that this many seeds cannot tell from it.
    """
    best, *others = _competitors(rows)
    least = (LEAST_SHARE * best.auc.value, math.inf)
    judgements = judging.judge([row.behind for row in others], [least] * len(others))
    words = {row.label: each.word for row, each in zip(others, judgements, strict=True)}
    equal, open_ = ([label for label, word in words.items() if word == w] for w in (judging.FAILS, judging.UNCLEAR))
    return [best.label], equal, open_


def leaders(rows: Sequence[MethodRow]) -> list[str]:
    """The method with the smallest area, oracles aside, and those that are not behind it."""
    return [label for labels in ranking(rows) for label in labels]


def smallest_final(rows: Sequence[MethodRow]) -> str:
    """The method with the smallest final mean, oracles aside."""
    return min(_competitors(rows), key=lambda row: row.estimate("final").value).label


def winner(rows: Sequence[MethodRow]) -> str | None:
    """A plain sentence: which method has the smallest area, oracles aside, and which are not behind it.

    Returns: None where there is but one method, which wins against nobody.

    >>> row = lambda m, v: MethodRow(m, m.upper(), 9, IntervalEstimate(v, 0.01, 9), {}, Estimate(v - 0.1, 0.01, 9))
    >>> winner([row("tpo", 0.1), row("pg", 0.5)])
    'TPO has the smallest area under the error curve, 0.1 ± 0.01 (9 seeds).'
    """
    if len(_competitors(rows)) < 2:
        return None
    (first,), equal, undecided = ranking(rows)
    best = next(row for row in rows if row.label == first)
    sentence = f"{first} has the smallest area under the error curve, {text(best.auc)}"
    if best.seeds == 1:
        return f"{sentence} (1 seed, which decides nothing)."
    parts = [f"{sentence} ({best.seeds} seeds)"]
    if equal:
        parts.append(f"within {LEAST_SHARE:.0%} of it, a tie: {' and '.join(equal)}".replace("%", " %"))
    if undecided:
        parts.append(f"not told apart from it by these seeds, a tie: {' and '.join(undecided)}")
    return f"{'; '.join(parts)}."


def _competitors(rows: Sequence[MethodRow]) -> Sequence[MethodRow]:
    return [row for row in rows if not style(row.method).oracle] or rows


def claim_rows(verdicts: Sequence[Verdict]) -> tuple[ClaimRow, ...]:
    """One row per claim."""
    return tuple(
        ClaimRow(
            v.claim.text,
            v.claim.source,
            v.claim.published,
            (v.low, v.high),
            v.ours,
            v.judgement.interval,
            v.judgement.level,
            v.word,
        )
        for v in verdicts
    )


def report(experiment: Experiment, scale: str, units: StoredResults, verdicts: Sequence[Verdict]) -> ExperimentReport:
    """An experiment at a scale: settings, methods, claims, how each run was made and judged."""
    rows = summary(experiment, {method: result.arrays for method, result in units.items()})
    return ExperimentReport(
        format=formats.REPORT,
        experiment=experiment.id,
        title=experiment.title,
        paper=experiment.paper,
        scale=scale,
        departs=experiment.departs(scale),
        settings=next(iter(units.values())).record.key.settings,
        statistics=experiment.statistics,
        methods=rows,
        winner=winner(rows),
        claims=claim_rows(verdicts),
        runs={method: _run_row(result.record) for method, result in units.items()},
        judged_by=provenance(experiment.libraries),
    )


def _run_row(record: Record) -> RunRow:
    origin = record.provenance
    made = (origin.commit, origin.versions, origin.machine)
    return RunRow(*made, record.key.device, record.seconds, record.resumed, record.earlier)


def method_table(rows: Sequence[MethodRow], statistics: Sequence[str] = ALWAYS) -> list[list[str]]:
    """Header and body of the table of methods, with some statistics."""
    columns = {name: COLUMNS[name] for name in statistics}
    head = ["method", "seeds", *(column.heading for column in columns.values())]
    body = [[r.label, str(r.seeds), *(c.text(r.estimate(name)) for name, c in columns.items())] for r in rows]
    return [head, *body]


def claim_table(rows: Sequence[ClaimRow]) -> list[list[str]]:
    """Header and body of the table of claims; the interval is the one that was judged."""
    head = ["claim", "source", "published", "accepted", "ours", "interval", "verdict"]
    body = [
        [
            r.claim,
            r.source,
            "" if r.published is None else number(r.published),
            interval(*r.accepted),
            text(r.ours),
            bounds(*r.interval),
            r.verdict,
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


def number(x: float) -> str:
    """Three significant digits; "never" for a level that was not reached."""
    if not math.isfinite(x):
        return "never"
    return f"{x:,.0f}" if abs(x) >= WHOLE_FROM else f"{x:.{DIGITS}g}"


def text(estimate: Estimate, unit: float = 1) -> str:
    """A value with its standard error, both times a unit."""
    value, error = estimate.value * unit, estimate.error * unit
    if not (math.isfinite(value) and math.isfinite(error)):
        return number(value)
    return f"{number(value)} ± {f'{error:,.0f}' if error >= WHOLE_ERROR_FROM else f'{error:.2g}'}"


def count_text(estimate: Estimate) -> str:
    """A share of the seeds as their number."""
    return f"{round(estimate.value * estimate.n)} of {estimate.n}"


def bounds(low: float, high: float) -> str:
    """The interval of an estimate; "none" where there is none."""
    return f"{number(low)} to {number(high)}" if math.isfinite(low) and math.isfinite(high) else "none"


def interval(low: float, high: float) -> str:
    """An accepted region, open where a bound is not finite."""
    if not math.isfinite(high):
        return f"> {number(low)}"
    return f"< {number(high)}" if not math.isfinite(low) else f"{number(low)} to {number(high)}"
