"""A file for `trl grpo --config`, whose keys stand flat, as settings of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tpo_ref import checks
from tpo_ref.study.launcher import process_count
from tpo_torch.llm.conversion import DROPPED, WORDS, Change
from tpo_torch.llm.fields import FieldType, unknown_field
from tpo_torch.llm.layout import counted
from tpo_torch.llm.options import SCALE
from tpo_torch.llm.program.settings import switches, upstream
from tpo_torch.llm.program.settings.fields import FIXED_FIELDS, SECRET
from tpo_torch.llm.program.settings.upstream import GRPO_CONFIG

MODEL, DATASET, REWARDS, REWARD_MODEL = (
    "model_name_or_path",
    "dataset_name",
    "reward_funcs",
    "reward_model_name_or_path",
)
# Data sets of the hub that are tasks here.
TASKS = {"openai/gsm8k": "gsm8k", "gsm8k": "gsm8k"}
# What TRL's ModelConfig makes a LoRA adapter of, the names peft has for it, and TRL's defaults.
LORA = {"lora_r": "r", "lora_alpha": "lora_alpha", "lora_dropout": "lora_dropout"}
LORA |= {"lora_target_modules": "target_modules", "lora_target_parameters": "target_parameters"}
LORA |= {"lora_modules_to_save": "modules_to_save", "use_rslora": "use_rslora", "use_dora": "use_dora"}
LORA_DEFAULTS = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.05}
# What it passes to `from_pretrained`.
INIT = {"model_revision": "revision", "attn_implementation": "attn_implementation", "dtype": "dtype"}
QUANTIZED = ("load_in_8bit", "load_in_4bit")
# What has no counterpart here, its value where it asks for nothing, and where to say it instead.
EVALUATION = "the run evaluates by itself; see the section evaluation"
LAUNCH = "start several processes with accelerate launch … -m tpo_torch.llm.train"
BITS = "weights are not quantised"
LEFT_OUT: dict[str, tuple[object, str]] = {
    "output_dir": (None, FIXED_FIELDS["output_dir"]),
    switches.REMOTE: (False, FIXED_FIELDS[switches.REMOTE]),
    **{name: ((*nothing, None)[0], switches.SENDS) for name, nothing in switches.SENDING.items()},
    "save_only_model": (False, FIXED_FIELDS["save_only_model"]),
    SECRET: (None, FIXED_FIELDS[SECRET]),
    "resume_from_checkpoint": (None, "say --resume"),
    "env": (None, "a configuration sets no environment variables; set them where the command is started"),
    "num_processes": (None, LAUNCH),
    "accelerate_config": (None, LAUNCH),
    "lora_task_type": ("CAUSAL_LM", "language models are trained"),
    "ignore_bias_buffers": (False, "TRL reads it nowhere"),
    **dict.fromkeys(("bnb_4bit_quant_type", "bnb_4bit_quant_storage", "use_bnb_nested_quant"), (None, BITS)),
    **dict.fromkeys(("eval_strategy", "do_eval", "eval_on_start", "load_best_model_at_end"), (False, EVALUATION)),
    **dict.fromkeys(
        ("eval_steps", "eval_delay", "eval_accumulation_steps", "num_generations_eval"), (None, EVALUATION)
    ),
    **dict.fromkeys(("metric_for_best_model", "greater_is_better", "per_device_eval_batch_size"), (None, EVALUATION)),
}
SPLITS = ("dataset_config", "dataset_train_split", "dataset_test_split", "dataset_streaming")
DATA = (DATASET, *SPLITS, "datasets", "streaming", "test_split_size", REWARDS, REWARD_MODEL)
NAMES = {MODEL, "use_peft", *LORA, *INIT, *QUANTIZED, *LEFT_OUT, *DATA}
ACCUMULATION = "gradient_accumulation_steps"
REMEDY = "write task=… on the command line: gsm8k, graph_color, knights_knaves, gym:NAME, or PATH.py with your own"


def is_flat(content: Mapping[str, Any], ours: set[str]) -> bool:
    """Whether a configuration is in TRL's words.

    Args: content of the file; ours, the names of the settings of a run.
    """
    names = set(content) - ours
    return not {"model", "trainer"} & set(content) and bool(
        names & NAMES or names & set(upstream.fields_of(GRPO_CONFIG))
    )


def translated(
    content: Mapping[str, Any], ours: set[str], given: set[str]
) -> tuple[dict[str, Any], tuple[Change, ...]]:
    """The settings of a run that a file of TRL's asks for, all of its trainer's options in the section trainer.

    Args: content of the file; ours, the names of the settings of a run, which may stand beside TRL's; given, those that
        the command line gives, and the file need not.
    Returns: the content, and what became of the keys that have no place in it. Reward functions are code, and are never
        imported.
    Raises: ValueError for a key that is nobody's, a data set that is no task, reward functions without a task=…,
        quantised weights, and batches that hold no whole groups.
    """
    fields = upstream.fields_of(GRPO_CONFIG)
    for name in content:
        if name not in ours | NAMES | set(fields):
            raise unknown_field("options of TRL's GRPO", name, sorted(NAMES | set(fields)), GRPO_CONFIG.name)
    options = {k: _number(v, fields[k].type) if k in fields else v for k, v in content.items()}
    if isinstance(options.get(SCALE), bool):
        options[SCALE] = WORDS[options[SCALE]]
    for name in QUANTIZED:
        if options.get(name):
            raise ValueError(f"{name}: got {options[name]!r}, but {BITS} here; take the line out")
    settings: dict[str, Any] = {name: value for name, value in options.items() if name in ours}
    changes = _data(options, settings, given)
    if MODEL in options:
        settings["model"] = options[MODEL]
    trainer = {k: v for k, v in options.items() if k in fields and k not in {*LEFT_OUT, *ours}}
    _initial(options, trainer)
    if options.get("use_peft"):
        named = {own: options[name] for name, own in LORA.items() if options.get(name) is not None}
        settings["lora"] = {**LORA_DEFAULTS, **named}
    accumulation = trainer.pop(ACCUMULATION, 1)
    if not {"prompts"} & (given | set(content)):
        settings["prompts"] = _prompts(trainer, accumulation)
    settings["trainer"] = trainer
    if options.get("eval_strategy") == "steps" and isinstance(options.get("eval_steps"), int):
        every = options["eval_steps"]
        settings["evaluation"] = {"every": every, **dict(settings.get("evaluation") or {})}
        changes.append(Change("eval_steps", every, f"evaluation.every={every}", EVALUATION))
        options = {k: v for k, v in options.items() if k not in ("eval_steps", "eval_strategy")}
    return settings, (*changes, *_left_out(options))


def _data(options: Mapping[str, Any], settings: dict[str, Any], given: set[str]) -> list[Change]:
    """Set the task; what the file says of data and rewards is left out, where a task takes its place."""
    named = options.get(REWARDS) or []
    rewards = [named] if isinstance(named, str) else list(named)
    if "task" not in settings and "task" not in given:
        code = next((name for name in rewards if "." in str(name)), None)
        if code is not None:
            raise ValueError(f"{REWARDS}: got {code!r}, which is code and is not run from a configuration; {REMEDY}")
        if options.get(REWARD_MODEL):
            raise ValueError(f"{REWARD_MODEL}: got {options[REWARD_MODEL]!r}, but rewards are a task's; {REMEDY}")
        task = TASKS.get(str(options.get(DATASET)))
        if task is None:
            name, value = (DATASET, options[DATASET]) if options.get(DATASET) else ("datasets", options.get("datasets"))
            raise ValueError(f"{name}: got {value!r}, which is no task here; {REMEDY}")
        settings["task"] = task
    reason = f"prompts and rewards are those of the task{' ' if 'task' in settings else ''}{settings.get('task', '')}"
    return [Change(name, options[name], DROPPED, reason) for name in DATA if options.get(name) not in (None, False, [])]


def _initial(options: Mapping[str, Any], trainer: dict[str, Any]) -> None:
    """Put what TRL's ModelConfig says of the weights beside `model_init_kwargs`, which come first, as with TRL."""
    named = {own: options[name] for name, own in INIT.items() if options.get(name) is not None}
    if named:
        given: Any = switches.parsed("model_init_kwargs", trainer.get("model_init_kwargs")) or {}
        trainer["model_init_kwargs"] = {**named, **dict(given)}


