"""`tpo train`: settings to a trained model, a log and checkpoints, under plain python and `accelerate launch`."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import PrinterCallback, ProgressCallback

from tpo_ref.study import files
from tpo_ref.study.errors import Unavailable
from tpo_torch import checks
from tpo_torch.llm import resume, tasks
from tpo_torch.llm.program import pretrained, quiet, tiny
from tpo_torch.llm.program.callbacks import Evaluation, ProgressLines, Record
from tpo_torch.llm.program.record import Folder
from tpo_torch.llm.program.settings import TINY, RunSettings, config_class, launcher_file
from tpo_torch.llm.trainer import TargetPOTrainer

DERIVED, ADVICE = "gradient_accumulation_steps", "This works:"
# What a run uses where its configuration says nothing. TRL would report to every service that happens to be installed;
# and the search for unused parameters costs a pass over the graph, while language models use all of theirs.
OURS = {
    "report_to": "none",
    "logging_steps": 1,
    "disable_tqdm": True,
    "save_only_model": False,
    "ddp_find_unused_parameters": False,
}
ABSENT = "to be installed"
Say = Callable[[str], None]


def train(settings: RunSettings, out: Path, go_on: bool = False, fresh: bool = False, say: Say = print) -> Path:
    """Run settings to the end and return the run's folder; a finished run is left as it is.

    Args: out, folder of results; go_on, from the newest whole checkpoint of an unfinished run; fresh, begin again
        whatever is there; say, takes lines of progress, on the first process alone.
    Raises: ValueError for settings that do not fit together, or an unfinished or other run in the folder, with the
        remedy, or go_on with fresh; Unavailable for a model or data that are not here; OSError for a folder that
        cannot be written; RewardError.
    """
    if go_on and fresh:
        raise ValueError("got --resume and --fresh, expected one of them: go on with the run, or begin it again")
    settings = settings.resolved()
    with quiet.quiet():
        # Several processes without an accelerator find each other only if they are told that they have none.
        state = PartialState(cpu=settings.trainer.get("use_cpu", without_gpu()))
        main = state.is_main_process
        folder = Folder(out / "llm" / settings.folder)
        tell: Say = say if main else lambda text: None
        if not folder.check(settings, go_on, fresh):
            tell(f"{folder.path}: finished already; --fresh runs it again")
            return folder.path
        rows = accumulation(settings, state.num_processes)
        model = None if settings.model == TINY else pretrained.locate(settings.model)
        arguments = build_arguments(settings, folder.checkpoints, rows)
        task = tasks.load(settings.task, **settings.task_options)
        state.wait_for_everyone()
        if main:
            files.check_writable(out)
            folder.begin(settings, _layout(settings, arguments), fresh)
        with state.main_process_first():
            place = model or str(tiny.ensure(settings, task, out, tell))
        checkpoint = resume.latest(folder.checkpoints) if go_on else None
        _run(settings, folder, place, arguments, task, tell, checkpoint)
    return folder.path


def without_gpu() -> bool:
    """Whether training runs on the CPU unless told otherwise: Apple's GPUs have no float64, which coefficients need."""
    return not torch.cuda.is_available()


def accumulation(settings: RunSettings, processes: int) -> int:
    """Micro-batches per optimizer step, so that a step sees `prompts` whole groups over all processes.

    Raises: ValueError when they cannot be cut evenly, with sizes that can, or when a configuration made for a number
        of processes runs on another.
    """
    if settings.processes not in (None, processes):
        file = "" if settings.accelerate is None else f"--config_file {launcher_file(settings.accelerate)} "
        raise ValueError(
            f"processes: {settings.source} is made for {settings.processes}, got {processes}; run `accelerate launch "
            f"{file}--num_processes {settings.processes} -m tpo_torch.llm.train {settings.source}`, or say "
            f"processes={processes}"
        )
    fields = {field.name: field.default for field in dataclasses.fields(config_class(settings.method))}
    group, micro = (
        checks.whole(f"trainer.{name}", settings.given.get(name, fields[name]), 1)
        for name in ("num_generations", "per_device_train_batch_size")
    )
    if group == 1:
        raise ValueError(
            "trainer.num_generations: got 1, expected 2 or more; completions of one prompt are judged against each "
            "other, and one alone teaches nothing"
        )
    rows = settings.prompts * group
    if rows % (micro * processes):
        fits = [size for size in range(1, rows + 1) if rows % (size * processes) == 0 and size <= micro]
        remedy = f"trainer.per_device_train_batch_size={max(fits)} works" if fits else "change prompts"
        raise ValueError(
            f"trainer.per_device_train_batch_size: got {micro}, but {settings.prompts} prompts x {group} completions = "
            f"{rows} rows cannot be cut into micro-batches of {micro} on "
            f"{_counted(processes, 'process', 'processes')}; {remedy}"
        )
    return rows // (micro * processes)


