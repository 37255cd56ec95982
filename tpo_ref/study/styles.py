"""How a method is named and drawn, everywhere alike: colours the colour-blind can tell apart, dashes for print."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Style:
    """Label, colour (Okabe and Ito's palette), dash pattern; an oracle is shown the label, and left out of rankings."""

    label: str
    colour: str
    # By name, or an offset and the lengths of dashes and gaps.
    dash: str | tuple[int, tuple[int, ...]] = "-"
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
# A variant of a rule has its hue in another shade.
PALE_VERMILION, DARK_VERMILION, DARK_ORANGE, DARK_GREEN, DARK_PURPLE, BROWN = (
    "#F09A6C",
    "#7A3500",
    "#946200",
    "#00523C",
    "#7F3F66",
    "#5C3D00",
)
LONG, SHORT, DOTTED, ONE_DOT, TWO_DOTS, FOUR_DOTS = (
    (0, (5, 1)),
    (0, (2, 1)),
    (0, (1, 1)),
    (0, (5, 1, 1, 1)),
    (0, (3, 1, 1, 1, 1, 1)),
    (0, (6, 1, 1, 1, 1, 1, 1, 1, 1, 1)),
)

STYLES: dict[str, Style] = {
    "tpo": Style("TPO", BLUE),
    "tpo_sampled": Style("TPO, sampled candidates", BLUE),
    "tpo_token": Style("TPO, token groups", BLUE),
    "tpo_ratio": Style("TPO, ratio form", SKY, (0, (6, 2))),
    "tpo_token_ratio": Style("TPO, token groups, ratio form", SKY, (0, (6, 2))),
    "tpo_no_anchor": Style("TPO, no anchor", BLACK, ":"),
    "grpo": Style("GRPO", VERMILION, "--"),
    "grpo_token": Style("GRPO, token groups", VERMILION, "--"),
    "grpo_no_kl": Style("GRPO, no KL", PALE_VERMILION, SHORT),
    "grpo_masked": Style("GRPO, masked", DARK_VERMILION, FOUR_DOTS),
    "pg_batchnorm": Style("GRPO (batch-standardised PG)", VERMILION, "--"),
    "ppo": Style("PPO", ORANGE, LONG),
    "ppo_wide": Style("PPO, as many rollouts", DARK_ORANGE, ONE_DOT),
    "dg": Style("DG", GREEN, "-."),
    "dg_wide": Style("DG, as many rollouts", DARK_GREEN, (0, (3, 3, 1, 3))),
    "pg": Style("PG", ORANGE, TWO_DOTS),
    "pg_wide": Style("PG, as many rollouts", BROWN, (0, (4, 3))),
    "group_pg": Style("Group PG", PURPLE, DOTTED),
    "group_pg_once": Style("Group PG, one epoch", DARK_PURPLE, (0, (4, 1, 1, 1))),
    "tpo_ratio_reverse": Style("TPO, ratio form, reverse KL", SKY, ONE_DOT),
    "tpo_tempered": Style("TPO, tempered", BLUE, SHORT),
    "tpo_length_normalised": Style("TPO, per token", BLUE, LONG),
    "tpo_reverse_kl": Style("TPO, reverse KL", BLUE, ONE_DOT),
    "rloo": Style("RLOO", BROWN, SHORT),
    "maxrl": Style("MaxRL", DARK_GREEN, "-"),
    "reinforce_pp": Style("REINFORCE++", BROWN, DOTTED),
    "reinforce_pp_baseline": Style("REINFORCE++, group baseline", BROWN, LONG),
    "dr_grpo": Style("Dr. GRPO", DARK_ORANGE, "--"),
    "dapo": Style("DAPO", DARK_VERMILION, LONG),
    "gspo": Style("GSPO", PALE_VERMILION, ONE_DOT),
    "rebel": Style("REBEL", PURPLE, "-"),
    "awr": Style("AWR", DARK_PURPLE, SHORT),
    "mpo": Style("MPO", DARK_PURPLE, ONE_DOT),
    "pmpo": Style("PMPO", DARK_PURPLE, DOTTED),
    "ce": Style("CE (oracle)", GREY, (0, (8, 3)), oracle=True),
}


# Colours and dashes for methods without a style, chosen by a checksum of the name.
HUES = (PURPLE, DARK_GREEN, BROWN, DARK_VERMILION, DARK_PURPLE, PALE_VERMILION)
DASHES = (DOTTED, SHORT, LONG, ONE_DOT, TWO_DOTS)


def style(method: str) -> Style:
    """The style of a method; one whose style nobody gave is shown by its name, in a colour that the name decides.

    >>> style("my_rule").label, style("my_rule") == style("my_rule")
    ('my_rule', True)
    """
    if method in STYLES:
        return STYLES[method]
    number = zlib.crc32(method.encode())
    return Style(method, HUES[number % len(HUES)], DASHES[number // len(HUES) % len(DASHES)])


def add(styles: Mapping[str, Style]) -> None:
    """Let methods of another package be shown as it wants; ValueError for a name that is shown otherwise already."""
    for method, look in styles.items():
        if STYLES.get(method, look) != look:
            raise ValueError(f"style of {method}: got {look}, but it is {STYLES[method]} already; choose another name")
    STYLES.update(styles)
