"""The runs of `readable`, compiled and parallel over seeds: same names, same draws, the algebra done in advance."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from tpo_ref import checks
from tpo_ref.bandits import environments
from tpo_ref.bandits.compiled import loops
from tpo_ref.bandits.environments import CORRECT, ManyContexts, Needle, SampledCandidates, SingleContext
from tpo_ref.bandits.readable import Curves
from tpo_ref.checks import Floats

# What a thread does: a few seeds in, their rows of error and misalignment filled. The loops get contiguous arrays only:
# a second memory layout would be a second compilation, which may round a sum in another order.
Worker = Callable[[Sequence[int], Floats, Floats], None]

# At most this many uniforms are drawn at a time for one seed: where blocks end must not depend on the other seeds.
BLOCK = 1 << 14
# Several chunks of seeds per thread, so that a thread that was held up does not hold up the run; a chunk's draws
# stay within 2 MiB.
CHUNKS_PER_THREAD = 4
LARGEST_CHUNK = 16


def single_context(method: str, settings: SingleContext, seeds: Sequence[int], threads: int | None = None) -> Curves:
    """`readable.single_context`, from counts per arm.

    Paper: Fig. 2

    With n_a draws of arm a, PG, DG and GRPO are w − πΣw, w_a = (n_a/B)·A_a·gate_a; TPO is softmax(z + u) − π.

    Args: as `readable.single_context`; threads, all cores when None.
    Returns, Raises: as `readable.single_context`; the same bits whatever the number of threads.

    >>> float(single_context("pg", SingleContext(arms=10, steps=3), seeds=[0])["error"][0, 0].round(4))
    0.9
    """
    environments.check_run(method, settings, SingleContext, seeds)
    options = (settings.alpha, settings.baseline, settings.eta, settings.dg_eta)

    def run(chunk: Sequence[int], error: Floats, misalignment: Floats) -> None:
        z = np.zeros((len(chunk), settings.arms))
        for block, draws in _blocks(chunk, settings.steps, (settings.actions,)):
            out = np.empty((2, *draws.shape[:2]))
            loops.single_seeds(loops.CODES[method], draws, z, *options, *out)
            error[:, block], misalignment[:, block] = out

    return _over_seeds(run, seeds, settings.steps, threads)


def many_contexts(method: str, settings: ManyContexts, seeds: Sequence[int], threads: int | None = None) -> Curves:
    """`readable.many_contexts`, from β(p) and the gaps to the correct logit.

    Paper: Fig. 3

    Every direction is β(p)·v (App. B), so p, β and ‖v‖² of each context are all that a step needs.

    Args: as `readable.many_contexts`; threads, all cores when None.
    Returns, Raises: as `readable.many_contexts`; the same bits whatever the number of threads.

    >>> many_contexts("tpo", ManyContexts(contexts=5, steps=3), seeds=[0, 1])["error"].shape
    (2, 3)
    """
    environments.check_run(method, settings, ManyContexts, seeds)
    small = math.exp(-settings.arms / (settings.eta * math.sqrt(settings.arms - 1)))

    def run(chunk: Sequence[int], error: Floats, misalignment: Floats) -> None:
        z = np.stack([environments.initial_logits(settings, seed) for seed in chunk])
        gaps = z[..., CORRECT + 1 :] - z[..., [CORRECT]]
        loops.many_seeds(loops.CODES[method], gaps, settings.alpha, small, 1 / settings.dg_eta, error, misalignment)

    return _over_seeds(run, seeds, settings.steps, threads)


def sampled_candidates(
    method: str, settings: SampledCandidates, seeds: Sequence[int], threads: int | None = None
) -> Curves:
    """`readable.sampled_candidates`, from the number of successes in a group.

    Paper: Alg. 1

    With binary scores a group has one tilt, λ_m = exp(K/(η√(m(K − m)))), and every g_i is affine in π(a_i).

    Args: as `readable.sampled_candidates`; threads, all cores when None.
    Returns, Raises: as `readable.sampled_candidates`; the same bits whatever the number of threads.

    >>> sampled_candidates("tpo_ratio", SampledCandidates(arms=10, steps=3), seeds=[0])["error"].shape
    (1, 3)
    """
    environments.check_run(method, settings, SampledCandidates, seeds)
    return _group_run(method, settings, seeds, settings.alpha, True, threads)


def needle(method: str, settings: Needle, seeds: Sequence[int], threads: int | None = None) -> Curves:
    """`readable.needle`, from the number of successes in a group.

    Paper: Fig. 8

    As `sampled_candidates`, with a plain step.

    Args: as `readable.needle`; threads, all cores when None.
    Returns, Raises: as `readable.needle`; the same bits whatever the number of threads.

    >>> needle("grpo", Needle(horizon=2, steps=3), seeds=[0])["error"].shape
    (1, 3)
    """
    environments.check_run(method, settings, Needle, seeds)
    return _group_run(method, settings, seeds, settings.step_size, False, threads)


def _group_run(
    method: str,
    settings: SampledCandidates | Needle,
    seeds: Sequence[int],
    rate: float,
    normalised: bool,
    threads: int | None,
) -> Curves:
    k = settings.candidates
    m = np.arange(1, k)
    small = np.ones(k + 1)  # 1/λ_m; a group of equal scores has no tilt
    small[1:k] = np.exp(-k / (settings.eta * np.sqrt(m * (k - m))))

    def run(chunk: Sequence[int], error: Floats, misalignment: Floats) -> None:
        z = np.zeros((len(chunk), settings.arms))
        for block, draws in _blocks(chunk, settings.steps, (settings.groups, k)):
            out = np.empty((2, *draws.shape[:2]))
            loops.group_seeds(loops.CODES[method], draws, z, small, rate, normalised, *out)
            error[:, block], misalignment[:, block] = out

    return _over_seeds(run, seeds, settings.steps, threads)


def _blocks(chunk: Sequence[int], steps: int, shape: tuple[int, ...]) -> Iterator[tuple[slice, Floats]]:
    # Piece by piece, each seed in the order of its stream: the same numbers as one draw of everything.
    streams = [environments.stream(seed) for seed in chunk]
    size = max(1, min(steps, BLOCK // math.prod(shape)))
    for start in range(0, steps, size):
        draws = np.empty((len(chunk), min(size, steps - start), *shape))
        for rng, out in zip(streams, draws, strict=True):
            rng.random(out=out)
        yield slice(start, start + draws.shape[1]), draws


def _over_seeds(run: Worker, seeds: Sequence[int], steps: int, threads: int | None) -> Curves:
    workers = (os.cpu_count() or 1) if threads is None else checks.whole("threads", threads, 1)
    error, misalignment = np.empty((len(seeds), steps)), np.empty((len(seeds), steps))
    size = min(LARGEST_CHUNK, math.ceil(len(seeds) / (workers * CHUNKS_PER_THREAD)))

    def part(start: int) -> None:
        rows = slice(start, start + size)
        run(seeds[rows], error[rows], misalignment[rows])

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(part, range(0, len(seeds), size)))
    return {"error": error, "misalignment": misalignment}
