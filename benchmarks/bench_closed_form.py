"""App. B and App. C over one training step's worth of images, beside the softmax that produced the probabilities."""

from __future__ import annotations

from benchmarks.helpers.timing import BACKENDS, load, normal, ratio

# 4,096 images of ten classes.
SHAPE = (4096, 10)


class ClosedForm:
    params = BACKENDS
    param_names = ("backend",)

    def setup(self, backend: str) -> None:
        self.simplex, self.module = load(backend, "simplex"), load(backend, "closed_form")
        self.logits = normal(backend, 0, SHAPE)
        self.pi = self.simplex.softmax(self.logits)
        self.label = self.pi.argmax(-1)

    def time_beta_tpo(self, backend: str) -> None:
        self.module.beta_tpo(self.pi, arms=SHAPE[-1])

    def time_app_c_tpo(self, backend: str) -> None:
        self.module.app_c_tpo(self.pi, self.label)

    def time_app_c_dg(self, backend: str) -> None:
        self.module.app_c_dg(self.pi, self.label)

    def time_misalignment(self, backend: str) -> None:
        self.module.cosine_misalignment(self.pi, self.logits)

    def time_misalignment_floor(self, backend: str) -> None:
        self.module.misalignment_floor(self.pi)

    def track_app_c_tpo_over_softmax(self, backend: str) -> float:
        return ratio(lambda: self.module.app_c_tpo(self.pi, self.label), lambda: self.simplex.softmax(self.logits))

    track_app_c_tpo_over_softmax.unit = "ratio"


class Root:
    def setup(self) -> None:
        self.root = load("numpy", "closed_form").no_anchor_root

    def time_no_anchor_root(self) -> None:
        self.root(10)
