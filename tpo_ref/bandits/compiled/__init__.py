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
from tpo_ref.bandits.compiled.terms import CODES, GroupOptions, ManyOptions, SingleOptions
from tpo_ref.bandits.environments import CORRECT, ManyContexts, Needle, SampledCandidates, SingleContext
from tpo_ref.bandits.readable import Curves
from tpo_ref.checks import Floats

# What a thread does: takes a chunk of seeds and fills their rows of error and misalignment, each (seeds, steps). The
# loops get contiguous arrays only: a second memory layout would be a second compilation, which may round a sum in
# another order.
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
    options = SingleOptions(settings.alpha, settings.baseline, settings.eta, settings.dg_eta)

    def run(chunk: Sequence[int], error: Floats, misalignment: Floats) -> None:
        logits = np.zeros((len(chunk), settings.arms))
        for steps, draws in _blocks(chunk, settings.steps, (settings.actions,)):
            curves = np.empty((2, *draws.shape[:2]))
            loops.single_seeds(CODES[method], draws, logits, options, *curves)
            error[:, steps], misalignment[:, steps] = curves

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
    # One arm of A has reward 1: standardised, it stands A/√(A − 1) above the others.
    inverse_tilt = math.exp(-settings.arms / (settings.eta * math.sqrt(settings.arms - 1)))
    options = ManyOptions(settings.alpha, inverse_tilt, 1 / settings.dg_eta)

    def run(chunk: Sequence[int], error: Floats, misalignment: Floats) -> None:
        logits = np.stack([environments.initial_logits(settings, seed) for seed in chunk])
        gaps = logits[..., CORRECT + 1 :] - logits[..., [CORRECT]]
        loops.many_seeds(CODES[method], gaps, options, error, misalignment)

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
    return _group_run(method, settings, seeds, settings.alpha, normalised=True, threads=threads)


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
    return _group_run(method, settings, seeds, settings.step_size, normalised=False, threads=threads)


def _group_run(
    method: str,
    settings: SampledCandidates | Needle,
    seeds: Sequence[int],
    step: float,
    *,
    normalised: bool,
    threads: int | None,
) -> Curves:
    k = settings.candidates
    successes = np.arange(1, k)
    # 1/λ_m for m successes; a group of equal scores has no tilt.
    inverse_tilts = np.ones(k + 1)
    inverse_tilts[1:k] = np.exp(-k / (settings.eta * np.sqrt(successes * (k - successes))))
    options = GroupOptions(step, normalised, inverse_tilts)

    def run(chunk: Sequence[int], error: Floats, misalignment: Floats) -> None:
        logits = np.zeros((len(chunk), settings.arms))
        for steps, draws in _blocks(chunk, settings.steps, (settings.groups, k)):
            curves = np.empty((2, *draws.shape[:2]))
            loops.group_seeds(CODES[method], draws, logits, options, *curves)
            error[:, steps], misalignment[:, steps] = curves

    return _over_seeds(run, seeds, settings.steps, threads)


def _blocks(chunk: Sequence[int], steps: int, shape: tuple[int, ...]) -> Iterator[tuple[slice, Floats]]:
    """Block after block: which steps it holds, and their uniforms (seeds of the chunk, steps of the block, *shape).

    Each seed in the order of its stream: the same numbers as one draw of everything.
    """
    streams = [environments.stream(seed) for seed in chunk]
    size = max(1, min(steps, BLOCK // math.prod(shape)))
    for start in range(0, steps, size):
        draws = np.empty((len(chunk), min(size, steps - start), *shape))
        for rng, own in zip(streams, draws, strict=True):
            rng.random(out=own)
        yield slice(start, start + draws.shape[1]), draws


def _over_seeds(run: Worker, seeds: Sequence[int], steps: int, threads: int | None) -> Curves:
    """The curves (S, steps) of a run, chunk of seeds by chunk of seeds, on so many threads; None for all cores."""
    workers = (os.cpu_count() or 1) if threads is None else checks.whole("threads", threads, 1)
    error, misalignment = np.empty((len(seeds), steps)), np.empty((len(seeds), steps))
    size = min(LARGEST_CHUNK, math.ceil(len(seeds) / (workers * CHUNKS_PER_THREAD)))

    def run_chunk(start: int) -> None:
        rows = slice(start, start + size)
        run(seeds[rows], error[rows], misalignment[rows])

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(run_chunk, range(0, len(seeds), size)))
    return {"error": error, "misalignment": misalignment}
