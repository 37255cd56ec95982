"""TPO on a language model of real size, on one large GPU, in one command: `python -m benchmarks.gpu.llm`.

Under nine minutes on a card of 80 GB or more: the Qwen3-1.7B architecture with random weights, LoRA and all weights,
TPO beside GRPO: where the time of an optimizer step goes, peak memory, tokens per second, share of the card's own
matrix rate. Then the small study of `llm_study`. Results are written after every part; what the time does not allow is
skipped and named. `--smoke` runs every part on a CPU at toy size.

Needs beside torch with CUDA: `pip install -e '.[cli,llm]'` (trl, transformers, peft, accelerate, datasets,
reasoning-gym, rich); nothing is downloaded at run time.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
import trl
from peft import LoraConfig

from benchmarks.llm.results import Results
from benchmarks.llm.steps import Batch, Shape, make_trainer, quiet
from benchmarks.llm.stopwatch import Stopwatch
from benchmarks.llm.study import LARGE, SMOKE, Study

MINUTES = 8.0
# What the study is left of the time, whatever the timings would take.
STUDY_SHARE = 0.45
QWEN3 = Shape(
    layers=28, width=2048, heads=16, key_value_heads=8, head_width=128, hidden=6144, vocabulary=151_936, positions=4096
)
TOY = Shape(layers=1, width=32, heads=2, key_value_heads=1, head_width=16, hidden=64, vocabulary=128)
BATCH = Batch(prompts=16, group=16, rows=16, prompt_tokens=64, completion_tokens=512, shortest=1.0)
TOY_BATCH = Batch(prompts=2, group=4, rows=4, prompt_tokens=4, completion_tokens=8, shortest=1.0)
# Tokens of the rollouts that are timed: the whole 512 would take the time of several optimizer steps.
ROLLOUT_TOKENS, TOY_ROLLOUT_TOKENS = 128, 4
LORA_RANK = 32
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
# Method, and whether a micro-batch holds whole groups or half a one. What a shortage of time should cost last is first.
CASES = (
    *((weights, method, True) for weights in ("lora", "full") for method in ("grpo", "ratio", "tpo")),
    *((weights, method, False) for weights in ("lora", "full") for method in ("grpo", "tpo", "ratio")),
)
TIMED_ROUNDS = 2
SQUARE, PRODUCTS, TOY_SQUARE = 8192, 50, 256
GIGA, TERA = 1e9, 1e12


def main() -> int:
    """Run everything that fits; exit code 1 when a part failed, 2 without a GPU."""
    options = _options()
    if not options.smoke and not torch.cuda.is_available():
        print("benchmarks.gpu.llm: no CUDA device is there; --smoke shows that every part runs", file=sys.stderr)
        return 2
    quiet()
    device = "cpu" if options.smoke else "cuda"
    if options.smoke:
        # At toy size a second thread only waits for the first.
        torch.set_num_threads(1)
    began = time.monotonic()
    rate = matrix_rate(device)
    until = began + 60 * options.minutes
    results = Results(options.out, until, _machine(device, rate))
    timings_until = until - 60 * options.minutes * (0.0 if options.only == "timings" else STUDY_SHARE)
    if options.only != "study":
        _timings(results, device, rate, timings_until, options.weights)
    if options.only != "timings":
        _study(results, device)
    results.show()
    return int(results.failed)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=MINUTES, help="when to start no further part")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu_llm.json"))
    parser.add_argument("--only", choices=("timings", "study"), help="one half alone, with all of the time")
    parser.add_argument("--weights", choices=("lora", "full"), help="timings of one kind of training alone")
    parser.add_argument("--smoke", action="store_true", help="every part on the CPU, at toy size")
    return parser.parse_args()


def _machine(device: str, rate: float) -> dict[str, Any]:
    cuda = device == "cuda"
    name = torch.cuda.get_device_name() if cuda else platform.processor() or "CPU"
    memory = torch.cuda.get_device_properties(0).total_memory / GIGA if cuda else None
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "trl": trl.__version__}
    shape = {"layers": QWEN3.layers, "width": QWEN3.width, "vocabulary": QWEN3.vocabulary}
    return {
        "machine": name,
        "memory_gb": memory,
        **versions,
        "matrix_tflops": rate / TERA,
        "model": shape if cuda else "toy",
        "note": "bf16, no gradient checkpointing, beta 0; completions of the steps are fixed and of full length",
    }


def matrix_rate(device: str) -> float:
    """Floating-point operations a second in one large bfloat16 product, the card's own limit."""
    size = SQUARE if device == "cuda" else TOY_SQUARE
    x = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    _ = x @ x
    _wait(device)
    start = time.perf_counter()
    for _ in range(PRODUCTS):
        x @ x
    _wait(device)
    return 2 * size**3 * PRODUCTS / (time.perf_counter() - start)


