"""Policy networks whose every parameter has a leading seed axis: all seeds of a method train in one set of products."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

# LeCun-normal as JAX draws it: cut at two standard deviations and widened to the variance 1/fan_in (deviation D20).
TRUNCATION = 2.0


class PolicyMLP(nn.Module):
    """ReLU layers from inputs to action logits, one network per seed.

    Paper: Fig. 4 (its policy)

    h ← relu(h W + b) for every layer but the last, which is linear. W is LeCun-normal, b is 0.

    Args: generators, one per seed, on the CPU and already seeded: a seed's network depends on its own generator only,
        whichever other seeds train beside it; sizes, the widths from inputs to actions, at least two of them.
    Raises: ValueError for no generator, fewer than two sizes, or a width below 1.

    >>> net = PolicyMLP([torch.Generator().manual_seed(0)], sizes=(4, 3, 2))
    >>> net(torch.zeros(1, 5, 4)).shape
    torch.Size([1, 5, 2])
    """

    def __init__(self, generators: Sequence[torch.Generator], sizes: Sequence[int]) -> None:
        super().__init__()
        if len(generators) == 0:
            raise ValueError("generators: got none, expected one per seed")
        if len(sizes) < 2 or min(sizes) < 1:
            raise ValueError(f"sizes: got {tuple(sizes)}, expected the widths of inputs and actions, each 1 or more")
        self.sizes = tuple(sizes)
        pairs = list(itertools.pairwise(self.sizes))
        weights = [[lecun_normal(i, o, g) for i, o in pairs] for g in generators]
        # (seeds, in, out): forward, weight and input gradients are all products without a transposed copy.
        self.weights = nn.ParameterList([nn.Parameter(torch.stack(layer)) for layer in zip(*weights, strict=True)])
        self.biases = nn.ParameterList([nn.Parameter(torch.zeros(len(generators), 1, o)) for _, o in pairs])

    def forward(self, x: Tensor) -> Tensor:
        """Logits (S, B, actions) of inputs x (S, B, inputs), S being the number of seeds."""
        last = len(self.weights) - 1
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, x, weight)
            x = x if i == last else torch.relu_(x)
        return x


def lecun_normal(fan_in: int, fan_out: int, generator: torch.Generator) -> Tensor:
    """A LeCun-normal weight matrix: truncated normal of mean 0 and variance 1/fan_in.

    Paper: Fig. 4 (its initialisation)

    W = z/√(fan_in · v), with z standard normal cut at ±2 and v = 1 − 4φ(2)/(2Φ(2) − 1) the variance of that z.

    Args: fan_in, fan_out, widths; generator, on the CPU. Returns: (fan_in, fan_out), float32.

    >>> lecun_normal(100, 100, torch.Generator().manual_seed(0)).std()
    tensor(0.0994)
    """
    density = math.exp(-(TRUNCATION**2) / 2) / math.sqrt(2 * math.pi)
    variance = 1 - 2 * TRUNCATION * density / math.erf(TRUNCATION / math.sqrt(2))
    scale = 1 / math.sqrt(fan_in * variance)
    cut = TRUNCATION * scale
    weight = torch.empty(fan_in, fan_out)
    return nn.init.trunc_normal_(weight, std=scale, a=-cut, b=cut, generator=generator)
