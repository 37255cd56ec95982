"""The loops that the compiler sees, a few seeds at a time: called by the runs of this package only."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

from tpo_ref.bandits.methods import GRPO_FLOOR
from tpo_ref.bandits.readable import STEP_FLOOR
from tpo_ref.closed_form import COSINE_FLOOR
from tpo_ref.standardize import CONSTANT_ULPS

# Method names as numbers, which compiled code compares for nothing.
CE, PG, DG, GRPO, TPO, RATIO, NO_ANCHOR = range(7)
CODES = {"ce": CE, "pg": PG, "dg": DG, "grpo": GRPO, "tpo": TPO}
CODES |= {"tpo_sampled": TPO, "tpo_ratio": RATIO, "tpo_no_anchor": NO_ANCHOR}
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
def _weigh(z: Any, shift: float, e: Any, cdf: Any) -> float:
    # Unnormalised softmax and its running sum. The shift is last step's log-normaliser: a step is short, so it serves.
    total = 0.0
    for a in range(z.size):
        e[a] = math.exp(z[a] - shift)
        total += e[a]
        cdf[a] = total
    return total


@compiled
def _guide(cdf: Any, total: float, guide: Any) -> None:
    # guide[j]: how many arms end before bucket j, so that the search for a draw in bucket j may start there.
    guide[:] = 0
    scale = guide.size / total * (1 + ROUNDING)
    for a in range(cdf.size - 1):
        bucket = np.uint64(cdf[a] * scale) + ONE
        if bucket < np.uint64(guide.size):
            guide[bucket] += 1
    ends = 0
    for j in range(guide.size):
        ends += guide[j]
        guide[j] = ends


@compiled
def _draw(uniform: float, cdf: Any, total: float, guide: Any) -> Any:
    # The first arm with cdf > target. uniform ≤ 1 − 2⁻⁵³, so the target is below the total (unless subnormal) and the
    # search ends. Most buckets hold one edge at most: a first move by addition costs no mispredicted branch.
    a = np.uint64(guide[np.uint64(uniform * guide.size)])
    target = uniform * total
    a += np.uint64(cdf[a] <= target)
    while cdf[a] <= target:
        a += ONE
    return a


@compiled
def _step(z: Any, g: Any, e: Any, total: float, rate: float, normalised: bool) -> tuple[float, float]:
    # Moves z along g; returns error and misalignment to the oracle h = π(y)(e_y − π), both from before the move.
    p, tail, squares, gg, ge = e[0] / total, 0.0, 0.0, g[0] * g[0], 0.0
    for a in range(1, z.size):
        tail += e[a]
        squares += e[a] * e[a]
        gg += g[a] * g[a]
        ge += g[a] * e[a]
    error = tail / total
    hh = p * p * (error * error + squares / (total * total))
    gh = p * (g[0] * error - ge / total)
    if normalised:
        rate = rate / math.sqrt(gg + STEP_FLOOR)
    for a in range(z.size):
        z[a] += rate * g[a]
    return error, 1 - gh / (math.sqrt(gg + COSINE_FLOOR) * math.sqrt(hh + COSINE_FLOOR))


@compiled
def single_seeds(
    method: int, draws: Any, z: Any, alpha: float, baseline: float, eta: float, dg_eta: float, error: Any, mis: Any
) -> None:
    """One block of steps of the single-context run: logits z (S, A) move, error and mis (S, T) are filled."""
    for s in range(z.shape[0]):
        _single(method, draws[s], z[s], alpha, baseline, eta, dg_eta, error[s], mis[s])


@compiled
def many_seeds(method: int, gaps: Any, alpha: float, small: float, power: float, error: Any, mis: Any) -> None:
    """The many-contexts run: gaps (S, N, A − 1) to the right logit move, error and mis (S, T) are filled."""
    for s in range(gaps.shape[0]):
        _many(method, gaps[s], alpha, small, power, error[s], mis[s])


@compiled
def group_seeds(
    method: int, draws: Any, z: Any, small: Any, rate: float, normalised: bool, error: Any, mis: Any
) -> None:
    """One block of steps on sampled groups: logits z (S, A) move, error and mis (S, T) are filled."""
    for s in range(z.shape[0]):
        _groups(method, draws[s], z[s], small, rate, normalised, error[s], mis[s])


@compiled
def _single(
    method: int, draws: Any, z: Any, alpha: float, baseline: float, eta: float, dg_eta: float, error: Any, mis: Any
) -> None:
    arms = z.size
    e, cdf, g, tilts = np.empty(arms), np.empty(arms), np.empty(arms), np.empty(draws.shape[1] + 1)
    counts = np.empty(arms, np.int64)
    guide = np.empty(_buckets(arms), np.int64)
    shift = z.max()
    for t in range(draws.shape[0]):
        total = _weigh(z, shift, e, cdf)
        shift += math.log(total)
        _guide(cdf, total, guide)
        counts[:] = 0
        for i in range(draws.shape[1]):
            counts[_draw(draws[t, i], cdf, total, guide)] += 1
        share = 1 / draws.shape[1]
        if method == TPO:
            _tilt(counts, share, baseline, eta, e, total, tilts, g)
        else:
            _policy_gradient(method, counts, share, baseline, dg_eta, z, shift, e, total, g)
        error[t], mis[t] = _step(z, g, e, total, alpha, True)


@compiled
def _buckets(arms: int) -> int:
    size = 1
    while size < BUCKETS_PER_ARM * arms:
        size *= 2
    return size


@compiled
def _policy_gradient(
    method: int,
    counts: Any,
    share: float,
    baseline: float,
    dg_eta: float,
    z: Any,
    shift: float,
    e: Any,
    total: float,
    g: Any,
) -> None:
    # PG, DG, GRPO: w − πΣw with w_a = (n_a/B)·A_a·gate_a.
    right, wrong = 1 - baseline, -baseline
    if method == GRPO:
        mean = counts[0] * share
        scale = 1 / math.sqrt(mean * (1 - mean) + GRPO_FLOOR)
        right, wrong = (1 - mean) * scale, -mean * scale
    pull = 0.0
    for a in range(g.size):
        advantage = right if a == 0 else wrong
        w = counts[a] * share * advantage
        if method == DG and w != 0:
            w /= 1 + math.exp(advantage * (z[a] - shift) / dg_eta)
        g[a] = w
        pull += w
    pull /= total
    for a in range(g.size):
        g[a] -= e[a] * pull


@compiled
def _tilt(counts: Any, share: float, baseline: float, eta: float, e: Any, total: float, tilts: Any, g: Any) -> None:
    # TPO: s_a = (n_a/B)(r_a − b) over all arms, u = z(s), g = q − π. Wrong arms drawn equally often share one tilt.
    arms = g.size
    for a in range(arms):
        g[a] = counts[a] * share * -baseline
    g[0] += counts[0] * share
    top, low = g.max(), g.min()
    if top - low <= CONSTANT_ULPS * EPS * max(abs(top), abs(low)):
        g[:] = 0
        return
    mean = g.sum() / arms
    variance = 0.0
    for a in range(arms):
        variance += (g[a] - mean) ** 2
    scale = 1 / (math.sqrt(variance / arms) * eta)
    most = 0
    for a in range(1, arms):
        most = max(most, counts[a])
    for n in range(most + 1):
        tilts[n] = math.exp((n * share * -baseline - top) * scale)
    g[0] = e[0] * math.exp((g[0] - top) * scale)
    mass = g[0]
    for a in range(1, arms):
        g[a] = e[a] * tilts[counts[a]]
        mass += g[a]
    for a in range(arms):
        g[a] = g[a] / mass - e[a] / total


@compiled
def _many(method: int, gaps: Any, alpha: float, small: float, power: float, error: Any, mis: Any) -> None:
    # gaps: logits less the correct one's. They never grow, since every β ≥ 0, so the exponentials cannot overflow.
    contexts, others = gaps.shape
    e, pull, loss = np.empty_like(gaps), np.empty(contexts), np.empty(contexts)
    for t in range(error.size + 1):
        gg, gh, hh, missing = 0.0, 0.0, 0.0, 0.0
        for n in range(contexts):
            tail, squares = 0.0, 0.0
            for a in range(others):
                x = math.exp(gaps[n, a])
                e[n, a] = x
                tail += x
                squares += x * x
            p = 1 / (1 + tail)
            loss[n] = tail * p
            beta = _beta(method, p, loss[n], small, power)
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
            mis[t] = 1 - gh / (math.sqrt(gg + COSINE_FLOOR) * math.sqrt(hh + COSINE_FLOOR))
            rate = alpha / math.sqrt(gg + STEP_FLOOR)
            for n in range(contexts):
                for a in range(others):
                    gaps[n, a] -= rate * (pull[n] * e[n, a] + loss[n])


@compiled
def _beta(method: int, p: float, missing: float, small: float, power: float) -> float:
    if method == CE:
        return 1.0
    if method == PG:
        return p
    if method == DG:
        return p / (1 + (p if power == 1 else p**power))
    if method == GRPO:
        return math.sqrt(p / (missing + GRPO_FLOOR))
    return p * (1 - small) / (p + missing * small)


@compiled
def _groups(method: int, draws: Any, z: Any, small: Any, rate: float, normalised: bool, error: Any, mis: Any) -> None:
    arms, groups, k = z.size, draws.shape[1], draws.shape[2]
    e, cdf, g = np.empty(arms), np.empty(arms), np.empty(arms)
    group, guide = np.empty(k, np.uint64), np.empty(_buckets(arms), np.int64)
    shift = z.max()
    for t in range(draws.shape[0]):
        total = _weigh(z, shift, e, cdf)
        shift += math.log(total)
        _guide(cdf, total, guide)
        g[:] = 0
        for j in range(groups):
            m, mass, alike = 0, 0.0, True
            for i in range(k):
                a = _draw(draws[t, j, i], cdf, total, guide)
                group[i] = a
                alike = alike and a == group[0]
                m += a == 0
                mass += 0.0 if a == 0 else e[a]
            # K copies of one arm give exactly nothing; computed, they would give rounding for the norm to blow up.
            if alike or (method != NO_ANCHOR and (m == 0 or m == k)):
                continue
            slope, constant, right = _verdict(method, m, k, m * e[0], mass, small[m])
            g[0] += right
            for i in range(k):
                if group[i] != 0:
                    g[group[i]] += slope * e[group[i]] + constant
        g /= groups
        error[t], mis[t] = _step(z, g, e, total, rate, normalised)


@compiled
def _verdict(method: int, m: int, k: int, right: float, mass: float, small: float) -> tuple[float, float, float]:
    # Ascent q − p of a failure i, slope·e_i + constant, and of all m successes together; small = 1/λ_m.
    if method == TPO:
        p, q = 1 / (right + mass), 1 / (right + small * mass)
        return small * q - p, 0.0, right * (q - p)
    w = 1 / (m + small * (k - m))
    if method == RATIO:
        return 0.0, small * w - 1 / k, m * (w - 1 / k)
    if method == NO_ANCHOR:
        p = 1 / (right + mass)
        return -p, small * w, m * w - right * p
    return 0.0, -math.sqrt(m / (k - m)) / k, math.sqrt(m * (k - m)) / k
