"""Where the time of a trainer's optimizer steps goes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import TrainerCallback


class Stopwatch(TrainerCallback):  # type: ignore[misc]
    """Where the seconds of a trainer's optimizer steps go; a part within a part counts for the inner one alone.

    Args: trainer, whose methods are wrapped; wait, called before the clock is read, until the device is done.
    """

    PARTS = ("rollout", "scoring", "forward", "backward", "optimizer", "coefficients")
    # Those of TPO are absent in other trainers. A pass without gradient is scoring, wherever it is.
    METHODS = (
        ("_generate_single_turn", "rollout"),
        ("_without_gradient", "scoring"),
        ("_get_per_token_logps_and_entropies", "forward"),
        ("_compute_loss", "forward"),
        ("_make_ready", "coefficients"),
        ("_weigh", "coefficients"),
        ("_close_window", "coefficients"),
    )

    def __init__(self, trainer: Any, wait: Callable[[], None]) -> None:
        self.wait, self.laps = wait, []
        self.open: list[str] = []
        for name, part in self.METHODS:
            if hasattr(trainer, name):
                setattr(trainer, name, self._timed(getattr(trainer, name), part))
        trainer.accelerator.backward = self._timed(trainer.accelerator.backward, "backward")
        trainer.add_callback(self)

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self.laps.append(dict.fromkeys((*self.PARTS, "other"), 0.0))
        self.wait()
        self.open, self.last = ["other"], time.perf_counter()

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        self._turn()
        self.open.append("optimizer")

    def on_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        self._turn()
        self.open.pop()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self._turn()
        self.open = []

    def mean(self, skip: int = 0) -> dict[str, float]:
        """Seconds by part and "total", over the optimizer steps after the first `skip`."""
        laps = self.laps[skip:]
        parts = {name: sum(lap[name] for lap in laps) / len(laps) for name in (*self.PARTS, "other")}
        return parts | {"total": sum(parts.values())}

    def _turn(self) -> None:
        self.wait()
        now = time.perf_counter()
        if self.open:
            self.laps[-1][self.open[-1]] += now - self.last
        self.last = now

    def _timed(self, f: Callable[..., Any], part: str) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            self._turn()
            self.open.append("scoring" if part == "forward" and not torch.is_grad_enabled() else part)
            try:
                return f(*args, **kwargs)
            finally:
                self._turn()
                self.open.pop()

        return timed
