"""The work of a run beside training: it evaluates, keeps its log in the folder, and prints its progress."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback
from trl.models.utils import unwrap_model_for_generation

from tpo_ref.study import files
from tpo_torch.llm.program.evaluation import evaluate
from tpo_torch.llm.program.evaluation.evaluate import EvaluationReport, Sampling
from tpo_torch.llm.program.record import Folder
from tpo_torch.llm.program.settings.sections import EvaluationSettings
from tpo_torch.llm.tasks import Task

# How many greedy answers of each evaluation are kept.
SHOWN = 8
REWARD, GREEDY = "reward", "eval/accuracy"


class Evaluation(TrainerCallback):  # type: ignore[misc]
    """Evaluates before the first step, every so many steps and after the last, and logs the estimates.

    Args: trainer, whose model answers and whose log is written; task; settings; folder, of the answers.
    """

    def __init__(self, trainer: Any, task: Task, settings: EvaluationSettings, folder: Folder) -> None:
        self.trainer = trainer
        self.task = task
        self.settings = settings
        self.folder = folder
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
        trainer = self.trainer
        with unwrap_model_for_generation(
            trainer.model_wrapped,
            trainer.accelerator,
            gather_deepspeed3_params=trainer.args.ds3_gather_for_generation,
            gradient_checkpointing_kwargs=trainer.args.gradient_checkpointing_kwargs,
        ) as model:
            tokenizer, sampling = trainer.processing_class, Sampling.from_arguments(trainer.args)
            report = evaluate.evaluate(model, tokenizer, self.task, self.settings, sampling)
        # TRL adds the figures of the step in progress to whatever is logged, by the mode of the model, and resets
        # `should_log` after logging: both are put back.
        training, should_log = trainer.model.training, control.should_log
        trainer.model.eval()
        trainer.log(report.logged())
        trainer.model.train(training)
        control.should_log = should_log
        self.last = report
        if state.is_world_process_zero:
            path = self.folder.samples / f"step-{state.global_step:06d}.json"
            # The reward of an answer that nobody could score is NaN, which a json file says as null.
            drawn = {"sampling": sampling.distribution()} if self.settings.samples else {}
            files.write_json(path, {"step": state.global_step, **drawn, "answers": report.answers[:SHOWN]})


class Record(TrainerCallback):  # type: ignore[misc]
    """Keeps the trainer's log in the folder of the run; the file is whole at any moment."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the log after every new line."""
        if state.is_world_process_zero:
            self.folder.log(state.log_history)


class ProgressLines(TrainerCallback):  # type: ignore[misc]
    """Prints a line at each evaluation: the step, the mean reward since the last, accuracy, the time.

    Args: print_line, which takes one line.
    """

    def __init__(self, print_line: Callable[[str], None]) -> None:
        self.print_line = print_line
        self.rewards: list[float] = []
        self.start = time.perf_counter()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Collect the training rewards; print a line when an evaluation is logged."""
        if not state.is_world_process_zero or not logs:
            return
        if REWARD in logs:
            self.rewards.append(logs[REWARD])
        if GREEDY not in logs:
            return
        pass_at = "".join(
            f", {k[5:]} {v:.3f}" for k, v in logs.items() if k.startswith("eval/pass@") and "_se" not in k
        )
        mean = f"{sum(self.rewards) / len(self.rewards):.3f}" if self.rewards else "—"
        seconds = time.perf_counter() - self.start
        self.print_line(
            f"step {state.global_step:>5}/{state.max_steps}   training reward {mean:>5}   held out: accuracy "
            f"{logs[GREEDY]:.3f}{pass_at}   {seconds:.0f} s"
        )
        self.rewards.clear()
