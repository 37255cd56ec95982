"""`tpo verify`: claims judged one experiment after the other, then those across the members of suites."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from tpo_ref.checks import unknown
from tpo_ref.study import claims, files, registry
from tpo_ref.study.cli import display, pictures, show
from tpo_ref.study.cli.exits import CLAIM_FAILED, UNDECIDED
from tpo_ref.study.cli.options import DEFAULTS, Options
from tpo_ref.study.cli.selection import MemberUnits, Selection, count_unjudged, report, select, suite_report, units
from tpo_ref.study.errors import Unavailable
from tpo_ref.study.protocol import Experiment, Suite
from tpo_ref.study.reports import ExperimentReport, SuiteReport
from tpo_ref.study.results import StoredResults
from tpo_ref.study.runner import Request


def verify(ids: tuple[str, ...], options: Options, folder: Path | None) -> int:
    """Judge and print every claim, save the reports where a folder is given.

    Returns: CLAIM_FAILED when a claim fails, UNDECIDED when none holds or fails, else 0.
    """
    if any(name in registry.CHECKS for name in ids):
        return _check(ids, options, folder)
    names = (*registry.EXPERIMENTS, *registry.SUITES, *registry.CHECKS)
    for name in ids:
        if name not in names:
            raise unknown("experiment, suite or check", name, names)
    selection = select(ids, options)
    if folder is not None:
        files.check_writable(folder)
    results: dict[str, StoredResults] = {}
    reports: list[ExperimentReport | SuiteReport] = []
    for request in selection.requests:
        own = _units(request, required=bool(ids))
        if own is not None:
            results[request.experiment.id] = own
            reports.append(_judge(request, own, options, folder))
    suites = [suite for suite in selection.suites if any(name in results for name in suite.members)]
    reports += [_judge_suite(suite, selection, results, options, folder) for suite in suites]
    if options.as_json:
        show.print_json(reports)
    subjects: list[Experiment | Suite] = [r.experiment for r in selection.requests if r.experiment.id in results]
    missing = sum(count_unjudged(subject, options.scale, results) for subject in [*subjects, *suites])
    words = [claim.verdict for entry in reports for claim in entry.claims]
    print(_counts(words, missing, options.scale), file=sys.stderr if options.as_json else sys.stdout)
    if claims.FAILS in words:
        return CLAIM_FAILED
    return 0 if claims.HOLDS in words else UNDECIDED


def _units(request: Request, required: bool) -> StoredResults | None:
    """The results of an experiment; None, and a line that says so, for one that is not required and cannot run."""
    try:
        return units(request)
    except Unavailable as error:
        if required:
            raise
        print(f"{request.experiment.id} left out: {error}", file=sys.stderr)
        return None


def _judge(request: Request, results: StoredResults, options: Options, folder: Path | None) -> ExperimentReport:
    judgement = report(request, results)
    if folder is not None:
        name = pictures.file_name(request.experiment.id, *pictures.limits(request))
        files.write_sealed(folder / f"{name}.json", judgement)
        pictures.draw(request, results, folder)
        if pictures.has_health(request, results):
            pictures.draw_health(request, results, folder)
    if not options.as_json:
        display.print_claims(judgement)
    return judgement


def _judge_suite(
    suite: Suite, selection: Selection, results: MemberUnits, options: Options, folder: Path | None
) -> SuiteReport:
    judgement = suite_report(suite, options.scale, results)
    if folder is not None:
        files.write_sealed(folder / f"{pictures.file_name(suite.id, *options.limits)}.json", judgement)
        pictures.draw_suite(suite, selection, results, folder)
    if not options.as_json:
        display.print_suite(judgement)
    return judgement


def _check(ids: tuple[str, ...], options: Options, folder: Path | None) -> int:
    name = next(name for name in ids if name in registry.CHECKS)
    if len(ids) > 1:
        raise ValueError(f"{name}: got {' '.join(ids)}, expected it alone; it is no experiment")
    if folder is not None or replace(options, as_json=False) != DEFAULTS:
        raise ValueError(f"{name}: got options of experiments, but it is none; give it no more than --json")
    check = registry.CHECKS[name]
    cases = check.cases()
    if options.as_json:
        show.print_json([case.plain() for case in cases])
    else:
        show.print_table([list(check.columns), *(case.cells() for case in cases)], check.title)
    return 0 if all(case.holds for case in cases) else CLAIM_FAILED


def _counts(words: list[str], missing: int, scale: str) -> str:
    counts = ", ".join(f"{words.count(word)} {word}" for word in (claims.HOLDS, claims.UNCLEAR, claims.FAILS))
    left_out = f" {missing} more not judged, their methods or experiments left out." if missing else ""
    if not words:
        return f"no claim at scale {scale}, which confirms nothing.{left_out}"
    return f"{len(words)} claims at scale {scale}: {counts}.{left_out}"
