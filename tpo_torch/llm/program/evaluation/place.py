"""`tpo eval`: a run's newest weights, or any model on any task, as a table's worth of estimates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch

from tpo_ref.study.estimates import Estimate
from tpo_torch.llm import tasks
from tpo_torch.llm.program import chat, pretrained, quiet
from tpo_torch.llm.program.display import Display
from tpo_torch.llm.program.evaluation import evaluate
from tpo_torch.llm.program.evaluation.evaluate import Sampling
from tpo_torch.llm.program.evaluation.request import Request
from tpo_torch.llm.program.settings.sections import RunSettings


@dataclass(frozen=True)
class PlaceReport:
    """The estimates of one model on one task, by the names of the log, and how sampled answers were drawn."""

    model: str
    task: str
    sampling: Mapping[str, Any]
    estimates: Mapping[str, Estimate]


def evaluate_place(request: Request, display: Display) -> PlaceReport:
    """Evaluate what was asked for; display, of how far it is. Raises: Unavailable for weights that cannot be loaded."""
    settings = request.settings
    with quiet.quiet():
        display.say(f"loading {request.model}")
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        policy, tokenizer = pretrained.load(request.model, device, request.revision)
        if settings.task.endswith(".py"):
            display.say(f"running {settings.task}")
        loaded_task = tasks.load(settings.task, **settings.task_options)
        sampling = _sampling(settings)
        chat.check(tokenizer, loaded_task, sampling.chat_template_kwargs)
        display.say(f"evaluating on {loaded_task.name}")
        report = evaluate.evaluate(policy, tokenizer, loaded_task, settings.evaluation, sampling, display.part)
    return PlaceReport(request.model, loaded_task.name, sampling.distribution(), report.estimates())


def _sampling(settings: RunSettings) -> Sampling:
    """Return the sampling of the trainer's settings, and the defaults where they leave it open."""
    arguments = settings.given
    names = [field.name for field in fields(Sampling) if arguments.get(field.name) is not None]
    return Sampling(**{name: arguments[name] for name in names})
