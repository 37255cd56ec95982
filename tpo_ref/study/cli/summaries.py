"""`tpo run` and `tpo table`: what each method reached, as tables or json."""

from __future__ import annotations

from tpo_ref.study import tables
from tpo_ref.study.cli import display, show
from tpo_ref.study.cli.options import Options
from tpo_ref.study.cli.selection import report, select_some, suite_report, units


def run(ids: tuple[str, ...], options: Options, fresh: bool) -> int:
    """Run what is missing, and print the methods of each experiment as it finishes."""
    reports = {}
    for request in select_some(ids, options, fresh).requests:
        name = request.experiment.id
        reports[name] = tables.report(request.experiment, request.scale, units(request), [])
        if not options.as_json:
            display.print_methods(reports[name])
    if options.as_json:
        show.print_json(reports)
    return 0


def table(ids: tuple[str, ...], options: Options) -> int:
    """Print methods and claims of experiments, and the tables of suites."""
    selection = select_some(ids, options)
    results = selection.units()
    reports = [report(request, results[request.experiment.id]) for request in selection.requests]
    suite_reports = [suite_report(suite, options.scale, results) for suite in selection.suites]
    if options.as_json:
        show.print_json([*reports, *suite_reports])
        return 0
    for entry in reports:
        display.print_methods(entry)
        display.print_claims(entry)
    for suite in suite_reports:
        display.print_suite(suite)
    return 0
