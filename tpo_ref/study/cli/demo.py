"""The demonstration: which experiments it runs at which scale, and its closing table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tpo_ref.study import tables
from tpo_ref.study.claims import HOLDS


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


def closing(reports: list[Any]) -> list[list[str]]:
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
    return [head, *(_row(report, headlines[report["experiment"]]) for report in reports)]


def _row(report: Any, headline: str) -> list[str]:
    claims = report["claims"]
    shown = next((c for c in claims if c["claim"] == headline), None)
    published = "" if shown is None or shown["published"] is None else tables.number(shown["published"])
    return [
        report["experiment"],
        report["paper"],
        " = ".join(tables.leaders(report["methods"])),
        tables.smallest_final(report["methods"]),
        headline,
        published,
        "" if shown is None else tables.text(shown["ours"]),
        f"{sum(c['verdict'] == HOLDS for c in claims)} of {len(claims)}" if claims else "none judged",
    ]
