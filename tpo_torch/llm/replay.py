"""The order of the data, so that it can be taken up in the middle of an epoch."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor
from trl.trainer.utils import RepeatSampler


class ReplayedSampler(RepeatSampler):  # type: ignore[misc]
    """TRL's sampler, which can say with which random state its epoch began."""

    began: Tensor | None = None

    def __iter__(self) -> Iterator[int]:
        self.began = self.generator.get_state() if self.shuffle else None
        yield from super().__iter__()
