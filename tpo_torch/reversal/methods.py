"""The update rules of the sequence tasks: what each samples, and its loss once the batch is frozen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from tpo_ref.study.protocol import unknown
from tpo_torch.advantages import group_standardised
from tpo_torch.dg import dg_loss
from tpo_torch.grpo import grpo_loss
from tpo_torch.pg import group_pg_loss, pg_loss
from tpo_torch.ppo import ppo_loss
from tpo_torch.reversal.settings import ALIASES, ReversalSettings
from tpo_torch.standardize import standardize
from tpo_torch.tpo import tpo_coefficients, tpo_surrogate_loss, tpo_target, tpo_weights
from tpo_torch.variants import tpo_no_anchor_loss

# The authors' GRPO: added to the deviation of a group; and how far a log-ratio may go (deviations D30, D31).
EPSILON_STD = 1e-8
LOG_RATIO_LIMIT = 20.0
# Gradient steps per episode, unless the settings say otherwise: four where a ratio or a target is frozen.
EPOCHS = 4

# What is sampled: K answers to a prompt; one answer; or one answer, and K candidates for each of its tokens.
GROUP, SINGLE, TOKEN = "group", "single", "token"

Loss = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Method:
    """A rule: `freeze(logp_old, scores, settings)` gives the loss of later log-probabilities, one per group.

    Of S seeds and B prompts, log-probabilities and scores are (S, B, K) where K answers make a group, (S, B, H) where
    the tokens of one answer do, (S, B, H, K) where the candidates for one token do. wide: K times as many prompts, for
    as many answers as a grouped method samples, at √K times the learning rate.
    """

    samples: str
    freeze: Callable[[Tensor, Tensor, ReversalSettings], Loss]
    epochs: int = EPOCHS
    wide: bool = False

    def rollouts_per_prompt(self, settings: ReversalSettings) -> int:
        """How many answers are sampled for each prompt."""
        return settings.group if self.samples == GROUP else 1


def _tpo(old: Tensor, scores: Tensor, settings: ReversalSettings) -> Loss:
    q = tpo_target(old, standardize(scores), settings.eta)
    return lambda logp: _towards(q, logp)


def _tpo_ratio(old: Tensor, scores: Tensor, settings: ReversalSettings) -> Loss:
    w = tpo_weights(standardize(scores), settings.eta)
    return lambda logp: _towards(w, logp - old, logp)


def _towards(q: Tensor, group: Tensor, logp: Tensor | None = None) -> Tensor:
    """TPO's loss up to its value: by its coefficients the gradient is exactly 0 where q is the group's softmax already.

    Differentiated as written, cross-entropy leaves rounding there, which Muon would turn into a step of full size
    (deviation D57).
    """
    return tpo_surrogate_loss(group if logp is None else logp, tpo_coefficients(group, q))


def _tpo_no_anchor(old: Tensor, scores: Tensor, settings: ReversalSettings) -> Loss:
    w = tpo_weights(standardize(scores), settings.eta)
    return lambda logp: tpo_no_anchor_loss(logp, w)


def _group_pg(old: Tensor, scores: Tensor, settings: ReversalSettings) -> Loss:
    u = standardize(scores)
    return lambda logp: group_pg_loss(logp, u, settings.eta)


def _grpo(old: Tensor, scores: Tensor, settings: ReversalSettings) -> Loss:
    return _clipped_group(old, scores, settings, settings.beta)


def _grpo_no_kl(old: Tensor, scores: Tensor, settings: ReversalSettings) -> Loss:
    return _clipped_group(old, scores, settings, 0.0)


def _grpo_masked(old: Tensor, scores: Tensor, settings: ReversalSettings) -> Loss:
    """Groups without a signal are left out, and the mean is over the others."""
    loss = _grpo(old, scores, settings)
    informative = (standardize(scores) != 0).any(-1).to(old.dtype)
    weight = informative * informative.shape[-1] / informative.sum(-1, keepdim=True).clamp(min=1)
    return lambda logp: loss(logp) * weight


def _clipped_group(old: Tensor, scores: Tensor, settings: ReversalSettings, beta: float) -> Loss:
    advantages = group_standardised(scores, EPSILON_STD)

    def loss(logp: Tensor) -> Tensor:
        near = old + (logp - old).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
        return grpo_loss(near, old, advantages, settings.epsilon, beta)

    return loss


def _ppo(old: Tensor, scores: Tensor, settings: ReversalSettings) -> Loss:
    advantages = _above_mean(scores)
    return lambda logp: ppo_loss(logp, old, advantages, settings.epsilon)


def _dg(old: Tensor, scores: Tensor, settings: ReversalSettings) -> Loss:
    advantages = _above_mean(scores)
    return lambda logp: dg_loss(logp, advantages, settings.dg_eta)


def _pg(old: Tensor, scores: Tensor, settings: ReversalSettings) -> Loss:
    advantages = _above_mean(scores)
    return lambda logp: pg_loss(logp, advantages)


def _above_mean(rewards: Tensor) -> Tensor:
    """Rewards (S, B, H) less the mean over prompts at the same position."""
    return rewards - rewards.mean(1, keepdim=True)


METHODS: dict[str, Method] = {
    "tpo": Method(GROUP, _tpo),
    "tpo_ratio": Method(GROUP, _tpo_ratio),
    "tpo_no_anchor": Method(GROUP, _tpo_no_anchor),
    "grpo": Method(GROUP, _grpo),
    "grpo_no_kl": Method(GROUP, _grpo_no_kl),
    "grpo_masked": Method(GROUP, _grpo_masked),
    "group_pg": Method(GROUP, _group_pg),
    "group_pg_once": Method(GROUP, _group_pg, epochs=1),
    "tpo_token": Method(TOKEN, _tpo),
    "tpo_token_ratio": Method(TOKEN, _tpo_ratio),
    "grpo_token": Method(TOKEN, _grpo),
    "ppo": Method(SINGLE, _ppo),
    "dg": Method(SINGLE, _dg, epochs=1),
    "pg": Method(SINGLE, _pg, epochs=1),
    "ppo_wide": Method(SINGLE, _ppo, wide=True),
    "dg_wide": Method(SINGLE, _dg, epochs=1, wide=True),
    "pg_wide": Method(SINGLE, _pg, epochs=1, wide=True),
}


def own_name(name: str) -> str:
    """The method's own name; ValueError with the nearest names for an unknown one.

    >>> own_name("reinforce")
    'pg'
    """
    own = ALIASES.get(name, name)
    if own not in METHODS:
        raise unknown("method of token reversal", name, (*METHODS, *ALIASES))
    return own


def resolve(name: str) -> Method:
    """The method of that name or alias; ValueError as `own_name`.

    >>> resolve("dg").epochs
    1
    """
    return METHODS[own_name(name)]
