"""Rewards that cannot hang or poison a run: failures reach every process, infinities count as missing."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor


class RewardError(RuntimeError):
    """The error of a reward function that raised or returned no rewards; the message names it and the process."""


class SafeRewards:
    """A part of a `GRPOTrainer` that raises on every process the error of a reward function on one.

    Without it the other processes wait for ever. A row with an infinite reward is treated as unscorable,
    like one without any; `rewards/infinite` and `rewards/missing` count both as shares of the completions.
    """

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Tensor:
        trainer: Any = self
        failures: list[str] = []
        causes: list[Exception] = []
        plain = trainer.reward_funcs
        trainer.reward_funcs = [
            f if isinstance(f, torch.nn.Module) else _guarded(f, name, len(prompts), failures, causes)
            for f, name in zip(plain, trainer.reward_func_names, strict=True)
        ]
        try:
            rewards: Tensor = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)  # type: ignore[misc]
        finally:
            trainer.reward_funcs = plain
        everywhere = gather_object([f"process {trainer.accelerator.process_index}: {text}" for text in failures])
        if everywhere:
            step = trainer.state.global_step
            raise RewardError(f"at optimizer step {step}, {'; '.join(everywhere)}") from (causes[0] if causes else None)
        infinite = rewards.isinf().any(1)
        rewards[infinite] = torch.nan
        mode = "train" if trainer.model.training else "eval"
        trainer._metrics[mode]["rewards/infinite"].append(infinite.double().mean().item())
        trainer._metrics[mode]["rewards/missing"].append(rewards.isnan().all(1).double().mean().item())
        return rewards


def _guarded(
    function: Callable[..., Any], name: str, count: int, failures: list[str], causes: list[Exception]
) -> Callable[..., Any]:
    """Wrap a reward function: keep its failures instead of raising them, check its rewards, return plain numbers."""

    def failed(error: Exception) -> list[float]:
        failures.append(f"reward function {name!r}: {type(error).__name__}: {error}")
        causes.append(error)
        # Zeros, since TRL prints a warning for each row whose rewards are all None.
        return [0.0] * count

    if _is_async(function):

        async def later(*args: Any, **kwargs: Any) -> list[float]:
            try:
                return _numbers(await function(*args, **kwargs), count)
            except Exception as error:
                return failed(error)

        return functools.wraps(function)(later) if hasattr(function, "__name__") else later

    def now(*args: Any, **kwargs: Any) -> list[float]:
        try:
            return _numbers(function(*args, **kwargs), count)
        except Exception as error:
            return failed(error)

    return now


def _is_async(function: Any) -> bool:
    """Whether a call gives a coroutine: an async function, a partial of one, or an object with an async __call__."""
    inner = function.func if isinstance(function, functools.partial) else function
    return inspect.iscoroutinefunction(inner) or inspect.iscoroutinefunction(getattr(inner, "__call__", None))  # noqa: B004


def _numbers(rewards: Any, count: int) -> list[float]:
    if isinstance(rewards, (str, bytes, dict, set)) or not isinstance(rewards, Iterable):
        raise TypeError(f"got {type(rewards).__name__}, expected a list of numbers, one per completion")
    values = list(rewards)
    if len(values) != count:
        raise ValueError(f"got {len(values)} rewards, expected {count}, one per completion")
    try:
        # Through an array scalar's own conversion, but not a text's: "1" is no reward.
        return [math.nan if value is None else value.__float__() for value in values]
    except (AttributeError, TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"got {values[:3]!r}…, expected a number or None for each completion") from error
