"""The tables of methods, and any rule of the list or of the user's own in every environment and grouping."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tpo_ref import rules
from tpo_ref.bandits import compiled, readable
from tpo_ref.bandits.environments import ManyContexts, Needle, SampledCandidates, SingleContext
from tpo_ref.bandits.experiments import EXPERIMENTS
from tpo_ref.bandits.methods import EXPECTED, GROUPINGS, resolve, table
from tpo_ref.study.chosen_rules import choose
from tpo_ref.study.cli import commands as cli

SETTINGS: dict[str, Any] = {
    "single_context": SingleContext(arms=6, actions=9, steps=4),
    "many_contexts": ManyContexts(contexts=3, arms=5, steps=4),
    "sampled_candidates": SampledCandidates(arms=6, candidates=5, groups=3, steps=4),
    "needle": Needle(horizon=3, candidates=4, groups=3, steps=4),
}
PLACES = [(name, grouping) for name, settings in SETTINGS.items() for grouping in GROUPINGS[type(settings)]]
SEEDS = range(3)
MINE = """
import numpy as np

def mine(logp, logp_old, scores, mask, lengths, strength=1.0):
    mean = (scores * mask).sum(-1, keepdims=True) / np.maximum(mask.sum(-1, keepdims=True), 1)
    return -strength * (scores - mean) * mask / np.maximum(mask.sum(-1, keepdims=True), 1)
