"""The work of a run beside training: it evaluates, keeps its log in the folder, and shows its progress."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback
from trl.models.utils import unwrap_model_for_generation

from tpo_ref.study import files
from tpo_torch.llm.layout import counted
from tpo_torch.llm.program.display import Display
from tpo_torch.llm.program.evaluation import evaluate
from tpo_torch.llm.program.evaluation.evaluate import EvaluationReport, Sampling
from tpo_torch.llm.program.record import Folder
from tpo_torch.llm.program.settings.sections import EvaluationSettings
from tpo_torch.llm.tasks import Task

# How many greedy answers of each evaluation are kept.
SHOWN = 8
# Steps whose speed is shown: enough that evaluations and saves among them weigh as they will in what is left.
WINDOW = 50
# The trainer's own figures of a step: reward, mean length of a completion, share of groups whose rewards are equal (of
# TPO, of GRPO).
REWARD, LENGTH = "reward", "completions/mean_length"
WITHOUT_SIGNAL = ("group/zero_variance", "frac_reward_zero_std")


class Evaluation(TrainerCallback):  # type: ignore[misc]
    """Evaluates before the first step, every so many steps and after the last, and logs the estimates.

    Args: trainer, whose model answers and whose log is written; task; settings; folder, of the answers; display.
    """

    def __init__(
        self, trainer: Any, task: Task, settings: EvaluationSettings, folder: Folder, display: Display
    ) -> None:
        self.trainer = trainer
        self.task = task
        self.settings = settings
        self.folder = folder
        self.display = display
        self.last: EvaluationReport | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Evaluate at step 0, which a resumed run has behind it."""
        if state.global_step == 0:
            self._evaluate(state, control)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Evaluate before the trainer logs and saves the step: a checkpoint has its evaluation in the log."""
        if state.global_step % self.settings.every == 0 or state.global_step >= state.max_steps:
            self._evaluate(state, control)

    def _evaluate(self, state: Any, control: Any) -> None:
        trainer, start = self.trainer, time.perf_counter()
        self.display.say(f"step {state.global_step}/{state.max_steps}  evaluating on {self._size()} held-out prompts")
        with unwrap_model_for_generation(
            trainer.model_wrapped,
            trainer.accelerator,
            gather_deepspeed3_params=trainer.args.ds3_gather_for_generation,
            gradient_checkpointing_kwargs=trainer.args.gradient_checkpointing_kwargs,
        ) as model:
            tokenizer, sampling = trainer.processing_class, Sampling.from_arguments(trainer.args)
            report = evaluate.evaluate(model, tokenizer, self.task, self.settings, sampling, self.display.part)
        # TRL adds the figures of the step in progress to whatever is logged, by the mode of the model, and resets
        # `should_log` after logging: both are put back.
        training, should_log = trainer.model.training, control.should_log
        trainer.model.eval()
        trainer.log(report.logged())
        trainer.model.train(training)
        control.should_log = should_log
        self.last = report
        pass_at = "".join(f", pass@{k} {estimate.value:.3f}" for k, estimate in report.pass_at.items())
        self.display.say(
            f"step {state.global_step}/{state.max_steps}  held out: accuracy {report.accuracy.value:.3f}{pass_at}  "
            f"({time.perf_counter() - start:.0f} s)"
        )
        if state.is_world_process_zero:
            path = self.folder.samples / f"step-{state.global_step:06d}.json"
            # The reward of an answer that nobody could score is NaN, which a json file says as null.
            drawn = {"sampling": sampling.distribution()} if self.settings.samples else {}
            files.write_json(path, {"step": state.global_step, **drawn, "answers": report.answers[:SHOWN]})

    def _size(self) -> int:
        available = len(self.task.evaluation)
        return available if self.settings.size is None else min(self.settings.size, available)


class Record(TrainerCallback):  # type: ignore[misc]
    """Keeps the trainer's log in the folder of the run; the file is whole at any moment."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the log after every new line."""
        if state.is_world_process_zero:
            self.folder.log(state.log_history)


class Progress(TrainerCallback):  # type: ignore[misc]
    """Shows each optimizer step: mean reward, share of groups with signal, steps and tokens per second, time left.

    The figures are read off the trainer as the step ends: what it logs are means over `logging_steps`. A step that
    reuses completions of an earlier one has the figures of those. Speeds are those of the last steps of this process,
    in time on the wall, with everything between two steps.

    Args: trainer, of TRL's GRPO family; display; clock, in seconds.
    """

    def __init__(self, trainer: Any, display: Display, clock: Callable[[], float] = time.perf_counter) -> None:
        self.trainer = trainer
        self.display = display
        self.clock = clock
        # When a step ended, and how many completion tokens had been trained on by then.
        self._ends: deque[tuple[float, float]] = deque(maxlen=WINDOW + 1)
        self._figures: dict[str, float] = {}
        self._before: dict[str, int] = {}

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note what the trainer has by now; before the first step, say what takes long."""
        metrics = self.trainer._metrics["train"]
        self._before = {name: len(metrics[name]) for name in (REWARD, LENGTH, *WITHOUT_SIGNAL) if name in metrics}
        if not self._ends:
            self._ends.append((self.clock(), 0.0))
            rows = counted(args.generation_batch_size, "completion", "completions")
            self.display.say(
                f"step {state.global_step + 1} of {state.max_steps}: generating {rows} of at most "
                f"{args.max_completion_length} tokens, then training on them"
            )
            # A terminal shows the bar, and the time, from here on.
            self.display.part("step", state.global_step, state.max_steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Show the step that has ended."""
        for name in (REWARD, LENGTH, *WITHOUT_SIGNAL):
            new = self.trainer._metrics["train"].get(name, [])[self._before.get(name, 0) :]
            finite = [value for value in new if math.isfinite(value)]
            if finite:
                self._figures[name] = sum(finite) / len(finite)
        trained = args.world_size * args.per_device_train_batch_size * args.gradient_accumulation_steps
        tokens = trained * self._figures.get(LENGTH, 0.0)
        self._ends.append((self.clock(), self._ends[-1][1] + tokens))
        self.display.step(self._text(state.max_steps - state.global_step), state.global_step, state.max_steps)

    def _text(self, left: int) -> str:
        (start, tokens_before), (now, tokens) = self._ends[0], self._ends[-1]
        steps, seconds = len(self._ends) - 1, max(now - start, 1e-9)
        flat = next((self._figures[name] for name in WITHOUT_SIGNAL if name in self._figures), math.nan)
        return (
            f"reward {self._figures.get(REWARD, math.nan):.3f}  groups with signal {1 - flat:.0%}  "
            f"{steps / seconds:.3g} steps/s  {(tokens - tokens_before) / seconds:.0f} tokens/s  "
            f"{duration(left * seconds / steps)} left"
        )


def duration(seconds: float) -> str:
    """A time as hours, minutes and seconds.

    >>> duration(62.4), duration(7300)
    ('1:02', '2:01:40')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
