"""What the command line shows: tables and json on standard output, progress bars on standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from rich.console import Console
from rich.table import Table

from tpo_ref.study import files
from tpo_ref.study.context import MethodProgress

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

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


class Bar:
    """A bar on a terminal for a run of many steps; the lines of the run stand above it."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def say(self, line: str) -> None:
        """Print a line that stays."""
        self._progress.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def step(self, text: str, done: int, total: int) -> None:
        """Move the bar of the steps, and show the figures of the last one beside it."""
        self._move("step", text, done, total)

    def part(self, name: str, done: int, total: int) -> None:
        """Move the bar of a part of the run, which goes when the part is over."""
        self._move(name, "", done, total)
        if done >= total:
            self._progress.remove_task(self._tasks.pop(name))

    def _move(self, name: str, text: str, done: int, total: int) -> None:
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=total, text=text)
        self._progress.update(self._tasks[name], completed=done, text=text)


@contextmanager
def bar(stream: TextIO) -> Iterator[Bar | None]:
    """A bar on a stream that is a terminal; None for a pipe or a file, to which lines are printed."""
    if not stream.isatty():
        yield None
        return
    from rich import progress as bars

    columns = (
        bars.TextColumn("{task.description}", markup=False),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TextColumn("{task.fields[text]}", markup=False),
        bars.TimeElapsedColumn(),
    )
    with bars.Progress(*columns, console=Console(file=stream), transient=True) as progress:
        yield Bar(progress)


def print_table(rows: list[list[str]], title: str | None = None) -> None:
    """A table whose first row is its header."""
    table = Table(title=title, title_justify="left")
    for index, name in enumerate(rows[0]):
        # Names are what a user types next: they are never cut.
        table.add_column(name, overflow="fold", no_wrap=index == 0)
    for row in rows[1:]:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else PIPE_WIDTH).print(table)


def print_json(content: object) -> None:
    """A value as json; numbers that are none become null."""
    print(files.json_text(content))


def print_lines(lines: Iterable[object]) -> None:
    """Print each item on its own line."""
    for line in lines:
        print(line)
