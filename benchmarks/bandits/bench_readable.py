"""The readable runs, at a tenth of the paper's seeds and steps: what clarity costs is in bench_compiled."""

from __future__ import annotations

from tpo_ref.bandits import readable
from tpo_ref.bandits.environments import ManyContexts, Needle, SampledCandidates, SingleContext

SEEDS = range(10)


class Tabular:
    params = ("single_context", "many_contexts", "sampled_candidates", "needle")
    param_names = ("run",)

    def setup(self, run: str) -> None:
        several = (SingleContext(steps=15), ManyContexts(steps=100), SampledCandidates(steps=30), Needle(steps=100))
        self.settings = dict(zip(self.params, several, strict=True))[run]
        self.run = getattr(readable, run)

    def time_grpo(self, run: str) -> None:
        self.run("grpo", self.settings, SEEDS)

    def time_tpo(self, run: str) -> None:
        self.run("tpo" if "tpo" in self.settings.METHODS else "tpo_sampled", self.settings, SEEDS)
