"""Settings of the MNIST contextual bandit; imported by listing and claims, so it needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

from tpo_ref import checks


@dataclass(frozen=True)
class MnistSettings:
    """The MNIST contextual bandit.

    Paper: Fig. 4 (its protocol)

    Raises: TypeError, ValueError naming the setting, what was given and what was expected.

    >>> MnistSettings(updates=400, mechanism_update=None).learning_rate
    0.001
    """

    updates: int = 10_000
    """Adam steps of a run."""
    batch: int = 100
    """Images per update, drawn with replacement; one action is sampled for each."""
    learning_rate: float = 1e-3
    """Adam's learning rate."""
    eval_every: int = 200
    """Updates between two evaluations on the test images; a divisor of updates."""
    hidden: int = 50
    """Width of both hidden layers."""
    eta: float = 1.0
    """Temperature η of TPO and Group PG: smaller tilts the target harder."""
    dg_eta: float = 1.0
    """Temperature of DG's gate."""
    mechanism_update: int | None = 2_200
    """Update at which Fig. 4b is measured, None for never; the paper's label 2,000 is 2,200 updates (deviation D21)."""
    train_images: int | None = None
    """Use only so many of the first training images, None for all."""

    def __post_init__(self) -> None:
        for name in ("updates", "batch", "eval_every", "hidden"):
            checks.whole(name, getattr(self, name), 1)
        for name in ("learning_rate", "eta", "dg_eta"):
            checks.positive(name, getattr(self, name))
        if self.updates % self.eval_every:
            raise ValueError(
                f"eval_every: got {self.eval_every}, expected a divisor of updates = {self.updates}, "
                "so that the last evaluation is the last update"
            )
        if self.train_images is not None:
            checks.whole("train_images", self.train_images, 1)
        if self.mechanism_update is not None:
            checks.whole("mechanism_update", self.mechanism_update, 1)
            if self.mechanism_update % self.eval_every or self.mechanism_update > self.updates:
                raise ValueError(
                    f"mechanism_update: got {self.mechanism_update}, expected a multiple of eval_every = "
                    f"{self.eval_every} up to updates = {self.updates}; pass None to leave the mechanism out"
                )