def _timings(results: Results, device: str, rate: float, until: float, only: str | None) -> None:
    """Optimizer steps first, rollouts after them: they are generation's time, the same for every method."""
    cases = [case for case in CASES if only in (None, case[0])]
    for weights, method, whole in cases:
        name = f"{weights}, {method}, {'whole' if whole else 'split'} groups"
        results.part("steps", name, lambda case=(weights, method, whole): step(*case, device, rate), until)
    for weights in dict.fromkeys(case[0] for case in cases):
        results.part("rollouts", f"{weights}, rollout", lambda w=weights: rollout(w, device), until)


def step(weights: str, method: str, whole: bool, device: str, rate: float) -> dict[str, Any]:
    """One optimizer step over 16 prompts without generation: seconds by part, memory, throughput."""
    shape, batch = (QWEN3, BATCH) if device == "cuda" else (TOY, TOY_BATCH)
    if not whole:
        batch = replace(batch, rows=batch.rows // 2)
    trainer = _trainer(weights, method, shape, batch, device, 1 + TIMED_ROUNDS)
    watch = Stopwatch(trainer, lambda: _wait(device))
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    trainer.train()
    found = watch.mean(skip=1)
    peak = torch.cuda.max_memory_allocated() / GIGA if device == "cuda" else None
    trainer.accelerator.free_memory()
    seconds = found["total"]
    return {
        "weights": weights,
        "method": method,
        "groups": "whole" if whole else "split",
        **found,
        "peak_gb": peak,
        "tokens_per_second": batch.tokens / seconds,
        "mfu": flops(shape, batch, weights) / seconds / rate,
    }


def rollout(weights: str, device: str) -> dict[str, Any]:
    """Generation by transformers for one round of completions, in a real optimizer step; shorter than the others'."""
    shape, batch = (QWEN3, BATCH) if device == "cuda" else (TOY, TOY_BATCH)
    tokens = ROLLOUT_TOKENS if device == "cuda" else TOY_ROLLOUT_TOKENS
    batch = replace(batch, completion_tokens=tokens)
    trainer = _trainer(weights, "grpo", shape, batch, device, 1, generation_kwargs={"min_new_tokens": tokens})
    trainer._generate_single_turn = trainer.drawn
    watch = Stopwatch(trainer, lambda: _wait(device))
    trainer.train()
    trainer.accelerator.free_memory()
    seconds = watch.mean()["rollout"]
    made = batch.prompts * batch.group * tokens
    return {"weights": weights, "tokens": tokens, "seconds": seconds, "tokens_per_second": made / seconds}


def _trainer(weights: str, method: str, shape: Shape, batch: Batch, device: str, steps: int, **options: Any) -> Any:
    cuda = device == "cuda"
    model = shape.model(device, torch.bfloat16 if cuda else torch.float32)
    lora = LoraConfig(
        r=LORA_RANK, lora_alpha=2 * LORA_RANK, lora_dropout=0.0, target_modules=TARGETS, task_type="CAUSAL_LM"
    )
    given = {"bf16": cuda, "peft_config": lora if weights == "lora" else None}
    return make_trainer(method, model, shape, batch, steps, **given, **options)


def flops(shape: Shape, batch: Batch, weights: str) -> float:
    """What the model's products of one optimizer step need: forward, and back through activations and trained weights.

    Passes without gradient and the adapters' own products are not counted: they are what a method costs.
    """
    rows, length = batch.prompts * batch.group, batch.prompt_tokens + batch.completion_tokens
    projections = 2 * shape.width * shape.head_width * (shape.heads + shape.key_value_heads)
    per_token = 2 * shape.layers * (projections + 3 * shape.width * shape.hidden)
    # Scores and values of the tokens before, half of all pairs.
    attention = 2 * shape.layers * shape.heads * shape.head_width * length**2
    head = 2 * shape.width * shape.vocabulary * batch.completion_tokens
    forward = rows * (per_token * length + attention + head)
    return float(forward * (3 if weights == "full" else 2))


def _study(results: Results, device: str) -> None:
    size = LARGE if device == "cuda" else SMOKE
    made: list[Study] = []

    def checkpoint() -> dict[str, Any]:
        made.append(Study(size, device))
        return made[0].describe()

    results.part("checkpoint", "study, warm-up", checkpoint)
    for seed in range(size.seeds if made else 0):
        for method in ("tpo", "ratio", "grpo"):
            results.part("study", f"study, {method}, seed {seed}", lambda m=method, s=seed: made[0].run(m, s))


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    sys.exit(main())
