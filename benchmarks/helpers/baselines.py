"""What the benchmarks of the baselines share: loss with gradient, beside TPO's on the same groups in the same run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from benchmarks.helpers.timing import BACKENDS, load, normal, ratio


class Baseline(ABC):
    """4,096 groups of 16 candidates. Abstract, so that only the rules themselves are run as benchmarks."""

    params = BACKENDS
    param_names: tuple[str, ...] = ("backend",)
    stem: str
    rule: str

    @abstractmethod
    def arguments(self, backend: str) -> tuple[Any, ...]:
        """What the loss takes after the log-probabilities."""

    def setup(self, backend: str) -> None:
        self.module, self.tpo = load(backend, self.stem), load(backend, "tpo")
        self.logp = normal(backend, 0)
        self.rest = self.arguments(backend)
        self.q = self.tpo.tpo_target(normal(backend, 1), normal(backend, 2))
        if backend == "torch":
            self.logp.requires_grad_()

    def time_loss(self, backend: str) -> None:
        getattr(self.module, f"{self.rule}_loss")(self.logp, *self.rest)

    def time_loss_and_gradient(self, backend: str) -> None:
        self.own()

    def track_loss_and_gradient_over_tpo(self, backend: str) -> float:
        return ratio(self.own, self.plain)

    track_loss_and_gradient_over_tpo.unit = "ratio"

    def own(self) -> Any:
        return self._differentiate(self.module, self.rule, self.rest)

    def plain(self) -> Any:
        return self._differentiate(self.tpo, "tpo", (self.q,))

    def _differentiate(self, module: Any, rule: str, rest: tuple[Any, ...]) -> Any:
        loss = getattr(module, f"{rule}_loss")(self.logp, *rest)
        if hasattr(module, f"{rule}_grad"):
            return getattr(module, f"{rule}_grad")(self.logp, *rest)
        self.logp.grad = None
        return loss.sum().backward()
