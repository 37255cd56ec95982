"""The MNIST contextual bandit: one action sampled per image, reward 1 if it is the digit; all seeds train together.

Departures from the paper, each explained in spec/deviations.md:

- D7  TPO fits two outcomes, the sampled action or another one.
- D20 weights are drawn from a truncated normal, JAX's default.
- D21 an update is a true update, not the start of its block of 200.
- D22 what Fig. 4 calls GRPO is REINFORCE with advantages standardised over the batch.
- D23 the surrogate of Fig. 4b steps along the real direction.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tpo_ref.study.chosen_rules import ChosenRule
from tpo_ref.study.context import Context
from tpo_ref.study.protocol import Arrays
from tpo_torch.mnist import mechanism
from tpo_torch.mnist.methods import act, resolve
from tpo_torch.mnist.settings import MnistSettings
from tpo_torch.mnist.table import own_name
from tpo_torch.shared import checkpoint as checkpoints
from tpo_torch.shared.data import CLASSES, Mnist, load_mnist
from tpo_torch.shared.nets import PolicyMLP
from tpo_torch.shared.seeds import distinct, usable

# A run on the CPU that saves nothing.
DEFAULT = Context()

# Pixels are divided by their largest value.
PIXEL_MAX = 255.0
# At most so many updates, and one block, are lost when a run is killed.
CHECKPOINT_EVERY = 1_000
# Test images evaluated at once: enough for a fast product, few enough to stay small for twenty seeds.
EVALUATION_CHUNK = 1_000


@functools.cache
def load_data() -> Mnist:
    """The data of these runs, read once a process: `tpo_torch.shared.data.load_mnist`."""
    return load_mnist()


def run(
    method: str,
    settings: MnistSettings,
    seeds: Sequence[int],
    data: Mnist,
    context: Context = DEFAULT,
) -> Arrays:
    """Train one method for all seeds at once, and evaluate it as it goes.

    Paper: Fig. 4

    Every update: B images with replacement, a ~ π(·|x), r = 1{a = y}, b = Σ π², one Adam step on the mean loss.

    Args: method, one of `table.METHODS` or an alias, or what the context's rule is called; seeds, distinct and
        non-negative; context, with a checkpoint written every 1,000 updates and at an interruption, from which a run
        started again continues bit for bit, and progress at each evaluation.
    Returns: update (E,), true updates from 0; test_error (S, E), greedy, share of all test images; train_reward
        (S, E), mean over the updates since the evaluation before, NaN at 0; mechanism_gain, mechanism_count (S, 4),
        see `mechanism.measure`, NaN and 0 where it was left out, as for a rule that is not in the table;
        mechanism_concentration (4,), its bins' centres.
    Raises: ValueError, TypeError for an unknown method, bad seeds, settings or data, or a checkpoint that is
        damaged, or of another run.
    """
    chosen = method if context.rule is None else context.rule
    state = MnistTraining(chosen, settings, seeds, data, context.device, context.grouping)
    checkpoint = context.checkpoint
    if checkpoint is not None and checkpoint.exists():
        state.load(checkpoint)
    else:
        state.evaluate()
    last_save = state.update
    with checkpoints.Saver(context, {} if checkpoint is None else state.identity()) as saver:
        while True:
            context.progress(state.update, settings.updates)
            if state.update == settings.updates:
                return state.curves
            state.train(settings.eval_every)
            state.evaluate()
            saver.keep([state.stack()], state.progress())
            if state.update - last_save >= CHECKPOINT_EVERY or state.update == settings.updates:
                saver.write()
                last_save = state.update


class MnistTraining:
    """A run of one method between two evaluations: networks, Adam, generators, curves so far. Arguments as `run`."""

    def __init__(
        self,
        method: str | ChosenRule,
        settings: MnistSettings,
        seeds: Sequence[int],
        data: Mnist,
        device: str,
        grouping: str = "",
    ) -> None:
        _check(settings, data)
        self.chosen = method if isinstance(method, ChosenRule) else None
        self.name = method.method if isinstance(method, ChosenRule) else own_name(method)
        self.method, self.settings, self.seeds = resolve(method, settings, grouping), settings, distinct(seeds)
        self.device = usable(device)
        count = settings.train_images or len(data.train_images)
        self.images, self.labels = self._put(data.train_images[:count]), self._put(data.train_labels[:count]).long()
        self.test_images, self.test_labels = self._put(data.test_images), self._put(data.test_labels).long()
        self.source = data
        # On the CPU whatever the device, so that a seed means the same draws everywhere.
        self.generators = [torch.Generator().manual_seed(seed) for seed in self.seeds]
        self.net = PolicyMLP(self.generators, (data.pixels, settings.hidden, settings.hidden, CLASSES)).to(self.device)
        # Adam is elementwise: stacked seeds take exactly the steps that each would take alone.
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=settings.learning_rate, fused=True)
        self.update = 0
        self.curves = _empty_curves(settings, len(self.seeds))

    def train(self, updates: int) -> None:
        """Take so many updates; nothing is read back from the device before the last."""
        indices, uniforms = self._draws(updates)
        labels = self.labels[indices]
        # One buffer for every update: a fresh one of this size would be paged in each time.
        x = torch.empty(*indices.shape[1:], self.images.shape[1], device=self.device)
        reward = torch.zeros(len(self.seeds), device=self.device)
        for rows, digits, uniform in zip(indices, labels, uniforms, strict=True):
            x.copy_(self.images.index_select(0, rows.view(-1)).view_as(x)).div_(PIXEL_MAX)
            feedback = act(self.net(x), digits, uniform)
            self.step(self.method.losses(feedback))
            reward += feedback.rewards.mean((1, 2))
        self.update += updates
        self.curves["train_reward"][:, self.update // self.settings.eval_every] = (reward / updates).cpu().numpy()

    def step(self, losses: Tensor) -> None:
        """One Adam step on each seed's mean of losses (S, B)."""
        self.optimizer.zero_grad(set_to_none=True)
        # The seeds share no parameter, so the gradient of the sum is each seed's own.
        torch.autograd.backward(losses.mean(-1).sum())
        self.optimizer.step()

    def evaluate(self) -> None:
        """Greedy error on every test image, and the mechanism where the settings ask for it."""
        logits = self.test_logits()
        wrong = logits.argmax(-1) != self.test_labels
        self.curves["test_error"][:, self.update // self.settings.eval_every] = wrong.double().mean(-1).cpu().numpy()
        # Fig. 4b has the exact directions of the paper's methods alone.
        if self.update == self.settings.mechanism_update and self.chosen is None:
            gain, count = mechanism.measure(self.name, logits, self.test_labels, self.settings)
            self.curves["mechanism_gain"], self.curves["mechanism_count"] = gain.cpu().numpy(), count.cpu().numpy()

    @torch.no_grad()
    def test_logits(self) -> Tensor:
        """Logits (S, N, 10) of all N test images."""
        parts = []
        for chunk in torch.split(self.test_images, EVALUATION_CHUNK):
            x = chunk.to(torch.float32).div_(PIXEL_MAX)
            parts.append(self.net(x.expand(len(self.seeds), *x.shape)))
        return torch.cat(parts, 1)

    def load(self, path: Path) -> None:
        """Continue where a run of the same identity saved its `stack` and `progress`; ValueError for another file."""
        curves = checkpoints.load(path, self.identity(), [self.stack()])
        checkpoints.same(path, curves, self.progress())
        update, every = int(curves.pop("done")), self.settings.eval_every
        if not 0 < update <= self.settings.updates or update % every:
            raise ValueError(f"{path}: is at update {update}, expected a multiple of {every}; delete it and run again")
        self.update, self.curves = update, curves

    def stack(self) -> checkpoints.Stack:
        """The networks, Adam and the generators."""
        return checkpoints.Stack(self.net, self.optimizer, self.generators)

    def progress(self) -> Arrays:
        """The curves so far, and how far that is."""
        return self.curves | {"done": np.array(self.update)}

    def identity(self) -> dict[str, object]:
        """What a checkpoint has to share with this run: options, data and code."""
        digest = hashlib.sha256()
        for x in dataclasses.astuple(self.source):
            digest.update(f"{x.shape}".encode() + np.ascontiguousarray(x).tobytes())
        rule = {} if self.chosen is None else {"rule": {**self.chosen.record(), "grouping": self.method.grouping}}
        own = checkpoints.identity(__name__, self.name, self.settings, self.seeds, self.device, digest.hexdigest())
        return own | rule

    def _draws(self, updates: int) -> tuple[Tensor, Tensor]:
        """Indices and uniforms (updates, S, B) of a block, each seed's from its own generator."""
        shape = (updates, self.settings.batch)
        pairs = [
            (torch.randint(len(self.images), shape, generator=g), torch.rand(shape, generator=g))
            for g in self.generators
        ]
        indices, uniforms = (torch.stack(parts, 1).to(self.device) for parts in zip(*pairs, strict=True))
        return indices, uniforms

    def _put(self, x: NDArray[np.uint8]) -> Tensor:
        return torch.tensor(x, device=self.device)


def _empty_curves(settings: MnistSettings, seeds: int) -> dict[str, NDArray[Any]]:
    evaluations = settings.updates // settings.eval_every + 1
    edges = mechanism.EDGES
    bins = (seeds, len(edges) - 1)
    return {
        "update": np.arange(evaluations) * settings.eval_every,
        "test_error": np.full((seeds, evaluations), np.nan),
        "train_reward": np.full((seeds, evaluations), np.nan),
        "mechanism_gain": np.full(bins, np.nan),
        "mechanism_count": np.zeros(bins, np.int64),
        "mechanism_concentration": np.array([(low + high) / 2 for low, high in itertools.pairwise(edges)]),
    }


def _check(settings: MnistSettings, data: Mnist) -> None:
    if not isinstance(settings, MnistSettings):
        raise TypeError(f"settings: got {type(settings).__name__}, expected MnistSettings")
    if not isinstance(data, Mnist):
        raise TypeError(f"data: got {type(data).__name__}, expected Mnist; use tpo_torch.shared.data.load_mnist()")
    if settings.train_images is not None and settings.train_images > len(data.train_images):
        raise ValueError(f"train_images: got {settings.train_images}, expected at most {len(data.train_images)}")
