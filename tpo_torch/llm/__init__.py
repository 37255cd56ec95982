"""Training language models: exact coefficients, a trainer on TRL, tasks, runs. Loaded on first use."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tpo_ref.study.errors import MissingExtra, Unavailable

if TYPE_CHECKING:
    from tpo_torch.llm.config import TargetPOConfig
    from tpo_torch.llm.groups import TargetSettings, group_coefficients
    from tpo_torch.llm.resume import ResumableGRPOTrainer
    from tpo_torch.llm.trainer import TargetPOTrainer

__all__ = ["ResumableGRPOTrainer", "TargetPOConfig", "TargetPOTrainer", "TargetSettings", "group_coefficients"]

# Where each public name lives: importing this package alone costs nothing and needs no extra.
HOMES = {
    "ResumableGRPOTrainer": "tpo_torch.llm.resume",
    "TargetPOConfig": "tpo_torch.llm.config",
    "TargetPOTrainer": "tpo_torch.llm.trainer",
    "TargetSettings": "tpo_torch.llm.target",
    "group_coefficients": "tpo_torch.llm.groups",
}
# The libraries of the install extra "llm": the name each is imported by, and the one it is installed by.
LIBRARIES = {
    "trl": "trl",
    "transformers": "transformers",
    "accelerate": "accelerate",
    "peft": "peft",
    "datasets": "datasets",
    "reasoning_gym": "reasoning-gym",
    "tokenizers": "tokenizers",
    "safetensors": "safetensors",
    "yaml": "pyyaml",
}


def check_installed() -> None:
    """MissingExtra naming the libraries that are not there, Unavailable where none can work; loads nothing."""
    if sys.flags.optimize > 1:
        raise Unavailable("python -OO: got code without docstrings, which transformers reads; use -O, or neither")
    try:
        Path.cwd()
    except FileNotFoundError as error:
        raise Unavailable("the current folder has been deleted; change to another (cd)") from error
    missing = [name for name in ("torch", *LIBRARIES) if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtra(f"language-model runs need {', '.join(missing)}; run: pip install '.[llm]'")


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(HOMES)}")
    try:
        return getattr(importlib.import_module(HOMES[name]), name)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in LIBRARIES:
            raise
        raise MissingExtra(f"{error.name} is not installed, and {name} needs it; pip install '.[llm]'") from error
