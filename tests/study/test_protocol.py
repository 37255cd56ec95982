"""The registry: every experiment can be run, judged and drawn as it says, and every suite stands for some of them."""

from __future__ import annotations

import inspect
from collections.abc import Collection

import pytest

from tpo_ref.study.protocol import SCALES, Claim, resolve_methods
from tpo_ref.study.registry import EXPERIMENTS, SUITES
from tpo_ref.study.tables import COLUMNS


def check_claims(claims: tuple[Claim, ...], methods: Collection[str]) -> None:
    for claim in claims:
        assert set(claim.methods) <= set(methods)
        assert set(claim.accept) <= set(SCALES)
        for low, high in claim.accept.values():
            assert low < high
            assert claim.published is None or low <= claim.published <= high
    texts = [claim.text for claim in claims]
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_is_whole(name: str) -> None:
    experiment = EXPERIMENTS[name]
    assert experiment.id == name
    assert tuple(experiment.scales) == SCALES
    assert set(experiment.aliases.values()) <= set(experiment.methods)
    assert set(experiment.statistics) <= set(COLUMNS)
    for statistic, values in experiment.published.items():
        assert statistic in COLUMNS
        assert set(values) <= set(experiment.methods)
    for scale in experiment.scales.values():
        assert set(scale.methods or ()) <= set(experiment.methods)
    check_claims(experiment.claims(), experiment.methods)
    drawn = {panel.array for panel in experiment.panels}
    assert all(claim.mark[0] in drawn for claim in experiment.claims() if claim.mark is not None)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_claims_at_a_scale_are_about_the_methods_it_runs(name: str) -> None:
    experiment = EXPERIMENTS[name]
    for claim in experiment.claims():
        for scale in claim.accept:
            assert set(claim.methods) <= set(resolve_methods(experiment, None, scale)), (claim.text, scale)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_run_takes_method_settings_seeds_and_context(name: str) -> None:
    assert list(inspect.signature(EXPERIMENTS[name].run).parameters) == ["method", "settings", "seeds", "context"]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_results_are_read_from_an_experiment_of_the_same_runner(name: str) -> None:
    experiment = EXPERIMENTS[name]
    assert EXPERIMENTS[experiment.store].run == experiment.run


@pytest.mark.parametrize("name", SUITES)
def test_a_suite_is_whole(name: str) -> None:
    suite = SUITES[name]
    assert suite.id == name
    assert name not in EXPERIMENTS
    assert len(set(suite.members)) == len(suite.members) > 1
    assert set(suite.members) <= set(EXPERIMENTS)
    assert len(suite.labels) in (0, len(suite.members))
    assert suite.statistics
    assert set(suite.statistics) <= set(COLUMNS)
    members = [EXPERIMENTS[member] for member in suite.members]
    assert set(suite.methods or ()) <= {method for e in members for method in e.methods}
    check_claims(suite.claims(), {f"{e.id}/{method}" for e in members for method in e.methods})


def test_methods_are_those_given_or_of_the_scale_or_all() -> None:
    experiment = EXPERIMENTS["table1-v2"]
    assert resolve_methods(experiment, None, "cpu") == ("tpo_token", "dg")
    assert resolve_methods(experiment, None, "paper") == resolve_methods(experiment, None) == experiment.methods
    assert resolve_methods(experiment, ("ppo", "ppo"), "cpu") == ("ppo",)