def build_arguments(settings: RunSettings, output: Path, rows: int) -> Any:
    """The trainer's arguments, TargetPOConfig or GRPOConfig; ValueError as they raise.

    Args: output, folder of the checkpoints; rows, micro-batches per optimizer step.
    """
    given: dict[str, Any] = {**OURS, "use_cpu": without_gpu(), **settings.given, DERIVED: rows}
    try:
        return config_class(settings.method)(output_dir=str(output), seed=settings.seed, **given)
    except ValueError as error:
        if DERIVED not in str(error):
            raise
        # Its advice would be refused here, where micro-batches follow from prompts.
        what = str(error).split(ADVICE)[0].replace(DERIVED, "micro-batches per optimizer step")
        raise ValueError(
            f"{what.rstrip()} Leave out trainer.steps_per_generation and trainer.generation_batch_size, or change "
            f"prompts; {rows} micro-batches make an optimizer step"
        ) from error


def build_trainer(settings: RunSettings, model: str, arguments: Any, task: tasks.Task) -> Any:
    """TargetPOTrainer, or TRL's GRPOTrainer with exact resume, on a task; as they raise."""
    maker: Any = TargetPOTrainer if settings.method == "tpo" else resume.ResumableGRPOTrainer
    lora = None
    if settings.lora is not None:
        from peft import LoraConfig

        lora = LoraConfig(**{"task_type": "CAUSAL_LM", "lora_dropout": 0.0, **settings.lora})
    try:
        return maker(
            model=model, reward_funcs=list(task.rewards), args=arguments, train_dataset=task.train, peft_config=lora
        )
    except RuntimeError as error:
        # So transformers says that what should take the log is not there.
        if ABSENT not in str(error):
            raise
        raise Unavailable(f"trainer.report_to: {error}") from error


def _run(
    settings: RunSettings,
    folder: Folder,
    place: str,
    arguments: Any,
    task: tasks.Task,
    tell: Say,
    checkpoint: Path | None,
) -> None:
    start = time.perf_counter()
    trainer = build_trainer(settings, place, arguments, task)
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    evaluation = Evaluation(trainer, task, settings.evaluation, folder)
    for callback in (evaluation, ProgressLines(tell), Record(folder)):
        trainer.add_callback(callback)
    count = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    tell(f"{settings.folder}: {settings.model}, {count:,} trained weights, {task.name}; {_layout(settings, arguments)}")
    if checkpoint is not None:
        tell(f"resumed from {checkpoint}")
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    trainer.save_model(str(folder.model))
    if trainer.accelerator.is_main_process:
        last = {} if evaluation.last is None else evaluation.last.logged()
        outcome = {**last, "steps": trainer.state.global_step, "seconds": time.perf_counter() - start}
        folder.finish(settings, _layout(settings, arguments), outcome)
    tell(f"{folder.path}: finished; `tpo figure {folder.path}` draws it, `tpo eval {folder.path}` evaluates it again")


def _layout(settings: RunSettings, arguments: Any) -> str:
    cut = (
        _counted(arguments.world_size, "process", "processes"),
        _counted(arguments.gradient_accumulation_steps, "micro-batch", "micro-batches"),
        _counted(arguments.per_device_train_batch_size, "row", "rows"),
    )
    return f"{_counted(settings.prompts, 'prompt', 'prompts')} x {arguments.num_generations} = {' x '.join(cut)}"


def _counted(n: int, one: str, many: str) -> str:
    return f"{n} {one if n == 1 else many}"
