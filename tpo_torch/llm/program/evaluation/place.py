"""`tpo eval`: a run's newest weights, or any model on any task, as a table's worth of estimates."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch

from tpo_ref.study import files
from tpo_ref.study.errors import Unavailable
from tpo_ref.study.estimates import Estimate
from tpo_torch.llm import manifest, resume, tasks
from tpo_torch.llm.program import chat, pretrained, quiet
from tpo_torch.llm.program.display import Display
from tpo_torch.llm.program.evaluation import evaluate
from tpo_torch.llm.program.evaluation.evaluate import Sampling
from tpo_torch.llm.program.plan import check_trust
from tpo_torch.llm.program.record import Folder
from tpo_torch.llm.program.settings.reading import changed
from tpo_torch.llm.program.settings.sections import RunSettings


@dataclass(frozen=True)
class PlaceReport:
    """The estimates of one model on one task, by the names of the log, and how sampled answers were drawn."""

    model: str
    task: str
    sampling: Mapping[str, Any]
    estimates: Mapping[str, Estimate]


def evaluate_place(
    place: str, task: str | None, overrides: Sequence[str], display: Display, trust_code: bool = False
) -> PlaceReport:
    """Evaluate the folder of a run, the folder of a model, or a hub name.

    Args: place; task, the run's own when None, and needed for a model; overrides, "key=value" of the run's settings:
        evaluation, task_options, and of trainer what says how answers are generated; display, of how far it is;
        trust_code, whether the Python file of a task may be run that only the run's record names.
    Raises: ValueError for a model without a task, or unknown settings; Unavailable for weights that are not there.
    """
    with quiet.quiet():
        folder = Folder(files.at_home(place))
        run = folder.record.exists()
        if not run and task is None:
            raise ValueError(
                f"eval: {place} is no folder of a run (it has no {folder.record.name}), and for a model --task is "
                f"needed: one of {', '.join(tasks.NAMES)}"
            )
        content = folder.read()["settings"] if run else {"name": "eval", "model": place, "task": task}
        if task is not None and task != content["task"]:
            content = {**content, "task": task, "task_options": {}}
        settings = changed(content, overrides, trust_code or task is not None or not run)
        settings = dataclasses.replace(settings, source=str(folder.record)).resolved()
        tasks.check(settings.task, **settings.task_options)
        check_trust(settings)
        model = _newest(folder) if run else place
        display.say(f"loading {model}")
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        policy, tokenizer = pretrained.load(model, device, None if run else settings.model_revision)
        if settings.task.endswith(".py"):
            display.say(f"running {settings.task}")
        loaded_task = tasks.load(settings.task, **settings.task_options)
        sampling = _sampling(settings)
        chat.check(tokenizer, loaded_task, sampling.chat_template_kwargs)
        display.say(f"evaluating on {loaded_task.name}")
        report = evaluate.evaluate(policy, tokenizer, loaded_task, settings.evaluation, sampling, display.part)
    return PlaceReport(model, loaded_task.name, sampling.distribution(), report.estimates())


def _newest(folder: Folder) -> str:
    """Return the final model of a run, or its newest checkpoint."""
    if folder.model.is_dir():
        what = manifest.fault(folder.model)
        if what is not None:
            raise Unavailable(f"{folder.model}: {what}; `tpo train` with --fresh makes the run again")
        return str(folder.model)
    checkpoint = resume.latest(folder.checkpoints)
    if checkpoint is None:
        raise Unavailable(f"{folder.path}: has no model and no checkpoint yet; `tpo train` with --resume goes on")
    return str(checkpoint)


def _sampling(settings: RunSettings) -> Sampling:
    """Return the sampling of the trainer's settings, and the defaults where they leave it open."""
    arguments = settings.given
    names = [field.name for field in fields(Sampling) if arguments.get(field.name) is not None]
    return Sampling(**{name: arguments[name] for name in names})
