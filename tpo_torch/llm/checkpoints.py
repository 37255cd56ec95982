"""Which checkpoints are whole, and which a run can go on from: decided by files alone, before a model is touched."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from tpo_ref.study import files

FORMAT = 3
STATE_NAME = "trainer_state.json"
# What completions in flight, and the place in the data, are cut by.
LAYOUT = (
    "world_size",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "steps_per_generation",
    "num_generations",
    "num_iterations",
)


def file_name(rank: int | str) -> str:
    """The file of one process in a checkpoint."""
    return f"exact_state_{rank}.safetensors"


def latest(folder: Path) -> Path | None:
    """The newest whole checkpoint of a run; None where there is none.

    Args: folder, which holds checkpoint-N; those that a killed process left half written are passed over.
    """
    numbered = [(int(match[1]), path) for path in folder.glob("checkpoint-*") if (match := _step_match(path))]
    return next((path for _, path in sorted(numbered, reverse=True) if is_whole(path)), None)


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint has everything that `train(resume_from_checkpoint=…)` needs to go on exactly."""
    try:
        files.read_json(checkpoint / STATE_NAME)
        world = header(checkpoint / file_name(0))["layout"]["world_size"]
        return all(header(checkpoint / file_name(rank)) for rank in range(world))
    except (OSError, ValueError, KeyError, SafetensorError):
        return False


def layout(args: Any) -> dict[str, int]:
    """The batch layout of a trainer's arguments, by name."""
    return {name: int(getattr(args, name)) for name in LAYOUT}


def check(checkpoint: Path, expected: dict[str, int], method: str) -> None:
    """A warning where a checkpoint holds no exact state, as those of TRL's own trainers do.

    Raises: ValueError where it is not there, half written, of another batch layout or another method.
    """
    if not (checkpoint / STATE_NAME).exists():
        raise ValueError(
            f"{checkpoint}: not there or half written, it has no {STATE_NAME}; take an older one, or "
            "resume_from_checkpoint=True"
        )
    if not any(checkpoint.glob(file_name("*"))):
        warnings.warn(f"{checkpoint}: made without exact state; completions in flight are lost", stacklevel=4)
        return
    if not is_whole(checkpoint):
        raise ValueError(f"{checkpoint}: half written; take an older one, or resume_from_checkpoint=True")
    stored = header(checkpoint / file_name(0))
    if stored["method"] != method:
        raise ValueError(f"{checkpoint}: got a checkpoint of {stored['method']}, expected one of {method}")
    old = stored["layout"]
    if old != expected:
        changed = ", ".join(f"{name} {old.get(name)} -> {x}" for name, x in expected.items() if old.get(name) != x)
        raise ValueError(f"{checkpoint}: got another batch layout ({changed}), expected the one it was made with")


def header(path: Path) -> dict[str, Any]:
    """The plain values of one process's file; ValueError where it is of another format."""
    with safe_open(path, framework="pt", device="cpu") as file:
        state: dict[str, Any] = json.loads((file.metadata() or {})["state"])
    if state["format"] != FORMAT:
        raise ValueError(f"{path}: got format {state['format']}, expected {FORMAT}; start the run afresh")
    return state


def _step_match(path: Path) -> re.Match[str] | None:
    return re.fullmatch(r"checkpoint-(\d+)", path.name) if path.is_dir() else None
