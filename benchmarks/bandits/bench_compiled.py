"""The compiled runs at paper scale over their floor, timed in one run: the exponentials and draws that must be made.

Targets: single context within 3× of its floor, many contexts within 2×. The readable twin stands beside them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numba import njit

from benchmarks.helpers.timing import ratio
from tpo_ref.bandits import compiled, readable
from tpo_ref.bandits.environments import ManyContexts, Needle, SampledCandidates, SingleContext, stream

SEEDS = range(100)
THREADS = os.cpu_count() or 1
# Exponentials that cannot be avoided, per arm and step: the softmax. TPO's tilts, one for each number of draws that
# occurs, and DG's gates, one for each arm drawn, are left out of the floor, which can only make the ratio larger.
EXPONENTIALS = 1


@njit(nogil=True, cache=True)
def _exponentials(x: np.ndarray, out: np.ndarray, repeats: int) -> None:
    for _ in range(repeats):
        for i in range(x.size):
            out[i] = math.exp(x[i])


def floor(exponentials: int, uniforms: int, width: int) -> Callable[[], None]:
    """Nothing but the given numbers of exponentials and uniform draws, on all threads."""
    logits = -np.random.default_rng(0).random(width)

    def work(seed: int) -> None:
        _exponentials(logits, np.empty(width), exponentials // width // THREADS)
        if uniforms:
            stream(seed).random(out=np.empty(uniforms // THREADS))

    def run() -> None:
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(work, range(THREADS)))

    return run


class SingleFloor:
    params = SingleContext.METHODS
    param_names = ("method",)
    settings = SingleContext()

    def setup(self, method: str) -> None:
        draws = self.settings.steps * self.settings.actions * len(SEEDS)
        arms = self.settings.steps * self.settings.arms * len(SEEDS)
        self.floor = floor(EXPONENTIALS * arms, draws, self.settings.arms)
        self.floor()
        compiled.single_context(method, self.settings, SEEDS)

    def time_single_context(self, method: str) -> None:
        compiled.single_context(method, self.settings, SEEDS)

    def track_over_floor(self, method: str) -> float:
        return ratio(lambda: compiled.single_context(method, self.settings, SEEDS), self.floor, repeats=15)

    track_over_floor.unit = "ratio"


class ManyFloor:
    params = ManyContexts.METHODS
    param_names = ("method",)
    settings = ManyContexts()
    # asv otherwise repeats a half-second run for ten seconds.
    number, repeat, warmup_time = 1, 3, 0

    def setup(self, method: str) -> None:
        # Of each context's arms one may serve as the origin.
        width = self.settings.contexts * (self.settings.arms - 1)
        self.floor = floor(width * self.settings.steps * len(SEEDS), 0, width)
        compiled.many_contexts(method, ManyContexts(steps=1), SEEDS)

    def time_many_contexts(self, method: str) -> None:
        compiled.many_contexts(method, self.settings, SEEDS)

    def track_over_floor(self, method: str) -> float:
        return ratio(lambda: compiled.many_contexts(method, self.settings, SEEDS), self.floor, repeats=3)

    track_over_floor.unit = "ratio"


class BesideTheTwin:
    """The readable twin's time over the compiled one's, ten seeds."""

    params = ("single_context", "many_contexts", "sampled_candidates", "needle")
    param_names = ("run",)

    def setup(self, run: str) -> None:
        several = (SingleContext(), ManyContexts(steps=100), SampledCandidates(steps=100), Needle(steps=200))
        self.settings = dict(zip(self.params, several, strict=True))[run]
        self.fast, self.clear = getattr(compiled, run), getattr(readable, run)
        self.fast("grpo", self.settings, range(1))

    def track_twin_over_compiled(self, run: str) -> float:
        seeds = range(10)
        return ratio(
            lambda: self.clear("grpo", self.settings, seeds), lambda: self.fast("grpo", self.settings, seeds), repeats=2
        )

    track_twin_over_compiled.unit = "ratio"