"""


def run(name: str, method: Any, grouping: str = "") -> dict[str, np.ndarray]:
    curves: dict[str, np.ndarray] = getattr(readable, name)(method, SETTINGS[name], SEEDS, grouping)
    return curves


def mine(folder: Path) -> str:
    (folder / "my.py").write_text(MINE, encoding="utf-8")
    return f"{folder / 'my.py'}:mine"


@pytest.mark.parametrize("name", SETTINGS)
def test_every_method_of_an_environment_is_in_its_table(name: str) -> None:
    settings = SETTINGS[name]
    assert set(table(settings)) == set(settings.METHODS)
    with pytest.raises(ValueError, match="did you mean"):
        resolve(f"{settings.METHODS[0]}x", settings)
    with pytest.raises(ValueError, match="expected one of"):
        resolve(choose("pg"), settings, "nothing")


@pytest.mark.parametrize(("name", "grouping"), PLACES)
@pytest.mark.parametrize("rule", sorted(rules.RULES))
def test_every_rule_runs_in_every_environment(rule: str, name: str, grouping: str) -> None:
    if (rule, name, grouping) == ("maxrl", "single_context", "arms"):
        # There scores are shares of draws less a baseline, and MaxRL divides by successes.
        with pytest.raises(ValueError, match=r"got 'arms'.*less a baseline of 0\.5, for maxrl.*use 'batch'"):
            run(name, choose(rule), grouping)
        curves = readable.single_context(choose(rule), SingleContext(arms=6, steps=4, baseline=0.0), SEEDS, grouping)
        assert all(np.isfinite(curve).all() for curve in curves.values())
        return
    if grouping == EXPECTED and rules.named(rule).reduction != rules.CANDIDATES:
        with pytest.raises(ValueError, match=r"got 'expected' for .*one number for a group.*use 'arms'"):
            run(name, choose(rule), grouping)
        return
    curves = run(name, choose(rule), grouping)
    for curve in curves.values():
        assert curve.shape == (len(SEEDS), SETTINGS[name].steps)
        assert np.isfinite(curve).all()


@pytest.mark.parametrize(
    ("name", "method", "text", "grouping"),
    [
        ("single_context", "pg", "pg,baseline=0.5", "batch"),
        ("single_context", "dg", "dg,baseline=0.5", "batch"),
        ("single_context", "tpo", "tpo", "arms"),
        ("many_contexts", "tpo", "tpo", "arms"),
        ("many_contexts", "tpo", "tpo", ""),
        ("many_contexts", "ce", "ce", "arms"),
        ("many_contexts", "ce", "ce", ""),
        ("many_contexts", "pg", "pg,baseline=0", "expected"),
        ("many_contexts", "dg", "dg,baseline=0", "expected"),
        ("sampled_candidates", "tpo_sampled", "tpo", "group"),
        ("needle", "tpo_ratio", "lpo", "group"),
        ("needle", "tpo_no_anchor", "tpo_no_anchor", "group"),
        ("needle", "grpo", "grpo,epsilon_std=0", "group"),
    ],
)
def test_a_rule_by_name_is_the_method_of_the_table(name: str, method: str, text: str, grouping: str) -> None:
    own, named = run(name, choose(text), grouping), run(name, method)
    fast = getattr(compiled, name)(method, SETTINGS[name], SEEDS)
    for array in named:
        np.testing.assert_array_equal(own[array], named[array])
        np.testing.assert_allclose(own[array], fast[array], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("name", "grouping"), [place for place in PLACES if place[1] != EXPECTED])
def test_a_file_of_ones_own_is_the_rule_that_it_writes_out(name: str, grouping: str, tmp_path: Path) -> None:
    own, named = run(name, choose(mine(tmp_path)), grouping), run(name, choose("pg"), grouping)
    for array in named:
        np.testing.assert_allclose(own[array], named[array], rtol=1e-9, atol=1e-12)


def test_a_rule_of_the_batch_sees_the_batch_of_its_seed_alone() -> None:
    together = run("needle", choose("reinforce_pp"))
    for seed in SEEDS:
        alone = readable.needle(choose("reinforce_pp"), SETTINGS["needle"], [seed])
        np.testing.assert_array_equal(alone["error"][0], together["error"][seed])


def test_a_rule_is_taken_as_an_object_as_well_as_by_its_text() -> None:
    for place in SETTINGS:
        by_text, by_object = run(place, choose("dapo")), run(place, rules.named("dapo"))
        for array in by_text:
            np.testing.assert_array_equal(by_object[array], by_text[array])


@pytest.mark.parametrize(
    ("method", "grouping", "error", "says"),
    [
        ("grpo", "group", ValueError, "grouping: got 'group' for the method grpo, which has its own"),
        (rules.named("rloo"), "batch", ValueError, "grouping: got 'batch', expected"),
        (len, "", TypeError, "method: got builtin_function_or_method, expected a name such as 'grpo', or a rule"),
        (None, "", TypeError, "method: got NoneType"),
    ],
)
def test_what_is_no_method_is_refused(method: Any, grouping: str, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        run("needle", method, grouping)


def test_a_table_is_of_an_environment() -> None:
    for read in (table, lambda settings: resolve(rules.named("pg"), settings)):
        with pytest.raises(TypeError, match="settings: got str, expected one of SingleContext, ManyContexts"):
            read("needle")  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(("name", "grouping"), PLACES)
def test_progress_is_told_step_by_step(name: str, grouping: str) -> None:
    told: list[tuple[int, int]] = []
    settings = SETTINGS[name]
    getattr(readable, name)(rules.named("rloo"), settings, SEEDS, grouping, lambda *given: told.append(given))
    assert told == [(step, settings.steps) for step in range(settings.steps)]


def test_every_experiment_says_what_may_make_a_group() -> None:
    for experiment in EXPERIMENTS:
        kinds = {type(scale.settings) for scale in experiment.scales.values()}
        assert {GROUPINGS[kind] for kind in kinds} == {experiment.groupings}


# -- the commands -----------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def call(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = cli.run(list(words))
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_a_file_runs_is_stored_drawn_and_tabled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine(tmp_path)
    code, out, err = call(capsys, "run", "needle", "--scale", "smoke", "--rule", "my.py:mine")
    assert (code, err) == (0, "")
    assert "mine" in out
    (record,) = (json.loads(path.read_text(encoding="utf-8")) for path in (tmp_path / "runs/needle").glob("*.json"))
    assert record["rule"]["name"] == "my.py:mine"
    assert record["rule"]["grouping"] == "group"
    assert len(record["rule"]["sha256"]) == 64
    code, out, _ = call(
        capsys, "figure", "needle", "--scale", "smoke", "--rule", "my.py:mine", "rloo", "--methods", "grpo"
    )
    assert code == 0
    assert Path(out.strip().splitlines()[-1]).name == "needle-smoke-grpo-mine-rloo.png"
    code, out, _ = call(capsys, "table", "needle", "--scale", "smoke", "--rule", "my.py:mine", "--methods", "grpo")
    assert code == 0
    assert "GRPO" in out
    assert "mine" in out
    assert "tpo_no_anchor" not in out


def test_groupings_are_chosen_and_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("run", "tabular-single", "--scale", "smoke", "--rule", "rloo")
    assert call(capsys, *words, "--grouping", "batch")[0] == 0
    assert call(capsys, *words, "--grouping", "arms")[0] == 0
    # What makes a group is part of what a result is of.
    assert len(list((tmp_path / "runs/tabular-single").glob("rloo-*.json"))) == 2
    for more, says in (
        (("--grouping", "arm"), "did you mean 'arms'"),
        (("--rule", "rloo"), "rule: given twice"),
    ):
        code, _, err = call(capsys, *words, *more)
        assert code == cli.USAGE_ERROR
        assert says in err
    for other, says in (
        (("run", "needle", "--grouping", "group"), "no rule"),
        (("run", "needle", "--rule", "grpo", "--methods", "grpo"), "leave one out"),
        (("run", "needle", "--rule", "my.py:mine"), "no such file"),
        (("run", "needle", "--rule", "gropo"), "did you mean 'grpo'"),
        (("run", "needle", "--rule"), "got none"),
    ):
        code, _, err = call(capsys, *other)
        assert code == cli.USAGE_ERROR, other
        assert says in err
        assert len(err.strip().splitlines()) == 1


def test_the_list_says_what_takes_rules(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "list", "--rules", "--json")
    entries = json.loads(out)
    assert code == 0
    assert {"name", "options", "meanings"} <= set(entries[0])
    assert {entry["id"]: entry["groupings"] for entry in entries if "id" in entry}["needle"] == ["group"]
