"""How completions are cut into micro-batches, optimizer steps and processes; checked before a model loads."""

from __future__ import annotations

from dataclasses import dataclass, fields

from tpo_ref import checks


@dataclass(frozen=True)
class BatchLayout:
    """The arithmetic of one batch of completions.

    Args: all ≥ 1. num_generations, K; per_device, rows of a micro-batch; accumulation, micro-batches of an optimizer
        step; processes; steps_per_generation, micro-batches that one round of generation fills (None: accumulation);
        num_iterations, how often each completion is trained on.
    Raises: TypeError, ValueError where groups would be torn between optimizer steps, with a layout that works.

    >>> BatchLayout(num_generations=8, per_device=4, accumulation=4, processes=1).prompts
    2
    >>> BatchLayout(num_generations=8, per_device=4, accumulation=1, processes=1)
    Traceback (most recent call last):
    ...
    ValueError: 1 process x 1 micro-batch x 4 rows = 4 completions per round of generation: no whole groups of 8.
    This works: per_device_train_batch_size=4, gradient_accumulation_steps=2 (1 prompt per round)
    """

    num_generations: int
    per_device: int
    accumulation: int
    processes: int
    steps_per_generation: int | None = None
    num_iterations: int = 1

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) is not None or field.name != "steps_per_generation":
                checks.whole(field.name, getattr(self, field.name), 1)
        if self.num_generations == 1:
            raise ValueError(
                "num_generations: got 1, expected 2 or more; a target needs completions of one prompt to choose among"
            )
        if self.generated % self.num_generations:
            raise ValueError(f"{self._generated()}: no whole groups of {self.num_generations}.\n{self._works()}")
        self._check_steps()

    @property
    def slices(self) -> int:
        """Micro-batches per process that one round of generation fills."""
        return self.accumulation if self.steps_per_generation is None else self.steps_per_generation

    @property
    def generated(self) -> int:
        """Completions of one round of generation, over all processes."""
        return self.processes * self.per_device * self.slices

    @property
    def prompts(self) -> int:
        """Groups of one round of generation."""
        return self.generated // self.num_generations

    @property
    def whole(self) -> bool:
        """Whether every micro-batch holds whole groups, so that no extra forward pass is ever needed for them."""
        return self.per_device % self.num_generations == 0

    @property
    def one_step(self) -> bool:
        """Whether a round of generation is used up by its first optimizer step, before the policy has moved."""
        return self.slices <= self.accumulation and self.num_iterations == 1

    def describe(self) -> str:
        """One line a person can check."""
        inside = "whole groups in a micro-batch" if self.whole else "groups over several micro-batches"
        steps = "one optimizer step" if self.one_step else f"{self._steps()} optimizer steps"
        prompts = counted(self.prompts, "prompt", "prompts")
        return f"{self._generated()} = {prompts} x {self.num_generations}, {steps}; {inside}"

    def check_prompts(self, count: int) -> None:
        """ValueError where the data have fewer prompts than one round of generation takes: no step would be made."""
        if count < self.prompts:
            raise ValueError(
                f"train_dataset: got {count} prompts, expected {self.prompts} or more: {self._generated()} = "
                f"{self.prompts} prompts x {self.num_generations}; repeat the data, or make the batch smaller"
            )

    def _check_steps(self) -> None:
        slices, steps = self.slices, self.accumulation
        if slices > steps and slices % steps:
            raise ValueError(
                f"steps_per_generation: got {slices} with gradient_accumulation_steps={steps}, expected a multiple of "
                f"{steps}: an optimizer step would straddle two rounds of generation, one of them stale.\n"
                f"{self._works()}"
            )
        if slices < steps and (steps % slices or self.num_iterations > 1):
            raise ValueError(
                f"gradient_accumulation_steps: got {steps} with steps_per_generation={slices} and num_iterations="
                f"{self.num_iterations}, expected a multiple of steps_per_generation, and num_iterations=1: an "
                f"optimizer step would see some completions more often than others.\n{self._works()}"
            )
        if slices > steps and (self.per_device * steps) % self.num_generations:
            raise ValueError(
                f"steps_per_generation: got {slices}, so that {slices // steps} optimizer steps share a round of "
                f"generation and each process brings {self.per_device} x {steps} = {self.per_device * steps} rows to "
                f"each: no whole number of groups of {self.num_generations}.\n{self._works()}"
            )

    def _steps(self) -> int:
        return max(1, self.slices // self.accumulation) * self.num_iterations

    def _generated(self) -> str:
        parts = (
            counted(self.processes, "process", "processes"),
            counted(self.slices, "micro-batch", "micro-batches"),
            counted(self.per_device, "row", "rows"),
        )
        return f"{' x '.join(parts)} = {self.generated} completions per round of generation"

    def _works(self) -> str:
        """The next larger batch of whole groups, in micro-batches of whole groups where about as many rows fit."""
        prompts = -(-self.generated // self.num_generations)
        while prompts * self.num_generations % self.processes:
            prompts += 1
        rows = prompts * self.num_generations // self.processes
        cuts = [size for size in range(1, rows + 1) if rows % size == 0 and size <= self.per_device]
        whole = [size for size in cuts if size % self.num_generations == 0]
        size = max(whole or cuts)
        without = (
            "" if self.steps_per_generation is None else ", steps_per_generation and generation_batch_size left out"
        )
        return (
            f"This works: per_device_train_batch_size={size}, gradient_accumulation_steps={rows // size}{without} "
            f"({counted(prompts, 'prompt', 'prompts')} per round)"
        )


def counted(n: int, one: str, many: str) -> str:
    """A count in words for messages, with the singular or the plural of what is counted.

    >>> counted(1, "row", "rows"), counted(2, "row", "rows")
    ('1 row', '2 rows')
    """
    return f"{n} {one if n == 1 else many}"