def _prompts(trainer: Mapping[str, Any], accumulation: Any) -> int:
    """Prompts of an optimizer step over all processes: TRL says it in completions of one process."""
    names = ("per_device_train_batch_size", "num_generations")
    defaults = {name: upstream.default_of(GRPO_CONFIG, name) for name in names}
    micro, group = (checks.whole(name, {**defaults, **trainer}[name], 1) for name in names)
    processes = process_count()
    rows = micro * checks.whole(ACCUMULATION, accumulation, 1) * processes
    if rows % group:
        raise ValueError(
            f"{ACCUMULATION}: {micro} rows x {accumulation} x {counted(processes, 'process', 'processes')} = "
            f"{rows} completions an optimizer step, no whole groups of num_generations = {group}; write prompts=N on "
            "the command line, the groups of a step"
        )
    return rows // group


def _left_out(options: Mapping[str, Any]) -> list[Change]:
    changes = []
    for name, (nothing, reason) in LEFT_OUT.items():
        value = options.get(name)
        if value in (None, nothing, "no", {}):
            continue
        shown = {SECRET: "…", "env": sorted(value) if isinstance(value, Mapping) else "…"}.get(name, value)
        changes.append(Change(name, shown, DROPPED, reason))
    if not options.get("use_peft"):
        reason = "without use_peft all weights are trained"
        changes += [Change(name, options[name], DROPPED, reason) for name in LORA if options.get(name)]
    return changes


def _number(value: object, expected: FieldType) -> object:
    """A number that was written in quotes, as TRL's parser reads it; everything else as it is."""
    if isinstance(value, str) and str not in expected.simple and not expected.more:
        for kind in (int, float):
            if kind in expected.simple:
                try:
                    return kind(value)
                except ValueError:
                    continue
    return value
