"""The bandit runs, readable: exactly the protocol, all seeds at once. `kernels` is the fast twin."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tpo_ref import simplex
from tpo_ref.bandits import environments
from tpo_ref.bandits.environments import CORRECT, Actions, ManyContexts, Needle, SampledCandidates, SingleContext
from tpo_ref.checks import Floats
from tpo_ref.closed_form import cosine_misalignment
from tpo_ref.dg import dg_grad
from tpo_ref.grpo import grpo_grad
from tpo_ref.pg import ce_grad, pg_grad
from tpo_ref.standardize import standardize
from tpo_ref.tpo import tpo_grad, tpo_ratio_grad, tpo_target, tpo_weights
from tpo_ref.variants import tpo_no_anchor_grad

Curves = dict[str, Floats]

# GRPO's guards: inside the root over the batch (single context), beside 1 − p (many contexts).
GRPO_FLOOR = 1e-8
# The normalised step divides by √(‖g‖² + this), so that a zero gradient is no step and not NaN.
STEP_FLOOR = 1e-30


def single_context(method: str, settings: SingleContext, seeds: Sequence[int]) -> Curves:
    """One context, B sampled actions a step, a normalised step along the method's estimate.

    Paper: Fig. 2

    PG, DG, GRPO: the mean of their rule over the B actions. TPO: s_a = (n_a/B)(r_a − b) over all arms (deviation D10),
    direction q − π, log-probabilities exact (deviation D13).

    Args: method pg, dg, grpo or tpo; settings; seeds ≥ 0, each with a stream of its own.
    Returns: error 1 − π(y) and misalignment to the oracle π(y)(e_y − π), each (S, steps), measured before the step.
    Raises: TypeError, ValueError for other settings, an unknown method (with the nearest names), or bad seeds.

    >>> run = single_context("tpo", SingleContext(arms=10, steps=3), seeds=[0, 1])
    >>> run["error"].shape, float(run["error"][0, 0].round(4))
    ((2, 3), 0.9)
    """
    environments.check_run(method, settings, SingleContext, seeds)
    streams = [environments.stream(seed) for seed in seeds]
    logits = np.zeros((len(seeds), settings.arms))
    errors, misalignments = [], []
    for _ in range(settings.steps):
        pi = simplex.softmax(logits)
        actions = _draw(streams, pi, (settings.actions,))
        g = _single_direction(method, logits, actions, settings)
        errors.append(1 - pi[:, CORRECT])
        misalignments.append(cosine_misalignment(g, _oracle(pi)))
        logits = logits + _normal_step(g, settings.alpha)
    return {"error": np.stack(errors, -1), "misalignment": np.stack(misalignments, -1)}


def many_contexts(method: str, settings: ManyContexts, seeds: Sequence[int]) -> Curves:
    """Many contexts, exact directions, one step length shared by all of them.

    Paper: Fig. 3

    The method's expected direction under the one-hot reward (its App. B form β(p)·v), here summed over all arms.

    Args: method ce, pg, dg, grpo or tpo; settings; seeds ≥ 0.
    Returns: error, the mean 1 − π(y) after the step, and misalignment to cross-entropy before it, taken jointly over
        all contexts as the norm is (deviation D11); each (S, steps).
    Raises: as `single_context`.

    >>> run = many_contexts("ce", ManyContexts(contexts=5, steps=50), seeds=[0])
    >>> bool(run["error"][0, -1] < run["error"][0, 0]), float(run["misalignment"].max()) < 1e-9
    (True, True)
    """
    environments.check_run(method, settings, ManyContexts, seeds)
    logits = np.stack([environments.initial_logits(settings, seed) for seed in seeds])
    flat = (len(seeds), settings.contexts * settings.arms)
    errors, misalignments = [], []
    for _ in range(settings.steps):
        g = _exact_direction(method, logits, settings).reshape(flat)
        oracle = (_correct(logits.shape) - simplex.softmax(logits)).reshape(flat)
        misalignments.append(cosine_misalignment(g, oracle))
        logits = logits + _normal_step(g, settings.alpha).reshape(logits.shape)
        errors.append(1 - simplex.softmax(logits)[..., CORRECT].mean(-1))
    return {"error": np.stack(errors, -1), "misalignment": np.stack(misalignments, -1)}


def sampled_candidates(method: str, settings: SampledCandidates, seeds: Sequence[int]) -> Curves:
    """Groups of K candidates drawn from the policy, duplicates kept, a normalised step along the mean over groups.

    Paper: Alg. 1

    ℓ_i = log π(a_i), s_i = 1{a_i correct}; the group's gradient g is chained to the logits and averaged over groups.

    Args: method tpo_sampled, tpo_ratio, tpo_no_anchor or grpo; settings; seeds ≥ 0.
    Returns: error and misalignment as `single_context`, each (S, steps), before the step.
    Raises: as `single_context`.

    >>> sampled_candidates("grpo", SampledCandidates(arms=10, steps=3), seeds=[0])["error"].shape
    (1, 3)
    """
    environments.check_run(method, settings, SampledCandidates, seeds)
    return _group_run(method, settings, seeds, lambda g: _normal_step(g, settings.alpha))


def needle(method: str, settings: Needle, seeds: Sequence[int]) -> Curves:
    """The same groups among V^H symmetric answers with one correct, by plain gradient descent.

    Paper: Fig. 8

    z ← z − step·∂L/∂z, L the mean over groups.

    Args: method tpo_sampled, tpo_ratio, tpo_no_anchor or grpo; settings; seeds ≥ 0.
    Returns: error and misalignment as `single_context`, each (S, steps), before the step.
    Raises: as `single_context`.

    >>> needle("tpo_no_anchor", Needle(horizon=2, steps=3), seeds=[0])["error"].shape
    (1, 3)
    """
    environments.check_run(method, settings, Needle, seeds)
    return _group_run(method, settings, seeds, lambda g: settings.step_size * g)


def _group_run(
    method: str, settings: SampledCandidates | Needle, seeds: Sequence[int], step: Callable[[Floats], Floats]
) -> Curves:
    streams = [environments.stream(seed) for seed in seeds]
    logits = np.zeros((len(seeds), settings.arms))
    errors, misalignments = [], []
    for _ in range(settings.steps):
        pi = simplex.softmax(logits)
        actions = _draw(streams, pi, (settings.groups, settings.candidates))
        g = _group_direction(method, logits, actions, settings.eta)
        errors.append(1 - pi[:, CORRECT])
        misalignments.append(cosine_misalignment(g, _oracle(pi)))
        logits = logits + step(g)
    return {"error": np.stack(errors, -1), "misalignment": np.stack(misalignments, -1)}


def _draw(streams: list[np.random.Generator], pi: Floats, shape: tuple[int, ...]) -> Actions:
    uniforms = np.stack([rng.random(shape) for rng in streams])
    rows = len(streams)
    return environments.sample(pi.cumsum(-1), uniforms.reshape(rows, -1)).reshape(rows, *shape)


def _single_direction(method: str, logits: Floats, actions: Actions, settings: SingleContext) -> Floats:
    pi, count = simplex.softmax(logits), settings.actions
    rewards = (actions == CORRECT).astype(np.float64)
    logp = np.take_along_axis(simplex.log_softmax(logits), actions, -1)
    if method == "tpo":
        scores = environments.chain_to_logits((rewards - settings.baseline) / count, actions, np.zeros_like(pi))
        return -tpo_grad(logits, tpo_target(logits, standardize(scores), settings.eta))
    if method == "dg":
        g = dg_grad(logp, rewards - settings.baseline, settings.dg_eta)
    elif method == "pg":
        g = pg_grad(logp, rewards - settings.baseline)
    else:
        centred = rewards - rewards.mean(-1, keepdims=True)
        g = pg_grad(logp, centred / np.sqrt(rewards.var(-1, keepdims=True) + GRPO_FLOOR))
    return -environments.chain_to_logits(g / count, actions, pi)


def _exact_direction(method: str, logits: Floats, settings: ManyContexts) -> Floats:
    pi, reward = simplex.softmax(logits), _correct(logits.shape)
    if method == "tpo":
        return -tpo_grad(logits, tpo_target(logits, standardize(reward), settings.eta))
    if method == "ce":
        return -ce_grad(logits, np.full(logits.shape[:-1], CORRECT))
    if method == "pg":
        pull = pi * reward
    elif method == "dg":
        pull = -pi * dg_grad(simplex.log_softmax(logits), reward, settings.dg_eta)
    else:
        pull = reward * np.sqrt(pi / (1 - pi + GRPO_FLOOR))
    # Σ_a pull_a (e_a − π): every arm a, weighted by how often it is drawn and how hard it then pulls.
    return np.asarray(pull - pi * pull.sum(-1, keepdims=True))


def _group_direction(method: str, logits: Floats, actions: Actions, eta: float) -> Floats:
    pi = simplex.softmax(logits)
    logp = np.take_along_axis(simplex.log_softmax(logits)[:, None, :], actions, -1)
    u = standardize(actions == CORRECT)
    if method == "tpo_sampled":
        g = tpo_grad(logp, tpo_target(logp, u, eta))
    elif method == "tpo_ratio":
        g = tpo_ratio_grad(logp, logp, tpo_weights(u, eta))
    elif method == "tpo_no_anchor":
        g = tpo_no_anchor_grad(logp, tpo_weights(u, eta))
    else:
        # The mean over candidates (deviation D12), at the first epoch: neither clip nor KL term acts yet.
        g = grpo_grad(logp, logp, u) / actions.shape[-1]
    each = environments.chain_to_logits(g, actions, np.broadcast_to(pi[:, None, :], (*g.shape[:-1], pi.shape[-1])))
    return np.asarray(-each.mean(-2))


def _normal_step(g: Floats, alpha: float) -> Floats:
    return np.asarray(alpha * g / np.sqrt((g * g).sum(-1, keepdims=True) + STEP_FLOOR))


def _oracle(pi: Floats) -> Floats:
    return np.asarray(pi[:, [CORRECT]] * (_correct(pi.shape) - pi))


def _correct(shape: tuple[int, ...]) -> Floats:
    return np.broadcast_to(np.eye(shape[-1])[CORRECT], shape)
