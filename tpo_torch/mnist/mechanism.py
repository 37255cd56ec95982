"""The mechanism of Fig. 4b: the exact first-order gain of a method, less that of a policy with equal wrong classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from tpo_torch import closed_form
from tpo_torch.mnist.settings import MnistSettings

# Bins of the concentration of the error, the share of the wrong mass that the strongest wrong class holds.
EDGES = (0.0, 0.25, 0.5, 0.75, 1.0)

Direction = Callable[[Tensor, Tensor, MnistSettings], Tensor]

DIRECTIONS: Mapping[str, Direction] = {
    "tpo": lambda pi, label, settings: closed_form.app_c_tpo(pi, label, settings.eta),
    "dg": lambda pi, label, settings: closed_form.app_c_dg(pi, label, settings.dg_eta),
    "pg": lambda pi, label, settings: closed_form.app_c_pg(pi, label),
    # A multiple of PG's direction, the same on both sides of the difference, which is 0 whatever the multiple.
    "pg_batchnorm": lambda pi, label, settings: closed_form.app_c_pg(pi, label),
    "group_pg": lambda pi, label, settings: closed_form.app_c_group_pg(pi, label) / settings.eta,
    "ce": lambda pi, label, settings: closed_form.app_c_ce(pi, label),
}


def first_order_gain(pi: Tensor, label: Tensor, direction: Tensor) -> Tensor:
    """Rate at which p = π(y) rises as the logits move along a direction.

    Paper: Fig. 4b

    dp/dt = p(d_y − Σ_j π_j d_j) for z + t·d.

    Args: pi (…, A), a distribution; label (…) int64; direction (…, A). Returns: (…).

    >>> first_order_gain(torch.tensor([0.5, 0.5]), torch.tensor(0), torch.tensor([1.0, -1.0]))
    tensor(0.5000)
    """
    return _at(pi, label) * (_at(direction, label) - (pi * direction).sum(-1))


def symmetric(pi: Tensor, label: Tensor) -> Tensor:
    """The policy with the same π(y) whose wrong classes share the rest equally.

    Paper: Fig. 4b (its surrogate)

    π_j = (1 − p)/(A − 1) for j ≠ y.

    Args: pi (…, A), label (…) int64. Returns: (…, A).

    >>> symmetric(torch.tensor([0.4, 0.6, 0.0]), torch.tensor(0))
    tensor([0.4000, 0.3000, 0.3000])
    """
    p = _at(pi, label).unsqueeze(-1)
    return torch.where(_is_label(pi, label), p, (1 - p) / (pi.shape[-1] - 1))


def excess_gain(method: str, pi: Tensor, label: Tensor, settings: MnistSettings) -> Tensor:
    """Gain of π(y) that a method draws from how the wrong classes share the rest.

    Paper: Fig. 4b

    gain(d(π)) − α·gain(v), v = e_y − π. By symmetry the method's direction at the surrogate is α·v there; α is carried
    over, v is the real one (deviation D23). A direction that depends on p alone, as PG's p·v, has exactly 0.

    Args: method, a name of DIRECTIONS; pi (…, A), with π(y) < 1; label (…) int64; settings for eta and dg_eta.
    Returns: (…), change of π(y) per unit step in the logits.

    >>> three = torch.tensor([0.2, 0.8, 0.0], dtype=torch.float64)
    >>> excess_gain("tpo", three, torch.tensor(0), MnistSettings()) > 0
    tensor(True)
    """
    direction = DIRECTIONS[method]
    p = _at(pi, label)
    alpha = _at(direction(symmetric(pi, label), label, settings), label) / (1 - p)
    v = _is_label(pi, label).to(pi.dtype) - pi
    return first_order_gain(pi, label, direction(pi, label, settings)) - alpha * first_order_gain(pi, label, v)


def measure(method: str, logits: Tensor, labels: Tensor, settings: MnistSettings) -> tuple[Tensor, Tensor]:
    """Mean excess gain over the misclassified images, by concentration of the error.

    Paper: Fig. 4b

    Concentration c = max_{j≠y} π_j/(1 − π_y), in the bins [0, .25), [.25, .5), [.5, .75), [.75, 1].

    Args: method, a name of DIRECTIONS; logits (S, N, A), of the method's own networks; labels (N,) int64.
    Returns: gain (S, 4), float64, NaN in an empty bin; count (S, 4) int64, images in each bin.
    """
    pi = torch.softmax(logits.double(), -1)
    label = labels.expand(pi.shape[:-1])
    wrong = logits.argmax(-1) != label
    # An image that is right may have π(y) = 1: it is replaced before anything is divided by 1 − π(y).
    pi = torch.where(wrong.unsqueeze(-1), pi, 1 / pi.shape[-1])
    strongest = torch.where(_is_label(pi, label), 0.0, pi).amax(-1)
    concentration = strongest / (1 - _at(pi, label))
    inner = torch.tensor(EDGES[1:-1], dtype=pi.dtype, device=pi.device)
    inside = torch.nn.functional.one_hot(torch.bucketize(concentration, inner, right=True), len(EDGES) - 1)
    inside = torch.where(wrong.unsqueeze(-1), inside, 0)
    count = inside.sum(1)
    return (inside * excess_gain(method, pi, label, settings).unsqueeze(-1)).sum(1) / count, count


def _at(x: Tensor, label: Tensor) -> Tensor:
    return x.gather(-1, label.unsqueeze(-1)).squeeze(-1)


def _is_label(x: Tensor, label: Tensor) -> Tensor:
    return torch.arange(x.shape[-1], device=x.device) == label.unsqueeze(-1)
