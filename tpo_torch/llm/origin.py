"""The code and the libraries that the numbers of a run come from, as a checkpoint keeps them."""

from __future__ import annotations

from functools import cache

from tpo_ref.study.sources import Code, code

MODULES = (
    "tpo_torch.llm.trainer",
    "tpo_torch.llm.resume",
    "tpo_torch.llm.tasks",
    "tpo_torch.llm.program.evaluation.evaluate",
)
# What reads, refuses, announces or stores, and changes no number.
WITHOUT = (
    *("tpo_ref", "tpo_torch.checks", "tpo_torch.shared", "tpo_torch.llm.program.settings", "tpo_torch.llm.source"),
    *(
        f"tpo_torch.llm.{name}"
        for name in ("checkpoints", "conversion", "culprit", "fields", "manifest", "noise", "origin", "ranges", "watch")
    ),
)
LIBRARIES = (
    *("torch", "numpy", "transformers", "trl", "accelerate", "peft"),
    *("tokenizers", "safetensors", "datasets", "reasoning-gym", "vllm"),
)


@cache
def here() -> Code:
    """The code and library versions of this process."""
    return code(MODULES, LIBRARIES, without=WITHOUT)
