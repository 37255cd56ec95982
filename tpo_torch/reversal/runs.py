"""Token reversal: a transformer learns to copy, flip or reverse a prompt from sampled answers and their rewards.

Departures from the paper, each explained in spec/deviations.md:

- D20 weights are drawn from a truncated normal, JAX's default.
- D30, D31 GRPO's rule has no clamp and a larger guard; D59 its runs here have the authors'.
- D50 a table names the optimiser of each parameter; D51 the bias of keys, which nothing sees, moves too.
- D52 weight on winners and losers is defined by us; D53 groups without a figure are left out of its mean.
- D54 a run may stop once it has stayed below an error.
- D56 the transformer has two heads, as the authors' program has.
- D57 the snapshot is the first training pass, not the sampler's.
- D58 the learning rate is the 1e-3 of the authors' program, not the 1e-4 of their configuration.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tpo_ref.study import partial
from tpo_ref.study.context import Context
from tpo_ref.study.estimates import STOP_COUNT
from tpo_ref.study.protocol import Arrays
from tpo_torch.reversal.engine.training import METRICS, ReversalTraining
from tpo_torch.reversal.settings import ReversalSettings
from tpo_torch.reversal.table import own_name
from tpo_torch.shared import checkpoint as checkpoints
from tpo_torch.shared.seeds import distinct, usable

# A run on the CPU that saves nothing.
DEFAULT = Context()

# Episodes between two looks at the clock and at the stopping rule, fewer where so many take longer than a user wants to
# wait for an interruption; a killed run loses at most a block more than lies between two checkpoints.
BLOCK, BLOCK_SECONDS = 25, 2.0
CHECKPOINT_SECONDS = 30.0
# Smallest duration, in seconds, by which a block's episodes are divided.
CLOCK = 1e-3


def run(
    method: str,
    settings: ReversalSettings,
    seeds: Sequence[int],
    context: Context = DEFAULT,
) -> Arrays:
    """Train one method for all seeds, and record what its training batches show.

    Paper: Fig. 5, Fig. 6, Fig. 7, Fig. 8 (and 10 to 17)

    Every episode: prompts, answers from the present policy, rewards; then full-batch gradient steps on the method's
    loss. On the CPU each seed has its own merged rollout, and seeds share the cores; on an accelerator all are one.

    Args: method, one of `table.TABLE` or an alias, or what the context's rule is called; seeds, distinct and
        non-negative; context, with a checkpoint written about every half minute and at an interruption, from which a
        run started again with the same code continues bit for bit, and progress after each block of episodes.
    Returns: curves (S, episodes) of `engine.training.METRICS`, those the method has; NaN after a run has stopped.
    Raises: ValueError, TypeError for an unknown method, bad seeds or settings, the terminal reward with a token-level
        method, or a checkpoint that is damaged, or of another run.
    """
    where, checkpoint = usable(context.device), context.checkpoint
    if not isinstance(settings, ReversalSettings):
        raise TypeError(f"settings: got {type(settings).__name__}, expected ReversalSettings")
    own = distinct(seeds)
    groups = [(seed,) for seed in own] if where.type == "cpu" else [own]
    rule = context.rule
    stacks = [ReversalTraining(rule or method, settings, group, where, context.grouping) for group in groups]
    identity = {} if checkpoint is None else _identity(method, settings, own, where, context)
    curves: Arrays = {}
    if checkpoint is not None and checkpoint.exists():
        curves = checkpoints.load(checkpoint, identity, [stack.state() for stack in stacks])
        _check_curves(checkpoint, curves, len(own), settings.episodes)
    last_save, block = time.monotonic(), 1
    with checkpoints.Saver(context, identity) as saver, _shared_cores(len(stacks)) as each:
        while True:
            episode = next(iter(curves.values())).shape[1] if curves else 0
            stop = _stop(curves, settings)
            context.progress(episode if stop is None else settings.episodes, settings.episodes)
            if stop is not None or episode == settings.episodes:
                return _padded(curves, stop or episode, settings.episodes)
            count, start = min(block, settings.episodes - episode), time.monotonic()
            blocks = each(lambda stack, count=count: stack.train(count), stacks)
            new = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
            curves = {name: np.concatenate([curves[name], new[name]], 1) if curves else new[name] for name in new}
            saver.keep([stack.state() for stack in stacks], curves)
            block = max(1, min(BLOCK, int(count * BLOCK_SECONDS / max(time.monotonic() - start, CLOCK))))
            if time.monotonic() - last_save > CHECKPOINT_SECONDS:
                saver.write()
                last_save = time.monotonic()


def _identity(
    method: str, settings: ReversalSettings, seeds: tuple[int, ...], where: torch.device, context: Context
) -> dict[str, object]:
    """What a checkpoint shares with the run that goes on from it."""
    if context.rule is None:
        return checkpoints.identity(__name__, own_name(method), settings, seeds, where)
    rule = {**context.rule.record(), "grouping": context.grouping}
    return {**checkpoints.identity(__name__, method, settings, seeds, where), "rule": rule}


def _check_curves(path: Path, curves: Arrays, seeds: int, episodes: int) -> None:
    """ValueError unless the curves of a checkpoint are those of one run until one of its episodes."""
    shapes = {curve.shape for curve in curves.values()}
    if "error" not in curves or not all(name in METRICS for name in curves) or len(shapes) > 1:
        raise ValueError(f"{path}: has curves {', '.join(curves)} of shapes {shapes}; {partial.REMEDY}")
    (shape,) = shapes
    if len(shape) != 2 or shape[0] != seeds or not 0 < shape[1] <= episodes:
        raise ValueError(f"{path}: has curves of {shape}, expected {seeds} by 1 to {episodes}; {partial.REMEDY}")


@contextmanager
def _shared_cores(stacks: int) -> Iterator[Callable[..., list[Any]]]:
    """A parallel map over stacks, each on one thread: small products gain little from a second one.

    So a seed's numbers depend neither on the number of cores nor on the seeds beside it.
    """
    cores = torch.get_num_threads()
    # Each worker thread has a setting of its own; the main thread's is put back.
    with ThreadPoolExecutor(min(cores, stacks), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            yield lambda function, items: list(pool.map(function, items))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            torch.set_num_threads(cores)


def _stop(curves: Arrays, settings: ReversalSettings) -> int | None:
    """Return how many episodes the run has when it may stop, None while it may not."""
    if not curves or settings.stop_below is None:
        return None
    below = curves["error"].mean(0) < settings.stop_below
    # The number of episodes in a row, counted anew after each that is not below.
    streak = np.arange(1, len(below) + 1) - np.maximum.accumulate(np.where(below, 0, np.arange(1, len(below) + 1)))
    reached = np.flatnonzero(streak >= STOP_COUNT)
    return int(reached[0]) + 1 if len(reached) else None


def _padded(curves: Arrays, length: int, episodes: int) -> Arrays:
    """Cut curves to a length, and fill them up with NaN."""
    missing = episodes - length
    return {
        name: np.pad(curve[:, :length].astype(np.float64), ((0, 0), (0, missing)), constant_values=np.nan)
        for name, curve in curves.items()
    }
