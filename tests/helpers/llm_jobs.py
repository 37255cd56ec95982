"""What the processes of `llm_worker` do: train, and die where they are told to."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from datasets import Dataset
from helpers import tiny_llm as tiny
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback, TrainerState
from trl import GRPOTrainer

from tpo_torch.llm import ResumableGRPOTrainer, TargetPOTrainer, manifest
from tpo_torch.llm.interrupt import between_steps
from tpo_torch.llm.program.exactness.task import WORDS
from tpo_torch.llm.resume import latest

TRAINERS = {"tpo": TargetPOTrainer, "grpo": ResumableGRPOTrainer}
LENGTH = 6


class Gradients(TrainerCallback):
    """The gradient of each optimizer step, whole on every process."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Tensor]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.steps.append({name: whole(p.grad) for name, p in model.named_parameters() if p.grad is not None})


def whole(x: Tensor) -> Tensor:
    """A copy of a tensor, put together where it is in shards."""
    return (x.full_tensor() if isinstance(x, DTensor) else x).detach().clone()


def fixed_completions(self: Any, prompt_ids: list[list[int]], *_: Any, **__: Any) -> tuple[list[list[int]], None]:
    """In place of sampling: depends on the prompt, the copy's number in its group and the round, not on the process."""
    offset = self.accelerator.process_index * len(prompt_ids)
    return [
        completion(ids, (offset + i) % self.num_generations, self.state.global_step) for i, ids in enumerate(prompt_ids)
    ], None


def completion(prompt: list[int], copy: int, step: int) -> list[int]:
    seed = sum((i + 1) * token for i, token in enumerate(prompt)) * 1000 + copy * 100 + step
    draw = torch.Generator().manual_seed(seed)
    length = int(torch.randint(1, LENGTH + 1, (), generator=draw))
    words = torch.randint(2, len(WORDS), (length,), generator=draw).tolist()
    return [*words[:-1], tiny.EOS] if length < LENGTH else words


def layouts(folder: Path, cases: dict[str, dict[str, Any]]) -> None:
    """Train in each layout on given completions; gradients, figures and weights into the folder."""
    for name, case in cases.items():
        gradients(folder, name, **case)


def gradients(folder: Path, name: str, order: list[int], sharded: bool = False, **settings: Any) -> None:
    prompts = Dataset.from_dict({"prompt": [tiny.PROMPTS[i % len(tiny.PROMPTS)] for i in order]})
    seen = Gradients()
    options = tiny.arguments(folder / "run", shuffle_dataset=False, **settings)
    GRPOTrainer._get_per_token_logps_and_entropies = tiny.double_head
    trainer = tiny.build(
        TargetPOTrainer, tiny.model(), tiny.reward, options, prompts, tiny.tokenizer(), callbacks=[seen]
    )
    trainer._generate_single_turn = fixed_completions.__get__(trainer)
    if sharded:
        shard(trainer)
    trainer.train()
    assert sharded == all(isinstance(p, DTensor) for p in trainer.model.parameters())
    weights = {f"weight.{key}": whole(p) for key, p in trainer.model.named_parameters()}
    steps = {f"{i}.{key}": x for i, step in enumerate(seen.steps) for key, x in step.items()}
    if trainer.accelerator.is_main_process:
        save_file(weights | steps, folder / f"{name}.safetensors")
        (folder / f"{name}.json").write_text(json.dumps(trainer.state.log_history), encoding="utf-8")


def shard(trainer: Any) -> None:
    """FSDP2 through accelerate, which by itself takes it up with accelerators alone, and on a CPU falls back to DDP."""
    state = trainer.accelerator.state
    layers = type(trainer.model.model.layers[0]).__name__
    state.fsdp_plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="transformer_based_wrap", transformer_cls_names_to_wrap=[layers]
    )
    state.distributed_type = DistributedType.FSDP
    trainer.is_fsdp_enabled = True


def failing(folder: Path, rank: int) -> None:
    """A reward function that raises on one process, at the second round."""

    def reward(completions: list[str], trainer_state: Any, **_: Any) -> list[float]:
        if trainer_state.global_step == 1 and int(os.environ["RANK"]) == rank:
            raise ZeroDivisionError("no such answer")
        return tiny.reward(completions)

    options = tiny.arguments(folder / "run", per_device_train_batch_size=2, max_steps=3)
    tiny.build(TargetPOTrainer, tiny.model(), reward, options, tiny.prompts(), tiny.tokenizer()).train()


