"""Ctrl-C, or a scheduler's notice, ends a run after the step it is in, with a checkpoint to go on from."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from transformers import TrainerCallback

NOTICE = "interrupted: this step is finished and a checkpoint saved; Ctrl-C once more stops at once"


class StopBetweenSteps(TrainerCallback):  # type: ignore[misc]
    """Saves and stops at the end of the step in which any process was asked to.

    Args: trainer; say, shows a line.
    """

    def __init__(self, trainer: Any, say: Callable[[str], None]) -> None:
        self.trainer = trainer
        self.say = say
        self.asked = False
        self.stopped = False

    def ask(self) -> None:
        """Save and stop when the present step ends."""
        if not self.asked:
            self.asked = True
            self.say(NOTICE)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop, all processes in the same step; after the last one there is nothing to interrupt."""
        accelerator, asked = self.trainer.accelerator, self.asked
        if accelerator.num_processes > 1:
            asked = bool(accelerator.reduce(torch.tensor(float(asked), device=accelerator.device)).item())
        if asked and state.global_step < state.max_steps:
            control.should_save = control.should_training_stop = self.stopped = True


@contextlib.contextmanager
def between_steps(trainer: Any, say: Callable[[str], None]) -> Iterator[StopBetweenSteps]:
    """While this is entered, SIGINT and SIGTERM stop a trainer between two steps; a second SIGINT does so at once.

    SIGTERM asks no more than once: a launcher that is interrupted sends it after the terminal's SIGINT, and kills its
    processes only some seconds later. Outside the main thread, which alone is told of signals, nothing changes.
    """
    callback = StopBetweenSteps(trainer, say)
    trainer.add_callback(callback)
    kept: dict[int, Any] = {}

    def handle(number: int, frame: object) -> None:
        if number == signal.SIGINT:
            signal.signal(number, kept[number])
        callback.ask()

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            kept[number] = signal.signal(number, handle)
    try:
        yield callback
    finally:
        for restored, before in kept.items():
            signal.signal(restored, before)
        trainer.remove_callback(callback)
