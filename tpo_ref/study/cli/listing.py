"""`tpo list`: what there is to run, experiments with their costs, and the suites that stand for several."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tpo_ref.study import registry
from tpo_ref.study.cli import show
from tpo_ref.study.protocol import SCALES, Experiment, Suite


@dataclass(frozen=True)
class Cost:
    """What a scale of an experiment takes."""

    seeds: int
    cost: str


@dataclass(frozen=True)
class ExperimentEntry:
    """An experiment as json lists it."""

    id: str
    title: str
    paper: str
    methods: tuple[str, ...]
    scales: Mapping[str, Cost]
    # The install extra.
    needs: str | None


@dataclass(frozen=True)
class SuiteEntry:
    """A suite as json lists it."""

    id: str
    title: str
    paper: str
    members: tuple[str, ...]


@dataclass(frozen=True)
class GroupingEntry:
    """What may make a group in an experiment, the usual one first."""

    id: str
    groupings: tuple[str, ...]


def show_rules(as_json: bool) -> int:
    """Print the update rules, and what takes them, as tables or json."""
    # Imported where needed: they take NumPy and SciPy along.
    from tpo_ref.study import chosen_rules

    rules = chosen_rules.listed()
    takers = [GroupingEntry(e.id, e.groupings) for e in registry.EXPERIMENTS.values() if e.groupings]
    if as_json:
        show.print_json([*rules, *takers])
        return 0
    rows = [
        [e.name, e.label, e.source, ", ".join(e.aliases), ", ".join(f"{n}={d}" for n, d in e.options.items())]
        for e in rules
    ]
    show.print_table([["name", "rule", "from", "also", "options"], *rows], "rules for --rule NAME[,OPTION=VALUE …]")
    by_groupings: dict[tuple[str, ...], list[str]] = {}
    for taker in takers:
        by_groupings.setdefault(taker.groupings, []).append(taker.id)
    takers_rows = [[", ".join(ids), ", ".join(groupings)] for groupings, ids in by_groupings.items()]
    show.print_table([["experiments", "--grouping, the usual one first"], *takers_rows], "what takes them")
    return 0


def show_all(as_json: bool, whole: bool) -> int:
    """Print every experiment and every suite.

    Args: as_json, json instead of tables; whole, a table row also for experiments that a suite stands for.
    Returns: the exit code 0.
    """
    if as_json:
        show.print_json(entries())
        return 0
    title = "experiments" if whole else "experiments; `tpo list --all` shows those of a suite too"
    show.print_table(experiment_table(whole), title)
    show.print_table(suite_table(), "suites")
    return 0


def entries() -> list[ExperimentEntry | SuiteEntry]:
    """Every experiment, then every suite."""
    experiments, suites = registry.EXPERIMENTS.values(), registry.SUITES.values()
    return [*(_experiment(e) for e in experiments), *(_suite(s) for s in suites)]


def experiment_table(whole: bool = False) -> list[list[str]]:
    """Header and a row per experiment; members with their suite's name as prefix only where `whole`."""
    suites = registry.SUITES.values()
    experiments = [e for e in registry.EXPERIMENTS.values() if whole or not any(_is_folded(e, s) for s in suites)]
    head = ["id", "paper", "title", "smoke", "cpu", "paper scale", "needs"]
    return [head, *([e.id, e.paper, e.title, *(_cost(e, name) for name in SCALES), e.extra or ""] for e in experiments)]


def suite_table() -> list[list[str]]:
    """Header and a row per suite."""
    rows = [[s.id, s.paper, s.title, ", ".join(s.members)] for s in registry.SUITES.values()]
    return [["id", "paper", "title", "experiments"], *rows]


def _is_folded(e: Experiment, s: Suite) -> bool:
    return e.id in s.members and e.id.startswith(f"{s.id}-")


def _experiment(e: Experiment) -> ExperimentEntry:
    costs = {name: Cost(scale.seeds, scale.cost) for name, scale in e.scales.items()}
    return ExperimentEntry(e.id, e.title, e.paper, e.methods, costs, e.extra)


def _suite(s: Suite) -> SuiteEntry:
    return SuiteEntry(s.id, s.title, s.paper, s.members)


def _cost(e: Experiment, scale: str) -> str:
    return f"{e.scales[scale].cost} ({e.scales[scale].seeds} seeds)" if scale in e.scales else ""
