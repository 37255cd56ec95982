"""What a run shows while it goes on: lines that stay, and how far it is."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

# Seconds between two lines on the same part of a step, such as an evaluation.
PAUSE = 10.0


class Display(Protocol):
    """Where a run is shown."""

    def say(self, line: str) -> None:
        """Show a line that stays."""

    def step(self, text: str, done: int, total: int) -> None:
        """Show the figures of an optimizer step, and which of all steps it is."""

    def part(self, name: str, done: int, total: int) -> None:
        """Show how far a part of the run is, such as an evaluation; over when done is total."""


class Lines:
    """A display of plain lines, for pipes and files: one for each optimizer step, and for parts that take long.

    Args: print_line, takes one line; clock, in seconds.
    """

    def __init__(
        self, print_line: Callable[[str], None] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.print_line = _print if print_line is None else print_line
        self.clock = clock
        self._last = clock()

    def say(self, line: str) -> None:
        """Print the line."""
        self.print_line(line)
        self._last = self.clock()

    def step(self, text: str, done: int, total: int) -> None:
        """Print a line for every step."""
        self.say(f"step {done}/{total}  {text}")

    def part(self, name: str, done: int, total: int) -> None:
        """Print a line where the last one is some seconds old."""
        if done < total and self.clock() - self._last >= PAUSE:
            self.say(f"{name}: {done}/{total}")


class Silent:
    """The display of every process but the first."""

    def say(self, line: str) -> None:
        """Show nothing."""

    def step(self, text: str, done: int, total: int) -> None:
        """Show nothing."""

    def part(self, name: str, done: int, total: int) -> None:
        """Show nothing."""


def _print(line: str) -> None:
    # A pipe keeps what is not flushed until its buffer is full, minutes later.
    print(line, flush=True)
