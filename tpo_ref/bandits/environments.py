"""Bandit environments: settings, sampling, random streams. Arm 0 is the correct one everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tpo_ref import checks
from tpo_ref.checks import Floats

Actions = NDArray[np.intp]

CORRECT = 0
# Nats. A longer step is no experiment, and the twins may lean on it: no exponential of one step overflows.
LONGEST_STEP = 100.0
SAMPLED_METHODS = ("tpo_sampled", "tpo_ratio", "tpo_no_anchor", "grpo")


@dataclass(frozen=True)
class SingleContext:
    """One context whose arms all start equal; B actions are drawn a step, and the step is normalised.

    Paper: Fig. 2

    z ← z + α g/‖g‖, z₀ = 0, where g is the method's estimate of the gradient from the B rewards.

    >>> SingleContext(steps=10).arms
    100
    """

    METHODS: ClassVar[tuple[str, ...]] = ("pg", "dg", "grpo", "tpo")
    arms: int = 100
    """Arms A; arm 0 is the correct one."""
    actions: int = 100
    """Actions B that are drawn in each step."""
    steps: int = 150
    """Steps of a run."""
    alpha: float = 0.1
    """Length of a step, in nats, after the direction is normalised."""
    baseline: float = 0.5
    """Baseline b that PG, DG and TPO subtract from a reward of 0 or 1."""
    eta: float = 1.0
    """Temperature η of TPO's target: smaller tilts it harder."""
    dg_eta: float = 1.0
    """Temperature of DG's gate."""

    def __post_init__(self) -> None:
        _check_counts(self, arms=2, actions=1, steps=1)
        _check_positive(self, "eta", "dg_eta")
        _check_step("alpha", self.alpha)
        checks.real("baseline", self.baseline)


@dataclass(frozen=True)
class ManyContexts:
    """Many contexts that share one step length; every direction is exact, so only the start is random.

    Paper: Fig. 3

    z ← z + α g/‖g‖ with one norm over all contexts, z₀ ~ N(0, 1).

    >>> ManyContexts(contexts=2).METHODS
    ('ce', 'pg', 'dg', 'grpo', 'tpo')
    """

    METHODS: ClassVar[tuple[str, ...]] = ("ce", "pg", "dg", "grpo", "tpo")
    contexts: int = 100
    """Contexts N, which share the length of a step."""
    arms: int = 10
    """Arms A of each context; arm 0 is the correct one."""
    steps: int = 1000
    """Steps of a run."""
    alpha: float = 0.1
    """Length of a step, in nats, after the direction over all contexts is normalised."""
    eta: float = 1.0
    """Temperature η of TPO's target: smaller tilts it harder."""
    dg_eta: float = 1.0
    """Temperature of DG's gate."""

    def __post_init__(self) -> None:
        _check_counts(self, contexts=1, arms=2, steps=1)
        _check_positive(self, "eta", "dg_eta")
        _check_step("alpha", self.alpha)


@dataclass(frozen=True)
class SampledCandidates:
    """The single context once more, learnt from groups of K candidates drawn from the policy, duplicates kept.

    Paper: Alg. 1

    10 groups of 10 spend the 100 actions a step of Fig. 2 (deviation D14); z ← z + α g/‖g‖, z₀ = 0.

    >>> SampledCandidates(candidates=5).groups
    10
    """

    METHODS: ClassVar[tuple[str, ...]] = SAMPLED_METHODS
    arms: int = 100
    """Arms A; arm 0 is the correct one."""
    candidates: int = 10
    """Candidates K of a group, drawn from the policy, duplicates kept."""
    groups: int = 10
    """Groups in each step; the step takes the mean of their directions."""
    steps: int = 300
    """Steps of a run."""
    alpha: float = 0.1
    """Length of a step, in nats, after the direction is normalised."""
    eta: float = 1.0
    """Temperature η of TPO's target: smaller tilts it harder."""

    def __post_init__(self) -> None:
        _check_counts(self, arms=2, candidates=2, groups=1, steps=1)
        _check_positive(self, "eta")
        _check_step("alpha", self.alpha)


