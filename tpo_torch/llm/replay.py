"""The order of the data, so that it can be taken up in the middle of an epoch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from torch import Tensor
from trl.trainer.utils import RepeatSampler

S = TypeVar("S", bound=RepeatSampler)


def like(plain: RepeatSampler, kind: type[S]) -> S:
    """A sampler of another kind that draws as a given one does."""
    made: S = kind(
        plain.data_source, plain.mini_repeat_count, plain.batch_size, plain.repeat_count, plain.shuffle, plain.seed
    )
    return made


class ReplayedSampler(RepeatSampler):  # type: ignore[misc]
    """TRL's sampler, which can say with which random state its epoch began."""

    began: Tensor | None = None

    def __iter__(self) -> Iterator[int]:
        self.began = self.generator.get_state() if self.shuffle else None
        yield from super().__iter__()


class RestartedSampler(RepeatSampler):  # type: ignore[misc]
    """TRL's sampler, in the same order at every pass, also where one loader serves several evaluations."""

    def __iter__(self) -> Iterator[int]:
        if self.shuffle and self.seed is not None:
            self.generator.manual_seed(self.seed)
        yield from super().__iter__()
