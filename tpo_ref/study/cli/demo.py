"""`tpo demo`: which experiments it runs at which scale, and its closing table."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tpo_ref.study import files, registry, tables
from tpo_ref.study.claims import HOLDS
from tpo_ref.study.cli import display, pictures, show
from tpo_ref.study.cli.selection import report, units
from tpo_ref.study.errors import Unavailable
from tpo_ref.study.reports import ExperimentReport
from tpo_ref.study.runner import Request


@dataclass(frozen=True)
class Step:
    """One experiment of the demonstration, and the claim that its closing line shows beside the paper."""

    experiment: str
    scale: str
    headline: str


# The bandits are cheap enough for the paper's own scale; MNIST runs a fifth of the paper's updates.
STEPS = (
    Step("tabular-single", "paper", "tpo: error at step 100"),
    Step("tabular-multi", "paper", "tpo: final error"),
    Step("bandit-sampled", "cpu", ""),
    Step("needle", "cpu", "tpo_no_anchor: plateau at H = 4, closed form 0.6040"),
    Step("mnist", "cpu", "tpo: updates to 5 % test error, median of seeds"),
)


@dataclass(frozen=True)
class PicturedReport:
    """The report of an experiment, and where its figure lies."""

    report: ExperimentReport = field(metadata=files.INLINE)
    figure: Path


def run(out: Path, as_json: bool) -> int:
    """Run and print each step, leaving out those that this machine cannot run; then the closing table."""
    finished = []
    for step in STEPS:
        request = Request(registry.experiment(step.experiment), step.scale, out=out)
        try:
            results = units(request)
        except Unavailable as error:
            print(f"{step.experiment} left out: {error}", file=sys.stderr)
            continue
        picture = pictures.draw(request, results, out / "figures")
        finished.append(PicturedReport(report(request, results), picture))
        if not as_json:
            display.print_methods(finished[-1].report)
    if as_json:
        show.print_json(finished)
    else:
        show.print_table(closing_table([entry.report for entry in finished]))
        show.print_lines(open_claims([entry.report for entry in finished]))
        show.print_lines(entry.figure for entry in finished)
    return 0


def closing_table(reports: Sequence[ExperimentReport]) -> list[list[str]]:
    """Header and one row per finished experiment: who won, one number beside the published one, claims that hold."""
    head = [
        "experiment",
        "paper",
        "smallest AUC",
        "smallest final error",
        "one claim",
        "published",
        "ours",
        "claims that hold",
    ]
    headlines = {step.experiment: step.headline for step in STEPS}
    return [head, *(_row(entry, headlines[entry.experiment]) for entry in reports)]


def open_claims(reports: Sequence[ExperimentReport]) -> list[str]:
    """A line for each claim that does not hold or is unclear."""
    return [
        f"{claim.verdict}: {entry.experiment}, {claim.claim}, {tables.text(claim.ours)} "
        f"({tables.bounds(*claim.interval)}), accepted {tables.interval(*claim.accepted)}"
        for entry in reports
        for claim in entry.claims
        if claim.verdict != HOLDS
    ]


def _row(entry: ExperimentReport, headline: str) -> list[str]:
    claim = next((c for c in entry.claims if c.claim == headline), None)
    published = "" if claim is None or claim.published is None else tables.number(claim.published)
    return [
        entry.experiment,
        entry.paper,
        " = ".join(tables.leaders(entry.methods)),
        tables.smallest_final(entry.methods),
        headline,
        published,
        "" if claim is None else tables.text(claim.ours),
        f"{sum(c.verdict == HOLDS for c in entry.claims)} of {len(entry.claims)}" if entry.claims else "none judged",
    ]
