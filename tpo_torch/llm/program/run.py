"""`tpo train`: settings to a trained model, a log and checkpoints, under plain python and `accelerate launch`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from transformers import PrinterCallback, ProgressCallback
from transformers.integrations import get_reporting_integration_callbacks

from tpo_ref.study import files
from tpo_ref.study.errors import Unavailable
from tpo_torch.llm import interrupt, manifest, resume, tasks
from tpo_torch.llm.layout import counted
from tpo_torch.llm.program import chat, pretrained, quiet, tiny, trackers
from tpo_torch.llm.program.callbacks import Evaluation, Progress, Record
from tpo_torch.llm.program.display import Display, Silent
from tpo_torch.llm.program.plan import DERIVED, Plan, accumulation, check_prompts, layout_error
from tpo_torch.llm.program.record import PROMPTS, identity
from tpo_torch.llm.program.settings import switches, upstream
from tpo_torch.llm.program.settings.sections import TINY, RunSettings
from tpo_torch.llm.program.settings.switching import GRPO
from tpo_torch.llm.tasks.task import digest
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


def train(plan: Plan, display: Display) -> None:
    """Run a plan to the end: the model, its log and its checkpoints are in the plan's folder.

    Args: plan, of a run that is not finished; display, of the first process.
    Raises: ValueError for settings that the imported libraries refuse; Unavailable for data that are not here; OSError
        for a folder that cannot be written; RewardError.
    """
    settings, folder = plan.settings, plan.folder
    with quiet.quiet():
        state = processes(settings)
        display = display if state.is_main_process else Silent()
        if settings.task.endswith(".py"):
            display.say(f"running {settings.task}")
        arguments, task = ingredients(plan)
        state.wait_for_everyone()
        prompts = digest(task)
        check_same(settings, gather_object([prompts]), plan)
        if state.is_main_process:
            change = folder.begin(settings, layout(settings, arguments), plan.fresh, prompts, plan.checkpoint)
            if change:
                display.say(f"{folder.path}: goes on by other code or versions than before: {change}")
        with state.main_process_first():
            place = plan.model or str(tiny.ensure(settings, task, plan.out, display).resolve())
        _run(plan, place, arguments, task, display)


def check_same(settings: RunSettings, digests: Sequence[str], plan: Plan) -> None:
    """ValueError where processes, or a run and the one that goes on with it, have different prompts.

    Args: digests, of the prompts of each process.
    """
    if len(set(digests)) > 1:
        raise ValueError(
            f"task: {settings.task} makes different prompts in each process, and a group would be of several; "
            "let them depend on split, size and seed alone (set PYTHONHASHSEED=0 where they come from sets of strings)"
        )
    before = None if plan.checkpoint is None else plan.folder.read().get(PROMPTS)
    if before not in (None, digests[0]):
        raise ValueError(
            f"task: {settings.task} makes other prompts than those that {plan.folder.path} began with; "
            "restore the task, or --fresh begins again"
        )


def processes(settings: RunSettings) -> PartialState:
    """The processes of this launch, which find each other here."""
    # Several processes without an accelerator find each other only if they are told that they have none.
    return PartialState(cpu=settings.trainer.get("use_cpu", without_gpu()))


def ingredients(plan: Plan) -> tuple[Any, tasks.Task]:
    """The trainer's arguments and the task of a plan; raises as `build_arguments` and `tasks.load`."""
    settings = plan.settings
    # Checked again with the number of processes that accelerate counts, in variables of other launchers too.
    micro_batches = accumulation(settings, processes(settings).num_processes)
    arguments = build_arguments(settings, plan.folder.checkpoints, micro_batches)
    # ValueError for a name that transformers does not know; after the model is loaded it would come late.
    get_reporting_integration_callbacks(arguments.report_to)
    task = tasks.load(settings.task, **settings.task_options)
    if plan.model is None and settings.lora is not None:
        # Found after the warm-up otherwise.
        adapted(tiny.shape_of(settings, task)[1], settings)
    check_prompts(settings, len(task.train))
    if settings.method != GRPO:
        arguments.layout.check_prompts(len(task.train))
    return arguments, task


def without_gpu() -> bool:
    """Whether training runs on the CPU unless told otherwise: Apple's GPUs have no float64, which coefficients need."""
    return not torch.cuda.is_available()


def own_defaults(settings: RunSettings) -> dict[str, Any]:
    """The trainer's arguments that a run sets where its configuration says nothing."""
    return {**OURS, "use_cpu": without_gpu(), "run_name": settings.folder, "project": trackers.PROJECT}


