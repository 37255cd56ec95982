"""What the command line shows: tables and json on standard output, progress bars on standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.table import Table

from tpo_ref.study import files
from tpo_ref.study.context import MethodProgress

# A pipe or a file has no width of its own.
PIPE_WIDTH = 150


@contextmanager
def progress(name: str) -> Iterator[MethodProgress]:
    """A bar per method of an experiment; the callable it yields takes method, units done and units in all."""
    # Listing shows no progress, and need not wait for what draws it.
    from rich import progress as bars

    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TimeElapsedColumn(),
    )
    console = Console(stderr=True)
    with bars.Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        tasks: dict[str, bars.TaskID] = {}

        def advance(method: str, count: int, total: int) -> None:
            if method not in tasks:
                tasks[method] = bar.add_task(f"{name} {method}", total=total)
            bar.update(tasks[method], completed=count, total=total)

        yield advance


class _Console(Console):
    """A console that raises BrokenPipeError where rich would exit with 1, the code of a failed claim."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def print_table(rows: list[list[str]], title: str | None = None) -> None:
    """A table whose first row is its header."""
    table = Table(title=title, title_justify="left")
    for index, name in enumerate(rows[0]):
        # Names are what a user types next: they are never cut.
        table.add_column(name, overflow="fold", no_wrap=index == 0)
    for row in rows[1:]:
        table.add_row(*row)
    _Console(width=None if sys.stdout.isatty() else PIPE_WIDTH).print(table)


def print_json(content: object) -> None:
    """A value as json; numbers that are none become null."""
    print(files.json_text(content))


def print_lines(lines: Iterable[object]) -> None:
    """Print each item on its own line."""
    for line in lines:
        print(line)
