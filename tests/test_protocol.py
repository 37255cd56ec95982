"""The registry: every experiment can be run, judged and drawn as it says."""

from __future__ import annotations

import importlib
import inspect

import pytest

from tpo_ref.study.experiments import EXPERIMENTS
from tpo_ref.study.protocol import SCALES


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_is_whole(name: str) -> None:
    experiment = EXPERIMENTS[name]
    assert experiment.id == name
    assert tuple(experiment.scales) == SCALES
    assert set(experiment.aliases.values()) <= set(experiment.methods)
    for claim in experiment.claims:
        assert set(claim.methods) <= set(experiment.methods)
        assert set(claim.accept) <= set(SCALES)
        for low, high in claim.accept.values():
            assert low < high
            assert claim.published is None or low <= claim.published <= high
        if claim.mark is not None:
            assert claim.mark[0] in {panel.array for panel in experiment.panels}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_runner_exists_and_takes_method_settings_seeds(name: str) -> None:
    module, function = EXPERIMENTS[name].runner.split(":")
    parameters = inspect.signature(getattr(importlib.import_module(module), function)).parameters
    assert list(parameters)[:3] == ["method", "settings", "seeds"]


def test_claims_have_distinct_texts() -> None:
    for experiment in EXPERIMENTS.values():
        texts = [claim.text for claim in experiment.claims]
        assert len(set(texts)) == len(texts)