# Answers are held one by one: more than this is no longer a tabular bandit.
MOST_ARMS = 1_000_000


@dataclass(frozen=True)
class Needle:
    """V^H symmetric answers, one correct, plain gradient descent on the mean over groups: the terminal reward, bare.

    Paper: Fig. 8

    z ← z − step·∂L/∂z, z₀ = 0 (deviation D14). Its no-anchor plateau is `closed_form.no_anchor_root`.

    >>> Needle(horizon=7).arms
    128
    """

    METHODS: ClassVar[tuple[str, ...]] = SAMPLED_METHODS
    vocab: int = 2
    """Alphabet size V; there are V^H answers."""
    horizon: int = 4
    """Length H of an answer."""
    candidates: int = 8
    """Candidates K of a group, drawn from the policy, duplicates kept."""
    groups: int = 16
    """Groups in each step; the step takes the mean of their gradients."""
    steps: int = 3000
    """Steps of a run."""
    step_size: float = 0.5
    """Factor of the gradient in a step of plain gradient descent."""
    eta: float = 1.0
    """Temperature η of TPO's target: smaller tilts it harder."""

    def __post_init__(self) -> None:
        _check_counts(self, vocab=2, horizon=1, candidates=2, groups=1, steps=1)
        _check_positive(self, "eta")
        _check_step("step_size", self.step_size)
        if self.arms > MOST_ARMS:
            raise ValueError(
                f"horizon: got {self.vocab}^{self.horizon} answers, expected at most {MOST_ARMS:,}; lower it"
            )

    @property
    def arms(self) -> int:
        """N = V^H, the number of answers."""
        return int(self.vocab**self.horizon)


Settings = SingleContext | ManyContexts | SampledCandidates | Needle


def stream(seed: int) -> np.random.Generator:
    """The random numbers of one seed, the same whichever other seeds run.

    Paper: ours; both twins take their draws from here, in order

    PCG64 started from SeedSequence(seed).

    Args: seed ≥ 0. Returns: a fresh generator. Raises: TypeError, ValueError for a bad seed.

    >>> bool(stream(3).random() == stream(3).random())
    True
    """
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(checks.whole("seed", seed, 0))))


def initial_logits(settings: ManyContexts, seed: int) -> Floats:
    """Where a seed of the many-context run starts.

    Paper: Fig. 3

    z₀ ~ N(0, 1), the first draws of the seed's stream.

    Args: settings; seed ≥ 0. Returns: (contexts, arms), in nats. Raises: as `stream`.

    >>> initial_logits(ManyContexts(contexts=2, arms=3), seed=0).shape
    (2, 3)
    """
    return stream(seed).normal(size=(settings.contexts, settings.arms))


def sample(cdf: ArrayLike, uniforms: ArrayLike) -> Actions:
    """Actions by inversion of the cumulative distribution.

    Paper: Alg. 1 (its draw of candidates)

    The first a with cdf_a > x·cdf_last: cumulative weights need not end at 1, and an arm of weight 0 is never drawn.

    Args: cdf (…, A), non-decreasing, not all 0; uniforms (…, n) in [0, 1).
    Returns: (…, n) int. Raises: TypeError, ValueError for a bad dtype, shape or value.

    >>> sample([0.5, 0.5, 1.0], [0.0, 0.49, 0.5]).tolist()
    [0, 0, 2]
    """
    c, x = checks.finite("cdf", cdf), checks.finite("uniforms", uniforms)
    if x.ndim != c.ndim or x.shape[:-1] != c.shape[:-1]:
        raise ValueError(f"uniforms: got shape {x.shape}, expected {c.shape[:-1]} and any number of draws last")
    if (x < 0).any() or (x >= 1).any():
        raise ValueError(f"uniforms: got values in [{x.min():g}, {x.max():g}], expected [0, 1); use rng.random")
    if (np.diff(c, axis=-1, prepend=0.0) < 0).any() or (c[..., -1] == 0).any():
        raise ValueError("cdf: got decreasing, negative or all-zero cumulative weights; pass np.cumsum(p, axis=-1)")
    rows = zip(c.reshape(-1, c.shape[-1]), x.reshape(-1, x.shape[-1]), strict=True)
    return np.array([_invert(row, draws) for row, draws in rows], dtype=np.intp).reshape(x.shape)


