"""One episode of token reversal, beside its clear twin and beside the products it cannot do without."""

from __future__ import annotations

import torch

from benchmarks.helpers.timing import best_seconds, ratio
from benchmarks.reversal.floor import Floor
from tpo_torch.reversal import runs
from tpo_torch.reversal.clear import ClearTraining
from tpo_torch.reversal.engine.training import Training
from tpo_torch.reversal.settings import ReversalSettings

THREADS = 2
REPEATS = 4
CASES = {
    "tpo H=8": ("tpo", ReversalSettings(horizon=8, reward="terminal")),
    "tpo_token H=10": ("tpo_token", ReversalSettings()),
    "dg H=10": ("dg", ReversalSettings()),
    "ppo H=10": ("ppo", ReversalSettings()),
}
# Episodes of the comparison of many seeds with one.
EPISODES, SEEDS = 4, 20


class Episode:
    """One seed, two threads, the first episodes of a run; spec/reversal.md counts what the twin's ratio can be.

    The targets are 2.5, 8, 2.5 and 1.5 over the twin, in the order of CASES, and 3 times the floor.
    """

    params = tuple(CASES)
    param_names = ("case",)
    timeout = 300

    def setup(self, case: str) -> None:
        torch.set_num_threads(THREADS)
        method, settings = CASES[case]
        self.engine = Training(method, settings, (0,), torch.device("cpu"))
        self.twin = ClearTraining(method, settings, 0)
        self.floor = Floor(self.engine)
        self.engine.episode()

    def time_episode(self, case: str) -> None:
        self.engine.episode()

    def track_twin_over_engine(self, case: str) -> float:
        return ratio(self.twin.episode, self.engine.episode, REPEATS)

    track_twin_over_engine.unit = "ratio"

    def track_engine_over_floor(self, case: str) -> float:
        return ratio(self.engine.episode, self.floor, REPEATS)

    track_engine_over_floor.unit = "ratio"


class Seeds:
    """Twenty seeds over one, both as `runs.run` takes them; at most 20."""

    timeout = 300

    def setup(self) -> None:
        torch.set_num_threads(THREADS)

    def track_twenty_seeds_over_one(self) -> float:
        settings = ReversalSettings(episodes=EPISODES)
        many = best_seconds(lambda: runs.run("tpo_token", settings, range(SEEDS)), 1)
        return many / best_seconds(lambda: runs.run("tpo_token", settings, range(1)), REPEATS)

    track_twenty_seeds_over_one.unit = "ratio"
