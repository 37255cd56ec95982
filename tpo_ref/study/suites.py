"""Several experiments as one: what a name stands for, and the table of methods against experiments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tpo_ref import checks
from tpo_ref.study import registry, results, tables
from tpo_ref.study.claims import Verdict
from tpo_ref.study.protocol import Arrays, Experiment, Results, Suite, resolve_methods
from tpo_ref.study.styles import style

PERCENT = 100.0
# Errors that the paper's tables give in percent.
IN_PERCENT = ("final", "last")

Found = Mapping[str, Results]


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
    known = [*registry.EXPERIMENTS, *registry.SUITES]
    for name in names:
        if name not in known:
            raise checks.unknown("experiment or suite", name, known)
    suites = [suite for suite in registry.SUITES.values() if not names or suite.id in names]
    members = {name: registry.SUITES[name].members if name in registry.SUITES else (name,) for name in names}
    wanted = [m for name in names for m in members[name]] if names else list(registry.EXPERIMENTS)
    chosen = [registry.EXPERIMENTS[name] for name in dict.fromkeys(wanted)]
    if methods is None:
        return [Part(e, _own(e, names)) for e in chosen], suites
    _check_known(methods, chosen)
    own = {e.id: methods if e.id in names else tuple(m for m in methods if m in _names(e)) for e in chosen}
    return [Part(e, resolve_methods(e, own[e.id])) for e in chosen if own[e.id] or not methods], suites


def joined(suite: Suite, found: Found) -> dict[str, Arrays]:
    """The results of a suite's members under the names its claims know them by: "experiment/method"."""
    return {f"{e}/{m}": arrays for e in suite.members if e in found for m, arrays in found[e].items()}


def report(suite: Suite, scale: str, found: Found, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """A suite at a scale as plain json: for each statistic, ours and the published number by method and member."""
    return {
        "format": results.FORMAT,
        "experiment": suite.id,
        "title": suite.title,
        "paper": suite.paper,
        "scale": scale,
        "members": [name for name in suite.members if name in found],
        "labels": {name: label for name, label in _labels(suite).items() if name in found},
        "tables": {name: _rows(suite, scale, name, found) for name in suite.statistics},
        "claims": tables.judged(verdicts),
        "judged_by": results.provenance(),
    }


def table(found: Mapping[str, Any], statistic: str) -> list[list[str]]:
    """Header and body of a suite's table of one statistic: ours with its standard error, the published in brackets."""
    unit = PERCENT if statistic in IN_PERCENT else 1.0
    column = tables.COLUMNS[statistic]
    head = [heading(statistic), *found["labels"].values()]
    body = [
        [row["label"], *(_cell(column, row["cells"].get(name), unit) for name in found["members"])]
        for row in found["tables"][statistic]
    ]
    return [head, *body]


def heading(statistic: str) -> str:
    """What a suite's table of a statistic is headed by."""
    return tables.COLUMNS[statistic].heading + (", %" if statistic in IN_PERCENT else "")


def _labels(suite: Suite) -> dict[str, str]:
    return dict(zip(suite.members, suite.labels or suite.members, strict=True))


def _rows(suite: Suite, scale: str, statistic: str, found: Found) -> tables.Rows:
    methods = dict.fromkeys(m for name in suite.members for m in found.get(name, ()))
    rows: tables.Rows = []
    for method in methods:
        cells = {
            name: _measured(name, scale, method, statistic, found[name]) for name in suite.members if name in found
        }
        rows.append({"method": method, "label": style(method).label, "cells": cells})
    return rows


def _measured(name: str, scale: str, method: str, statistic: str, found: Results) -> dict[str, Any]:
    experiment = registry.EXPERIMENTS[name]
    ours = None
    if method in found and experiment.score is not None:
        curves = np.asarray(found[method][experiment.score], dtype=float)
        ours = tables.plain(tables.COLUMNS[statistic].estimate(curves))
    # Beside another task than the paper's its number would only mislead.
    published = {} if experiment.departs(scale) else experiment.published.get(statistic, {})
    return {"ours": ours, "published": published.get(method)}


def _cell(column: tables.Column, cell: Mapping[str, Any] | None, unit: float) -> str:
    if cell is None:
        return ""
    ours = "" if cell["ours"] is None else column.text(cell["ours"], unit)
    return " ".join(part for part in (ours, f"({cell['published']})" if cell["published"] else "") if part)


def _own(experiment: Experiment, names: Sequence[str]) -> tuple[str, ...] | None:
    """The methods that the only name an experiment is wanted by asks for: a suite may want some of them alone."""
    wanting = [suite for suite in registry.SUITES.values() if suite.id in names and experiment.id in suite.members]
    return wanting[0].methods if len(wanting) == 1 and experiment.id not in names else None


def _names(experiment: Experiment) -> tuple[str, ...]:
    return (*experiment.methods, *experiment.aliases)


def _check_known(methods: tuple[str, ...], chosen: Sequence[Experiment]) -> None:
    everywhere = tuple(dict.fromkeys(name for e in chosen for name in _names(e)))
    for method in methods:
        if method not in everywhere:
            raise checks.unknown(f"method of {', '.join(e.id for e in chosen)}", method, everywhere)