def build_arguments(settings: RunSettings, output: Path, micro_batches: int) -> Any:
    """The trainer's arguments, TargetPOConfig or GRPOConfig; ValueError as they raise.

    Args: output, folder of the checkpoints; micro_batches, per optimizer step.
    """
    maker = upstream.imported(settings.configuration)
    values: dict[str, Any] = {**own_defaults(settings), **settings.given, DERIVED: micro_batches}
    # Last, whatever the configuration says: nothing of it runs, and pickled weights are not read.
    values[switches.REMOTE] = False
    if settings.model != TINY:
        pinned = {} if settings.revision is None else {"revision": settings.revision}
        values["model_init_kwargs"] = {**(values.get("model_init_kwargs") or {}), **pinned, **pretrained.SAFE}
    try:
        return maker(output_dir=str(output), seed=settings.seed, **values)
    except ValueError as error:
        raise layout_error(error, micro_batches) from error


def build_trainer(settings: RunSettings, model: str, arguments: Any, task: tasks.Task) -> Any:
    """TargetPOTrainer, or TRL's GRPOTrainer with exact resume, on a task; as they raise."""
    maker: Any = resume.ResumableGRPOTrainer if settings.method == GRPO else TargetPOTrainer
    try:
        with pretrained.named(model):
            return maker(
                model=model,
                reward_funcs=list(task.rewards),
                args=arguments,
                train_dataset=task.train,
                peft_config=adapter(settings),
            )
    except ValueError as error:
        raise adapter_error(error, settings) from error
    except RuntimeError as error:
        # transformers raises RuntimeError where a `report_to` service is not installed.
        if ABSENT not in str(error):
            raise
        raise Unavailable(f"trainer.report_to: {error}") from error


def adapter(settings: RunSettings) -> Any:
    """The configuration of the LoRA adapter; None where all weights are trained."""
    if settings.lora is None:
        return None
    from peft import LoraConfig

    return LoraConfig(**{"task_type": "CAUSAL_LM", "lora_dropout": 0.0, **settings.lora})


def adapted(model: Any, settings: RunSettings) -> Any:
    """A model with the adapter of the settings, or itself where there is none; ValueError for one that does not fit."""
    configuration = adapter(settings)
    if configuration is None:
        return model
    from peft import get_peft_model

    try:
        return get_peft_model(model, configuration)
    except ValueError as error:
        raise adapter_error(error, settings) from error


def adapter_error(error: ValueError, settings: RunSettings) -> ValueError:
    """The error, with the setting where it is about an adapter's modules: peft names none."""
    if "arget modules" not in str(error):
        return error
    return ValueError(f"lora.target_modules: got {(settings.lora or {}).get('target_modules')!r}; {error}")


def layout(settings: RunSettings, arguments: Any) -> str:
    """How the completions of an optimizer step are cut, as a sum."""
    cut = (
        counted(arguments.world_size, "process", "processes"),
        counted(arguments.gradient_accumulation_steps, "micro-batch", "micro-batches"),
        counted(arguments.per_device_train_batch_size, "row", "rows"),
    )
    return f"{counted(settings.prompts, 'prompt', 'prompts')} x {arguments.num_generations} = {' x '.join(cut)}"


def _run(plan: Plan, place: str, arguments: Any, task: tasks.Task, display: Display) -> None:
    settings, folder = plan.settings, plan.folder
    start = time.perf_counter()
    display.say(f"loading the model from {place}")
    trainer = build_trainer(settings, place, arguments, task)
    trainer.run = identity(settings)
    chat.check(trainer.processing_class, task, arguments.chat_template_kwargs)
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    evaluation = Evaluation(trainer, task, settings.evaluation, folder, display)
    for callback in (Progress(trainer, display), evaluation, Record(folder)):
        trainer.add_callback(callback)
    count = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    display.say(
        f"{settings.folder}: {settings.model}, {count:,} trained weights, {task.name}; {layout(settings, arguments)}"
    )
    checkpoint = None if plan.checkpoint is None else str(plan.checkpoint)
    if checkpoint is not None:
        display.say(f"resumed from {checkpoint}")
    with interrupt.between_steps(trainer, display.say) as stop:
        trainer.train(resume_from_checkpoint=checkpoint)
    if stop.stopped:
        raise KeyboardInterrupt
    half = folder.model.with_name(".model.half")
    if trainer.accelerator.is_main_process:
        # What a process that died here left of it.
        files.remove_folder(half)
    trainer.accelerator.wait_for_everyone()
    with manifest.saving(half, trainer.accelerator.is_main_process):
        trainer.save_model(str(half))
        trainer.accelerator.wait_for_everyone()
        if trainer.accelerator.is_main_process:
            manifest.replace(half, folder.model)
    if trainer.accelerator.is_main_process:
        last = {} if evaluation.last is None else evaluation.last.logged()
        outcome = {**last, "steps": trainer.state.global_step}
        folder.finish(settings, layout(settings, arguments), outcome, time.perf_counter() - start)
    display.say(
        f"{folder.path}: finished; `tpo figure {folder.path}` draws it, `tpo eval {folder.path}` evaluates it again"
    )
