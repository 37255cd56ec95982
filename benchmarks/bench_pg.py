"""REINFORCE, Group PG and the cross-entropy oracle beside TPO."""

from __future__ import annotations

from typing import Any

from benchmarks.helpers.baselines import Baseline
from benchmarks.helpers.timing import normal


class Reinforce(Baseline):
    """−A, nothing else."""

    stem, rule = "pg", "pg"

    def arguments(self, backend: str) -> tuple[Any, ...]:
        return (normal(backend, 1),)


class GroupPg(Baseline):
    """REINFORCE on standardised scores."""

    stem, rule = "pg", "group_pg"

    def arguments(self, backend: str) -> tuple[Any, ...]:
        return (normal(backend, 1),)


class CrossEntropy(Baseline):
    """The oracle: 4,096 rows of 16 classes."""

    stem, rule = "pg", "ce"

    def arguments(self, backend: str) -> tuple[Any, ...]:
        scores = normal(backend, 1)
        return (scores.argmax(-1),)
