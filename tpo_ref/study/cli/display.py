"""Reports as the command line prints them."""

from __future__ import annotations

from tpo_ref.study import suites, tables
from tpo_ref.study.cli.show import print_table
from tpo_ref.study.reports import ExperimentReport, SuiteReport


def print_methods(report: ExperimentReport) -> None:
    """The methods of a report, best first, and the sentence that says who won."""
    if report.methods:
        print_table(tables.method_table(report.methods, report.statistics), _title(report))
        if report.winner is not None:
            print(report.winner, end="\n\n")


def print_suite(report: SuiteReport) -> None:
    """The tables of a suite, methods against experiments, with the published numbers in brackets; and its claims."""
    for statistic in report.tables:
        print_table(suites.table(report, statistic), f"{report.title} · {report.scale} scale · ours (published)")
    if report.claims:
        print_claims(report)


def print_claims(report: ExperimentReport | SuiteReport) -> None:
    """The claims of a report, each with the interval that decides and its verdict."""
    if report.claims:
        print_table(tables.claim_table(report.claims), _title(report))
    else:
        print(f"{report.experiment}: no claim at scale {report.scale}, which confirms nothing")


def _title(report: ExperimentReport | SuiteReport) -> str:
    departs = f" · {report.departs}" if isinstance(report, ExperimentReport) and report.departs else ""
    return f"{report.title} · {report.scale} scale{departs}"
