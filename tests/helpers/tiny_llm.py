"""A language model of a few thousand parameters, its tokenizer, its prompts, and the dense loss it is held to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor
from transformers import TrainerCallback

from benchmarks.helpers import trainers
from tpo_torch.llm import TargetPOConfig, TargetPOTrainer, TargetSettings
from tpo_torch.llm.program.exactness.check import BASE
from tpo_torch.llm.program.exactness.task import PROMPTS, reward, tiny_model, tiny_tokenizer

PAD, EOS = 0, 1

# One small model, tokenizer and reward for these tests and for `tpo verify llm-exactness`; the dense losses differ.
tokenizer = tiny_tokenizer


# The real path in its smallest size: 3 steps of 2 prompts with 4 completions each.
MICRO = (
    "task=gym:chain_sum",
    "task_options={train_size: 20, eval_size: 5, min_terms: 2, max_terms: 2, partial: false}",
    "name=micro",
    "prompts=2",
    "trainer.num_generations=4",
    "trainer.per_device_train_batch_size=8",
    "trainer.max_completion_length=4",
    "trainer.max_steps=3",
    "trainer.save_steps=1",
    "evaluation.every=2",
    "evaluation.size=5",
    "evaluation.samples=2",
    "evaluation.k=[1, 2]",
    "tiny.layers=1",
    "tiny.width=16",
    "tiny.heads=2",
    "tiny.vocabulary=300",
    "warmup.steps=2",
)


def model(seed: int = 0, dtype: torch.dtype = torch.float64) -> Any:
    made = tiny_model(seed).to(dtype)
    made.config.name_or_path = "tiny"
    return made


def prompts(count: int = len(PROMPTS)) -> Dataset:
    return Dataset.from_dict({"prompt": [PROMPTS[i % len(PROMPTS)] for i in range(count)]})


def arguments(folder: Path, **others: Any) -> dict[str, Any]:
    """What every trainer of these tests is given, unless told otherwise."""
    own = {"gradient_checkpointing": False, "logging_strategy": "steps", "logging_steps": 1, "max_steps": 1}
    # Those of the target are no options of GRPO's.
    shared = {name: value for name, value in BASE.items() if name not in PAPER}
    return {"output_dir": str(folder)} | shared | own | others


# The paper's form, which these tests are about unless they say otherwise.
PAPER = {"anchor": "policy", "divide_by_length": False}


def build(kind: Any, policy: Any, rewards: Any, options: dict[str, Any], data: Any, tokens: Any, **others: Any) -> Any:
    """A trainer of the paper's form, or of GRPO, unless the options say otherwise."""
    form = PAPER if issubclass(kind, TargetPOTrainer) else {}
    return trainers.build(kind, policy, rewards, form | options, data, tokens, **others)


def double_head(
    self: Any,
    model: Any,
    input_ids: Tensor,
    attention_mask: Tensor,
    keep: int,
    *_: Any,
    compute_aux_loss: bool = False,
    **__: Any,
) -> Any:
    """What TRL's fused head computes, in the precision of the model and by textbook; in place of it."""
    routed = {"output_router_logits": True} if compute_aux_loss else {}
    outputs = model(input_ids=input_ids, attention_mask=attention_mask, **routed)
    logits = outputs.logits[:, :-1].div(self.temperature)
    logs = torch.log_softmax(logits, -1)
    picked = logs.gather(-1, input_ids[:, 1:].unsqueeze(-1)).squeeze(-1)[:, -keep:]
    entropy = -(logs.exp() * logs).sum(-1)[:, -keep:]
    return picked, entropy, outputs.aux_loss if compute_aux_loss else None


def dense_gradient(
    policy: Any, batch: dict[str, Tensor], scores: Tensor, loss: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
) -> dict[str, Tensor]:
    """The gradient of a loss of whole groups, in one forward pass and one backward, and nothing of the library's.

    Args: batch of (N, …) tensors in the order of their groups; scores (G, K); loss(ℓ, scores, lengths, mask) → (G,).
    """
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    attention = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
    logs = torch.log_softmax(policy(input_ids=ids, attention_mask=attention).logits[:, :-1], -1)
    picked = logs.gather(-1, ids[:, 1:].unsqueeze(-1)).squeeze(-1)[:, -batch["completion_ids"].shape[1] :]
    mask = batch["completion_mask"]
    logp = (picked * mask).sum(-1).view_as(scores)
    lengths = mask.sum(-1).view_as(scores)
    loss(logp, scores, lengths, lengths > 0).mean().backward()
    return {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}


# -- the trainer against the dense loss -------------------------------------------------------------------------------

# What transformers and TRL say about themselves, whoever calls them.
FILTERS = [
    # A small model has the paper's anchor degenerate now and then; what is said of it has tests of its own.
    pytest.mark.filterwarnings("ignore:anchor 'policy':UserWarning"),
    pytest.mark.filterwarnings("ignore:`(is_)?gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:You are using 'rollout_func', which is an experimental feature:UserWarning"),
]


