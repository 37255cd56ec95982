"""What the commands do with experiments and suites: run what is missing, report it, draw it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tpo_ref.study import claims, figures, results, suites, tables
from tpo_ref.study.cli import show
from tpo_ref.study.files import write_json
from tpo_ref.study.protocol import Arrays, Experiment, Suite
from tpo_ref.study.results import Result
from tpo_ref.study.runner import Request, ensure

Found = Mapping[str, Result]


@dataclass(frozen=True)
class Wanted:
    """What a command was asked for: one request per experiment, the suites among the names, and what limits them."""

    requests: tuple[Request, ...]
    suites: tuple[Suite, ...]
    scale: str
    limits: tuple[str, ...]


def wanted(
    ids: tuple[str, ...],
    scale: str,
    methods: tuple[str, ...] | None,
    seeds: int | None,
    device: str,
    out: Path,
    fresh: bool = False,
) -> Wanted:
    """The requests that names stand for; ValueError for a name or method that does not exist."""
    parts, named = suites.expand(ids, methods)
    requests = tuple(Request(part.experiment, scale, part.methods, seeds, device, out, fresh) for part in parts)
    return Wanted(requests, tuple(named), scale, _limits(methods, seeds))


def ensure_shown(request: Request) -> dict[str, Result]:
    """Every requested unit, run with a progress bar where it is missing; says so when it was made by other code."""
    with show.progress(request.experiment.id) as advance:
        found = ensure(request, advance)
    now = results.provenance()
    older = sorted(method for method, result in found.items() if results.made_by_other_code(result.record, now))
    if older:
        print(
            f"tpo: {request.experiment.id}: stored results of {', '.join(older)} come from another commit or other "
            "versions; `tpo run --fresh` makes them again",
            file=sys.stderr,
        )
    return found


def report(request: Request, found: Found) -> dict[str, Any]:
    """An experiment's methods and judged claims as plain data."""
    verdicts = claims.judge(request.experiment, request.scale, arrays(found))
    return dict(tables.report(request.experiment, request.scale, found, verdicts))


def report_suite(suite: Suite, scale: str, found: Mapping[str, Found]) -> dict[str, Any]:
    """A suite's tables and judged claims as plain data, of those members that have results."""
    members = {name: arrays(of) for name, of in found.items()}
    verdicts = claims.judge(suite, scale, suites.joined(suite, members))
    return suites.report(suite, scale, members, verdicts)


def not_judged(of: Experiment | Suite, scale: str, found: Mapping[str, Found]) -> int:
    """How many claims of an experiment or suite are not judged since not all of their methods have results."""
    members = {name: arrays(own) for name, own in found.items()}
    return claims.not_judged(of, scale, suites.joined(of, members) if isinstance(of, Suite) else members[of.id])


def draw(request: Request, found: Found, folder: Path, suffix: str = "png") -> Path:
    """The figure of an experiment in a folder."""
    path = folder / f"{named(request.experiment.id, request.scale, *limits(request))}.{suffix}"
    return figures.draw(request.experiment, request.scale, arrays(found), path)


def draw_health(request: Request, found: Found, folder: Path, suffix: str = "png") -> Path:
    """The figure of the anchor's health in a folder; ValueError when no method has an anchor."""
    path = folder / f"{named(request.experiment.id, request.scale, *limits(request), 'health')}.{suffix}"
    return figures.draw_health(request.experiment, request.scale, arrays(found), path)


def has_health(request: Request, found: Found) -> bool:
    """Whether there is such a figure."""
    return figures.has_health(request.experiment, arrays(found))


def draw_suite(suite: Suite, asked: Wanted, found: Mapping[str, Found], folder: Path, suffix: str = "png") -> Path:
    """The figure of a suite in a folder."""
    known = {request.experiment.id: request.experiment for request in asked.requests}
    members = {name: (known[name], arrays(found[name])) for name in suite.members if name in found}
    path = folder / f"{named(suite.id, asked.scale, *asked.limits)}.{suffix}"
    return figures.draw_suite(suite, members, asked.scale, path)


def save(request: Request, found: Found, content: Any, folder: Path) -> None:
    """The report of an experiment, its figure, and that of the anchor where there is one, in a folder."""
    write_json(folder / f"{named(request.experiment.id, *limits(request))}.json", content)
    draw(request, found, folder)
    if has_health(request, found):
        draw_health(request, found, folder)


def save_suite(suite: Suite, asked: Wanted, found: Mapping[str, Found], content: Any, folder: Path) -> None:
    """The report of a suite and its figure in a folder."""
    write_json(folder / f"{named(suite.id, *asked.limits)}.json", content)
    draw_suite(suite, asked, found, folder)


def limits(request: Request) -> tuple[str, ...]:
    """What a request says beside experiment and scale, as the names of its files say it."""
    return _limits(request.methods, request.seeds)


def named(*words: str) -> str:
    """A file name without suffix: a figure of some methods, or of other seeds, does not replace the whole one."""
    return "-".join(words)


def arrays(found: Found) -> dict[str, Arrays]:
    """The arrays of results by method."""
    return {method: result.arrays for method, result in found.items()}


def _limits(methods: tuple[str, ...] | None, seeds: int | None) -> tuple[str, ...]:
    return (*(methods or ()), *([f"{seeds}seeds"] if seeds else []))
