"""What an experiment is: methods, settings at each scale, the paper item it reproduces, the claims it is held to."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from tpo_ref.checks import unknown as unknown  # for the runs, which import nothing else of this package
from tpo_ref.study.statistics import Estimate

SCALES = ("smoke", "cpu", "paper")

Arrays = Mapping[str, NDArray[Any]]
Results = Mapping[str, Arrays]


@dataclass(frozen=True)
class Scale:
    """Settings, number of seeds and cost of one scale; the cost is wall time on two cores, start-up included.

    `methods` are those it runs unless others are named, None for all.
    """

    settings: Any
    seeds: int
    cost: str
    methods: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Claim:
    """A published number, where it stands, the interval we accept at each scale, and how ours is computed.

    `accept` maps a scale to (low, high); a scale that is not there does not judge the claim. `mark` is where the
    published number stands in the figure: (panel, x, y).
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

    A `partial` array has no value for some seeds at some steps: there the mean is over the others.
    """

    array: str
    label: str
    log: bool = True
    percent: bool = False
    limits: tuple[float, float] | None = None
    line: float | None = None
    partial: bool = False


@dataclass(frozen=True)
class Experiment:
    """One experiment of the paper, or of ours, with everything needed to run, draw and judge it.

    `runner` names "module:function"; `score` is the curve whose area ranks the methods; `x` is the array of the
    horizontal axis, None for the step number; `results_of` is another experiment whose results this one reads; `extra`
    is the install extra it needs beyond the base; `statistics` are the columns of its table (`tables.COLUMNS`), and
    `published` what the paper has for them, by statistic and method, as text: it is shown, only claims are judged;
    `health` are the panels of a second figure, for the methods that have its arrays.
    """

    id: str
    title: str
    paper: str
    runner: str
    methods: tuple[str, ...]
    scales: Mapping[str, Scale]
    panels: tuple[Panel, ...]
    score: str | None
    claims: tuple[Claim, ...] = ()
    x: str | None = None
    x_label: str = "step"
    results_of: str | None = None
    extra: str | None = None
    aliases: Mapping[str, str] = field(default_factory=dict)
    statistics: tuple[str, ...] = ("auc", "final", "median")
    published: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    health: tuple[Panel, ...] = ()

    def departs(self, scale: str) -> str:
        """In which settings a scale differs from the paper's, as words; empty where it does not."""
        mine, papers = (self.scales[name].settings if name in self.scales else None for name in (scale, "paper"))
        if not (dataclasses.is_dataclass(mine) and dataclasses.is_dataclass(papers)):
            return ""
        names = [f.name for f in dataclasses.fields(mine) if getattr(mine, f.name) != getattr(papers, f.name, None)]
        parts = [f"{name} {getattr(mine, name)} (paper: {getattr(papers, name, None)})" for name in names]
        return ", ".join(parts).replace("_", " ")

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
    claims: tuple[Claim, ...] = ()


def resolve_methods(experiment: Experiment, given: tuple[str, ...] | None, scale: str | None = None) -> tuple[str, ...]:
    """The methods to run, aliases resolved, each once; ValueError names the nearest for an unknown one.

    Args: given, None for those of the scale, or all without one.
    """
    if given is None:
        return (experiment.scales[scale].methods if scale else None) or experiment.methods
    if not given:
        raise ValueError(f"methods: got none, expected some of {', '.join(experiment.methods)}, or leave them out")
    named = [experiment.aliases.get(m, m) for m in given]
    for original, method in zip(given, named, strict=True):
        if method not in experiment.methods:
            raise unknown(f"method of {experiment.id}", original, experiment.methods + tuple(experiment.aliases))
    return tuple(dict.fromkeys(named))
