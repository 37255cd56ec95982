"""What an evaluation is asked for: refused, where it cannot be, before torch and transformers are loaded."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from tpo_ref.study import files
from tpo_ref.study.errors import Unavailable
from tpo_torch.llm import checkpoints, manifest, tasks
from tpo_torch.llm.program import pretrained
from tpo_torch.llm.program.plan import check_trust
from tpo_torch.llm.program.record import Folder
from tpo_torch.llm.program.settings.reading import changed
from tpo_torch.llm.program.settings.sections import RunSettings


@dataclass(frozen=True)
class Request:
    """An evaluation that can be made.

    Args: model, a folder or a hub name; revision of the hub name; settings.
    """

    model: str
    revision: str | None
    settings: RunSettings


def requested(place: str, task: str | None, overrides: Sequence[str], trust_code: bool = False) -> Request:
    """The evaluation of the folder of a run, the folder of a model, or a hub name.

    Args: place; task, the run's own when None, and needed for a model; overrides, "key=value" of the run's settings:
        evaluation, task_options, and of trainer what says how answers are generated; trust_code, whether the Python
        file of a task may be run that only the run's record names.
    Raises: ValueError for a model without a task, or unknown settings; Unavailable for weights that are not there.
    """
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
    if run:
        return Request(_newest(folder), None, settings)
    return Request(pretrained.locate(place, settings.model_revision), settings.model_revision, settings)


def _newest(folder: Folder) -> str:
    """Return the final model of a run, or its newest checkpoint."""
    if folder.model.is_dir():
        what = manifest.fault(folder.model)
        if what is not None:
            raise Unavailable(f"{folder.model}: {what}; `tpo train` with --fresh makes the run again")
        return str(folder.model)
    checkpoint = checkpoints.latest(folder.checkpoints)
    if checkpoint is None:
        raise Unavailable(f"{folder.path}: has no model and no checkpoint yet; `tpo train` with --resume goes on")
    return str(checkpoint)
