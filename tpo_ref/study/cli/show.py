"""What the command line shows: tables and json on standard output, progress bars on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from tpo_ref.study import files, suites, tables

# A pipe or a file has no width of its own.
PIPE_WIDTH = 150


@contextmanager
def progress(name: str) -> Iterator[Callable[[str, int, int], None]]:
    """A bar per method of an experiment; the callable it yields takes method, done and total."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        tasks: dict[str, Any] = {}

        def advance(method: str, done: int, total: int) -> None:
            if method not in tasks:
                tasks[method] = bar.add_task(f"{name} {method}", total=total)
            bar.update(tasks[method], completed=done, total=total)

        yield advance


def show_methods(report: Any) -> None:
    """The methods of a report, best first, and the sentence that says who won."""
    if report["methods"]:
        table = tables.method_table(report["methods"], report["statistics"])
        print_table(table, _title(report))
        print(report["winner"], end="\n\n")


def show_suite(report: Any) -> None:
    """The tables of a suite, methods against experiments, with the published numbers in brackets; and its claims."""
    for statistic in report["tables"]:
        print_table(suites.table(report, statistic), f"{report['title']} · {report['scale']} scale · ours (published)")
    if report["claims"]:
        show_claims(report)


def show_claims(report: Any) -> None:
    """The claims of a report, each with its verdict."""
    if report["claims"]:
        print_table(tables.claim_table(report["claims"]), _title(report))
    else:
        print(f"{report['experiment']}: no claim is judged at scale {report['scale']}")


def _title(report: Any) -> str:
    departs = f" · {report['departs']}" if report.get("departs") else ""
    return f"{report['title']} · {report['scale']} scale{departs}"


class _Console(Console):
    """A console that lets a reader's early end be seen: rich's own leaves with the code of a failed claim."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def print_table(rows: list[list[str]], title: str | None = None) -> None:
    """A table whose first row is its header."""
    shown = Table(title=title, title_justify="left")
    for index, name in enumerate(rows[0]):
        # Names are what a user types next: they are never cut.
        shown.add_column(name, overflow="fold", no_wrap=index == 0)
    for row in rows[1:]:
        shown.add_row(*row)
    _Console(width=None if sys.stdout.isatty() else PIPE_WIDTH).print(shown)


def print_json(content: object) -> None:
    """A value as json; numbers that are none become null."""
    print(files.json_text(content))


def print_lines(lines: Iterable[object]) -> None:
    """One thing a line."""
    for line in lines:
        print(line)
