"""The methods of the sequence tasks by name: what each samples, how many steps it takes, on how many prompts.

Which rule stands behind a name is in `methods`; the clear twin takes names from here, and has formulas of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

from tpo_ref.study.protocol import unknown
from tpo_torch.reversal.settings import ALIASES, ReversalSettings

# Gradient steps per episode, unless the settings say otherwise: four where a ratio or a target is frozen.
EPOCHS = 4

# What is sampled: K answers to a prompt; one answer; or one answer, and K candidates for each of its tokens.
GROUP, SINGLE, TOKEN = "group", "single", "token"


@dataclass(frozen=True)
class Sampling:
    """What a method samples and how often it is trained on.

    Of S seeds and B prompts, log-probabilities and scores are (S, B, K) where K answers make a group, (S, B, H) where
    a prompt has one answer, (S, B, H, K) where the candidates for one token make one. wide: K times as many prompts,
    for as many answers as a grouped method samples, at √K times the learning rate.
    """

    samples: str
    epochs: int = EPOCHS
    wide: bool = False

    def rollouts_per_prompt(self, settings: ReversalSettings) -> int:
        """How many answers are sampled for each prompt."""
        return settings.group if self.samples == GROUP else 1


TABLE: dict[str, Sampling] = {
    "tpo": Sampling(GROUP),
    "tpo_ratio": Sampling(GROUP),
    "tpo_no_anchor": Sampling(GROUP),
    "grpo": Sampling(GROUP),
    "grpo_no_kl": Sampling(GROUP),
    "grpo_masked": Sampling(GROUP),
    "group_pg": Sampling(GROUP),
    "group_pg_once": Sampling(GROUP, epochs=1),
    "tpo_token": Sampling(TOKEN),
    "tpo_token_ratio": Sampling(TOKEN),
    "grpo_token": Sampling(TOKEN),
    "ppo": Sampling(SINGLE),
    "dg": Sampling(SINGLE, epochs=1),
    "pg": Sampling(SINGLE, epochs=1),
    "ppo_wide": Sampling(SINGLE, wide=True),
    "dg_wide": Sampling(SINGLE, epochs=1, wide=True),
    "pg_wide": Sampling(SINGLE, epochs=1, wide=True),
}


def own_name(name: str) -> str:
    """The method's own name; ValueError with the nearest names for an unknown one.

    >>> own_name("reinforce")
    'pg'
    """
    own = ALIASES.get(name, name)
    if own not in TABLE:
        raise unknown("method of token reversal", name, (*TABLE, *ALIASES))
    return own
