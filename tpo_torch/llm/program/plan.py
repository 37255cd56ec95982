"""Everything about a run that can be refused without a model: decided before torch, transformers or TRL are loaded."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
from dataclasses import dataclass
from pathlib import Path

from tpo_ref import checks
from tpo_ref.study import chosen_rules, files
from tpo_ref.study.errors import Unavailable
from tpo_ref.study.launcher import process_count
from tpo_torch.llm import checkpoints, ranges, tasks
from tpo_torch.llm.layout import counted
from tpo_torch.llm.options import batch_layout, check_option
from tpo_torch.llm.program import pretrained, trackers
from tpo_torch.llm.program.record import RULE_FILE, TASK_FILE, Folder, identity, rule_file, task_file
from tpo_torch.llm.program.settings.sections import RULE, TARGET, TINY, RunSettings, launcher_file
from tpo_torch.llm.program.settings.switching import GRPO
from tpo_torch.llm.target import TargetSettings

# The TRL option that is computed from `prompts`, and the start of a layout's advice.
DERIVED, ADVICE = "gradient_accumulation_steps", "This works:"
# The module behind `use_vllm`.
VLLM = "vllm"
# What cannot both be on, and what means nothing without workers that load the data.
NOT_TOGETHER = (("bf16", "fp16"), ("bf16_full_eval", "fp16_full_eval"))
WORKERS, NEED_WORKERS = "dataloader_num_workers", ("dataloader_prefetch_factor", "dataloader_persistent_workers")
TARGET_FIELDS = tuple(field.name for field in dataclasses.fields(TargetSettings))


@dataclass(frozen=True)
class Plan:
    """A run whose settings fit together.

    Args: settings, with whole paths; out, folder of results; folder of the run; model, as transformers takes it, None
        for one built on the spot; resume, whether to go on; fresh, begin again whatever is there; finished, whether
        there is nothing left to do; checkpoint, to go on from, None to begin; said, what a user should know of it.
    """

    settings: RunSettings
    out: Path
    folder: Folder
    model: str | None
    resume: bool
    fresh: bool
    finished: bool
    checkpoint: Path | None = None
    said: tuple[str, ...] = ()

    def going_on(self, other_code: bool = False) -> Plan:
        """The plan as the folder is now, with the checkpoint that it goes on from; called with the folder locked.

        Args: other_code, whether a checkpoint of other code, or other versions of libraries, may be gone on from.
        Raises: ValueError for one where it may not, and as `prepare` for what has happened in the folder since.
        """
        finished = not self.folder.check(self.settings, self.resume, self.fresh)
        if finished or not self.resume:
            return dataclasses.replace(self, finished=finished)
        found = checkpoints.newest(self.folder.checkpoints)
        if found.path is None:
            said = [*found.passed_over, f"{self.folder.path}: holds no whole checkpoint yet; the run begins again"]
            return dataclasses.replace(self, said=tuple(said))
        if checkpoints.run(found.path) not in (None, identity(self.settings)):
            raise ValueError(
                f"{found.path}: is a checkpoint of a run with other settings; move it away, or --fresh begins again"
            )
        record, changes = self.folder.read(), [*checkpoints.other_code(found.path)]
        for name, digest, what in ((TASK_FILE, task_file, "task"), (RULE_FILE, rule_file, "rule")):
            if record.get(name) != digest(self.settings):
                changes.append(f"code of the {what}'s file")
        differences = "; ".join(changes)
        if differences and not other_code:
            raise ValueError(
                f"{found.path}: was made by other code ({differences}), with which the rest of the run may come out "
                "otherwise; go back to that code, or say --other-code to go on with this one, or --fresh to begin again"
            )
        return dataclasses.replace(self, checkpoint=found.path, said=found.passed_over)


def prepare(
    settings: RunSettings, out: Path, resume: bool = False, fresh: bool = False, other_code: bool = False
) -> Plan:
    """The plan of a run and the checkpoint that it goes on from; raises as `check` and `Plan.going_on`."""
    return check(settings, out, resume, fresh).going_on(other_code)


def check(settings: RunSettings, out: Path, resume: bool = False, fresh: bool = False) -> Plan:
    """The plan of a run, on every process of a launch the same; reads files, writes none, looks at no checkpoint.

    Raises: ValueError, TypeError for settings that do not fit together, or an unfinished or other run in the folder,
        with the remedy, or resume with fresh, or without a run; Unavailable for a model or tracker that is not here.
    """
    if resume and fresh:
        raise ValueError("got --resume and --fresh, expected one of them: go on with the run, or begin it again")
    settings = settings.resolved()
    folder = Folder(out / "llm" / settings.folder)
    try:
        finished = not folder.check(settings, resume, fresh)
    except ValueError:
        # Where a value cannot be, that is why the run in the folder has another one.
        _check_values(settings, settings.processes or 1)
        raise
    model = None
    if finished:
        _check_same_files(settings, folder)
    else:
        _check_values(settings, process_count())
        if settings.argument("use_vllm") and importlib.util.find_spec(VLLM) is None:
            raise Unavailable("trainer.use_vllm: got true, but vLLM is not installed; run `pip install vllm`")
        model = None if settings.model == TINY else pretrained.locate(settings.model, settings.model_revision)
    return Plan(settings, out, folder, model, resume, fresh, finished)


def _check_same_files(settings: RunSettings, folder: Folder) -> None:
    """ValueError where a finished run had another file of a task or rule; a rule's is not run unasked."""
    record = folder.read()
    digests = [(TASK_FILE, task_file, "task")]
    if settings.rule_trusted or chosen_rules.file_of(settings.rule or TARGET) is None:
        digests.append((RULE_FILE, rule_file, "rule"))
    for name, digest, what in digests:
        if record.get(name) != digest(settings):
            raise ValueError(
                f"{folder.path}: holds a finished run of other code (that of the {what}'s file); choose another "
                "name=…, another --out, or --fresh to replace it"
            )


