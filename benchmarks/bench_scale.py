"""Score scales in both backends, beside the paper's own."""

from __future__ import annotations

from benchmarks.helpers.timing import BACKENDS, load, normal, ratio

SCALES = ("none", "group_mean", "batch_std")


class Scale:
    """4,096 groups of 16 scores."""

    params = (BACKENDS, SCALES)
    param_names = ("backend", "scale")

    def setup(self, backend: str, scale: str) -> None:
        self.scale_scores = load(backend, "scale").scale_scores
        self.standardize = load(backend, "standardize").standardize
        self.scores = abs(normal(backend, 0))

    def time_scale(self, backend: str, scale: str) -> None:
        self.scale_scores(self.scores, scale)

    def track_over_standardize(self, backend: str, scale: str) -> float:
        return ratio(lambda: self.scale_scores(self.scores, scale), lambda: self.standardize(self.scores))

    track_over_standardize.unit = "ratio"
