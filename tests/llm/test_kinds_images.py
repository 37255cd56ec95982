"""Prompts with images: what a forward pass takes beside tokens reaches every pass, however a batch is cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import kinds, sights, tiny_llm
from helpers.tiny_llm import LAYOUTS

from tpo_torch.llm.trainer import EXTRA_INPUTS

pytestmark = kinds.FILTERS

# TRL's own head computes in single precision; an image left out would be off by tenths.
ROUNDED = 1e-4
WHOLE, CUT = LAYOUTS["whole groups in one micro-batch"], LAYOUTS["half a group per micro-batch"]
CUTS = {
    "whole": WHOLE | {"anchor": "ratio"},
    "split, the paper's anchor": CUT | {"anchor": "policy"},
    "shuffled, two epochs": CUT | {"anchor": "ratio", "shuffle_rows": True, "num_iterations": 2},
}
# How many images the prompts have in turn, and their sizes; some processors give each row as many as another.
IMAGES: dict[str, tuple[list[int], list[tuple[int, int]]]] = {
    "num_images": ([1, 2], [(4, 4)]),
    "token_type_ids": ([1, 2], [(4, 4)]),
    "pixel_attention_mask": ([1], [(4, 4)]),
    "image_grid_thw": ([1, 2], [(4, 4), (8, 4)]),
}


def length(completion_ids: list[list[int]], **_: Any) -> list[float]:
    return [float(len(ids)) + ids[0] / 7 for ids in completion_ids]


def train(folder: Path, kind: str, **options: Any) -> tuple[Any, Any]:
    processor, policy = sights.seeing(kind)
    given = {
        "train_dataset": sights.pictures(*IMAGES[kind]),
        "processing_class": processor,
        "reward_funcs": length,
        "max_completion_length": 5,
    }
    return tiny_llm.train(folder, policy, **given | options)


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("kind", sights.KINDS)
def test_gradient_of_prompts_with_images(kind: str, cut: str, tmp_path: Path) -> None:
    trainer, watch = train(tmp_path, kind, **CUTS[cut])
    seen = {name for name in watch.rounds[0].batch if name in tiny_llm.SEEN}
    assert {"pixel_values", kind} - {"num_images"} <= seen <= set(EXTRA_INPUTS)
    for step, given in enumerate(watch.gradients):
        _, dense = sights.seeing(kind, torch.float64)
        wanted = tiny_llm.dense_gradient_of(dense, watch, trainer.args, step)
        largest = max(float(g.abs().max()) for g in wanted.values())
        assert largest > 0
        assert given.keys() == wanted.keys()
        assert max(float((given[name] - g).abs().max()) for name, g in wanted.items()) < ROUNDED * largest
    # The tower that sees is trained too.
    assert any("vision" in name or "visual" in name for name, g in watch.gradients[0].items() if g.abs().max() > 0)
