"""Fields of TRL's and peft's configurations: which exist, of which type they are, and which a run may not set."""

from __future__ import annotations

import dataclasses
import difflib
import json
import types
import typing
from collections.abc import Mapping
from typing import Any

# Sections that make the trainer's arguments.
TRAINERS = ("trainer", "tpo", "grpo")
# A misspelt field is answered with so many names at most, each so similar: TRL knows well over a hundred.
CLOSEST, CLOSE = 3, 0.5
LISTED = 20
REMOTE = "trust_remote_code"
# What follows from other settings and may not be said twice, what stays off, and what belongs in no file.
REFUSED = {
    "output_dir": "it is OUT/llm/NAME-METHOD; choose --out and name",
    "seed": "it is the run's: seed=N",
    "gradient_accumulation_steps": "it follows from prompts, num_generations, per_device_train_batch_size, processes",
    REMOTE: "it stays off: a model is weights and configuration, not a program",
    "save_only_model": "it stays off: a run could not resume from such checkpoints",
    "hub_token": "the run's record is no place for a secret; use the HF_TOKEN environment variable",
}
SECRET = "hub_token"
# Fields whose values are checked: those that hold nothing else than these.
SIMPLE = (bool, int, float, str, type(None))
Mappings = Mapping[str, Any]


def check_fields(section: str, given: Mappings, maker: Any) -> None:
    """Every name is a field that the class takes, and its value of the field's type; ValueError, TypeError."""
    known = {f.name: f for f in dataclasses.fields(maker) if f.init}
    hints = typing.get_type_hints(maker)
    for name, value in given.items():
        if section in TRAINERS:
            _check_refused(section, name, value)
        if name not in known:
            close = difflib.get_close_matches(name, known, n=CLOSEST, cutoff=CLOSE)
            # TRL and peft have too many fields to list.
            fields = f"see the fields of {maker.__name__}" if len(known) > LISTED else f"expected {', '.join(known)}"
            meant = f"did you mean {' or '.join(map(repr, close))}?" if close else fields
            raise ValueError(f"{section}: got {name!r}, {meant}")
        _check_type(f"{section}.{name}", value, hints[name])


def _check_refused(section: str, name: str, value: Any) -> None:
    if name in REFUSED and not (name == "save_only_model" and value is False):
        got = "a value" if name == SECRET else repr(value)
        raise ValueError(f"{section}.{name}: got {got}, but {REFUSED[name]}")
    # Also inside model_init_kwargs, which may be JSON text.
    if isinstance(value, (Mapping, str)) and REMOTE in json.dumps(value, default=str):
        raise ValueError(f"{section}.{name}: got {REMOTE}, but {REFUSED[REMOTE]}")


def _check_type(name: str, value: Any, hint: Any) -> None:
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    taken = typing.get_args(hint) if union else (hint,)
    if isinstance(value, bool) and str in taken and not any(_takes_bool(kind) for kind in taken):
        raise TypeError(f"{name}: got {value!r}, expected a word{quoted(value)}")
    if any(kind not in SIMPLE for kind in taken):
        return
    # A whole number is a fine float; True is no number here.
    fine = type(value) in taken or (type(value) is int and float in taken)
    if not fine:
        wanted = " or ".join(_article(kind.__name__) for kind in taken if kind is not type(None))
        raise TypeError(f"{name}: got {value!r}, expected {wanted}{' or null' if type(None) in taken else ''}")


def _takes_bool(kind: Any) -> bool:
    return kind is bool or any(isinstance(value, bool) for value in typing.get_args(kind))


def _article(word: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def quoted(value: Any) -> str:
    """The remedy for a word that YAML reads as a truth value; empty for everything else."""
    if not isinstance(value, bool):
        return ""
    return f"; YAML reads yes and no as true and false; quote it: {'yes' if value else 'no'!r}"
