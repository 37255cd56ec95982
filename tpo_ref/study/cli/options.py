"""The options of the commands: what each means, as its help says it, and what it is when left out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from tpo_ref.study.choices import Choices

# What marks a parameter that no option's word stands before.
POSITIONAL: object = tyro.conf.Positional
Ids = Annotated[
    tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="ID ...", help="experiments or suites, see `tpo list`")
]
ScaleName = Literal["smoke", "cpu", "paper"]
ScaleOption = Annotated[ScaleName, tyro.conf.arg(help="a run of seconds, one for two cores, or the paper's own")]
Methods = Annotated[tuple[str, ...] | None, tyro.conf.arg(metavar="METHOD ...", help="the scale's own when left out")]
Rules = Annotated[
    tuple[str, ...] | None,
    tyro.conf.arg(
        metavar="RULE ...",
        help="also NAME[,OPTION=VALUE] of `tpo list --rules`, or FILE.py:FUNCTION of yours; alone unless --methods",
    ),
]
Grouping = Annotated[
    str | None,
    tyro.conf.arg(metavar="NAME", help="what makes a group for --rule; the experiment's usual one when left out"),
]
RuleList = Annotated[bool, tyro.conf.arg(help="the update rules that --rule and `tpo train … rule=` take")]
Seeds = Annotated[int | None, tyro.conf.arg(metavar="N", help="run seeds 0 to N − 1; the scale's own when left out")]
Device = Annotated[str, tyro.conf.arg(metavar="DEVICE", help="cpu, cuda, cuda:1, ...; the bandits know only cpu")]
Out = Annotated[Path, tyro.conf.arg(help="folder of results; finished units there are not run again")]
Save = Annotated[Path | None, tyro.conf.arg(help="also write the summary and the figure of each experiment here")]
Json = Annotated[bool, tyro.conf.arg(name="json", help="print json instead of tables")]
Fresh = Annotated[bool, tyro.conf.arg(help="run again what is stored")]
RunName = Annotated[
    str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN", help="EXPERIMENT/METHOD, or the path of a stored result")
]
All = Annotated[bool, tyro.conf.arg(name="all", help="also those that a suite stands for")]
Health = Annotated[bool, tyro.conf.arg(help="the health of the anchor instead of the learning curves")]
Format = Literal["png", "pdf", "svg"]


@dataclass(frozen=True)
class Options(Choices):
    """The choices as the command line takes them, and how it answers."""

    methods: Methods = Choices.methods
    seeds: Seeds = Choices.seeds
    scale: ScaleOption = "cpu"
    device: Device = Choices.device
    out: Out = Choices.out
    rule: Rules = Choices.rule
    grouping: Grouping = Choices.grouping
    as_json: Json = False


# An empty name keeps tyro from prefixing these options with `choices.`.
CommonOptions = Annotated[Options, tyro.conf.arg(name="")]
DEFAULTS = Options()
