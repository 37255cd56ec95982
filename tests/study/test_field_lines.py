"""Every settings class says under each field what it means, and help shows it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from tpo_ref.study import registry
from tpo_ref.study.choices import Choices
from tpo_ref.study.cli import commands
from tpo_ref.study.field_lines import field_lines
from tpo_torch.llm.program.settings import sections

EXPERIMENTS = {type(scale.settings) for e in registry.EXPERIMENTS.values() for scale in e.scales.values()}
TRAINING = (sections.RunSettings, sections.EvaluationSettings, sections.TinySettings, sections.WarmupSettings)
KINDS = sorted({*EXPERIMENTS, *TRAINING, Choices}, key=lambda kind: kind.__name__)
LONGEST = 120


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_each_field_has_one_line_that_says_what_it_means(kind: type[Any]) -> None:
    lines = field_lines(kind)
    assert list(lines) == [field.name for field in dataclasses.fields(kind)]
    for name, line in lines.items():
        assert 0 < len(line) <= LONGEST, name
        assert "\n" not in line, name
        assert line.endswith("."), name


def test_every_experiment_is_looked_at() -> None:
    names = {kind.__name__ for kind in EXPERIMENTS}
    assert names >= {
        "SingleContext",
        "ManyContexts",
        "SampledCandidates",
        "Needle",
        "MnistSettings",
        "ReversalSettings",
    }


@pytest.mark.parametrize(("name", "kind"), [("needle", "Needle"), ("table3-h7", "ReversalSettings")])
def test_help_of_an_experiment_shows_each_field_with_its_line(
    capsys: pytest.CaptureFixture[str], name: str, kind: str
) -> None:
    with pytest.raises(SystemExit) as end:
        commands.run(["run", name, "--help"])
    assert not end.value.code
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert kind in shown
    for field, line in field_lines(type(registry.EXPERIMENTS[name].scales["cpu"].settings)).items():
        assert field in shown
        # A long line is broken over rows of the table; its beginning stands in one.
        assert " ".join(line.split()[:4]) in shown


def test_a_suite_stands_for_its_members_and_help_alone_names_none(capsys: pytest.CaptureFixture[str]) -> None:
    for words, shown in ((["table", "table1", "-h"], True), (["run", "--help"], False), (["--help"], False)):
        with pytest.raises(SystemExit):
            commands.run(words)
        assert ("settings of table1-v2, table1-v4" in capsys.readouterr().out) is shown


def test_a_class_without_lines_or_source_has_none() -> None:
    @dataclasses.dataclass
    class Bare:
        field: int = 0

    assert field_lines(Bare) == {}
    assert field_lines(dataclasses.make_dataclass("Made", ["field"])) == {}