def chain_to_logits(g: ArrayLike, actions: NDArray[np.integer], pi: ArrayLike) -> Floats:
    """Gradient in the policy's logits from the gradient in the candidates' log-probabilities.

    Paper: Prop. 1 (chained through the policy)

    ∂L/∂z_w = Σ_{i: a_i = w} g_i − π_w Σ_i g_i; the last term vanishes when Σ g = 0, as it does for TPO.

    Args: g (…, K); actions (…, K) int, which arm each candidate is; pi (…, A), the policy.
    Returns: (…, A). Raises: TypeError, ValueError for a bad dtype or shape, or actions outside 0…A − 1.

    >>> chain_to_logits([1.0, -0.5, -0.5], np.array([0, 1, 1]), [0.5, 0.25, 0.25]).tolist()
    [1.0, -1.0, 0.0]
    """
    g, pi = checks.finite("g", g), checks.finite("pi", pi)
    arms = pi.shape[-1]
    a = checks.labels("actions", actions, g.shape, arms)
    if pi.shape[:-1] != g.shape[:-1]:
        raise ValueError(f"pi: got shape {pi.shape}, expected {g.shape[:-1]} and the arms last; broadcast it first")
    rows = np.arange(pi[..., 0].size).reshape(*pi.shape[:-1], 1)
    sums = np.bincount((rows * arms + a).ravel(), weights=g.ravel(), minlength=pi.size).reshape(pi.shape)
    return np.asarray(sums - pi * g.sum(-1, keepdims=True))


def check_run(method: str | None, settings: Settings, kind: type, seeds: Sequence[int]) -> None:
    """Refuses a run whose settings are of another environment, whose method it lacks, or that has no valid seed.

    Args: method, None for a rule that is in no table.
    """
    if type(settings) is not kind:
        raise TypeError(f"settings: got {type(settings).__name__}, expected {kind.__name__}")
    if method is not None and method not in settings.METHODS:
        raise checks.unknown("method", method, settings.METHODS)
    if not hasattr(seeds, "__len__") or not hasattr(seeds, "__getitem__") or isinstance(seeds, dict):
        raise TypeError(f"seeds: got {type(seeds).__name__}, expected a sequence of integers such as range(100)")
    if len(seeds) == 0:
        raise ValueError("seeds: got none, expected at least one; pass range(100) for the paper's number")
    for seed in seeds:
        checks.whole("seed", seed, 0)


def _invert(cdf: Floats, uniforms: Floats) -> Actions:
    # A subnormal x·cdf_last may round up to cdf_last: then the last arm with weight is meant.
    last = cdf[-1]
    first: Actions = np.minimum(cdf.searchsorted(uniforms * last, side="right"), cdf.searchsorted(last))
    return first


def _check_counts(settings: object, **least: int) -> None:
    for name, bound in least.items():
        checks.whole(name, getattr(settings, name), bound)


def _check_positive(settings: object, *names: str) -> None:
    for name in names:
        checks.positive(name, getattr(settings, name))


def _check_step(name: str, step: float) -> None:
    if checks.positive(name, step) > LONGEST_STEP:
        raise ValueError(f"{name}: got {step!r}, expected a step of at most {LONGEST_STEP:g} nats; take a shorter one")
