"""Token reversal on one accelerator in one command: `python -m benchmarks.gpu`, under nine minutes on a large GPU.

Correctness first: the same answers as on the CPU, one gradient, an episode that reads nothing back, replays equal to
eager episodes. Then time and memory of an episode for one and twenty seeds, against the rate of the device's own
products; then as much of Table 3 as fits. With `--device cpu --minutes 0` it only shows that it runs.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tpo_ref.study import files, registry
from tpo_ref.study.cli import show
from tpo_ref.study.runner import Request, ensure
from tpo_torch.reversal.engine import dense, draw, merged
from tpo_torch.reversal.engine.training import ReversalTraining
from tpo_torch.reversal.settings import ReversalSettings
from tpo_torch.shared.transformer import HIDDEN, LAYERS, WIDTH, CausalTransformer

MINUTES = 8.0
SEEDS, FEW_SEEDS = (1, 20), (1, 2)
EPISODES = 20
METHODS = ("tpo", "tpo_token", "ppo", "dg")
HORIZON = 10
# Table 3, the rows that a shortage of time should cost last come first.
TABLE3 = tuple(
    (f"table3-h{h}", m) for m in ("tpo", "grpo", "ppo", "dg", "tpo_ratio", "grpo_no_kl") for h in (7, 10, 8, 9)
)
TOLERANCE = 1e-9
SQUARE, PRODUCTS = 8192, 20
GIGA, TERA = 1e9, 1e12

Rows = list[list[str]]


def main() -> int:
    """Run everything; exit code 1 when a check fails."""
    options = _options()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("gpu: no CUDA device is there; --device cpu --minutes 0 shows that the script runs", file=sys.stderr)
        return 2
    began = time.monotonic()
    checked = [["check", "result"], *_correctness(device)]
    show.print_table(checked, "correctness")
    rate = _rate(device)
    machine = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or "CPU"
    title = f"{machine}, torch {torch.__version__}, {rate / TERA:.3g} TFLOP/s in float32 products"
    timed = [["method", "seeds", "ms per episode", "peak memory, GB", "of the matrix rate"]]
    timed += [
        _timed(method, seeds, device, rate)
        for method in METHODS
        for seeds in (SEEDS if device.type == "cuda" else FEW_SEEDS)
    ]
    show.print_table(timed, title)
    found = {"machine": title, "checks": checked, "episodes": timed}
    files.write_json(options.out / "gpu.json", found)
    table = [["experiment", "method", "seconds", "AUC"], *_table3(device, began + 60 * options.minutes, options.out)]
    show.print_table(table, "Table 3, paper scale")
    files.write_json(options.out / "gpu.json", {**found, "table3": table})
    return int(any(row[1] == "FAILS" for row in checked))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="when to start no further run of Table 3")
    parser.add_argument("--out", type=Path, default=Path("runs"))
    return parser.parse_args()


def _correctness(device: torch.device) -> Rows:
    """The dense layout on the device against the merged one on the CPU, in float64; replays against eager episodes."""
    net = CausalTransformer([torch.Generator().manual_seed(0)], vocab=3, places=8).double()
    draws = draw([torch.Generator().manual_seed(1)], vocab=3, horizon=4, batch=16, answers=4)
    ours, gradient = _answers(merged.generate, net, draws)
    theirs, other = _answers(dense.generate, net.to(device), draws.to(device))
    rows = [
        ("same answers as merged on the CPU", torch.equal(ours, theirs)),
        ("same gradient", bool((gradient - other).abs().max() < TOLERANCE * gradient.abs().max())),
    ]
    if device.type == "cuda":
        eager, replayed = (ReversalTraining("tpo", ReversalSettings(horizon=4), (0, 1), device) for _ in range(2))
        eager.start = eager._on_device
        curves = [training.train(10)["error"] for training in (eager, replayed)]
        rows.append(("replays equal eager episodes", bool((curves[0] == curves[1]).all())))
        rows.append(("an episode reads nothing back", _reads_nothing(replayed)))
    return [[name, "holds" if holds else "FAILS"] for name, holds in rows]


def _answers(generate: Callable[..., Any], net: CausalTransformer, draws: Any) -> tuple[torch.Tensor, torch.Tensor]:
    net.zero_grad()
    rollout = generate(net, draws)
    (rollout.logp(net(rollout.layout)) * rollout.answers).sum().backward()
    gradient = torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])
    return rollout.answers.cpu(), gradient.cpu().clone()


def _reads_nothing(training: ReversalTraining) -> bool:
    """Whether whole episodes, draws and replays included, run while every wait for the device is an error."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        training.episode()
        training._on_device(training.draw())
    except RuntimeError as error:
        print(f"gpu: {error}", file=sys.stderr)
        return False
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return True


def _rate(device: torch.device) -> float:
    """Floating-point operations a second in one large float32 product."""
    size = SQUARE if device.type == "cuda" else SQUARE // 8
    x = torch.randn(size, size, device=device)
    seconds = _seconds(lambda: x @ x, PRODUCTS, device)
    return 2 * size**3 / seconds


def _timed(method: str, seeds: int, device: torch.device, rate: float) -> list[str]:
    settings = ReversalSettings(horizon=HORIZON, reward="bag" if "token" in method else "terminal")
    training = ReversalTraining(method, settings, tuple(range(seeds)), device)
    count = EPISODES if device.type == "cuda" else 1
    if device.type == "cuda":
        # Beyond the episodes that come before the recording.
        training.train(5)
        torch.cuda.reset_peak_memory_stats()
    seconds = _seconds(training.episode, count, device)
    peak = torch.cuda.max_memory_allocated() / GIGA if device.type == "cuda" else float("nan")
    share = _flops(training) * seeds / seconds / rate
    return [method, str(seeds), f"{1000 * seconds:.2f}", f"{peak:.2f}", f"{share:.1%}"]


def _flops(training: ReversalTraining) -> float:
    """Of the linear maps of one seed's episode in the dense layout: sampling once, each epoch forward and back."""
    s = training.settings
    nodes = s.batch * (s.horizon + training.sampling.rollouts_per_prompt(s) * (s.horizon - 1))
    per_node = LAYERS * 2 * (4 * WIDTH**2 + 2 * WIDTH * HIDDEN)
    return float(nodes * per_node * (1 + 3 * training.sampling.epochs))


def _seconds(f: Callable[[], Any], count: int, device: torch.device) -> float:
    f()
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(count):
        f()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / count


def _table3(device: torch.device, until: float, out: Path) -> Rows:
    """Whole runs at paper scale while there is time; each is stored, so that a second call goes on."""
    rows, longest = [], 0.0
    for name, method in TABLE3:
        if time.monotonic() + longest > until:
            break
        start = time.monotonic()
        request = Request(registry.experiment(name), "paper", methods=(method,), device=str(device), out=out)
        error = ensure(request)[method].arrays["error"]
        longest = max(longest, time.monotonic() - start)
        rows.append([name, method, f"{time.monotonic() - start:.0f}", f"{error.mean():.3f}"])
    return rows


if __name__ == "__main__":
    sys.exit(main())
