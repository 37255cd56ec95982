"""The textbook form of the MNIST bandit: one seed, `nn.Linear`, a plain loop over minibatches, losses written out.

The fast run (`runs.py`) must equal this one. Departures from the paper: what Fig. 4 calls GRPO divides by the deviation
of the batch (D22), and updates are counted truly (D21).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from tpo_torch.mnist.settings import MnistSettings
from tpo_torch.mnist.table import own_name
from tpo_torch.shared.data import CLASSES, Bytes, Mnist
from tpo_torch.shared.nets import lecun_normal

PIXEL_MAX = 255
# Added to the deviation of a batch.
BATCH_SD_FLOOR = 1e-8


@dataclass(frozen=True)
class ClearRun:
    """The curves of one seed at its E evaluations, and where the training ended."""

    # True updates from 0, (E,).
    update: list[int]
    # Greedy error, the share of all test images, (E,).
    test_error: list[float]
    # Mean over the updates since the evaluation before, NaN at 0, (E,).
    train_reward: list[float]
    # Of all test images after the last update, (N, 10).
    test_logits: Tensor


def train(method: str, settings: MnistSettings, seed: int, data: Mnist) -> ClearRun:
    """Train one method from one seed.

    Paper: Fig. 4

    Every update: B images with replacement, a ~ π(·|x), r = 1{a = y}, b = Σ π², one Adam step on the mean loss.

    Args: method, one of `table.METHODS` or an alias. Raises: ValueError for an unknown one.
    """
    method, generator = own_name(method), torch.Generator().manual_seed(seed)
    net = network((data.pixels, settings.hidden, settings.hidden, CLASSES), generator)
    optimizer = torch.optim.Adam(net.parameters(), lr=settings.learning_rate)
    images, labels = data.train_images[: settings.train_images], data.train_labels[: settings.train_images]
    logits, error = evaluate(net, data)
    update, test_error, train_reward = [0], [error], [float("nan")]
    for block in range(settings.updates // settings.eval_every):
        shape = (settings.eval_every, settings.batch)
        # The fast run draws a block at a time, in this order.
        indices = torch.randint(len(images), shape, generator=generator)
        uniforms = torch.rand(shape, generator=generator)
        rewards = []
        for rows, uniform in zip(indices.numpy(), uniforms, strict=True):
            label = torch.tensor(labels[rows].astype(np.int64))
            loss, reward = losses(method, net(pixels(images[rows])), label, uniform, settings)
            optimizer.zero_grad()
            torch.autograd.backward(loss.mean())
            optimizer.step()
            rewards.append(reward.mean())
        logits, error = evaluate(net, data)
        update.append((block + 1) * settings.eval_every)
        test_error.append(error)
        train_reward.append(float(torch.stack(rewards).mean()))
    return ClearRun(update, test_error, train_reward, logits)


def network(widths: tuple[int, ...], generator: torch.Generator) -> nn.Sequential:
    """Return a perceptron with ReLU between its layers, weights LeCun-normal, biases 0.

    >>> network((4, 3, 2), torch.Generator().manual_seed(0))(torch.zeros(1, 4)).tolist()
    [[0.0, 0.0]]
    """
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(widths):
        linear = nn.Linear(fan_in, fan_out)
        linear.weight.data = lecun_normal(fan_in, fan_out, generator).T
        linear.bias.data.zero_()
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def losses(
    method: str, logits: Tensor, label: Tensor, uniform: Tensor, settings: MnistSettings
) -> tuple[Tensor, Tensor]:
    """Sample one action per image, and return each image's loss and reward, (B,) both.

    Args: logits (B, 10), with graph; label (B,); uniform (B,), each in [0, 1).
    """
    log_pi = torch.log_softmax(logits, -1)
    pi = log_pi.detach().exp()
    # Inverse CDF: the first class whose cumulated probability exceeds the uniform.
    action = torch.searchsorted(pi.cumsum(-1)[:, :-1].contiguous(), uniform.unsqueeze(-1), right=True).squeeze(-1)
    e_action = functional.one_hot(action, CLASSES).to(pi.dtype)
    log_pi_action = (log_pi * e_action).sum(-1)
    reward = (action == label).to(pi.dtype)
    advantage = reward - (pi**2).sum(-1)
    scores = advantage.unsqueeze(-1) * e_action
    u = (scores - scores.mean(-1, keepdim=True)) / scores.std(-1, keepdim=True, correction=0)
    if method == "tpo":
        q = torch.softmax(log_pi.detach() + u / settings.eta, -1)
        loss = -(q * log_pi).sum(-1)
    elif method == "dg":
        gate = torch.sigmoid(-advantage * log_pi_action.detach() / settings.dg_eta)
        loss = -gate * advantage * log_pi_action
    elif method == "pg":
        loss = -advantage * log_pi_action
    elif method == "pg_batchnorm":
        standard = (advantage - advantage.mean()) / (advantage.std(correction=0) + BATCH_SD_FLOOR)
        loss = -standard * log_pi_action
    elif method == "group_pg":
        loss = -(u * e_action).sum(-1) / settings.eta * log_pi_action
    elif method == "ce":
        loss = functional.cross_entropy(logits, label, reduction="none")
    else:
        raise ValueError(f"{method}: the clear twin has no formula for it")
    return loss, reward


@torch.no_grad()
def evaluate(net: nn.Module, data: Mnist) -> tuple[Tensor, float]:
    """Return the logits of all test images, (N, 10), and the share whose largest one is another class's."""
    logits: Tensor = net(pixels(data.test_images))
    wrong = logits.argmax(-1) != torch.tensor(data.test_labels.astype(np.int64))
    return logits, float(wrong.double().mean())


def pixels(images: Bytes) -> Tensor:
    """Return images as numbers from 0 to 1."""
    return torch.tensor(images, dtype=torch.float32) / PIXEL_MAX
