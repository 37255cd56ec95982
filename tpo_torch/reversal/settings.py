"""Settings of the token-reversal runs; imported by listing and claims, so it needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

from tpo_ref import checks

# Other names of methods, as the paper and the authors' code write them.
ALIASES = {"reinforce": "pg", "ppo_interaction": "ppo_wide", "dg_interaction": "dg_wide", "pg_interaction": "pg_wide"}
TARGETS = ("copy", "flip", "reverse_copy", "reverse_flip")
REWARDS = ("bag", "sequential", "terminal")
PRECISIONS = ("float32", "tf32", "float64")


@dataclass(frozen=True)
class ReversalSettings:
    """A token-reversal task and how a transformer is trained on it.

    Paper: Sec. 5 (its sequence tasks), Figs. 5-8

    Args: vocab, size V of the alphabet; horizon, tokens H of prompt and answer; target, what the right answer is;
        reward, how an answer is paid; batch, prompts per episode; group, candidates K of a grouped method; episodes;
        epochs, gradient steps per episode, None for each method's own number; learning_rate, of both optimisers; eta,
        TPO's and Group PG's temperature; dg_eta, that of DG's gate; epsilon, width of the clip; beta, weight of GRPO's
        penalty; stop_below, end the run once the mean error over seeds has stayed below it for 50 episodes, None to run
        to the end; precision, float32, float64 (to compare engines), or tf32 (an accelerator's coarser products).
    Raises: TypeError, ValueError naming the setting, what was given and what was expected.

    >>> ReversalSettings(vocab=4, reward="terminal").horizon
    10
    """

    vocab: int = 2
    horizon: int = 10
    target: str = "reverse_copy"
    reward: str = "bag"
    batch: int = 100
    group: int = 8
    episodes: int = 1_000
    epochs: int | None = None
    learning_rate: float = 1e-3
    eta: float = 1.0
    dg_eta: float = 1.0
    epsilon: float = 0.2
    beta: float = 0.04
    stop_below: float | None = None
    precision: str = "float32"

    def __post_init__(self) -> None:
        # One token to choose from is no choice, and one candidate no group.
        for name, least in {"vocab": 2, "horizon": 1, "batch": 1, "group": 2, "episodes": 1}.items():
            checks.whole(name, getattr(self, name), least)
        if self.epochs is not None:
            checks.whole("epochs", self.epochs, 1)
        for name in ("learning_rate", "eta", "dg_eta"):
            checks.positive(name, getattr(self, name))
        for name in ("epsilon", "beta"):
            checks.non_negative(name, getattr(self, name))
        if self.stop_below is not None:
            checks.positive("stop_below", self.stop_below)
        for name, options in {"target": TARGETS, "reward": REWARDS, "precision": PRECISIONS}.items():
            if getattr(self, name) not in options:
                raise checks.unknown(name, getattr(self, name), options)
