"""Batches of single samples: one action a context or one token a position, from all but certain to hopeless."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from tpo_torch import single

TARGET, LOSS, RULE = "single.tpo_single_target", "single.tpo_single_loss", "single.tpo_single"


@dataclass(frozen=True)
class Batch:
    """B sequences of T tokens: log-probabilities from −1e-14, all but certain, to −300, advantages of all sizes."""

    logp: np.ndarray
    logp_old: np.ndarray
    advantages: np.ndarray
    mask: np.ndarray


@st.composite
def batches(draw: st.DrawFn, lowest: float = -14.0) -> Batch:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 6)))
    logp, old = (-(10 ** rng.uniform(lowest, 2.5, shape)) for _ in range(2))
    advantages = rng.normal(size=shape) * 10 ** rng.uniform(-2, 2, shape) * (rng.random(shape) < 0.9)
    return Batch(logp, old, advantages, rng.random(shape) < 0.7)


def softmax_gradient(logits: np.ndarray, action: np.ndarray, target: np.ndarray, dtype: Any = torch.float64) -> Any:
    """What back-propagation hands to the logits, here the mirror's."""
    leaf = torch.tensor(logits, dtype=dtype, requires_grad=True)
    logp = torch.log_softmax(leaf, -1).gather(-1, torch.as_tensor(action)[:, None]).squeeze(-1)
    loss = single.tpo_single_loss(logp, torch.as_tensor(target, dtype=dtype))
    return torch.autograd.grad(loss.sum(), leaf)[0].numpy()
