"""The bandit runs, readable: exactly the protocol, all seeds at once, with any rule. `compiled` is the fast twin.

Departures from the paper, each explained in spec/deviations.md:

- D10 TPO scores all arms of the single context; the sampled form of Alg. 1 is `sampled_candidates`.
- D11 misalignment over many contexts is one cosine over all of them.
- D12 GRPO on sampled groups is a mean over candidates, so that its plain step compares with TPO's.
- D13 TPO's tabular target takes exact log-probabilities, without a floor.
- D14 `sampled_candidates` and `needle` are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tpo_ref import checks, simplex
from tpo_ref.bandits import environments, methods
from tpo_ref.bandits.environments import CORRECT, Actions, ManyContexts, Needle, SampledCandidates, SingleContext
from tpo_ref.bandits.methods import ARMS, BATCH, EXPECTED, GRPO_FLOOR, STANDARDISED, Method
from tpo_ref.checks import Floats
from tpo_ref.closed_form import cosine_misalignment
from tpo_ref.rules import Rule
from tpo_ref.study.chosen_rules import ChosenRule
from tpo_ref.study.context import Progress, silent

Curves = dict[str, Floats]

# The normalised step divides by √(‖g‖² + this), so that a zero gradient is no step and not NaN.
STEP_FLOOR = 1e-30


def single_context(
    method: str | Rule | ChosenRule,
    settings: SingleContext,
    seeds: Sequence[int],
    grouping: str = "",
    progress: Progress = silent,
) -> Curves:
    """One context, B sampled actions a step, a normalised step along the method's estimate.

    Paper: Fig. 2

    PG, DG, GRPO: the mean of their rule over the B actions. TPO: s_a = (n_a/B)(r_a − b) over all arms (deviation D10),
    direction q − π, log-probabilities exact (deviation D13).

    Args: method pg, dg, grpo or tpo, or a rule; settings; seeds ≥ 0, each with a stream of its own.
    Returns: error 1 − π(y) and misalignment to the oracle π(y)(e_y − π), each (S, steps), measured before the step.
    Raises: TypeError, ValueError for other settings, an unknown method (with the nearest names), or bad seeds.

    >>> run = single_context("tpo", SingleContext(arms=10, steps=3), seeds=[0, 1])
    >>> run["error"].shape, float(run["error"][0, 0].round(4))
    ((2, 3), 0.9)
    """
    chosen = _chosen(method, settings, SingleContext, seeds, grouping)
    streams = [environments.stream(seed) for seed in seeds]
    logits = np.zeros((len(seeds), settings.arms))
    errors, misalignments = [], []
    for step in range(settings.steps):
        progress(step, settings.steps)
        pi = simplex.softmax(logits)
        actions = _draw(streams, pi, (settings.actions,))
        g = _single_direction(chosen, logits, actions, settings)
        errors.append(1 - pi[:, CORRECT])
        misalignments.append(cosine_misalignment(g, _oracle(pi)))
        logits = logits + _normal_step(g, settings.alpha)
    return {"error": np.stack(errors, -1), "misalignment": np.stack(misalignments, -1)}


def many_contexts(
    method: str | Rule | ChosenRule,
    settings: ManyContexts,
    seeds: Sequence[int],
    grouping: str = "",
    progress: Progress = silent,
) -> Curves:
    """Many contexts, exact directions, one step length shared by all of them.

    Paper: Fig. 3

    The method's expected direction under the one-hot reward (its App. B form β(p)·v), here summed over all arms.

    Args: method ce, pg, dg, grpo or tpo, or a rule; settings; seeds ≥ 0.
    Returns: error, the mean 1 − π(y) after the step, and misalignment to cross-entropy before it, taken jointly over
        all contexts as the norm is (deviation D11); each (S, steps).
    Raises: as `single_context`.

    >>> run = many_contexts("ce", ManyContexts(contexts=5, steps=50), seeds=[0])
    >>> bool(run["error"][0, -1] < run["error"][0, 0]), float(run["misalignment"].max()) < 1e-9
    (True, True)
    """
    chosen = _chosen(method, settings, ManyContexts, seeds, grouping)
    logits = np.stack([environments.initial_logits(settings, seed) for seed in seeds])
    flat = (len(seeds), settings.contexts * settings.arms)
    errors, misalignments = [], []
    for step in range(settings.steps):
        progress(step, settings.steps)
        g = _exact_direction(chosen, logits).reshape(flat)
        oracle = (_correct(logits.shape) - simplex.softmax(logits)).reshape(flat)
        misalignments.append(cosine_misalignment(g, oracle))
        logits = logits + _normal_step(g, settings.alpha).reshape(logits.shape)
        errors.append(1 - simplex.softmax(logits)[..., CORRECT].mean(-1))
    return {"error": np.stack(errors, -1), "misalignment": np.stack(misalignments, -1)}


def sampled_candidates(
    method: str | Rule | ChosenRule,
    settings: SampledCandidates,
    seeds: Sequence[int],
    grouping: str = "",
    progress: Progress = silent,
) -> Curves:
    """Groups of K candidates drawn from the policy, duplicates kept, a normalised step along the mean over groups.

    Paper: Alg. 1

    ℓ_i = log π(a_i), s_i = 1{a_i correct}; the group's gradient g is chained to the logits and averaged over groups.

    Args: method tpo_sampled, tpo_ratio, tpo_no_anchor or grpo, or a rule; settings; seeds ≥ 0.
    Returns: error and misalignment as `single_context`, each (S, steps), before the step.
    Raises: as `single_context`.

    >>> sampled_candidates("grpo", SampledCandidates(arms=10, steps=3), seeds=[0])["error"].shape
    (1, 3)
    """
    chosen = _chosen(method, settings, SampledCandidates, seeds, grouping)
    return _group_run(chosen, settings, seeds, lambda g: _normal_step(g, settings.alpha), progress)


def needle(
    method: str | Rule | ChosenRule,
    settings: Needle,
    seeds: Sequence[int],
    grouping: str = "",
    progress: Progress = silent,
) -> Curves:
    """The same groups among V^H symmetric answers with one correct, by plain gradient descent.

    Paper: Fig. 8

    z ← z − step·∂L/∂z, L the mean over groups.

    Args: method tpo_sampled, tpo_ratio, tpo_no_anchor or grpo, or a rule; settings; seeds ≥ 0.
    Returns: error and misalignment as `single_context`, each (S, steps), before the step.
    Raises: as `single_context`.

    >>> needle("tpo_no_anchor", Needle(horizon=2, steps=3), seeds=[0])["error"].shape
    (1, 3)
    """
    chosen = _chosen(method, settings, Needle, seeds, grouping)
    return _group_run(chosen, settings, seeds, lambda g: settings.step_size * g, progress)


def _chosen(
    method: str | Rule | ChosenRule, settings: environments.Settings, kind: type, seeds: Sequence[int], grouping: str
) -> Method:
    environments.check_run(method if isinstance(method, str) else None, settings, kind, seeds)
    return methods.resolve(method, settings, grouping)


def _group_run(
    method: Method,
    settings: SampledCandidates | Needle,
    seeds: Sequence[int],
    move: Callable[[Floats], Floats],
    progress: Progress,
) -> Curves:
    streams = [environments.stream(seed) for seed in seeds]
    logits = np.zeros((len(seeds), settings.arms))
    errors, misalignments = [], []
    for step in range(settings.steps):
        progress(step, settings.steps)
        pi = simplex.softmax(logits)
        actions = _draw(streams, pi, (settings.groups, settings.candidates))
        g = _group_direction(method, logits, actions)
        errors.append(1 - pi[:, CORRECT])
        misalignments.append(cosine_misalignment(g, _oracle(pi)))
        logits = logits + move(g)
    return {"error": np.stack(errors, -1), "misalignment": np.stack(misalignments, -1)}


def _draw(streams: list[np.random.Generator], pi: Floats, shape: tuple[int, ...]) -> Actions:
    uniforms = np.stack([rng.random(shape) for rng in streams])
    rows = len(streams)
    return environments.sample(pi.cumsum(-1), uniforms.reshape(rows, -1)).reshape(rows, *shape)


def _single_direction(method: Method, logits: Floats, actions: Actions, settings: SingleContext) -> Floats:
    pi, logs = simplex.softmax(logits), simplex.log_softmax(logits)
    rewards = (actions == CORRECT).astype(np.float64)
    if method.grouping == ARMS:
        shares = (rewards - settings.baseline) / settings.actions
        scores = environments.chain_to_logits(shares, actions, np.zeros_like(pi))
        return _through_softmax(-method.gradient(logs, scores), pi)
    if method.grouping == BATCH:
        g = method.gradient(np.take_along_axis(logs, actions, -1), rewards)
        return -environments.chain_to_logits(g, actions, pi)
    raise checks.unknown("grouping", method.grouping, (ARMS, BATCH))


def _exact_direction(method: Method, logits: Floats) -> Floats:
    pi, reward = simplex.softmax(logits), _correct(logits.shape)
    if method.grouping == STANDARDISED:
        return _through_softmax(reward * np.sqrt(pi / (1 - pi + GRPO_FLOOR)), pi)
    descent = -method.gradient(simplex.log_softmax(logits), reward)
    if method.grouping == EXPECTED:
        # Every arm a, weighted by how often it is drawn; over K of them the sum is the mean over draws.
        return _through_softmax(pi * descent * logits.shape[-1], pi)
    if method.grouping == ARMS:
        return _through_softmax(descent, pi)
    raise checks.unknown("grouping", method.grouping, (ARMS, EXPECTED, STANDARDISED))


def _through_softmax(pull: Floats, pi: Floats) -> Floats:
    """Σ_a pull_a (e_a − π): the pull on every arm's log-probability, in the logits."""
    return np.asarray(pull - pi * pull.sum(-1, keepdims=True))


def _group_direction(method: Method, logits: Floats, actions: Actions) -> Floats:
    pi = simplex.softmax(logits)
    logp = np.take_along_axis(simplex.log_softmax(logits)[:, None, :], actions, -1)
    g = method.gradient(logp, actions == CORRECT)
    each = environments.chain_to_logits(g, actions, np.broadcast_to(pi[:, None, :], (*g.shape[:-1], pi.shape[-1])))
    return np.asarray(-each.mean(-2))


def _normal_step(g: Floats, alpha: float) -> Floats:
    return np.asarray(alpha * g / np.sqrt((g * g).sum(-1, keepdims=True) + STEP_FLOOR))


def _oracle(pi: Floats) -> Floats:
    return np.asarray(pi[:, [CORRECT]] * (_correct(pi.shape) - pi))


def _correct(shape: tuple[int, ...]) -> Floats:
    return np.broadcast_to(np.eye(shape[-1])[CORRECT], shape)
