"""A training step of TPO on a language model beside TRL's GRPO: same model, batch and layout, generation left out."""

from __future__ import annotations

import torch

from benchmarks.llm.steps import Batch, Shape, peak_bytes, quiet, round_seconds

# Wide enough that products dominate, as they do in practice; 850,000 weights.
SHAPE = Shape(layers=3, width=128, heads=4, key_value_heads=2, head_width=32, hidden=384, vocabulary=2048)
GROUP, PROMPTS, PROMPT_TOKENS, COMPLETION_TOKENS = 8, 4, 16, 96
REPEATS, REPEATS_OF_TWO = 5, 3
# Rows of a micro-batch.
WHOLE, SPLIT = GROUP, GROUP // 2
# The default first; "policy" is the paper's anchor.
STEPS = {
    "ratio, whole groups": ("ratio", WHOLE),
    "ratio, split groups": ("ratio", SPLIT),
    "policy, whole groups": ("tpo", WHOLE),
    "policy, split groups": ("tpo", SPLIT),
}
TWO_STEPS = {
    "ratio, whole groups": ("ratio", WHOLE),
    "policy, whole groups": ("tpo", WHOLE),
    "policy, split groups": ("tpo", SPLIT),
}


def batch(rows: int, steps: int = 1, prompts: int = PROMPTS) -> Batch:
    """Micro-batches of so many rows; optimizer steps of one round."""
    return Batch(prompts, GROUP, rows, PROMPT_TOKENS, COMPLETION_TOKENS, steps)


def over_grpo(method: str, layout: Batch, repeats: int) -> float:
    """Processor seconds of a round over GRPO's, in turns; one thread, which waits for no other."""
    quiet()
    torch.set_num_threads(1)
    # The paper's anchor leaves gradients below 1e-38 here, numbers on which a CPU takes several times as long.
    torch.set_flush_denormal(True)
    seconds = round_seconds((method, "grpo"), SHAPE, layout, repeats)
    return seconds[method] / seconds["grpo"]


class Step:
    """An optimizer step on policy, four prompts of eight completions.

    Targets: 1.05 with whole groups in a micro-batch and for the ratio form; 1.45 where the policy anchor needs a pass
    without gradient first.
    """

    params = tuple(STEPS)
    param_names = ("case",)
    timeout = 300

    def track_over_grpo(self, case: str) -> float:
        method, rows = STEPS[case]
        return over_grpo(method, batch(rows), REPEATS)

    track_over_grpo.unit = "ratio"


class TwoSteps:
    """A round of two optimizer steps, for which GRPO takes a pass without gradient too; 1.05 and 1.45."""

    params = tuple(TWO_STEPS)
    param_names = ("case",)
    timeout = 300

    def track_over_grpo(self, case: str) -> float:
        method, rows = TWO_STEPS[case]
        return over_grpo(method, batch(rows, steps=2), REPEATS_OF_TWO)

    track_over_grpo.unit = "ratio"


class Memory:
    """The most bytes of tensors at once in two optimizer steps: weights, gradients, AdamW and all else; 1.03."""

    params = tuple(STEPS)
    param_names = ("case",)
    timeout = 300

    def track_peak_over_grpo(self, case: str) -> float:
        quiet()
        method, rows = STEPS[case]
        layout = batch(rows, prompts=2)
        return peak_bytes(method, SHAPE, layout) / peak_bytes("grpo", SHAPE, layout)

    track_peak_over_grpo.unit = "ratio"
