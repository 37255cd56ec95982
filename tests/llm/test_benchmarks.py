"""The benchmarks of language-model training measure what they say: the loop, the parts of a step, the operations."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu import llm as gpu_llm
from benchmarks.llm.steps import METHODS, Rounds, make_trainer, peak_bytes, quiet
from benchmarks.llm.stopwatch import Stopwatch

SHAPE, BATCH = gpu_llm.TOY, gpu_llm.TOY_BATCH


@pytest.fixture(autouse=True)
def _quiet() -> None:
    quiet()


@pytest.mark.parametrize("method", METHODS)
def test_a_round_in_pieces_trains_as_the_real_loop(method: str) -> None:
    rounds = Rounds(method, SHAPE.model(), SHAPE, BATCH)
    for _ in range(rounds.count):
        next(rounds)
    trainer = make_trainer(method, SHAPE.model(), SHAPE, BATCH, 1)
    trainer.train()
    before = SHAPE.model().state_dict()
    moved = trainer.model.state_dict()
    assert any(not torch.equal(before[name], moved[name]) for name in moved)
    for name, value in rounds.trainer.model.state_dict().items():
        torch.testing.assert_close(value, moved[name], rtol=0, atol=1e-7)


def test_the_parts_of_a_step_are_all_of_it_and_scoring_is_told_apart() -> None:
    split = replace(BATCH, rows=BATCH.rows // 2)
    found = {}
    for layout in (BATCH, split):
        trainer = make_trainer("tpo", SHAPE.model(), SHAPE, layout, 2)
        watch = Stopwatch(trainer, lambda: None)
        trainer.train()
        # The first step also looks for noise, by two passes without gradient.
        found[layout.rows] = watch.mean(skip=1)
    for parts in found.values():
        assert all(parts[name] > 0 for name in ("forward", "backward", "optimizer", "coefficients", "other"))
        assert parts["total"] == pytest.approx(sum(v for name, v in parts.items() if name != "total"))
    assert found[BATCH.rows]["scoring"] == 0 < found[split.rows]["scoring"]


def test_operations_counted_are_those_of_the_products() -> None:
    """The head is counted at completions alone, attention at half of all pairs; torch counts all of both."""
    model = SHAPE.model()
    model.set_attn_implementation("eager")
    rows, length = BATCH.prompts * BATCH.group, BATCH.prompt_tokens + BATCH.completion_tokens
    with FlopCounterMode(display=False) as counter:
        model(input_ids=torch.ones(rows, length, dtype=torch.long)).logits.sum().backward()
    head = 2 * SHAPE.width * SHAPE.vocabulary * BATCH.prompt_tokens
    attention = 2 * SHAPE.layers * SHAPE.heads * SHAPE.head_width * length**2
    counted = gpu_llm.flops(SHAPE, BATCH, "full") + 3 * rows * (head + attention)
    assert counter.get_total_flops() == pytest.approx(counted, rel=0.01)


def test_peak_bytes_hold_weights_gradients_and_moments_and_no_more_than_grpos() -> None:
    weights = sum(p.numel() * p.element_size() for p in SHAPE.model().parameters())
    # What TRL's head works on is larger than this whole model.
    assert 4 * weights < peak_bytes("tpo", SHAPE, BATCH) < 1.03 * peak_bytes("grpo", SHAPE, BATCH)
