"""An episode on a CUDA device as one graph: recorded once, then replayed with new draws."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from tpo_torch.reversal.engine import Draws

# Episodes taken before the recording, so that everything which is made once is there.
WARM_UP = 3

Figures = dict[str, Tensor]


@contextmanager
def nothing_collected() -> Iterator[None]:
    """What is garbage is freed before, nothing within: to free the graph of an earlier run ends a recording."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class Captured:
    """`update` with the launches of its kernels recorded: the host then starts one graph per episode.

    Args: update, which takes draws on the device, reads no value back, and changes its network in place; device.
    """

    def __init__(self, update: Callable[[Draws], Figures], device: torch.device) -> None:
        self.update, self.device = update, device
        self.episodes = 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.draws: Draws | None = None
        self.figures: Figures = {}

    def __call__(self, draws: Draws) -> Figures:
        """One episode; the draws may still be on the CPU."""
        with torch.cuda.device(self.device):
            return self._episode(draws)

    def _episode(self, draws: Draws) -> Figures:
        inputs = self._inputs(draws)
        self.episodes += 1
        if self.episodes <= WARM_UP:
            return self._aside(inputs)
        if self.graph is None:
            self.graph = torch.cuda.CUDAGraph()
            with nothing_collected(), torch.cuda.graph(self.graph):
                self.figures = self.update(inputs)
        self.graph.replay()
        # The next replay writes into the same memory.
        return {name: figure.clone() for name, figure in self.figures.items()}

    def _inputs(self, draws: Draws) -> Draws:
        """The draws in the memory that the recording reads."""
        parts = (draws.prompts, draws.uniforms, draws.more)
        if self.draws is None:
            self.draws = Draws(*(torch.empty_like(part, device=self.device) for part in parts))
        for mine, part in zip((self.draws.prompts, self.draws.uniforms, self.draws.more), parts, strict=True):
            mine.copy_(part.pin_memory(), non_blocking=True)
        return self.draws

    def _aside(self, draws: Draws) -> Figures:
        """On a stream of its own, as a recording demands of what comes before it."""
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            figures = self.update(draws)
        torch.cuda.current_stream().wait_stream(stream)
        return figures
