"""Every experiment this project can run, with its settings at each scale and the numbers it is held to."""

from __future__ import annotations

from tpo_ref import checks
from tpo_ref.study import mnist_claims, tabular_claims
from tpo_ref.study.protocol import Experiment

EXPERIMENTS: dict[str, Experiment] = {
    experiment.id: experiment for experiment in (*tabular_claims.EXPERIMENTS, *mnist_claims.EXPERIMENTS)
}


def experiment(name: str) -> Experiment:
    """The experiment of that name; ValueError names the nearest for an unknown one."""
    if name not in EXPERIMENTS:
        raise checks.unknown("experiment", name, EXPERIMENTS)
    return EXPERIMENTS[name]
