"""Trackers of experiments (`report_to`): each writes into the run's folder, and sends nothing unless told to."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from tpo_ref.study.errors import Unavailable
from tpo_torch.llm.fields import check_word
from tpo_torch.llm.program.settings.sections import RunSettings
from tpo_torch.llm.source import UnexpectedSource, folder_of, text_of, tree_of

PROJECT = "tpo"
# Transformers' table of trackers.
TABLE = "INTEGRATION_TO_CALLBACK"
# Those that work here, which are also the names of their modules.
TRACKERS = ("tensorboard", "trackio", "wandb")


def chosen(settings: RunSettings) -> list[str]:
    """The trackers that a run reports to; none where it does not say."""
    given = settings.given.get("report_to") or []
    names = [given] if isinstance(given, str) else [str(name) for name in given]
    return [name for name in names if name != "none"]


def check(settings: RunSettings) -> None:
    """ValueError for a tracker that nobody knows, Unavailable for one that is not installed; nothing is loaded."""
    for name in chosen(settings):
        check_word("trainer.report_to", name, known())
        if name in TRACKERS and importlib.util.find_spec(name) is None:
            raise Unavailable(f"trainer.report_to: got {name}, which is not installed; run `pip install {name}`")


@lru_cache
def known() -> tuple[str, ...]:
    """The words that `report_to` takes: those of transformers, read from its source; empty where it is another."""
    try:
        path = folder_of("transformers") / "integrations" / "integration_utils.py"
        tree = tree_of(path, text_of(path))
    except UnexpectedSource:
        return ()
    assigned = [node for node in tree.body if isinstance(node, ast.Assign)]
    tables = [node.value for node in assigned if ast.unparse(node.targets[0]) == TABLE]
    keys = [key for table in tables if isinstance(table, ast.Dict) for key in table.keys if key is not None]
    return tuple(str(ast.literal_eval(key)) for key in keys) + (("all", "none") if keys else ())


@contextlib.contextmanager
def local(settings: RunSettings, folder: Path) -> Iterator[None]:
    """While inside, the trackers of a run write into its folder; what the user's own environment says goes first.

    They read these variables when they are imported, as TRL does: this stands before the import of TRL.
    """
    chosen_ones = chosen(settings)
    variables = {
        name: value
        for tracker, its_own in _variables(folder.resolve()).items()
        for name, value in its_own.items()
        if ("all" in chosen_ones or tracker in chosen_ones) and name not in os.environ
    }
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            os.environ.pop(name, None)


def _variables(folder: Path) -> dict[str, dict[str, str]]:
    wandb = folder / "wandb"
    return {
        "tensorboard": {"TENSORBOARD_LOGGING_DIR": str(folder / "tensorboard")},
        "trackio": {"TRACKIO_DIR": str(folder / "trackio")},
        "wandb": {
            # wandb adds a folder "wandb" of its own.
            "WANDB_DIR": str(folder),
            "WANDB_CACHE_DIR": str(wandb / "cache"),
            "WANDB_CONFIG_DIR": str(wandb / "config"),
            "WANDB_DATA_DIR": str(wandb / "data"),
            "WANDB_MODE": "offline",
            "WANDB_PROJECT": PROJECT,
            "WANDB_SILENT": "true",
            "WANDB_ERROR_REPORTING": "false",
        },
    }
