"""Small transformers in float64 whose every parameter matters, and draws for them."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from hypothesis import strategies as st

from tpo_torch.reversal.engine import Draws, draw
from tpo_torch.shared.transformer import CausalTransformer

# Factors on the head's weights: a uniform policy, a mild one, one that repeats itself, one almost deterministic.
SHARPNESS = (0.0, 1.0, 6.0, 60.0)


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def network(*seeds: int, vocab: int = 3, horizon: int = 3, sharpness: float = 1.0) -> CausalTransformer:
    """A net in float64, moved off its first values: those zeros and ones would hide a lost bias, scale or shift."""
    every = generators(*seeds)
    net = CausalTransformer(every, vocab, 2 * horizon).double()
    with torch.no_grad():
        for p in net.parameters():
            p += 0.2 * torch.stack([torch.randn(p.shape[1:], generator=g, dtype=p.dtype) for g in every])
        net.head_weight *= sharpness
    return net


class Case(NamedTuple):
    """A net of one seed and the draws of an episode."""

    net: CausalTransformer
    draws: Draws


@st.composite
def cases(draw_: st.DrawFn, **fixed: Any) -> Case:
    """From one answer of one token to more answers than there are, from uniform to almost deterministic policies."""
    vocab, horizon = draw_(st.integers(2, 5)), draw_(st.integers(1, 6))
    batch, answers, others = draw_(st.integers(1, 8)), draw_(st.integers(1, 6)), draw_(st.integers(0, 4))
    seed, sharpness = draw_(st.integers(0, 2**32 - 1)), draw_(st.sampled_from(SHARPNESS))
    net = network(seed, vocab=vocab, horizon=horizon, sharpness=sharpness)
    sizes = {"batch": batch, "answers": answers, "others": others} | fixed
    return Case(net, draw(generators(seed), vocab, horizon, **sizes))


def gradients(net: CausalTransformer, total: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of every parameter, zeros where nothing arrives."""
    names, parameters = zip(*net.named_parameters(), strict=True)
    found = torch.autograd.grad(total, parameters, allow_unused=True)
    return {n: torch.zeros_like(p) if g is None else g for n, p, g in zip(names, parameters, found, strict=True)}
