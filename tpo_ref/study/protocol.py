"""What an experiment is: methods, settings at each scale, the paper item it reproduces, the claims it is held to."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from numpy.typing import NDArray

from tpo_ref.checks import unknown as unknown  # re-exported: runs outside this package import it from here
from tpo_ref.study.context import Context
from tpo_ref.study.estimates import Estimate
from tpo_ref.study.styles import Style


class Settings(Protocol):
    """The settings of an experiment: any dataclass."""

    # The type that typeshed requires of an argument of `dataclasses.asdict`.
    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


S = TypeVar("S", bound=Settings, covariant=True)

SCALES = ("smoke", "cpu", "paper")

Arrays = Mapping[str, NDArray[Any]]
Results = Mapping[str, Arrays]
# Method, settings, seeds and context to the arrays of a result. The settings are `Any`, since each runner accepts only
# its own settings class.
Runner = Callable[[str, Any, Sequence[int], Context], Arrays]
Claims = Callable[[], tuple["Claim", ...]]


@dataclass(frozen=True)
class Scale(Generic[S]):
    """Settings, number of seeds and cost of one scale; the cost is wall time on two cores, start-up included.

    `methods` are those it runs unless others are named, None for all.
    """

    settings: S
    seeds: int
    cost: str
    methods: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Claim:
    """A published number, where it stands, the region we accept at each scale, and how ours is computed.

    `accept` maps a scale to (low, high): two bounds that belong to the region, or one that does not, beside an infinite
    one. A scale that is not there does not judge the claim. `mark` is where the published number stands in the figure:
    (panel, x, y).
    """

    text: str
    source: str
    methods: tuple[str, ...]
    statistic: Callable[[Results], Estimate]
    accept: Mapping[str, tuple[float, float]]
    published: float | None = None
    mark: tuple[str, float, float] | None = None


@dataclass(frozen=True)
class Panel:
    """One set of axes: which array, on which scale, within which limits, with a line at which level.

    A `partial` array has no value for some seeds at some steps: there the mean is over the others. `floor` is what the
    array cannot be told from 0 below, (S, T) of the arrays of a method: there the floor is drawn, in grey.
    """

    array: str
    label: str
    log: bool = True
    percent: bool = False
    limits: tuple[float, float] | None = None
    line: float | None = None
    partial: bool = False
    floor: Callable[[Arrays], NDArray[Any]] | None = None


@dataclass(frozen=True)
class Experiment:
    """One experiment of the paper, or of ours, with everything needed to run, draw and judge it.

    `run` computes the arrays of one method, and imports on its first call what listing does not need; `score` is the
    curve whose area ranks the methods; `x` is the array of the horizontal axis, None for the step number; `results_of`
    is another experiment whose results this one reads; `extra` is the install extra it needs beyond the base, also the
    name of its library; `devices` says whether it runs on others than the CPU; `resumes` whether a run saves its state
    in the context's checkpoint and goes on from one; `claims` makes the claims when they are judged, since that takes
    libraries which listing does not need; `statistics` are the columns of its table
    (`tables.COLUMNS`), and `published` what the paper has for them, by statistic and method, as text: it is shown, only
    claims are judged;
    `health` are the panels of a second figure, for the methods that have its arrays; `groupings` what may make a group
    for a rule that is not the experiment's own, the usual one first, none where it takes no such rule.
    """

    id: str
    title: str
    paper: str
    run: Runner
    methods: tuple[str, ...]
    scales: Mapping[str, Scale[Settings]]
    panels: tuple[Panel, ...]
    score: str | None
    claims: Claims = tuple
    x: str | None = None
    x_label: str = "step"
    results_of: str | None = None
    extra: str | None = None
    devices: bool = False
    resumes: bool = True
    aliases: Mapping[str, str] = field(default_factory=dict)
    statistics: tuple[str, ...] = ("auc", "final", "median")
    published: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    health: tuple[Panel, ...] = ()
    groupings: tuple[str, ...] = ()

    def departs(self, scale: str) -> str:
        """In which settings a scale differs from the paper's, as words; empty where it does not."""
        mine, papers = (self.scales[name].settings if name in self.scales else None for name in (scale, "paper"))
        if not (dataclasses.is_dataclass(mine) and dataclasses.is_dataclass(papers)):
            return ""
        names = [f.name for f in dataclasses.fields(mine) if getattr(mine, f.name) != getattr(papers, f.name, None)]
        parts = [f"{name} {getattr(mine, name)} (paper: {getattr(papers, name, None)})" for name in names]
        return ", ".join(parts).replace("_", " ")

    @property
    def libraries(self) -> tuple[str, ...]:
        """The libraries beyond the base install that its numbers depend on."""
        return (self.extra,) if self.extra else ()

    @property
    def store(self) -> str:
        """The folder its results are kept in: its own, or that of the experiment it reads."""
        return self.results_of or self.id


