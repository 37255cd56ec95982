"""`tpo train --dry-run`: what a run would do, told from its settings, its task and the shape of its model."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator
from typing import Any

import torch
import transformers

from tpo_torch.llm.dropout import refuse_dropout
from tpo_torch.llm.layout import BatchLayout, counted
from tpo_torch.llm.options import batch_layout
from tpo_torch.llm.program import chat, memory, pretrained, quiet, run, tiny
from tpo_torch.llm.program.differences import changed, unchanged
from tpo_torch.llm.program.display import Display
from tpo_torch.llm.program.plan import Plan
from tpo_torch.llm.program.settings.sections import RunSettings
from tpo_torch.llm.program.settings.switching import GRPO
from tpo_torch.llm.rule_groups import rule_of
from tpo_torch.llm.step_plan import Need, need, reads_of
from tpo_torch.llm.tasks import Task

# Prompts that are shown, and prompts whose length is measured.
SHOWN, MEASURED = 2, 1000
WIDTH = 110
GIGABYTE, MEGABYTE = 1e9, 1e6


def show(plan: Plan, display: Display) -> None:
    """Show the settings, the batch, the memory and the first prompts of a run; refuses what the run would refuse.

    Raises: as `run.train`, as far as no weights are needed.
    """
    with quiet.quiet():
        arguments, task = run.ingredients(plan)
        tokenizer, model = _model(plan, arguments, task)
        chat.check(tokenizer, task, arguments.chat_template_kwargs)
        layout = _layout(arguments)
        if plan.settings.method != GRPO and not arguments.disable_dropout:
            refuse_dropout(model)
        sections = (
            _settings(plan),
            _batch(plan.settings, arguments, layout),
            _memory(model, arguments, layout, task, tokenizer),
            _prompts(task, tokenizer, arguments),
        )
        for lines in sections:
            for line in lines:
                display.say(line)
            display.say("")
        display.say("dry run: nothing was trained, nothing was written")


def extra_passes(settings: RunSettings, arguments: Any, layout: BatchLayout) -> list[str]:
    """The forward passes without gradient that a run makes beside those of training, in words (spec/llm.md)."""
    found = []
    outlives = layout.accumulation % (layout.slices * layout.num_iterations) != 0
    if outlives:
        found.append("one over each round for the policy that generated it, as GRPO makes too")
    if arguments.beta:
        found.append("one over each round for the reference model")
    if settings.method == GRPO:
        return found
    if outlives and arguments.shuffle_rows:
        found.append("one more over each round, since its rows are shuffled")
    reads, whole_batch = reads_of(arguments.target, rule_of(arguments.target))

    def waits(moved: bool) -> Need:
        return need(reads, whole_batch, layout.whole, arguments.shuffle_rows, moved, old_known=outlives)

    if waits(moved=False) is Need.OWN_PASS:
        found.append(f"one over each optimizer step, since {_why(whole_batch)}")
    if outlives and waits(moved=True) is Need.OWN_PASS:
        found.append(f"one over each optimizer step after the first of its round, since {_why(whole_batch)}")
    return found


def _why(whole_batch: bool) -> str:
    return "its rule looks at the whole batch" if whole_batch else "groups lie over several micro-batches"


def _settings(plan: Plan) -> Iterator[str]:
    settings = plan.settings
    yield f"settings of {settings.folder} that differ from the defaults:"
    own = run.own_defaults(settings)
    yield from (f"  {line}" for line in changed(settings, own))
    yield "all others, at their defaults:"
    yield from _wrapped(", ".join(unchanged(settings, own)))
    if plan.checkpoint is not None:
        yield f"goes on from {plan.checkpoint}"


def _batch(settings: RunSettings, arguments: Any, layout: BatchLayout) -> Iterator[str]:
    passes = f"{arguments.num_train_epochs:g} passes over the prompts"
    steps = f"{arguments.max_steps} steps" if arguments.max_steps > 0 else passes
    yield f"batch: {run.layout(settings, arguments)} per optimizer step, {steps}"
    whole = "whole groups in every micro-batch" if layout.whole else "groups lie over several micro-batches"
    rounds = counted(layout.generated, "completion", "completions")
    yield f"  {whole}; {rounds} generated per round, {layout.generated // layout.processes} on each process"
    extra = extra_passes(settings, arguments, layout)
    yield f"  extra forward passes, without gradient: {'; '.join(extra) if extra else 'none'}"


def _memory(model: Any, arguments: Any, layout: BatchLayout, task: Task, tokenizer: Any) -> Iterator[str]:
    chosen = task.train.select(range(min(MEASURED, len(task.train))))
    longest = max(len(tokenizer(_text(tokenizer, row, arguments))["input_ids"]) for row in chosen)
    # accelerate's launcher says so; a share is what FSDP leaves on each process.
    sharded = os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"
    shape = memory.Shape(
        rows=layout.per_device,
        generated=layout.generated // layout.processes,
        prompt=longest,
        completion=arguments.max_completion_length,
        processes=layout.processes,
        sharded=sharded,
    )
    parts = memory.terms(model, arguments, shape)
    count = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    yield f"memory of one process, estimated (spec/llm.md): {count:,} weights, {trained:,} trained"
    for phase in (memory.ALWAYS, memory.GENERATION, memory.TRAINING):
        for part in parts:
            if part.phase == phase:
                yield f"  {_size(part.size)}  {part.name}, {phase}{'' if part.exact else ' (estimate)'}"
    yield f"  {_size(memory.peak(parts))}  at the peak; prompts of at most {longest} tokens"


def _prompts(task: Task, tokenizer: Any, arguments: Any) -> Iterator[str]:
    counts = f"{len(task.train)} of {task.name} to train on, {len(task.evaluation)} held out"
    yield f"prompts: {counts}; the first, as the model gets them:"
    for number in range(min(SHOWN, len(task.train))):
        row = task.train[number]
        yield f"--- prompt {number + 1}"
        yield _text(tokenizer, row, arguments)
        answer = "none: the task has no worked answers" if task.solution is None else task.solution(row)
        yield f"--- expected answer {number + 1}: {answer}"


def _text(tokenizer: Any, row: Any, arguments: Any) -> str:
    options = arguments.chat_template_kwargs or {}
    text: str = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, tokenize=False, **options)
    return text


def _model(plan: Plan, arguments: Any, task: Task) -> tuple[Any, Any]:
    """The tokenizer, and the model on torch's meta device, with its adapter: shapes and types, no numbers."""
    if plan.model is None:
        tokenizer, model = tiny.shape_of(plan.settings, task)
    else:
        pinned = {"revision": plan.settings.model_revision, "trust_remote_code": False}
        with pretrained.named(plan.model):
            tokenizer = transformers.AutoTokenizer.from_pretrained(plan.model, **pinned)
            config = transformers.AutoConfig.from_pretrained(plan.model, **pinned)
        # TRL loads in float32 unless it is told otherwise.
        given = (arguments.model_init_kwargs or {}).get("dtype") or "float32"
        dtype = (config.dtype or torch.float32) if given == "auto" else given
        dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype
        with torch.device("meta"):
            model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)
    return tokenizer, run.adapted(model, plan.settings)


def _layout(arguments: Any) -> BatchLayout:
    if hasattr(arguments, "layout"):
        layout: BatchLayout = arguments.layout
        return layout
    return batch_layout(
        arguments.num_generations,
        arguments.per_device_train_batch_size,
        arguments.gradient_accumulation_steps,
        processes=arguments.world_size,
        steps_per_generation=arguments.steps_per_generation,
        generation_batch_size=None,
        num_iterations=arguments.num_iterations,
    )


def _size(count: int) -> str:
    return f"{count / GIGABYTE:8.2f} GB" if count >= GIGABYTE else f"{count / MEGABYTE:8.2f} MB"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent="  ", subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )
