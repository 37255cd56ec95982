"""A small real study: a model warmed up on graph colouring, then TPO, its ratio form and GRPO from there."""

from __future__ import annotations

import copy
import math
import time
import warnings
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.helpers.trainers import METHODS, build
from tpo_torch.llm import tasks
from tpo_torch.llm.program import tiny
from tpo_torch.llm.program.evaluation import evaluate
from tpo_torch.llm.program.evaluation.evaluate import Sampling
from tpo_torch.llm.program.settings.sections import EvaluationSettings, TinySettings, WarmupSettings

TASK = "graph_color"
# A worked answer has 65 tokens of the tokenizer that is built for the task.
COMPLETION_TOKENS = 80
# Mean reward of a run: over its last steps, as many as this share.
LAST = 0.2
# Figures of TPO kept beside the reward.
KEPT = ("reward", "anchor/tv_median", "tpo/kl_target", "group/zero_variance")


@dataclass(frozen=True)
class Size:
    """Of a study; everything but the shape is the same for all methods."""

    shape: TinySettings
    warmup: WarmupSettings
    prompts: int
    group: int
    steps: int
    seeds: int
    problems: int
    held_out: int
    learning_rate: float


# 27 million weights.
LARGE = Size(
    TinySettings(layers=8, width=512, heads=8),
    WarmupSettings(steps=400, batch_size=64, learning_rate=1e-3),
    prompts=16,
    group=16,
    steps=60,
    seeds=5,
    problems=4_000,
    held_out=200,
    learning_rate=1e-4,
)
SMOKE = Size(
    TinySettings(layers=1, width=32, heads=2),
    WarmupSettings(steps=2, batch_size=4, learning_rate=1e-3),
    prompts=2,
    group=4,
    steps=1,
    seeds=1,
    problems=20,
    held_out=4,
    learning_rate=1e-4,
)


class Study:
    """The task, the tokenizer and the warmed-up model that every run starts from.

    Args: size; device, "cpu" or "cuda"; answers are generated and evaluated there too.
    """

    def __init__(self, size: Size, device: str) -> None:
        self.size, self.device = size, device
        self.task = tasks.load(TASK, train_size=size.problems, eval_size=size.held_out)
        texts = tiny.examples(self.task)
        self.tokenizer = tiny.build_tokenizer(texts[: tiny.TOKENIZER_EXAMPLES], size.shape.vocabulary)
        torch.manual_seed(0)
        self.model = tiny.build_model(size.shape, self.tokenizer).to(device)
        with torch.device(device), torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            self.losses = tiny.warm_up(self.model, self.tokenizer, texts, size.warmup)

    def describe(self) -> dict[str, Any]:
        """The checkpoint: weights, warm-up loss in nats per token, greedy accuracy on the held-out problems."""
        found = self._accuracy(self.model, Sampling(max_completion_length=COMPLETION_TOKENS))
        weights = sum(p.numel() for p in self.model.parameters())
        return {"weights": weights, "loss_first": self.losses[0], "loss_last": self.losses[-1], **found}

    def run(self, method: str, seed: int) -> dict[str, Any]:
        """One run of a method; curves by optimizer step, accuracy after the last, seconds of training."""
        trainer = self._trainer(method, seed)
        began = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - began
        history = [log for log in trainer.state.log_history if "reward" in log]
        curves = {name: [log[name] for log in history] for name in KEPT if name in history[0]}
        last = curves["reward"][-max(1, math.ceil(LAST * len(history))) :]
        return {
            "method": method,
            "seed": seed,
            "seconds": seconds,
            "reward_first": curves["reward"][0],
            "reward_last": sum(last) / len(last),
            **self._accuracy(trainer.accelerator.unwrap_model(trainer.model), Sampling.from_arguments(trainer.args)),
            "curves": curves,
        }

    def _trainer(self, method: str, seed: int) -> Any:
        kind, own = METHODS[method]
        size, on_cuda = self.size, self.device == "cuda"
        options = {
            "use_cpu": not on_cuda,
            "bf16": on_cuda,
            "num_generations": size.group,
            "per_device_train_batch_size": size.prompts * size.group,
            "gradient_accumulation_steps": 1,
            "max_completion_length": COMPLETION_TOKENS,
            "learning_rate": size.learning_rate,
            "max_steps": size.steps,
            "logging_steps": 1,
            "seed": seed,
        }
        model, rewards = copy.deepcopy(self.model), list(self.task.rewards)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return build(kind, model, rewards, options | own, self.task.train, self.tokenizer)

    def _accuracy(self, model: Any, sampling: Sampling) -> dict[str, float]:
        settings = EvaluationSettings(size=self.size.held_out, samples=0, batch_size=self.size.held_out)
        report = evaluate.evaluate(model, self.tokenizer, self.task, settings, sampling)
        return {"accuracy": report.accuracy.value, "accuracy_se": report.accuracy.error}
