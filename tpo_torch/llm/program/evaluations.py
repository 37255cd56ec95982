"""`tpo eval`: a run's newest weights, or any model on any task, as a table's worth of estimates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tpo_ref.study.errors import Unavailable
from tpo_ref.study.estimates import Estimate
from tpo_torch.llm import resume, tasks
from tpo_torch.llm.program import evaluate, pretrained, quiet
from tpo_torch.llm.program.evaluate import Sampling
from tpo_torch.llm.program.reading import changed
from tpo_torch.llm.program.record import Folder
from tpo_torch.llm.program.settings import RunSettings


def evaluate_place(place: str, task: str | None = None, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Evaluate the folder of a run, the folder of a model, or a hub name; JSON values.

    Args: place; task, the run's own when None, and needed for a model; overrides, "key=value" of the run's settings:
        evaluation, task_options, and of trainer what says how answers are generated.
    Raises: ValueError for a model without a task, or unknown settings; Unavailable for weights that are not there.
    """
    with quiet.quiet():
        folder = Folder(Path(place))
        run = folder.record.exists()
        if not run and task is None:
            raise ValueError(
                f"eval: {place} is no folder of a run (it has no {folder.record.name}), and for a model --task is "
                f"needed: one of {', '.join(tasks.NAMES)}"
            )
        content = folder.read()["settings"] if run else {"name": "eval", "model": place, "task": task}
        if task is not None and task != content["task"]:
            content = {**content, "task": task, "task_options": {}}
        settings = changed(content, overrides)
        model = _newest(folder) if run else place
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        loaded, tokenizer = pretrained.load(model, device)
        on = tasks.load(settings.task, **settings.task_options)
        report = evaluate.evaluate(loaded, tokenizer, on, settings.evaluation, _sampling(settings))
    return {
        "model": model,
        "task": on.name,
        "estimates": {name: _plain(e) for name, e in report.estimates().items()},
    }


def _newest(folder: Folder) -> str:
    """The final model of a run, or its newest checkpoint."""
    if folder.model.is_dir():
        return str(folder.model)
    checkpoint = resume.latest(folder.checkpoints)
    if checkpoint is None:
        raise Unavailable(f"{folder.path}: has no model and no checkpoint yet; `tpo train` with --resume goes on")
    return str(checkpoint)


def _sampling(settings: RunSettings) -> Sampling:
    """As the trainer would generate, where its settings say so."""
    given = settings.given
    return Sampling(**{name: given[name] for name in Sampling.__dataclass_fields__ if given.get(name) is not None})


def _plain(e: Estimate) -> dict[str, Any]:
    return {"value": _finite(e.value), "error": _finite(e.error), "n": e.n}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