def cut(rows: int, steps: int = 1, per_round: int | None = None, **others: Any) -> dict[str, Any]:
    """A layout: rows of a micro-batch, micro-batches of an optimizer step, and of a round of generation."""
    layout = {"per_device_train_batch_size": rows, "gradient_accumulation_steps": steps}
    return layout | ({} if per_round is None else {"steps_per_generation": per_round}) | {"max_steps": 2} | others


# Every way to cut a batch that the trainer treats in a way of its own; groups of 4 unless told otherwise.
LAYOUTS: dict[str, dict[str, Any]] = {
    "whole groups in one micro-batch": cut(8),
    "one group per micro-batch": cut(4, 2),
    "half a group per micro-batch": cut(2, 4),
    "one row per micro-batch": cut(1, 8),
    "groups that micro-batches cut unevenly": cut(6, 2),
    "three rows, four micro-batches": cut(3, 4),
    "five micro-batches": cut(4, 5, max_steps=1),
    "six micro-batches": cut(2, 6, max_steps=1),
    "seven micro-batches": cut(4, 7, max_steps=1),
    "groups larger than a micro-batch": cut(2, 8, num_generations=8),
    "one group of all rows": cut(8, num_generations=8),
    "rows shuffled": cut(2, 4, shuffle_rows=True),
    "whole groups shuffled out of their micro-batches": cut(4, 2, shuffle_rows=True),
    "two steps per round": cut(4, 1, 2, max_steps=3),
    "two steps per round, groups cut": cut(2, 2, 4, max_steps=3),
    "three steps per round, shuffled": cut(2, 2, 6, max_steps=4, shuffle_rows=True),
    "two rounds per step": cut(4, 4, 2),
    "two rounds per step, groups cut": cut(2, 8, 4, shuffle_rows=True),
    "four rounds per step": cut(8, 4, 1, max_steps=1),
    "three epochs": cut(8, num_iterations=3, max_steps=4),
    "three epochs, groups cut": cut(2, 4, num_iterations=3, max_steps=4),
    "two epochs, shuffled": cut(2, 4, num_iterations=2, max_steps=3, shuffle_rows=True),
    "two epochs of two steps": cut(2, 2, 4, num_iterations=2, max_steps=5),
    "two epochs of two steps, whole": cut(4, 1, 2, num_iterations=2, max_steps=5),
}


@dataclass
class Round:
    """One round of generation as it left TRL, before any cut: each consecutive K rows answer one prompt."""

    batch: dict[str, Tensor]
    rewards: Tensor
    born: int


@dataclass
class Watch(TrainerCallback):
    """Notes each round, and the parameters and gradient of each optimizer step."""

    rounds: list[Round] = field(default_factory=list)
    parameters: list[dict[str, Tensor]] = field(default_factory=list)
    gradients: list[dict[str, Tensor]] = field(default_factory=list)

    def attach(self, trainer: Any) -> None:
        plain = trainer._generate_and_score_completions

        def noted(inputs: Any) -> Any:
            batch = plain(inputs)
            if trainer.model.training and isinstance(trainer, TargetPOTrainer):
                kept = {name: x.clone() for name, x in batch.items() if isinstance(x, Tensor)}
                rewards = trainer._raw_rewards * trainer.reward_weights
                rewards = torch.where(rewards.isnan().all(1), torch.nan, rewards.nansum(1)).double()
                self.rounds.append(Round(kept, rewards, trainer.state.global_step))
            return batch

        trainer._generate_and_score_completions = noted
        trainer.add_callback(self)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self.parameters.append(weights(model))
        self.gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})


def weights(policy: Any) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in policy.named_parameters()}


def train(folder: Path, policy: Any = None, kind: Any = TargetPOTrainer, **options: Any) -> tuple[Any, Watch]:
    """Train as the options say; those of the trainer itself are taken out of them by name."""
    others = {name: options.pop(name) for name in TRAINER_OPTIONS if name in options}
    data = others.pop("train_dataset") if "train_dataset" in others else prompts(4 * len(PROMPTS))
    rewards = options.pop("reward_funcs", reward)
    policy = model() if policy is None else policy
    tokens = others.pop("processing_class", None) or tokenizer()
    trainer = build(kind, policy, rewards, arguments(folder, **options), data, tokens, **others)
    watch = Watch()
    watch.attach(trainer)
    trainer.train()
    return trainer, watch


def mixed(prompts: list[str], trainer: Any) -> dict[str, Any]:
    """Completions that a nearly deterministic policy would not choose, all different."""
    ids = [[2 + (i + j) % 8 for j in range(3 + i)] for i in range(len(prompts))]
    encoded = [tokenizer()(prompt)["input_ids"] for prompt in prompts]
    return {"prompt_ids": encoded, "completion_ids": ids, "logprobs": [[-1.0] * len(row) for row in ids]}