def _check_values(settings: RunSettings, processes: int) -> None:
    """Whether the settings fit together, on a number of processes; raises as `prepare`."""
    rows = accumulation(settings, processes)
    if settings.method != GRPO:
        _check_target(settings, rows, processes)
    tasks.check(settings.task, **settings.task_options)
    check_trust(settings)
    _check_rule(settings)
    _check_task_sizes(settings)
    trackers.check(settings)
    for one, other in NOT_TOGETHER:
        if settings.given.get(one) and settings.given.get(other):
            raise ValueError(f"trainer.{one}: got true, and trainer.{other}: got true, expected one of them at most")
    if not settings.given.get(WORKERS):
        for name in NEED_WORKERS:
            if settings.given.get(name):
                raise ValueError(
                    f"trainer.{name}: got {settings.given[name]!r} without workers; set trainer.{WORKERS}, or leave "
                    "it out"
                )


def check_trust(settings: RunSettings) -> None:
    """ValueError for a task's file, which is run, that only a configuration or a record names."""
    if settings.task.endswith(".py") and not settings.trusted:
        path = files.at_home(settings.task).resolve()
        raise ValueError(
            f"task: {settings.source} asks to run the Python file {path}; read it, then say --trust-code, or name it "
            f"on the command line"
        )


def _check_rule(settings: RunSettings) -> None:
    """ValueError for a rule's file that only a configuration names, and for what is no rule; a file is imported."""
    if not settings.rule:
        return
    file = chosen_rules.file_of(settings.rule)
    if file is not None and not settings.rule_trusted:
        raise ValueError(
            f"rule: {settings.source} asks to run the Python file {file}; read it, then say --trust-code, or name it "
            f"on the command line"
        )
    chosen_rules.choose(settings.rule)


def _check_task_sizes(settings: RunSettings) -> None:
    """The numbers among the options of a task of ours, as far as they can be judged before data are made."""
    if settings.task.endswith(".py"):
        return
    for name in (name for name in ranges.TASK if settings.task_options.get(name) is not None):
        checks.whole(f"task_options.{name}", settings.task_options[name], int(ranges.TASK[name].least))
        ranges.check(name, settings.task_options[name], ranges.TASK, {}, "task_options.")
    check_prompts(settings, settings.task_options.get("train_size"))


def check_prompts(settings: RunSettings, count: int | None) -> None:
    """ValueError where a task has fewer prompts than an optimizer step takes; count, None where it is not known."""
    if count is not None and count < settings.prompts:
        raise ValueError(
            f"prompts: got {settings.prompts} an optimizer step, but {settings.task} has {count} to train on; make "
            "prompts smaller, or task_options.train_size larger"
        )


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
    group, micro = (
        checks.whole(f"trainer.{name}", settings.argument(name), 1)
        for name in ("num_generations", "per_device_train_batch_size")
    )
    rows = settings.prompts * group
    if rows % (micro * processes):
        fits = _largest_divisor(rows // processes, micro) if rows % processes == 0 else None
        remedy = "change prompts" if fits is None else f"trainer.per_device_train_batch_size={fits} works"
        raise ValueError(
            f"trainer.per_device_train_batch_size: got {micro}, but {settings.prompts} prompts x {group} completions = "
            f"{rows} rows cannot be cut into micro-batches of {micro} on "
            f"{counted(processes, 'process', 'processes')}; {remedy}"
        )
    return rows // (micro * processes)


def _largest_divisor(number: int, most: int) -> int:
    """The largest divisor of a number that is at most `most`.

    >>> _largest_divisor(96, 20)
    16
    """
    below = (size for size in range(1, math.isqrt(number) + 1) if number % size == 0)
    return max(size for pair in ((size, number // size) for size in below) for size in pair if size <= most)


def layout_error(error: ValueError, micro_batches: int) -> ValueError:
    """The error, its advice replaced where it names gradient_accumulation_steps, which users cannot set here."""
    if DERIVED not in str(error):
        return error
    what = str(error).split(ADVICE)[0].replace(DERIVED, "micro-batches per optimizer step")
    return ValueError(
        f"{what.rstrip()} Leave out trainer.steps_per_generation and trainer.generation_batch_size, or change "
        f"prompts; {micro_batches} micro-batches make an optimizer step"
    )


def _check_target(settings: RunSettings, micro_batches: int, processes: int) -> None:
    """What TargetPOConfig refuses by itself; ValueError, TypeError as it raises."""
    for name, value in settings.given.items():
        check_option(name, value, settings.section_of(name))
    try:
        TargetSettings(**{name: settings.argument(name) for name in TARGET_FIELDS})
    except (TypeError, ValueError) as error:
        # The message begins with the name of the field.
        if str(error).startswith((f"{RULE}:", f"option of {RULE}")):
            raise
        raise type(error)(f"{settings.section_of(str(error).split(':')[0])}.{error}") from error
    try:
        batch_layout(
            settings.argument("num_generations"),
            settings.argument("per_device_train_batch_size"),
            micro_batches,
            processes=processes,
            steps_per_generation=settings.argument("steps_per_generation"),
            generation_batch_size=settings.argument("generation_batch_size"),
            num_iterations=settings.argument("num_iterations"),
        )
    except ValueError as error:
        raise layout_error(error, micro_batches) from error
