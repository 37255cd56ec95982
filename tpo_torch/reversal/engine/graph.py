"""An episode on a CUDA device as one graph: recorded once, then replayed with new draws."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from tpo_torch.reversal.engine import Draws

# Episodes run before the recording: what is made once, such as the optimiser's moments, must exist by then.
WARM_UP = 3

# The numbers of one episode by name, each (S,).
Figures = dict[str, Tensor]


@contextmanager
def garbage_collection_off() -> Iterator[None]:
    """Collect garbage now and none inside: freeing the graph of an earlier run would end a recording."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class Captured:
    """`update`, recorded once as a CUDA graph after WARM_UP calls; every later call replays it with new draws.

    The host then starts one graph per episode instead of every kernel.

    Args: update, which takes draws on the device, reads no value back, and changes its network in place; device.
    """

    def __init__(self, update: Callable[[Draws], Figures], device: torch.device) -> None:
        self.update, self.device = update, device
        self.episodes = 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.draws: Draws | None = None
        self.figures: Figures = {}

    def __call__(self, draws: Draws) -> Figures:
        """Run one episode; the draws may still be on the CPU."""
        with torch.cuda.device(self.device):
            return self._episode(draws)

    def _episode(self, draws: Draws) -> Figures:
        inputs = self._copied(draws)
        self.episodes += 1
        if self.episodes <= WARM_UP:
            return self._on_side_stream(inputs)
        if self.graph is None:
            self.graph = torch.cuda.CUDAGraph()
            with garbage_collection_off(), torch.cuda.graph(self.graph):
                self.figures = self.update(inputs)
        self.graph.replay()
        # The next replay writes into the same memory.
        return {name: figure.clone() for name, figure in self.figures.items()}

    def _copied(self, draws: Draws) -> Draws:
        """Copy the draws into the memory that the recording reads."""
        parts = (draws.prompts, draws.uniforms, draws.more)
        if self.draws is None:
            self.draws = Draws(*(torch.empty_like(part, device=self.device) for part in parts))
        for memory, part in zip((self.draws.prompts, self.draws.uniforms, self.draws.more), parts, strict=True):
            memory.copy_(part.pin_memory(), non_blocking=True)
        return self.draws

    def _on_side_stream(self, draws: Draws) -> Figures:
        """Run the update on a stream of its own, as CUDA demands of what comes before a recording."""
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            figures = self.update(draws)
        torch.cuda.current_stream().wait_stream(stream)
        return figures
