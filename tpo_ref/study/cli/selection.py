"""The experiments and suites that a command's arguments select, with their results and reports."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass

from tpo_ref.study import claims, registry, suites, tables
from tpo_ref.study.choices import Choices
from tpo_ref.study.cli import show
from tpo_ref.study.origins import made_by_other_code, provenance
from tpo_ref.study.protocol import Arrays, Experiment, Suite
from tpo_ref.study.reports import ExperimentReport, SuiteReport
from tpo_ref.study.results import Result, StoredResults
from tpo_ref.study.runner import Request, ensure

# How many names a message lists where there may be many.
SOME = 8
# The results of each experiment that has some.
MemberUnits = Mapping[str, StoredResults]


@dataclass(frozen=True)
class Selection:
    """One request per experiment, and the suites among the names, with what is chosen for all of them."""

    requests: tuple[Request, ...]
    suites: tuple[Suite, ...]
    choices: Choices

    def units(self) -> dict[str, StoredResults]:
        """The results of every experiment, run where they are missing."""
        return {request.experiment.id: units(request) for request in self.requests}


def select(ids: tuple[str, ...], choices: Choices, fresh: bool = False) -> Selection:
    """The selection for these names, everything registered where no name is given.

    Raises: ValueError for a name, method, scale or device that does not exist, or a number of seeds out of range.
    """
    parts, chosen_suites = suites.expand(ids, choices.methods)
    requests = tuple(
        Request(
            part.experiment,
            choices.scale,
            None if choices.rules and choices.methods is None else part.methods,
            choices.seeds,
            choices.device,
            choices.out,
            fresh,
            choices.rules,
            choices.grouping,
        )
        for part in parts
    )
    for request in requests:
        # Before the first of them runs.
        request.keys()
    return Selection(requests, tuple(chosen_suites), choices)


def select_some(ids: tuple[str, ...], choices: Choices, fresh: bool = False) -> Selection:
    """As `select`, but ValueError where no name is given."""
    if not ids:
        options = ", ".join((*registry.SUITES, *registry.EXPERIMENTS)[:SOME])
        raise ValueError(f"ids: got none, expected at least one of {options}, …; `tpo list` shows all")
    return select(ids, choices, fresh)


def units(request: Request) -> dict[str, Result]:
    """Every requested unit, run with a progress bar where it is missing.

    Warns on standard error where another commit or version made it.
    """
    with show.progress(request.experiment.id) as advance:
        stored = ensure(request, advance, _say)
    now = provenance(request.experiment.libraries)
    older = sorted(
        m for m, unit in stored.items() if any(made_by_other_code(origin, now) for origin in unit.record.origins)
    )
    if older:
        _say(
            f"{request.experiment.id}: stored results of {', '.join(older)} come from another commit or other "
            "versions; `tpo run --fresh` makes them again"
        )
    return stored


def _say(text: str) -> None:
    print(f"tpo: {text}", file=sys.stderr)


def report(request: Request, units: StoredResults) -> ExperimentReport:
    """An experiment's methods and judged claims."""
    verdicts = claims.judge(request.experiment, request.scale, arrays(units))
    return tables.report(request.experiment, request.scale, units, verdicts)


def suite_report(suite: Suite, scale: str, units: MemberUnits) -> SuiteReport:
    """A suite's tables and judged claims, of those members that have results."""
    members = {name: arrays(own) for name, own in units.items()}
    verdicts = claims.judge(suite, scale, suites.suite_results(suite, members))
    return suites.report(suite, scale, members, verdicts)


def count_unjudged(subject: Experiment | Suite, scale: str, units: MemberUnits) -> int:
    """How many claims of an experiment or suite are not judged since not all of their methods have results."""
    members = {name: arrays(own) for name, own in units.items()}
    own = suites.suite_results(subject, members) if isinstance(subject, Suite) else members[subject.id]
    return claims.count_unjudged(subject, scale, own)


def arrays(units: StoredResults) -> dict[str, Arrays]:
    """The arrays of results by method."""
    return {method: result.arrays for method, result in units.items()}
