"""Every experiment this project can run, with its settings at each scale and the numbers it is held to."""

from __future__ import annotations

from tpo_ref import checks
from tpo_ref.study import mnist_claims, reversal_ablations, reversal_dense, reversal_terminal, tabular_claims
from tpo_ref.study.protocol import Experiment, Suite

_REVERSAL = (reversal_dense, reversal_terminal, reversal_ablations)

EXPERIMENTS: dict[str, Experiment] = {
    experiment.id: experiment
    for experiment in (
        *tabular_claims.EXPERIMENTS,
        *mnist_claims.EXPERIMENTS,
        *(experiment for module in _REVERSAL for experiment in module.EXPERIMENTS),
    )
}
SUITES: dict[str, Suite] = {suite.id: suite for module in _REVERSAL for suite in module.SUITES}


def experiment(name: str) -> Experiment:
    """The experiment of that name; ValueError names the nearest for an unknown one."""
    if name not in EXPERIMENTS:
        raise checks.unknown("experiment", name, EXPERIMENTS)
    return EXPERIMENTS[name]
