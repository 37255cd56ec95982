"""The one builder of trainers, for benchmarks and tests: a class of trainer, its options, and what it trains on."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from typing import Any

from transformers import PrinterCallback
from trl import GRPOConfig, GRPOTrainer

from tpo_torch.llm import TargetPOConfig, TargetPOTrainer

# Class of trainer and the options that make it the method.
METHODS: dict[str, tuple[type[GRPOTrainer], dict[str, Any]]] = {
    "grpo": (GRPOTrainer, {}),
    "tpo": (TargetPOTrainer, {"anchor": "policy"}),
    "ratio": (TargetPOTrainer, {"anchor": "ratio"}),
}
# A short run that writes nothing and reports to nobody.
SHORT: dict[str, Any] = {
    "output_dir": tempfile.gettempdir(),
    "bf16": False,
    "gradient_checkpointing": False,
    "report_to": "none",
    "lr_scheduler_type": "constant",
    "save_strategy": "no",
    "disable_tqdm": True,
}


def build(
    kind: type[GRPOTrainer],
    model: Any,
    rewards: Any,
    options: Mapping[str, Any],
    prompts: Any,
    tokenizer: Any,
    **others: Any,
) -> Any:
    """A trainer that prints nothing.

    Args: kind, a class of TRL's or ours; options, of the configuration that belongs to it, over those of `SHORT`;
        prompts, its training set; others, arguments of the class, such as `peft_config`.
    """
    config = TargetPOConfig if issubclass(kind, TargetPOTrainer) else GRPOConfig
    trainer = kind(
        model,
        rewards,
        config(**{**SHORT, **options}),
        train_dataset=prompts,
        processing_class=tokenizer,
        **others,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer
