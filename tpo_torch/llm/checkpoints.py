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
# What a run goes on from, and the files that hold it; DeepSpeed keeps the first two in a folder of its own.
EXACT = "exact state"
PARTS = {
    "optimizer state": ("optimizer*", "*-optimizer.pt", "global_step*"),
    "schedule": ("scheduler.pt", "global_step*"),
    "random state": ("rng_state*",),
    EXACT: ("exact_state_*",),
}
ADAPTER = "adapter_config.json"
PROCESSES = "world_size"
# What completions in flight, and the place in the data, are cut by.
LAYOUT = (
    PROCESSES,
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


def check(checkpoint: Path, expected: dict[str, int], method: str, exact_only: bool) -> None:
    """See that a run can go on from a checkpoint; a warning where TRL's own trainer made it, for the same method.

    Args: expected, the layout of the run; method, its name; exact_only, whether only this library trains by it.
    Raises: ValueError where it is not there, half written, holds weights alone, or is of another batch layout or
        another method; the message says how to go on.
    """
    if not (checkpoint / STATE_NAME).exists():
        raise ValueError(
            f"{checkpoint}: not there or half written, it has no {STATE_NAME}; take an older one, or "
            "resume_from_checkpoint=True"
        )
    missing = [name for name, patterns in PARTS.items() if not any(any(checkpoint.glob(x)) for x in patterns)]
    if "optimizer state" in missing:
        raise ValueError(
            f"{checkpoint}: got weights without {', '.join(missing)}, as save_only_model=True leaves them: no run can "
            f"go on from there. {from_weights(checkpoint)}"
        )
    if EXACT in missing and exact_only:
        raise ValueError(
            f"{checkpoint}: got a checkpoint without {EXACT}, so of another trainer than {method}: its optimizer state "
            f"and its place in the data belong to another run. {from_weights(checkpoint)}"
        )
    if EXACT in missing:
        warnings.warn(f"{checkpoint}: made without {EXACT}; completions in flight are lost", stacklevel=4)
        return
    if not is_whole(checkpoint):
        raise ValueError(f"{checkpoint}: half written; take an older one, or resume_from_checkpoint=True")
    stored = header(checkpoint / file_name(0))
    if stored["method"] != method:
        other = f"got a checkpoint of {stored['method']}, expected one of {method}."
        raise ValueError(f"{checkpoint}: {other} {from_weights(checkpoint)}")
    if stored["layout"] != expected:
        raise ValueError(f"{checkpoint}: {_other_layout(stored['layout'], expected)} {from_weights(checkpoint)}")


def from_weights(checkpoint: Path) -> str:
    """How to begin a new run with the weights of a checkpoint, in a sentence."""
    if (checkpoint / ADAPTER).exists():
        loaded = f"peft.AutoPeftModelForCausalLM.from_pretrained({str(checkpoint)!r}, is_trainable=True)"
        return f"To start a new run from its adapter, pass model={loaded}, and no peft_config"
    return f"To start a new run from its weights, pass model={str(checkpoint)!r}, and no resume_from_checkpoint"


def _other_layout(old: dict[str, Any], new: dict[str, int]) -> str:
    """What differs, and what to set in order to go on."""
    changed = [name for name, x in new.items() if old.get(name) != x]
    said = ", ".join(f"{name} {old.get(name)} -> {new[name]}" for name in changed)
    options = ", ".join(f"{name}={old.get(name)}" for name in changed if name != PROCESSES)
    remedies = [f"set {options}"] if options else []
    if PROCESSES in changed:
        remedies.append(f"start as many processes as then (accelerate launch --num_processes {old.get(PROCESSES)})")
    return (
        f"got another batch layout ({said}), expected the one it was made with, by which the completions in flight are "
        f"cut. To go on, {' and '.join(remedies)}."
    )


def header(path: Path) -> dict[str, Any]:
    """The plain values of one process's file; ValueError where it is of another format."""
    with safe_open(path, framework="pt", device="cpu") as file:
        state: dict[str, Any] = json.loads((file.metadata() or {})["state"])
    if state["format"] != FORMAT:
        raise ValueError(f"{path}: got format {state['format']}, expected {FORMAT}; start the run afresh")
    return state


def _step_match(path: Path) -> re.Match[str] | None:
    return re.fullmatch(r"checkpoint-(\d+)", path.name) if path.is_dir() else None
