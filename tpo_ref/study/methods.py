"""How a method is named and drawn, everywhere alike: colours the colour-blind can tell apart, dashes for print."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Style:
    """Label, colour (Okabe and Ito's palette), dash pattern; an oracle is shown the label, and competes with nobody."""

    label: str
    colour: str
    dash: Any = "-"
    oracle: bool = False


BLUE, SKY, GREEN, ORANGE, VERMILION, PURPLE, BLACK, GREY = (
    "#0072B2",
    "#56B4E9",
    "#009E73",
    "#E69F00",
    "#D55E00",
    "#CC79A7",
    "#000000",
    "#777777",
)

STYLES: dict[str, Style] = {
    "tpo": Style("TPO", BLUE),
    "tpo_sampled": Style("TPO, sampled candidates", BLUE),
    "tpo_ratio": Style("TPO, ratio form", SKY, (0, (6, 2))),
    "tpo_no_anchor": Style("TPO, no anchor", BLACK, ":"),
    "grpo": Style("GRPO", VERMILION, "--"),
    "pg_batchnorm": Style("GRPO (batch-standardised PG)", VERMILION, "--"),
    "dg": Style("DG", GREEN, "-."),
    "pg": Style("PG", ORANGE, (0, (3, 1, 1, 1, 1, 1))),
    "group_pg": Style("Group PG", PURPLE, (0, (1, 1))),
    "ce": Style("CE (oracle)", GREY, (0, (8, 3)), oracle=True),
}


def style(method: str) -> Style:
    """The style of a method; KeyError for one that was never given a colour."""
    return STYLES[method]
