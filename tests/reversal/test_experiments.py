"""The experiments on token reversal: what they say of the engine is so, and their numbers hang together."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from tpo_ref.closed_form import no_anchor_root
from tpo_ref.study import claims, judging, suites
from tpo_ref.study.protocol import Claim, Results
from tpo_ref.study.registry import EXPERIMENTS, SUITES
from tpo_ref.study.runner import Request, ensure
from tpo_ref.study.styles import STYLES
from tpo_torch.reversal import table
from tpo_torch.reversal.engine import training
from tpo_torch.reversal.experiments import setup
from tpo_torch.reversal.settings import ALIASES

REVERSAL = {name: e for name, e in EXPERIMENTS.items() if e.run is setup._run}
# A smoke test is over in seconds when it is no larger than this.
LARGEST = {"horizon": 4, "batch": 16, "group": 4, "episodes": 20}


def judged(claim: Claim, scale: str, results: Results) -> str:
    (judgement,) = judging.judge([claim.statistic(results)], [claim.accept[scale]])
    return judgement.word


def find(name: str, text: str) -> Claim:
    (claim,) = [c for c in EXPERIMENTS[name].claims() if c.text == text]
    return claim


@pytest.mark.parametrize("name", REVERSAL)
def test_every_scale_can_be_run(name: str) -> None:
    experiment = REVERSAL[name]
    for scale in experiment.scales:
        keys = Request(experiment, scale).keys()
        for key in keys:
            samples = table.TABLE[key.method].samples
            assert samples != table.TOKEN or key.settings.reward != "terminal"
    smoke = experiment.scales["smoke"].settings
    assert all(getattr(smoke, setting) <= largest for setting, largest in LARGEST.items())
    task = {scale: (s.settings.vocab, s.settings.reward, s.settings.target) for scale, s in experiment.scales.items()}
    assert len(set(task.values())) == 1


@pytest.mark.parametrize(
    ("name", "methods"),
    [
        ("table2-sequential-reverse-flip", ("tpo_token",)),
        ("table3-h7", ("ppo_wide",)),
        ("fig10", ("tpo", "grpo_masked")),
    ],
)
def test_a_smoke_test_gives_what_is_drawn(name: str, methods: tuple[str, ...], tmp_path: Path) -> None:
    experiment = EXPERIMENTS[name]
    found = ensure(Request(experiment, "smoke", methods, out=tmp_path))
    for method, result in found.items():
        grouped = table.TABLE[method].samples != table.SINGLE
        assert {panel.array for panel in experiment.panels} <= set(result.arrays)
        assert grouped == ("anchor_tv" in result.arrays)
        assert result.arrays["error"].shape == (setup.SMOKE_SEEDS, setup.SMOKE["episodes"])


def test_a_run_that_two_figures_show_is_one_run() -> None:
    def keys(name: str, scale: str) -> dict[str, str]:
        found = Request(EXPERIMENTS[name], scale, ("tpo", "grpo")).keys()
        return {key.method: str(key.path(Path())) for key in found}

    for horizon in (7, 8, 10):
        for scale in ("smoke", "cpu", "paper"):
            assert keys(f"fig8-h{horizon}", scale) == keys(f"table3-h{horizon}", scale)
    assert keys("fig14-k32", "paper") == keys("fig15-e4", "paper") == keys("fig10", "paper")
    # The others of Figs 14 and 15 are runs of their own.
    assert keys("fig14-k16", "paper") != keys("fig10", "paper") != keys("fig15-e2", "paper")


@pytest.mark.parametrize(("name", "horizon"), [("fig8-h7", 7), ("fig8-h8", 8), ("fig8-h10", 10), ("plateau-h4", 4)])
def test_the_plateau_is_the_closed_form(name: str, horizon: int) -> None:
    root = no_anchor_root(horizon)
    (claim,) = [c for c in EXPERIMENTS[name].claims() if "plateau" in c.text]
    assert np.mean(claim.accept["paper"]) == pytest.approx(root)
    # At rest only in the last hundred of its episodes.
    curves = np.full((3, 400), 0.5)
    curves[:, -100:] = root
    assert claim.statistic({"tpo_no_anchor": {"error": curves}}).value == pytest.approx(root)


def test_numbers_that_two_tables_of_the_paper_dispute_are_shown_but_not_judged() -> None:
    for name in ("table1-v2", "table2-bag-reverse-copy"):
        experiment = EXPERIMENTS[name]
        assert {"grpo_token", "ppo"} <= set(experiment.published["steps"])
        assert not any(set(c.methods) & {"grpo_token", "ppo"} for c in experiment.claims())
    assert len(find("table1-v4", "ppo: steps to 1% error").accept) == 1


def test_never_means_that_the_mean_stays_above() -> None:
    (claim,) = [c for c in EXPERIMENTS["table2-sequential-copy"].claims() if c.methods == ("ppo",)]
    for lowest, word in ((0.3, claims.HOLDS), (0.005, claims.FAILS)):
        curves = np.array([[1.0, lowest, 0.5], [1.0, lowest, 0.5]])
        assert judged(claim, "paper", {"ppo": {"error": curves}}) == word
    # One seed below is not the mean below.
    mixed = {"ppo": {"error": np.array([[1.0, 0.0], [1.0, 0.5]])}}
    assert claim.statistic(mixed).value == 0.25


def test_solved_seeds_are_judged_by_what_their_count_leaves_open() -> None:
    claim = find("table3-h10", "tpo: share of solved seeds")
    low, high = claim.accept["paper"]
    # Of Clopper and Pearson, for 15 of 20: textbook tables give .509 and .913.
    assert (low, high) == pytest.approx((0.509, 0.913), abs=5e-4)
    curves = np.ones((4, 100))
    curves[:3] = 0.01
    assert claim.statistic({"tpo": {"error": curves}}).value == 0.75


@pytest.mark.parametrize(("difference", "word"), [(0.03, "holds"), (-0.05, "holds"), (0.08, "FAILS"), (-0.07, "FAILS")])
def test_the_ratio_form_is_judged_to_both_sides(difference: float, word: str) -> None:
    claim = find("terminal-h4", "AUC(tpo_ratio) − AUC(tpo) of error")
    results = {"tpo": {"error": np.full((3, 5), 0.5)}, "tpo_ratio": {"error": np.full((3, 5), 0.5 + difference)}}
    assert judged(claim, "cpu", results) == word


def test_temperature_and_epochs_are_ordered_across_experiments() -> None:
    slow, fast = {"error": np.full((3, 5), 0.5)}, {"error": np.full((3, 5), 0.25)}
    found = {"fig17-e1": {"dg": fast}, "fig17-e4": {"dg": slow}}
    (verdict,) = claims.judge(SUITES["fig17"], "paper", suites.suite_results(SUITES["fig17"], found))
    assert verdict.word == claims.HOLDS
    assert verdict.ours.value == 0.25
    pairs = [claim.methods for claim in SUITES["table5"].claims()]
    assert pairs == [
        ("table5-eta0.5/tpo", "table5-eta1/tpo"),
        ("table5-eta1/tpo", "table5-eta2/tpo"),
        ("table5-eta2/tpo", "table5-eta4/tpo"),
    ]


def test_a_factor_goes_both_ways() -> None:
    low, high = find("fig14-k64", "tpo: final error").accept["paper"]
    assert math.isclose(low * high, 0.0036**2)
    assert math.isclose(high / low, 9)


def test_a_suite_of_two_methods_runs_those() -> None:
    parts, named = suites.expand(("ratio",))
    assert [suite.id for suite in named] == ["ratio"]
    assert {part.methods for part in parts} == {("tpo", "tpo_ratio")}
    assert all(part.methods is None for part in suites.expand(("table3",))[0])


def test_methods_and_arrays_are_the_engines() -> None:
    assert set(STYLES) >= set(table.TABLE)
    assert set(ALIASES.values()) <= set(table.TABLE)
    for experiment in REVERSAL.values():
        assert set(experiment.methods) <= set(table.TABLE)
        arrays = {panel.array for panel in (*experiment.panels, *experiment.health)} | {experiment.score}
        assert arrays <= set(training.METRICS)