@dataclass(frozen=True)
class Suite:
    """Several experiments under one name.

    `statistics` are what its table shows of each, `labels` the members' headings there, their ids when left out;
    `methods` those it runs unless others are named, None for each member's own;
    `claims` are those across members: their methods, and the results they read, are named "experiment/method".
    """

    id: str
    title: str
    paper: str
    members: tuple[str, ...]
    statistics: tuple[str, ...] = ("auc",)
    labels: tuple[str, ...] = ()
    methods: tuple[str, ...] | None = None
    claims: Claims = tuple


@dataclass(frozen=True)
class Check:
    """A check for `tpo verify` that has no seeds or claims: its name, and what it measures, case by case."""

    name: str
    title: str
    # The columns of its table.
    columns: tuple[str, ...]
    cases: Callable[[], Sequence[Case]]


class Case(Protocol):
    """One line of a check: whether it holds, its cells as text, one for each column, and itself as plain json."""

    @property
    def holds(self) -> bool:
        """Whether the case holds."""

    def cells(self) -> list[str]:
        """The case as a row of text."""

    def plain(self) -> object:
        """The case as numbers, text, lists and objects of them."""


@dataclass(frozen=True)
class FolderKind:
    """A kind of run that keeps a folder of its own, for `tpo figure FOLDER ...`."""

    name: str
    # Whether a folder holds such a run.
    holds: Callable[[Path], bool]
    # Draws the folders together into OUT/figures: folders, OUT, suffix of the picture.
    draw: Callable[[Sequence[str], Path, str], Drawing]


@dataclass(frozen=True)
class Drawing:
    """A picture that was drawn, and the table beside it: its title, its rows with the header first."""

    path: Path
    title: str
    rows: list[list[str]]


@dataclass(frozen=True)
class Catalogue:
    """What a package adds to `tpo`, by an entry point of the group `tpo.experiments` that names one of these."""

    experiments: tuple[Experiment, ...] = ()
    suites: tuple[Suite, ...] = ()
    checks: tuple[Check, ...] = ()
    folders: tuple[FolderKind, ...] = ()
    # How methods of its own are named and drawn; one without a style is shown by its name.
    styles: Mapping[str, Style] = field(default_factory=dict)


def resolve_methods(experiment: Experiment, names: tuple[str, ...] | None, scale: str | None = None) -> tuple[str, ...]:
    """The methods to run, aliases resolved, each once; ValueError names the nearest for an unknown one.

    Args: names, None for those of the scale, or all without one.
    """
    if names is None:
        return (experiment.scales[scale].methods if scale else None) or experiment.methods
    if not names:
        raise ValueError(f"methods: got none, expected some of {', '.join(experiment.methods)}, or leave them out")
    methods = [experiment.aliases.get(name, name) for name in names]
    for name, method in zip(names, methods, strict=True):
        if method not in experiment.methods:
            raise unknown(f"method of {experiment.id}", name, experiment.methods + tuple(experiment.aliases))
    return tuple(dict.fromkeys(methods))
