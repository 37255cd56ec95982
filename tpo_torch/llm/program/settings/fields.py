"""Which fields of a configuration a run may set, and that each holds what its class takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tpo_torch.llm import ranges
from tpo_torch.llm.fields import SettingField, check_type, check_word, unknown_field
from tpo_torch.llm.options import REFUSED_OPTIONS
from tpo_torch.llm.program.settings import switches

# Sections that make the trainer's arguments.
TRAINERS = ("trainer", "tpo", "grpo")
GRPO_CLASS = "GRPOConfig"
# What follows from other settings and may not be said twice, what stays off, and what belongs in no file.
FIXED_FIELDS = {
    "output_dir": "it is OUT/llm/NAME-METHOD; choose --out and name",
    "seed": "it is the run's: seed=N",
    "gradient_accumulation_steps": "it follows from prompts, num_generations, per_device_train_batch_size, processes",
    switches.REMOTE: switches.KEYS[switches.REMOTE][1],
    "save_only_model": "it stays off: a run could not resume from such checkpoints",
    "hub_token": switches.SECRETS,
    "resume_from_checkpoint": "a run is gone on with by --resume",
}
SECRET = "hub_token"
Mappings = Mapping[str, Any]
RANGES = {
    **dict.fromkeys(TRAINERS, ranges.TRAINER),
    "lora": ranges.ADAPTER,
    "evaluation": ranges.EVALUATION,
    "tiny": ranges.TINY,
    "warmup": ranges.WARMUP,
}


def check_fields(section: str, values: Mappings, fields: Mapping[str, SettingField], maker: str) -> None:
    """Every name is that of a field, and its value of the field's type and in its range; ValueError, TypeError.

    Args: section of the settings; values given; fields of the class; maker, the name of the class, for the message.
    """
    for name, value in values.items():
        if section in TRAINERS:
            _check_fixed(section, name, value)
        elif section == "lora":
            switches.check(f"{section}.{name}", {name: value})
        if name not in fields:
            raise unknown_field(section, name, fields, maker)
        check_type(f"{section}.{name}", value, fields[name].type)
        # TPO refuses some of TRL's words by name, whatever they are.
        if maker == GRPO_CLASS or name not in REFUSED_OPTIONS:
            check_word(f"{section}.{name}", value, ranges.WORDS.get(name, fields[name].words))
        ranges.check(name, value, RANGES.get(section, {}), values, f"{section}.")


def _check_fixed(section: str, name: str, value: object) -> None:
    if name in FIXED_FIELDS and not (name == "save_only_model" and value is False):
        text = "a value" if name == SECRET else repr(value)
        raise ValueError(f"{section}.{name}: got {text}, but {FIXED_FIELDS[name]}")
    if switches.sends(name, value):
        raise ValueError(f"{section}.{name}: got {value!r}, but {switches.SENDS}")
    # A field that is a switch itself, and those inside of one.
    switches.check(f"{section}.{name}", {name: value} if name in switches.KEYS else value)
