"""A whole run of sequence-level TPO beside its clear twin: `python -m benchmarks.reversal.solved_run`, some minutes.

As a policy learns, candidates repeat each other and the engine has less to do; the twin's episode always costs the
same, so it is timed now and then between episodes of the run, in the same process and on as many threads.
"""

from __future__ import annotations

import argparse
import time

import torch

from tpo_ref.study.cli import show
from tpo_torch.reversal.clear import ClearTraining
from tpo_torch.reversal.engine.training import Training
from tpo_torch.reversal.settings import ReversalSettings

EPISODES, EVERY = 1_000, 50
SETTINGS = ReversalSettings(horizon=8, reward="terminal")


def main() -> None:
    """Run, and print the ratio of each stretch of episodes and of the whole run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=EPISODES)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    engine = Training("tpo", SETTINGS, (options.seed,), torch.device("cpu"))
    twin = ClearTraining("tpo", SETTINGS, options.seed)
    rows, ours, theirs = [["episodes", "error", "ms, engine", "ms, twin", "ratio"]], 0.0, 0.0
    for start in range(0, options.episodes, EVERY):
        began = time.perf_counter()
        error = engine.train(EVERY)["error"].mean()
        between = time.perf_counter()
        twin.episode()
        ended = time.perf_counter()
        own, other = (between - began) / EVERY, ended - between
        ours, theirs = ours + own, theirs + other
        rows.append(_row(f"{start} to {start + EVERY}", f"{error:.3f}", own, other))
    rows.append(_row("all", "", ours, theirs))
    show.print_table(rows, f"sequence-level TPO, H = 8, V = 2, B = 100, K = 8, {torch.get_num_threads()} threads")


def _row(name: str, error: str, own: float, other: float) -> list[str]:
    return [name, error, f"{1000 * own:.0f}", f"{1000 * other:.0f}", f"{other / own:.1f}"]


if __name__ == "__main__":
    main()
