"""What a user chooses for every experiment that a command names."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from tpo_ref.study.context import CPU

if TYPE_CHECKING:
    from tpo_ref.study.chosen_rules import ChosenRule


@dataclass(frozen=True)
class Choices:
    """Methods, seeds and scale to run, where to compute and where to store.

    >>> Choices(methods=("tpo", "pg"), seeds=8).limits
    ('tpo', 'pg', '8seeds')
    """

    methods: tuple[str, ...] | None = None
    """Methods to run, None for those of the scale."""
    seeds: int | None = None
    """How many seeds, from 0 up; None for those of the scale."""
    scale: str = "cpu"
    """Scale: smoke, cpu or paper."""
    device: str = CPU
    """Where to compute: cpu, cuda, cuda:1, …."""
    out: Path = Path("runs")
    """Folder of results."""
    rule: tuple[str, ...] | None = None
    """Rules to run as methods, as `chosen_rules.choose` reads them; without methods beside them, these alone."""
    grouping: str | None = None
    """What makes a group for those rules; None for the usual one of each experiment."""

    @property
    def limits(self) -> tuple[str, ...]:
        """The methods, rules, grouping and number of seeds of the choices, as parts of a file name."""
        return limits(self.methods, self.rules, self.grouping, self.seeds)

    @cached_property
    def rules(self) -> tuple[ChosenRule, ...]:
        """The rules themselves; a file that one names is imported here."""
        # Imported where needed: it takes NumPy along, for which help and lists need not wait.
        from tpo_ref.study.chosen_rules import choose

        chosen = [choose(text) for text in self.rule or ()]
        if self.rule is not None and not chosen:
            raise ValueError("rule: got none, expected NAME or FILE.py:FUNCTION after it")
        names = [rule.method for rule in chosen]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"rule: got two called {name!r}, whose results would lie in one place; rename one")
        return tuple(chosen)


def limits(
    methods: tuple[str, ...] | None, rules: tuple[ChosenRule, ...], grouping: str | None, seeds: int | None
) -> tuple[str, ...]:
    """What a request is limited to, as parts of a file name."""
    words = [*(methods or ()), *(rule.method for rule in rules)]
    return (*words, *([grouping] if grouping else []), *([f"{seeds}seeds"] if seeds else []))
