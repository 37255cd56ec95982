"""Mistakes on the command line: one short line, before any work, with the setting, what was given and the remedy."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

import pytest
from helpers import toy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tpo_ref import checks
from tpo_ref.study import names, registry
from tpo_ref.study.cli import commands, words
from tpo_ref.study.protocol import Check

LONG = 300 * "n"
SMOKE = ["run", "toy", "--scale", "smoke"]
OTHER = dataclasses.replace(toy.TOY, id="other", scales={"paper": toy.TOY.scales["paper"]})
MISTAKES = [
    (["vrify"], "command: got 'vrify', did you mean 'verify'"),
    (["bench"], "command: got 'bench'"),
    ([LONG], "command: got 'nnn"),
    (["--seeds", "3"], "command: got '--seeds'"),
    ([*SMOKE, "--sedes", "3"], "option of tpo run: got '--sedes', did you mean '--seeds'"),
    ([*SMOKE, "--workers", "2"], "option of tpo run: got '--workers'"),
    (["list", "--scale", "cpu"], "option of tpo list: got '--scale'"),
    (["list", "toy"], "list: got 'toy', expected no more words"),
    (["demo", "--seeds", "3"], "option of tpo demo: got '--seeds'"),
    (["run", "toy", "--scale", "papr"], "scale: got 'papr', did you mean 'paper'? All of them: smoke, cpu, paper"),
    (["figure", "toy", "--format", "gif"], "format: got 'gif'"),
    ([*SMOKE, "--seeds", "0"], "seeds: got 0, expected 1 to 100,000; leave it out"),
    ([*SMOKE, "--seeds", "-1"], "seeds: got -1, expected 1"),
    ([*SMOKE, "--seeds=-1"], "seeds: got -1, expected 1"),
    ([*SMOKE, "--seeds", str(10**14)], "seeds: got 100000000000000, expected 1"),
    ([*SMOKE, "--seeds", "9" * 5_000], "expected a whole number of at most 18 digits"),
    *(
        ([*SMOKE, "--seeds", x], f"seeds: got {x!r}, expected a whole number")
        for x in ("1e3", "2.0", "3_0", "nan", "٣", "0x1")
    ),
    ([*SMOKE, "--seeds", ""], "seeds: got '', expected a whole number"),
    ([*SMOKE, "--seeds"], "seeds: got no value"),
    ([*SMOKE, "--seeds", "3", "--seeds", "4"], "seeds: given twice"),
    ([*SMOKE, "--fresh=yes"], "fresh: got 'yes', but it takes no value"),
    ([*SMOKE, "--methods", "tpp"], "method of toy: got 'tpp', did you mean 'tpo'"),
    ([*SMOKE, "--methods", LONG], "methods: got 'nnn"),
    ([*SMOKE, "--methods"], "methods: got none, expected some of"),
    ([*SMOKE, "--methods", "a\0b"], "methods: got 'a\\x00b', which has a null byte"),
    ([*SMOKE, "--device", "cuda:99"], "device: got 'cuda:99'"),
    ([*SMOKE, "--device", "cuda:x"], "device: got 'cuda:x', expected cpu, cuda, or one such as cuda:1"),
    ([*SMOKE, "--out", "file"], "out: got 'file', but 'file' is a file; choose a folder"),
    ([*SMOKE, "--out", "file/sub"], "out: got 'file/sub', but 'file' is a file"),
    ([*SMOKE, "--out", LONG], "with a name of 300 bytes, expected at most 255"),
    ([*SMOKE, "--out", "x/" * 3_000], "with a path of 5999 bytes, expected at most 4000"),
    ([*SMOKE, "--out", "a\0b"], "out: got 'a\\x00b', which has a null byte; choose"),
    (["verify", "toy", "--save", "file"], "save: got 'file'"),
    (["demo", "--out", "file"], "out: got 'file'"),
    (["compare", "toy/tpo", "toy/pg", "--out", "file"], "out: got 'file'"),
    (["run", "tyo"], "did you mean 'toy'"),
    (["run", "dir"], "experiment or suite: got 'dir'"),
    (["run", LONG], "ID: got 'nnn"),
    (["run", "to\0y"], "which has a null byte"),
    (["figure", "dir"], "figure: got the folder 'dir', which holds no run"),
    (["figure", f"/x/{LONG}"], "with a name of 300 bytes"),
    (["compare", "toy/tpo"], "compare: got 'toy/tpo', expected RUN RUN"),
    (["compare"], "compare: got none, expected RUN RUN"),
    (["compare", "toy/tpo", "toy/pg", "toy/pg"], "expected RUN RUN"),
    (["compare", "dir.json", "toy/pg"], "run: got 'dir.json', which is a folder"),
    (["compare", "toy/tpo", "toy/pg", "--scale", "smoke", "--seeds", "0"], "seeds: got 0"),
    (["compare", "toy/tpo", LONG], "RUN: got 'nnn"),
    (["run", "toy", "other", "--scale", "smoke"], "scale of other: got 'smoke'"),
    (["verify", "cheked"], "experiment, suite or check: got 'cheked', did you mean 'checked'"),
    (["verify", "checked", "--seeds", "3"], "checked: got options of experiments, but it is none"),
    (["verify", "checked", "--save", "dir"], "checked: got options of experiments"),
]


@pytest.fixture(autouse=True)
def _place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(registry, "EXPERIMENTS", {"toy": toy.TOY, "other": OTHER})
    monkeypatch.setattr(registry, "SUITES", {})
    check = Check(name="checked", title="none", columns=("case",), cases=list)
    monkeypatch.setattr(registry, "CHECKS", {"checked": check})
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("mine", encoding="utf-8")
    for name in ("dir", "dir.json", "toy"):
        Path(name).mkdir()


@pytest.mark.parametrize(("arguments", "says"), MISTAKES, ids=[" ".join(words)[:40] for words, _ in MISTAKES])
def test_a_mistake_costs_one_short_line_and_changes_nothing(
    capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    before, begin = sorted(Path().rglob("*")), time.perf_counter()
    assert commands.run(arguments) == commands.USAGE_ERROR
    assert time.perf_counter() - begin < 1
    shown = capsys.readouterr()
    assert says in shown.err
    assert shown.err.startswith("tpo: ")
    assert (shown.out, shown.err.count("\n")) == ("", 1)
    assert len(shown.err) < 500
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "toy", "--scale=smoke", "--seeds=+2", "--json"],
        ["run", "toy", "--methods", "tpo", "pg", "--scale", "smoke", "--fresh", "--json"],
        ["list", "--json", "--all"],
        ["compare", "--scale", "smoke", "toy/tpo", "toy/pg", "--json"],
    ],
)
def test_what_is_right_passes(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert commands.run(arguments) == 0
    json.loads(capsys.readouterr().out)


def test_every_command_is_read_as_the_parser_reads_it() -> None:
    run = words.grammar_of(commands.run_)
    common = {"--methods", "--seeds", "--scale", "--device", "--out", "--rule", "--grouping", "--json"}
    assert set(run.options) == {*common, "--fresh"}
    assert (run.places, run.many) == (("ID ...",), True)
    for command in commands.OWN.values():
        assert all(option.startswith("--") and "_" not in option for option in words.grammar_of(command).options)


@given(st.lists(st.text(min_size=1, max_size=400), max_size=200), st.text(max_size=500))
@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])
def test_an_unknown_name_is_answered_shortly(names: list[str], given_name: str) -> None:
    said = str(checks.unknown("name", given_name, [name[:30] for name in names]))
    assert len(said) < 700
    assert said.startswith("name: got ")


@given(st.text(max_size=400))
def test_a_long_name_is_shown_shortly(text: str) -> None:
    assert len(names.shown(text)) < 700
    assert "\n" not in names.shown(text)
