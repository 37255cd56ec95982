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

    Raises: TypeError, ValueError naming the setting, what was given and what was expected.

    >>> ReversalSettings(vocab=4, reward="terminal").horizon
    10
    """

    vocab: int = 2
    """Alphabet size V."""
    horizon: int = 10
    """Tokens H of a prompt, and of an answer."""
    target: str = "reverse_copy"
    """The right answer: the prompt copied, flipped (V − 1 − token), or either one read backwards."""
    reward: str = "bag"
    """bag: share of right tokens; sequential: share before the first wrong one; terminal: 1 for a right answer."""
    batch: int = 100
    """Prompts per episode."""
    group: int = 8
    """Candidates K of a group, for methods that have groups."""
    episodes: int = 1_000
    """Episodes of a run: sample, score, take the method's gradient steps."""
    epochs: int | None = None
    """Gradient steps per episode, None for each method's own number."""
    learning_rate: float = 1e-3
    """Learning rate of Muon and of Adam."""
    eta: float = 1.0
    """Temperature η of TPO and Group PG: smaller tilts the target harder."""
    dg_eta: float = 1.0
    """Temperature of DG's gate."""
    epsilon: float = 0.2
    """Half-width of the clip of PPO and GRPO: ratios from 1 − ε to 1 + ε."""
    beta: float = 0.04
    """Weight of GRPO's KL penalty."""
    stop_below: float | None = None
    """End once the mean error over seeds stays below this for 50 episodes, None to run to the end (deviation D54)."""
    precision: str = "float32"
    """float32; float64, to compare engines; or tf32, a CUDA device's coarser products."""

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
