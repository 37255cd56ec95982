"""What is printed and saved of results: typed, with attributes named as the keys of the json written of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tpo_ref.study import files, formats, reading
from tpo_ref.study.estimates import Estimate
from tpo_ref.study.origins import Machine, Part, Provenance
from tpo_ref.study.results import PlainKey

# The statistics of every summary, whatever its table shows.
ALWAYS = ("auc", "final", "median")


@dataclass(frozen=True)
class IntervalEstimate(Estimate):
    """An estimate with the bounds of its interval; NaN where there is none."""

    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class Difference:
    """The difference of two values, with the bounds of its interval; NaN where there is none."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class MethodRow:
    """One method of an experiment: its area, the other statistics by name, and how far it is behind the best."""

    method: str
    label: str
    seeds: int
    auc: IntervalEstimate
    statistics: Mapping[str, Estimate] = field(metadata=files.INLINE)
    # The area less that of the best method that is no oracle, paired by seed.
    behind: Estimate

    def estimate(self, statistic: str) -> Estimate:
        """The estimate of one statistic, the area included."""
        return self.auc if statistic == "auc" else self.statistics[statistic]


@dataclass(frozen=True)
class ClaimRow:
    """One claim: published number, accepted region, our estimate, the interval that decides, verdict."""

    claim: str
    source: str
    published: float | None
    # An infinite bound, which json has as null and reading gives back as NaN, leaves the region open.
    accepted: tuple[float, float]
    ours: Estimate
    # The interval of ours that was held against the region, NaN where there is none, and its level among all claims.
    interval: tuple[float, float]
    level: float
    verdict: str


@dataclass(frozen=True)
class RunRow:
    """How one method's result was made."""

    commit: str | None
    versions: Mapping[str, str]
    machine: Machine
    device: str
    seconds: float
    resumed: bool
    # The parts before, of a run that was resumed by other code or on another machine.
    earlier: tuple[Part, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ExperimentReport:
    """An experiment at a scale: settings, methods, claims, how each run was made and judged."""

    format: int
    experiment: str
    title: str
    paper: str
    scale: str
    # In which settings the scale differs from the paper's, as words.
    departs: str = ""
    settings: Mapping[str, object]
    # The statistics that the table of methods shows.
    statistics: tuple[str, ...] = ALWAYS
    # Smallest area first; none where no curve scores the experiment.
    methods: tuple[MethodRow, ...]
    winner: str | None
    claims: tuple[ClaimRow, ...]
    runs: Mapping[str, RunRow]
    judged_by: Provenance


@dataclass(frozen=True)
class SuiteCell:
    """One method on one member: ours, and what the paper has, as text."""

    ours: Estimate | None
    published: str | None


@dataclass(frozen=True)
class SuiteRow:
    """One method on the members of a suite."""

    method: str
    label: str
    cells: Mapping[str, SuiteCell]


@dataclass(frozen=True)
class SuiteReport:
    """A suite at a scale: for each statistic ours and the published number by method and member; its claims."""

    format: int
    experiment: str
    title: str
    paper: str
    scale: str
    members: tuple[str, ...]
    # The members' headings.
    labels: Mapping[str, str]
    # The rows of each statistic's table.
    tables: Mapping[str, tuple[SuiteRow, ...]]
    claims: tuple[ClaimRow, ...]
    judged_by: Provenance


@dataclass(frozen=True)
class RunIdentity:
    """One of two runs that are compared: its name, its key, and how it was made."""

    name: str
    key: PlainKey = field(metadata=files.INLINE)
    commit: str | None
    versions: Mapping[str, str]
    machine: Machine
    seconds: float
    resumed: bool
    # The parts before, of a run that was resumed by other code or on another machine.
    earlier: tuple[Part, ...] = ()


@dataclass(frozen=True)
class ComparisonRow:
    """One statistic of A and of B, and the difference A − B."""

    label: str
    a: IntervalEstimate
    b: IntervalEstimate
    difference: Difference


@dataclass(frozen=True)
class ComparisonReport:
    """Two runs side by side, and what may be concluded."""

    format: int
    a: RunIdentity
    b: RunIdentity
    # The curve that both are scored by.
    score: str
    # Whether both drew the same, seed by seed, and else in what they differ.
    paired: bool
    differ_in: tuple[str, ...]
    same_code: bool
    # The confidence level of the intervals.
    level: float
    statistics: Mapping[str, ComparisonRow]
    sentence: str = ""


def load_report(path: Path) -> ExperimentReport | SuiteReport:
    """The stored report of an experiment or suite; ValueError when truncated, altered or of another format."""
    content = _content(path, formats.REPORT)
    if "members" in content:
        return reading.build(SuiteReport, content, str(path))
    return reading.build(ExperimentReport, content, str(path))


def load_comparison(path: Path) -> ComparisonReport:
    """The stored report of a comparison; ValueError when truncated, altered or of another format."""
    return reading.build(ComparisonReport, _content(path, formats.COMPARISON), str(path))


def _content(path: Path, expected: int) -> Mapping[str, object]:
    content = files.read_json(path)
    if content.get("format") != expected:
        remedy = formats.remedy(content, expected, "make it again")
        raise ValueError(f"{path}: got format {content.get('format')}, expected {expected}; {remedy}")
    return files.unsealed(content, path)
