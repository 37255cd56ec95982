"""The loops that the compiler sees, a few seeds at a time: called by the runs of this package only.

Letters in shapes: S seeds, T steps, A arms, B actions a step, G groups a step, K candidates of a group, N contexts.
Arm 0 is the correct one. Arrays are float64 and contiguous unless another type is said. A function that computes a
`direction` (A,) fills it with the method's estimate of the gradient ascent on the logits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

from tpo_ref.bandits.compiled.terms import (
    CE,
    DG,
    GRPO,
    NO_ANCHOR,
    PG,
    RATIO,
    TPO,
    Ascent,
    Counts,
    GroupOptions,
    ManyOptions,
    Policy,
    SingleOptions,
)
from tpo_ref.bandits.methods import GRPO_FLOOR
from tpo_ref.bandits.readable import STEP_FLOOR
from tpo_ref.checks import Floats
from tpo_ref.closed_form import COSINE_FLOOR
from tpo_ref.standardize import CONSTANT_ULPS

EPS = float(np.finfo(np.float64).eps)
# Buckets of the guide table per arm; a power of two, so that bucket edges are exact.
BUCKETS_PER_ARM = 2
# More than the three roundings of a bucket's number: the table may start a search too early, never too late.
ROUNDING = 1e-15
# Unsigned indices spare the test for negative ones.
ONE = np.uint64(1)
# Sums may be reordered, which lets them use wide registers; NaN and infinity keep their meaning.
FASTMATH = {"reassoc", "nsz", "contract"}


def compiled(function: Callable[..., Any]) -> Any:
    """Compiled without the interpreter lock; cached on disk, or in memory only where no cache can be written."""
    try:
        return njit(nogil=True, cache=True, fastmath=FASTMATH)(function)
    except RuntimeError:
        return njit(nogil=True, fastmath=FASTMATH)(function)


@compiled
def single_seeds(
    method: int, draws: Floats, logits: Floats, options: SingleOptions, error: Floats, misalignment: Floats
) -> None:
    """One block of steps of the single-context run.

    Args: method, a code; draws (S, T, B), uniforms; logits (S, A), moved; error and misalignment (S, T), filled.
    """
    for s in range(logits.shape[0]):
        _single(method, draws[s], logits[s], options, error[s], misalignment[s])


@compiled
def many_seeds(method: int, gaps: Floats, options: ManyOptions, error: Floats, misalignment: Floats) -> None:
    """The whole many-contexts run.

    Args: method, a code; gaps (S, N, A − 1), the logits of the wrong arms less that of the correct one, moved; error
        and misalignment (S, T), filled.
    """
    for s in range(gaps.shape[0]):
        _many(method, gaps[s], options, error[s], misalignment[s])


@compiled
def group_seeds(
    method: int, draws: Floats, logits: Floats, options: GroupOptions, error: Floats, misalignment: Floats
) -> None:
    """One block of steps on sampled groups.

    Args: method, a code; draws (S, T, G, K), uniforms; logits (S, A), moved; error and misalignment (S, T), filled.
    """
    for s in range(logits.shape[0]):
        _groups(method, draws[s], logits[s], options, error[s], misalignment[s])


@compiled
def _weigh(logits: Floats, shift: float, weights: Floats, cumulative: Floats) -> float:
    # Fills weights (A,), the unnormalised softmax exp(logit − shift), and their running sum; returns their total.
    # The shift is the last step's log-normaliser: a step is short, so no exponential overflows.
    total = 0.0
    for a in range(logits.size):
        weights[a] = math.exp(logits[a] - shift)
        total += weights[a]
        cumulative[a] = total
    return total


@compiled
def _buckets(arms: int) -> int:
    # How many buckets a guide table has: the power of two from BUCKETS_PER_ARM · A up.
    size = 1
    while size < BUCKETS_PER_ARM * arms:
        size *= 2
    return size


@compiled
def _fill_guide(cumulative: Floats, total: float, guide: Counts) -> None:
    # guide[j]: how many arms end before bucket j, so that the search for a draw in bucket j may start there.
    guide[:] = 0
    scale = guide.size / total * (1 + ROUNDING)
    for a in range(cumulative.size - 1):
        bucket = np.uint64(cumulative[a] * scale) + ONE
        if bucket < np.uint64(guide.size):
            guide[bucket] += 1
    ends = 0
    for j in range(guide.size):
        ends += guide[j]
        guide[j] = ends


@compiled
def _draw(uniform: float, cumulative: Floats, total: float, guide: Counts) -> Any:
    # The first arm whose cumulative weight exceeds the target. uniform ≤ 1 − 2⁻⁵³, so the target is below the total
    # (unless subnormal) and the search ends. Most buckets hold one edge at most: a first move by addition costs no
    # mispredicted branch.
    a = np.uint64(guide[np.uint64(uniform * guide.size)])
    target = uniform * total
    a += np.uint64(cumulative[a] <= target)
    while cumulative[a] <= target:
        a += ONE
    return a


@compiled
def _step(
    logits: Floats, weights: Floats, total: float, direction: Floats, step: float, normalised: bool
) -> tuple[float, float]:
    # Moves the logits along the direction g. Returns the error 1 − π(y) and the misalignment of g to the oracle
    # h = π(y)(e_y − π), both from before the move.
    p, wrong, squares, gg, g_weights = weights[0] / total, 0.0, 0.0, direction[0] * direction[0], 0.0
    for a in range(1, logits.size):
        wrong += weights[a]
        squares += weights[a] * weights[a]
        gg += direction[a] * direction[a]
        g_weights += direction[a] * weights[a]
    error = wrong / total
    hh = p * p * (error * error + squares / (total * total))
    gh = p * (direction[0] * error - g_weights / total)
    if normalised:
        step = step / math.sqrt(gg + STEP_FLOOR)
    for a in range(logits.size):
        logits[a] += step * direction[a]
    return error, 1 - gh / (math.sqrt(gg + COSINE_FLOOR) * math.sqrt(hh + COSINE_FLOOR))


@compiled
def _single(
    method: int, draws: Floats, logits: Floats, options: SingleOptions, error: Floats, misalignment: Floats
) -> None:
    # One seed of `single_seeds`: draws (T, B), logits (A,), error and misalignment (T,).
    arms, actions = logits.size, draws.shape[1]
    weights, cumulative, direction, tilts = np.empty(arms), np.empty(arms), np.empty(arms), np.empty(actions + 1)
    counts, guide = np.empty(arms, np.int64), np.empty(_buckets(arms), np.int64)
    shift = logits.max()
    for t in range(draws.shape[0]):
        total = _weigh(logits, shift, weights, cumulative)
        shift += math.log(total)
        policy = Policy(logits, weights, total, shift)
        _fill_guide(cumulative, total, guide)
        counts[:] = 0
        for i in range(actions):
            counts[_draw(draws[t, i], cumulative, total, guide)] += 1
        if method == TPO:
            _tpo_direction(counts, 1 / actions, options, policy, tilts, direction)
        else:
            _policy_gradient(method, counts, 1 / actions, options, policy, direction)
        error[t], misalignment[t] = _step(logits, weights, total, direction, options.alpha, True)


@compiled
def _policy_gradient(
    method: int, counts: Counts, share: float, options: SingleOptions, policy: Policy, direction: Floats
) -> None:
    # PG, DG, GRPO: v − πΣv with v_a = (n_a/B)·A_a·gate_a; counts n (A,), share 1/B, A_a the advantage.
    right, wrong = 1 - options.baseline, -options.baseline
    if method == GRPO:
        mean = counts[0] * share
        scale = 1 / math.sqrt(mean * (1 - mean) + GRPO_FLOOR)
        right, wrong = (1 - mean) * scale, -mean * scale
    elif method != PG and method != DG:
        raise ValueError("method: got a code that the single-context run does not have; expected one of its METHODS")
    pull = 0.0
    for a in range(direction.size):
        advantage = right if a == 0 else wrong
        v = counts[a] * share * advantage
        if method == DG and v != 0:
            v /= 1 + math.exp(advantage * (policy.logits[a] - policy.log_total) / options.dg_eta)
        direction[a] = v
        pull += v
    pull /= policy.total
    for a in range(direction.size):
        direction[a] -= policy.weights[a] * pull


@compiled
def _tpo_direction(
    counts: Counts, share: float, options: SingleOptions, policy: Policy, tilts: Floats, direction: Floats
) -> None:
    # TPO: scores s_a = (n_a/B)(r_a − b) over all arms, u their standardisation, direction q − π. Wrong arms that were
    # drawn equally often share one tilt: tilts (B + 1,), by number of draws, is room to work in. The direction holds
    # the scores at first, then the unnormalised target.
    arms, baseline = direction.size, options.baseline
    for a in range(arms):
        direction[a] = counts[a] * share * -baseline
    direction[0] += counts[0] * share
    highest, lowest = direction.max(), direction.min()
    if highest - lowest <= CONSTANT_ULPS * EPS * max(abs(highest), abs(lowest)):
        direction[:] = 0
        return
    mean = direction.sum() / arms
    variance = 0.0
    for a in range(arms):
        variance += (direction[a] - mean) ** 2
    scale = 1 / (math.sqrt(variance / arms) * options.eta)
    most = 0
    for a in range(1, arms):
        most = max(most, counts[a])
    for n in range(most + 1):
        tilts[n] = math.exp((n * share * -baseline - highest) * scale)
    direction[0] = policy.weights[0] * math.exp((direction[0] - highest) * scale)
    mass = direction[0]
    for a in range(1, arms):
        direction[a] = policy.weights[a] * tilts[counts[a]]
        mass += direction[a]
    for a in range(arms):
        direction[a] = direction[a] / mass - policy.weights[a] / policy.total


# The gaps, logits less the correct one's, never grow, since every β ≥ 0: so the exponentials cannot overflow.
@compiled
def _many(method: int, gaps: Floats, options: ManyOptions, error: Floats, misalignment: Floats) -> None:
    # One seed of `many_seeds`: gaps (N, A − 1), error and misalignment (T,). h is the direction of cross-entropy.
    contexts, others = gaps.shape
    weights, pull, loss = np.empty_like(gaps), np.empty(contexts), np.empty(contexts)
    for t in range(error.size + 1):
        gg, gh, hh, missing = 0.0, 0.0, 0.0, 0.0
        for n in range(contexts):
            wrong, squares = 0.0, 0.0
            for a in range(others):
                weight = math.exp(gaps[n, a])
                weights[n, a] = weight
                wrong += weight
                squares += weight * weight
            p = 1 / (1 + wrong)
            loss[n] = wrong * p
            beta = _beta(method, p, loss[n], options.inverse_tilt, options.inverse_dg_eta)
            length = loss[n] * loss[n] + squares * p * p
            gg += beta * beta * length
            gh += beta * length
            hh += length
            missing += loss[n]
            pull[n] = beta
            loss[n] *= beta
            pull[n] *= p
        if t > 0:
            error[t - 1] = missing / contexts
        if t < error.size:
            misalignment[t] = 1 - gh / (math.sqrt(gg + COSINE_FLOOR) * math.sqrt(hh + COSINE_FLOOR))
            rate = options.alpha / math.sqrt(gg + STEP_FLOOR)
            for n in range(contexts):
                for a in range(others):
                    gaps[n, a] -= rate * (pull[n] * weights[n, a] + loss[n])


@compiled
def _beta(method: int, p: float, missing: float, inverse_tilt: float, inverse_dg_eta: float) -> float:
    # β(p), by which a method multiplies the direction of cross-entropy (App. B); missing = 1 − p.
    if method == CE:
        return 1.0
    if method == PG:
        return p
    if method == DG:
        return p / (1 + (p if inverse_dg_eta == 1 else p**inverse_dg_eta))
    if method == GRPO:
        return math.sqrt(p / (missing + GRPO_FLOOR))
    if method == TPO:
        return p * (1 - inverse_tilt) / (p + missing * inverse_tilt)
    raise ValueError("method: got a code that the many-contexts run does not have; expected one of its METHODS")


@compiled
def _groups(
    method: int, draws: Floats, logits: Floats, options: GroupOptions, error: Floats, misalignment: Floats
) -> None:
    # One seed of `group_seeds`: draws (T, G, K), logits (A,), error and misalignment (T,).
    arms, groups, k, inverse_tilts = logits.size, draws.shape[1], draws.shape[2], options.inverse_tilts
    weights, cumulative, direction = np.empty(arms), np.empty(arms), np.empty(arms)
    group, guide = np.empty(k, np.uint64), np.empty(_buckets(arms), np.int64)
    shift = logits.max()
    for t in range(draws.shape[0]):
        total = _weigh(logits, shift, weights, cumulative)
        shift += math.log(total)
        _fill_guide(cumulative, total, guide)
        direction[:] = 0
        for j in range(groups):
            m, failed, alike = 0, 0.0, True
            for i in range(k):
                a = _draw(draws[t, j, i], cumulative, total, guide)
                group[i] = a
                alike = alike and a == group[0]
                m += a == 0
                failed += 0.0 if a == 0 else weights[a]
            # K copies of one arm give exactly nothing; computed, they would give rounding for the norm to blow up.
            if alike or (method != NO_ANCHOR and (m == 0 or m == k)):
                continue
            ascent = _group_ascent(method, m, k, m * weights[0], failed, inverse_tilts[m])
            direction[0] += ascent.successes
            for i in range(k):
                if group[i] != 0:
                    direction[group[i]] += ascent.slope * weights[group[i]] + ascent.constant
        direction /= groups
        error[t], misalignment[t] = _step(logits, weights, total, direction, options.step, options.normalised)


@compiled
def _group_ascent(method: int, m: int, k: int, succeeded: float, failed: float, inverse_tilt: float) -> Any:
    # m of the K candidates are right; succeeded and failed are the summed weights of those and of the others.
    if method == TPO:
        p, q = 1 / (succeeded + failed), 1 / (succeeded + inverse_tilt * failed)
        return Ascent(inverse_tilt * q - p, 0.0, succeeded * (q - p))
    w = 1 / (m + inverse_tilt * (k - m))
    if method == RATIO:
        return Ascent(0.0, inverse_tilt * w - 1 / k, m * (w - 1 / k))
    if method == NO_ANCHOR:
        p = 1 / (succeeded + failed)
        return Ascent(-p, inverse_tilt * w, m * w - succeeded * p)
    if method == GRPO:
        return Ascent(0.0, -math.sqrt(m / (k - m)) / k, math.sqrt(m * (k - m)) / k)
    raise ValueError("method: got a code that a run on groups does not have; expected one of its METHODS")
