"""`tpo train`: settings to a trained model, a log and checkpoints, under plain python and `accelerate launch`."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import PrinterCallback, ProgressCallback

from tpo_ref.study import files
from tpo_ref.study.errors import Unavailable
from tpo_torch.llm import checkpoints, resume, tasks
from tpo_torch.llm.layout import counted
from tpo_torch.llm.program import pretrained, quiet, tiny
from tpo_torch.llm.program.callbacks import Evaluation, ProgressLines, Record
from tpo_torch.llm.program.plan import DERIVED, Plan, accumulation, layout_error
from tpo_torch.llm.program.settings import upstream
from tpo_torch.llm.program.settings.sections import TINY, RunSettings
from tpo_torch.llm.program.settings.switching import GRPO
from tpo_torch.llm.trainer import TargetPOTrainer

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


def train(plan: Plan, say: Say = print) -> None:
    """Run a plan to the end: the model, its log and its checkpoints are in the plan's folder.

    Args: plan, of a run that is not finished; say, takes lines of progress, on the first process alone.
    Raises: ValueError for settings that the imported libraries refuse; Unavailable for a model or data that are not
        here; OSError for a folder that cannot be written; RewardError.
    """
    settings, folder = plan.settings, plan.folder
    with quiet.quiet():
        # Several processes without an accelerator find each other only if they are told that they have none.
        state = PartialState(cpu=settings.trainer.get("use_cpu", without_gpu()))
        tell: Say = say if state.is_main_process else lambda text: None
        # Checked again with the number of processes that accelerate counts, in variables of other launchers too.
        micro_batches = accumulation(settings, state.num_processes)
        model = None if settings.model == TINY else pretrained.locate(settings.model)
        arguments = build_arguments(settings, folder.checkpoints, micro_batches)
        task = tasks.load(settings.task, **settings.task_options)
        state.wait_for_everyone()
        if state.is_main_process:
            files.check_writable(plan.out)
            folder.begin(settings, _layout(settings, arguments), plan.fresh)
        with state.main_process_first():
            place = model or str(tiny.ensure(settings, task, plan.out, tell))
        _run(plan, place, arguments, task, tell)


def without_gpu() -> bool:
    """Whether training runs on the CPU unless told otherwise: Apple's GPUs have no float64, which coefficients need."""
    return not torch.cuda.is_available()


def build_arguments(settings: RunSettings, output: Path, micro_batches: int) -> Any:
    """The trainer's arguments, TargetPOConfig or GRPOConfig; ValueError as they raise.

    Args: output, folder of the checkpoints; micro_batches, per optimizer step.
    """
    maker = upstream.imported(settings.configuration)
    values: dict[str, Any] = {**OURS, "use_cpu": without_gpu(), **settings.given, DERIVED: micro_batches}
    try:
        return maker(output_dir=str(output), seed=settings.seed, **values)
    except ValueError as error:
        raise layout_error(error, micro_batches) from error


def build_trainer(settings: RunSettings, model: str, arguments: Any, task: tasks.Task) -> Any:
    """TargetPOTrainer, or TRL's GRPOTrainer with exact resume, on a task; as they raise."""
    maker: Any = resume.ResumableGRPOTrainer if settings.method == GRPO else TargetPOTrainer
    lora = None
    if settings.lora is not None:
        from peft import LoraConfig

        lora = LoraConfig(**{"task_type": "CAUSAL_LM", "lora_dropout": 0.0, **settings.lora})
    try:
        return maker(
            model=model, reward_funcs=list(task.rewards), args=arguments, train_dataset=task.train, peft_config=lora
        )
    except RuntimeError as error:
        # transformers raises RuntimeError where a `report_to` service is not installed.
        if ABSENT not in str(error):
            raise
        raise Unavailable(f"trainer.report_to: {error}") from error


def _run(plan: Plan, place: str, arguments: Any, task: tasks.Task, tell: Say) -> None:
    settings, folder = plan.settings, plan.folder
    checkpoint = checkpoints.latest(folder.checkpoints) if plan.resume else None
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
        counted(arguments.world_size, "process", "processes"),
        counted(arguments.gradient_accumulation_steps, "micro-batch", "micro-batches"),
        counted(arguments.per_device_train_batch_size, "row", "rows"),
    )
    return f"{counted(settings.prompts, 'prompt', 'prompts')} x {arguments.num_generations} = {' x '.join(cut)}"