def noisy(folder: Path, rank: int, sharded: bool = False) -> None:
    """Noise in a submodule, on one process alone."""
    trainer = tiny.build(
        TargetPOTrainer, tiny.model(), tiny.reward, tiny.arguments(folder / "run"), tiny.prompts(), tiny.tokenizer()
    )
    if sharded:
        shard(trainer)
    if int(os.environ["RANK"]) == rank:
        trainer.model.model.layers[1].mlp.register_forward_hook(lambda _, __, x: x * (1 + torch.rand_like(x)))
    trainer.train()


# -- resume -----------------------------------------------------------------------------------------------------------


def train(
    folder: Path, method: str, run: str, resume: bool = False, die: tuple[str, int] | None = None, **settings: Any
) -> None:
    """Train, die where told, or go on from the newest checkpoint; figures and weights into the folder at the end."""
    stream, evaluate, sharded = (settings.pop(name, False) for name in ("stream", "evaluate", "sharded"))
    prompts = tiny.prompts()
    trainer = tiny.build(
        TRAINERS[method],
        tiny.model(dtype=torch.float32),
        tiny.reward,
        tiny.arguments(Path(run), **settings),
        prompts.to_iterable_dataset() if stream else prompts,
        tiny.tokenizer(),
        eval_dataset=prompts if evaluate else None,
    )
    if sharded:
        shard(trainer)
    if die is not None and trainer.accelerator.is_last_process:
        arm(trainer, *die)
    checkpoint = latest(Path(run)) if resume else None
    if resume:
        print(f"from {None if checkpoint is None else checkpoint.name}")
    trainer.train(resume_from_checkpoint=checkpoint)
    rank = trainer.accelerator.process_index
    save_file({name: whole(p) for name, p in trainer.model.named_parameters()}, folder / f"end_{rank}.safetensors")
    (folder / f"end_{rank}.json").write_text(json.dumps(trainer.state.log_history), encoding="utf-8")


def arm(trainer: Any, place: str, step: int) -> None:
    """Kill this process the first time it is at a place in or after an optimizer step."""

    def at(instance: Any, name: str, also: Callable[..., bool] = lambda *_, **__: True) -> None:
        plain = getattr(instance, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if trainer.state.global_step >= step and also(*args, **kwargs):
                os.kill(os.getpid(), signal.SIGKILL)
            return plain(*args, **kwargs)

        setattr(instance, name, wrapped)

    def some_tokens_are_drawn(*_: Any, past_key_values: Any = None, **__: Any) -> bool:
        return past_key_values is not None and past_key_values.get_seq_length() > 0

    def the_step_is_half_done(*_: Any) -> bool:
        return bool(trainer._step % trainer.args.gradient_accumulation_steps == 1)

    def half_is_written(state: Any, path: str) -> bool:
        Path(path).write_text('{"global_step": ', encoding="utf-8")
        return True

    match place:
        case "generation":
            at(trainer.model, "forward", some_tokens_are_drawn)
        case "micro-batch":
            at(trainer, "training_step", the_step_is_half_done)
        case "weights":
            at(trainer, "_save_optimizer_and_scheduler")
        case "exact state":
            # All of it is written, but under its temporary name.
            at(os, "fsync")
        case "trainer state":
            at(TrainerState, "save_to_json", half_is_written)
        case "list":
            at(manifest, "write")
        case "after":
            at(trainer.callback_handler, "on_save")
        case _:
            raise ValueError(place)


def interrupted(folder: Path, run: str) -> None:
    """Train; one process of two is told to stop in its second step."""
    settings = tiny.arguments(Path(run), max_steps=4, per_device_train_batch_size=2)
    trainer = tiny.build(
        TargetPOTrainer, tiny.model(dtype=torch.float32), tiny.reward, settings, tiny.prompts(), tiny.tokenizer()
    )
    rank, plain = trainer.accelerator.process_index, trainer.training_step

    def step(*args: Any) -> Any:
        if rank == 1 and trainer.state.global_step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(*args)

    trainer.training_step = step
    with between_steps(trainer, print) as stop:
        trainer.train()
    (folder / f"stopped_{rank}.json").write_text(
        json.dumps([trainer.state.global_step, stop.stopped]), encoding="utf-8"
    )
