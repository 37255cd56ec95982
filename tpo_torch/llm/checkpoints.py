"""Which checkpoints are whole, and which a run can go on from: decided by files alone, before a model is touched."""

from __future__ import annotations

import json
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from tpo_ref.study import reading
from tpo_ref.study.sources import Code
from tpo_torch.llm import manifest, origin

FORMAT = 4
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


@dataclass(frozen=True)
class Newest:
    """The newest whole checkpoint of a run, and those after it that are not.

    Args: path, None where there is none; passed_over, what each of the others lacks, as sentences.
    """

    path: Path | None
    passed_over: tuple[str, ...]


def newest(folder: Path) -> Newest:
    """The newest whole checkpoint of a run, every file read and compared; folder, which holds checkpoint-N."""
    numbered = [(int(match[1]), path) for path in folder.glob("checkpoint-*") if (match := _step_match(path))]
    passed_over: list[str] = []
    for _, path in sorted(numbered, reverse=True):
        what = fault(path)
        if what is None:
            return Newest(path, tuple(passed_over))
        passed_over.append(f"{path}: passed over, {what}")
    return Newest(None, tuple(passed_over))


def latest(folder: Path) -> Path | None:
    """The path of the `newest` whole checkpoint of a run; None where there is none."""
    return newest(folder).path


def fault(checkpoint: Path) -> str | None:
    """What a checkpoint lacks to go on from exactly, in a few words; None where it is whole."""
    altered = manifest.fault(checkpoint)
    if altered is not None:
        return altered
    try:
        world = header(checkpoint / file_name(0))["layout"][PROCESSES]
        lacking = [name for name in (STATE_NAME, *map(file_name, range(world))) if not (checkpoint / name).exists()]
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        return f"its {file_name(0)} cannot be read ({error})"
    return f"it lacks {', '.join(lacking)}" if lacking else None


def other_code(checkpoint: Path) -> list[str]:
    """How the code and libraries that made a checkpoint differ from those here, in words; empty where they do not."""
    path = checkpoint / file_name(0)
    if not path.exists():
        # TRL's own trainer made it.
        return []
    return origin.here().differences(reading.build(Code, header(path)["code"], str(path)))


def run(checkpoint: Path) -> str | None:
    """What the program that made a checkpoint calls its run; None where it said nothing."""
    path = checkpoint / file_name(0)
    name: str | None = header(path)["run"] if path.exists() else None
    return name


def seconds(checkpoint: Path) -> float:
    """How long a run had trained when it made a checkpoint, over all its parts."""
    path = checkpoint / file_name(0)
    return float(header(path)["seconds"]) if path.exists() else 0.0


def layout(args: Any) -> dict[str, int]:
    """The batch layout of a trainer's arguments, by name."""
    return {name: int(getattr(args, name)) for name in LAYOUT}


def check(checkpoint: Path, expected: dict[str, int], method: str, exact_only: bool) -> None:
    """See that a run can go on from a checkpoint; a warning where TRL's own trainer made it, for the same method.

    Args: expected, the layout of the run; method, its name; exact_only, whether only this library trains by it.
    Raises: ValueError where it is not there, half written, holds weights alone, or is of another batch layout or
        another method; the message says how to go on.
    """
    what = manifest.fault(checkpoint) if (checkpoint / manifest.NAME).exists() else None
    if what is None and not (checkpoint / STATE_NAME).exists():
        what = f"not there or half written, it has no {STATE_NAME}"
    if what is not None:
        raise ValueError(f"{checkpoint}: {what}; {_older(checkpoint)}")
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
    what = fault(checkpoint)
    if what is not None:
        raise ValueError(f"{checkpoint}: {what}; {_older(checkpoint)}")
    stored = header(checkpoint / file_name(0))
    if stored["method"] != method:
        other = f"got a checkpoint of {stored['method']}, expected one of {method}."
        raise ValueError(f"{checkpoint}: {other} {from_weights(checkpoint)}")
    if stored["layout"] != expected:
        raise ValueError(f"{checkpoint}: {_other_layout(stored['layout'], expected)} {from_weights(checkpoint)}")


def _older(checkpoint: Path) -> str:
    """What to resume from instead of a checkpoint, in a sentence."""
    found = latest(checkpoint.parent)
    other = "no other in that folder is; start without it" if found is None else f"{found} is"
    return f"expected a whole checkpoint: {other}"


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
