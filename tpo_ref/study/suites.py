"""Several experiments as one: what a name stands for, and the table of methods against experiments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tpo_ref import checks
from tpo_ref.study import formats, registry, tables
from tpo_ref.study.claims import Verdict
from tpo_ref.study.origins import provenance
from tpo_ref.study.protocol import Arrays, Experiment, Results, Suite, resolve_methods
from tpo_ref.study.reports import SuiteCell, SuiteReport, SuiteRow
from tpo_ref.study.styles import style

PERCENT = 100.0
# Errors that the paper's tables give in percent.
IN_PERCENT = ("final", "last")

# The results of each experiment of a suite that has some.
MemberResults = Mapping[str, Results]


@dataclass(frozen=True)
class Part:
    """An experiment, and which of its methods: None for those of the scale."""

    experiment: Experiment
    methods: tuple[str, ...] | None


def expand(names: Sequence[str], methods: tuple[str, ...] | None = None) -> tuple[list[Part], list[Suite]]:
    """The experiments that names stand for, each once, and the suites among the names.

    An experiment that stands there by itself must know every method; a suite's members take those they know, and those
    that know none are left out.

    Args: names of experiments and suites, none meaning all of both; methods, None for those of the suite or scale.
    Raises: ValueError for an unknown name or method, with the nearest.
    """
    options = [*registry.EXPERIMENTS, *registry.SUITES]
    for name in names:
        if name not in options:
            raise checks.unknown("experiment or suite", name, options)
    suites = [suite for suite in registry.SUITES.values() if not names or suite.id in names]
    members = {name: registry.SUITES[name].members if name in registry.SUITES else (name,) for name in names}
    ids = [m for name in names for m in members[name]] if names else list(registry.EXPERIMENTS)
    experiments = [registry.EXPERIMENTS[name] for name in dict.fromkeys(ids)]
    if methods is None:
        return [Part(e, _own(e, names)) for e in experiments], suites
    _check_known(methods, experiments)
    own = {e.id: methods if e.id in names else tuple(m for m in methods if m in _names(e)) for e in experiments}
    return [Part(e, resolve_methods(e, own[e.id])) for e in experiments if own[e.id] or not methods], suites


def suite_results(suite: Suite, members: MemberResults) -> dict[str, Arrays]:
    """The results of a suite's members under the names its claims know them by: "experiment/method"."""
    return {f"{e}/{m}": arrays for e in suite.members if e in members for m, arrays in members[e].items()}


def report(suite: Suite, scale: str, members: MemberResults, verdicts: Sequence[Verdict]) -> SuiteReport:
    """A suite at a scale: for each statistic, ours and the published number by method and member."""
    experiments = [registry.EXPERIMENTS[name] for name in suite.members if name in members]
    libraries = tuple(dict.fromkeys(library for e in experiments for library in e.libraries))
    return SuiteReport(
        format=formats.REPORT,
        experiment=suite.id,
        title=suite.title,
        paper=suite.paper,
        scale=scale,
        members=tuple(name for name in suite.members if name in members),
        labels={name: label for name, label in _labels(suite).items() if name in members},
        tables={name: _rows(suite, scale, name, members) for name in suite.statistics},
        claims=tables.claim_rows(verdicts),
        judged_by=provenance(libraries),
    )


def table(report: SuiteReport, statistic: str) -> list[list[str]]:
    """Header and body of a suite's table of one statistic: ours with its standard error, the published in brackets."""
    unit = PERCENT if statistic in IN_PERCENT else 1.0
    column = tables.COLUMNS[statistic]
    head = [heading(statistic), *report.labels.values()]
    body = [
        [row.label, *(_text(column, row.cells.get(name), unit) for name in report.members)]
        for row in report.tables[statistic]
    ]
    return [head, *body]


def heading(statistic: str) -> str:
    """What a suite's table of a statistic is headed by."""
    return tables.COLUMNS[statistic].heading + (", %" if statistic in IN_PERCENT else "")


def _labels(suite: Suite) -> dict[str, str]:
    return dict(zip(suite.members, suite.labels or suite.members, strict=True))


def _rows(suite: Suite, scale: str, statistic: str, members: MemberResults) -> tuple[SuiteRow, ...]:
    methods = dict.fromkeys(m for name in suite.members for m in members.get(name, ()))
    names = [name for name in suite.members if name in members]
    return tuple(
        SuiteRow(
            method,
            style(method).label,
            {name: _cell(registry.EXPERIMENTS[name], scale, method, statistic, members[name]) for name in names},
        )
        for method in methods
    )


def _cell(experiment: Experiment, scale: str, method: str, statistic: str, results: Results) -> SuiteCell:
    ours = None
    if method in results and experiment.score is not None:
        curves = np.asarray(results[method][experiment.score], dtype=float)
        ours = tables.COLUMNS[statistic].estimate(curves)
    # The published number is left out where the settings differ from the paper's.
    published = {} if experiment.departs(scale) else experiment.published.get(statistic, {})
    return SuiteCell(ours, published.get(method))


def _text(column: tables.Column, cell: SuiteCell | None, unit: float) -> str:
    if cell is None:
        return ""
    ours = "" if cell.ours is None else column.text(cell.ours, unit)
    return " ".join(part for part in (ours, f"({cell.published})" if cell.published else "") if part)


def _own(experiment: Experiment, names: Sequence[str]) -> tuple[str, ...] | None:
    """The suite's methods, if exactly one named suite, and no direct name, selects the experiment."""
    suites = [suite for suite in registry.SUITES.values() if suite.id in names and experiment.id in suite.members]
    return suites[0].methods if len(suites) == 1 and experiment.id not in names else None


def _names(experiment: Experiment) -> tuple[str, ...]:
    return (*experiment.methods, *experiment.aliases)


def _check_known(methods: tuple[str, ...], experiments: Sequence[Experiment]) -> None:
    everywhere = tuple(dict.fromkeys(name for e in experiments for name in _names(e)))
    for method in methods:
        if method not in everywhere:
            raise checks.unknown(f"method of {', '.join(e.id for e in experiments)}", method, everywhere)