TRAINER_OPTIONS = (
    "train_dataset",
    "eval_dataset",
    "processing_class",
    "reward_processing_classes",
    "peft_config",
    "tools",
    "environment_factory",
    "rollout_func",
    "callbacks",
)


def whole_group(logp: Tensor, old: Tensor, s: Tensor, lengths: Tensor, settings: TargetSettings) -> Tensor:
    """−Σ q log p of one group of valid rows, by the definitions."""
    if not len(s):
        return logp.sum()
    centred = s - s.mean()
    idle = bool(s.max() == s.min())
    u = torch.zeros_like(s) if idle else centred / torch.sqrt(centred.square().mean() + settings.tau**2)
    x, x_old = {
        "policy": lambda: (logp, old),
        "ratio": lambda: (logp - old, torch.zeros_like(old)),
        "length": lambda: (logp / lengths, old / lengths),
        "tempered": lambda: (logp / settings.anchor_temperature, old / settings.anchor_temperature),
    }[settings.anchor]()
    q = torch.softmax(x_old + u / settings.eta, -1).detach()
    weight = {"anchor": 1.0, "mask": 0.0, "weight": settings.zero_variance_weight}[settings.zero_variance]
    return -(q * torch.log_softmax(x, -1)).sum() * (weight if idle else 1.0)


# What a model that sees images takes beside tokens, for all rows of a round at once.
SEEN = ("pixel_values", "image_grid_thw", "pixel_attention_mask", "token_type_ids", "mm_token_type_ids")


def by_token(policy: Any, batch: dict[str, Tensor], temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Log-probabilities of all completions of a round in one forward pass, (N, T), and which of them are trained."""
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    attention = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
    seen = {name: batch[name] for name in SEEN if name in batch}
    logits = policy(input_ids=ids, attention_mask=attention, **seen).logits[:, :-1]
    logs = torch.log_softmax(logits / temperature, -1)
    picked = logs.gather(-1, ids[:, 1:].unsqueeze(-1)).squeeze(-1)[:, -batch["completion_ids"].shape[1] :]
    mask = batch["completion_mask"] * batch.get("tool_mask", 1)
    return torch.where(mask.bool(), picked, 0.0), mask


def rows_of(config: TargetPOConfig, step: int) -> dict[int, list[int]]:
    """Which rows of which round an optimizer step trains on, counted off micro-batch by micro-batch."""
    size, per_step = config.per_device_train_batch_size, config.gradient_accumulation_steps
    seen: dict[int, list[int]] = {}
    for micro in range(step * per_step, (step + 1) * per_step):
        start = micro % config.steps_per_generation * size
        number = micro // (config.steps_per_generation * config.num_iterations)
        seen.setdefault(number, []).extend(range(start, start + size))
    return seen


def dense_gradient_of(policy: Any, watch: Watch, config: TargetPOConfig, step: int) -> dict[str, Tensor]:
    """The gradient of one optimizer step: the mean over its groups of −Σ q log p, all rows of a round at once."""

    def at(parameters: dict[str, Tensor]) -> None:
        policy.load_state_dict(parameters, strict=False)

    losses, penalties, before = [], [], {}
    for number in rows_of(config, step):
        at(watch.parameters[watch.rounds[number].born])
        with torch.no_grad():
            before[number] = by_token(policy, watch.rounds[number].batch, config.temperature)[0].sum(-1)
    at(watch.parameters[step])
    for number, rows in rows_of(config, step).items():
        kept, old = watch.rounds[number], before[number]
        logps, mask = by_token(policy, kept.batch, config.temperature)
        if config.beta:
            gap = kept.batch["ref_per_token_logps"] - logps
            penalties += [torch.where(mask.bool(), gap.exp() - gap - 1, 0.0).sum(-1)[rows]]
        valid = kept.rewards.isfinite() & (mask.sum(-1) > 0)
        for start in range(0, len(valid), config.num_generations):
            group = [row for row in range(start, start + config.num_generations) if row in rows]
            assert len(group) in (0, config.num_generations), "an optimizer step with a part of a group"
            pick = [row for row in group if valid[row]]
            if group:
                known = (logps.sum(-1)[pick], old[pick], kept.rewards[pick], mask.sum(-1)[pick])
                losses.append(whole_group(*known, config.target))
    policy.zero_grad()
    loss = torch.stack(losses).mean()
    (loss + config.beta * torch.cat(penalties).mean() if config.beta else loss).backward()
    return {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}


def apart(trainer: Any, watch: Watch, policy: Any) -> float:
    """The largest difference between the trainer's gradients and the dense ones, over the largest entry."""
    worst = 0.0
    assert watch.gradients
    for step, given in enumerate(watch.gradients):
        wanted = dense_gradient_of(policy, watch, trainer.args, step)
        assert given.keys() == wanted.keys()
        largest = max(float(g.abs().max()) for g in wanted.values())
        assert largest > 0, "nothing to compare"
        worst = max(worst, *(float((given[name] - g).abs().max()) / largest for name, g in wanted.items()))
    return worst
