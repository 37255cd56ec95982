"""Whether the advantages that reach the trainer are those of GRPO: TPO makes its own numbers, and would ignore others.

A subclass that changes them expects them to be trained on. They are compared with what the rewards give, and the tensor
that goes into the loss is watched, so that no change is lost in silence.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from trl.trainer.utils import nanstd

# TRL divides by the deviation plus this.
TRL_EPSILON = 1e-4
# Between the same formula in the same precision on two devices.
RELATIVE, ABSOLUTE = 1e-4, 1e-5
REMEDY = (
    "TPO makes its coefficients c of the rewards alone, and would not train on them. Change the rewards instead (a "
    "reward function, or an override of `_calculate_rewards`); or c itself, in an override of `_coefficients`, as in\n"
    "made = super()._coefficients(*args); return made._replace(c=…)"
)


class Given(NamedTuple):
    """A tensor as it was handed out, and how often it had been written to by then."""

    tensor: Tensor
    version: int

    @classmethod
    def now(cls, tensor: Tensor) -> Given:
        """The tensor as it is."""
        return cls(tensor, tensor._version)

    def check(self, tensor: Tensor) -> None:
        """ValueError unless this is the tensor that was handed out, and nothing has written to it; reads no value."""
        if tensor is not self.tensor or tensor._version != self.version:
            raise ValueError(f"advantages: got some that a subclass set between batch and loss. {REMEDY}")


def check_advantages(advantages: Tensor, rewards: Tensor, weights: Tensor, size: int) -> None:
    """ValueError unless these are the advantages that GRPO makes of the rewards.

    Args: advantages (N,); rewards (N, F), raw, NaN where a function gave none; weights (F,) of the functions; size, K.

    >>> rewards = torch.tensor([[1.0], [0.0], [0.5], [0.5]])
    >>> check_advantages(grpo_advantages(rewards, torch.ones(1), 2), rewards, torch.ones(1), 2)
    >>> check_advantages(torch.ones(4), rewards, torch.ones(1), 2)
    Traceback (most recent call last):
    ...
    ValueError: advantages: got 1 in row 0, expected GRPO's 0.707: a subclass changed them. TPO makes its ...
    """
    if tuple(advantages.shape) != (len(rewards),):
        raise ValueError(
            f"advantages: got shape {tuple(advantages.shape)}, expected ({len(rewards)},), one for each reward: a "
            f"subclass changed them, or the rows of the batch. {REMEDY}"
        )
    expected = grpo_advantages(rewards, weights, size)
    other = ~torch.isclose(advantages.to(expected.dtype), expected, RELATIVE, ABSOLUTE)
    if bool(other.any()):
        row = int(other.nonzero()[0])
        raise ValueError(
            f"advantages: got {float(advantages[row]):.3g} in row {row}, expected GRPO's {float(expected[row]):.3g}: "
            f"a subclass changed them. {REMEDY}"
        )


def grpo_advantages(rewards: Tensor, weights: Tensor, size: int) -> Tensor:
    """The advantages of TRL's GRPOTrainer under the options that TPO takes, (N,): as `check_advantages`."""
    summed = (rewards * weights).nansum(1)
    grouped = torch.where(rewards.isnan().all(1), torch.nan, summed).view(-1, size)
    centred = grouped - grouped.nanmean(1, keepdim=True)
    return torch.nan_to_num(centred / (nanstd(grouped, dim=1).unsqueeze(1) + TRL_EPSILON), nan=0.0).view(-1)


@contextmanager
def kept_rewards(trainer: Any) -> Iterator[None]:
    """Inside, a trainer's `_raw_rewards` are what its `_calculate_rewards` returns, the outermost override of it.

    Raises: ValueError at the end where it was not called: a subclass wrote a batch of its own, without rewards.

    >>> class Trainer:
    ...     def _calculate_rewards(self):
    ...         return 4
    >>> trainer = Trainer()
    >>> with kept_rewards(trainer):
    ...     _ = trainer._calculate_rewards()
    >>> trainer.__dict__
    {'_raw_rewards': 4}
    """
    plain, own = trainer._calculate_rewards, vars(trainer).get("_calculate_rewards")
    trainer._raw_rewards = None

    def noted(*args: Any, **kwargs: Any) -> Any:
        trainer._raw_rewards = plain(*args, **kwargs)
        return trainer._raw_rewards

    trainer._calculate_rewards = noted
    try:
        yield
    finally:
        if own is None:
            del trainer._calculate_rewards
        else:
            trainer._calculate_rewards = own
    if trainer._raw_rewards is None:
        raise ValueError(
            "rewards: got none, since `_generate_and_score_completions` did not call `_calculate_rewards`; TPO makes "
            "its coefficients of what that returns"
        )
