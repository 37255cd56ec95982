"""One stack of seeds between two looks at it: networks, optimiser, generators, and what an episode does with them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tpo_ref.study.chosen_rules import ChosenRule
from tpo_torch import diagnostics
from tpo_torch.muon import Muon
from tpo_torch.reversal.engine import Draws, Rollout, dense, draw, merged
from tpo_torch.reversal.engine.graph import Captured
from tpo_torch.reversal.methods import resolve
from tpo_torch.reversal.settings import ReversalSettings
from tpo_torch.reversal.table import GROUP, SINGLE, TOKEN, Sampling
from tpo_torch.reversal.task import candidate_rewards, rewards, targets
from tpo_torch.rules import OwnRule
from tpo_torch.shared.checkpoint import Stack
from tpo_torch.shared.transformer import RULES, CausalTransformer
from tpo_torch.standardize import standardize

# Of every method: mean error of the sampled batch, norm of the first gradient. Of grouped ones: shares of groups that
# fail throughout, of groups with a success, of groups without a signal; mean coefficient of candidates above and below
# their group's mean; share of repeated answers; correlation of log-probability and score; the anchor, field by field.
ANCHOR = tuple(f"anchor_{name}" for name in diagnostics.AnchorHealth._fields)
METRICS = (
    "error",
    "gradient_norm",
    "all_fail",
    "success",
    "winner_weight",
    "loser_weight",
    "zero_variance",
    "duplicates",
    "score_correlation",
    *ANCHOR,
)


class ReversalTraining:
    """A run of one method for some seeds that train together. Arguments as `reversal.runs.run`; device is torch's."""

    def __init__(
        self,
        method: str | ChosenRule,
        settings: ReversalSettings,
        seeds: tuple[int, ...],
        device: torch.device,
        grouping: str = "",
    ) -> None:
        self.method = resolve(method, settings, grouping)
        self.sampling = self.method.sampling
        self.settings, self.device = settings, device
        _check(method if isinstance(method, str) else method.method, self.sampling, settings, device)
        self.dtype = torch.float64 if settings.precision == "float64" else torch.float32
        # On the CPU whatever the device, so that a seed means the same draws everywhere.
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        net = CausalTransformer(self.generators, settings.vocab, 2 * settings.horizon)
        self.net = net.to(device, self.dtype)
        rate = settings.learning_rate * (math.sqrt(settings.group) if self.sampling.wide else 1)
        self.optimizer = Muon(self.net.named_parameters(), RULES, rate)
        self.generate = merged.generate if device.type == "cpu" and len(seeds) == 1 else dense.generate
        # A function of the user's computes on the host, which no graph can record.
        recorded = device.type == "cuda" and not isinstance(self.method.rule, OwnRule)
        self.start: Callable[[Draws], dict[str, Tensor]] = (
            Captured(self.update, device) if recorded else self._on_device
        )

    def train(self, episodes: int) -> dict[str, NDArray[Any]]:
        """Take so many episodes; nothing is read back from the device before the last. Returns curves (S, episodes)."""
        metrics = [self.episode() for _ in range(episodes)]
        return {
            name: torch.stack([m[name] for m in metrics], -1).cpu().numpy().astype(np.float64) for name in metrics[0]
        }

    def episode(self) -> dict[str, Tensor]:
        """Draw and `update`; figures (S,) of the batch that was sampled."""
        with _precision(self.settings.precision, self.device):
            return self.start(self.draw())

    def _on_device(self, draws: Draws) -> dict[str, Tensor]:
        return self.update(draws.to(self.device))

    def update(self, draws: Draws) -> dict[str, Tensor]:
        """Sample, score, and take the method's gradient steps; draws are on the device."""
        rollout = self.generate(self.net, draws)
        scores, figures = self.score(draws.prompts, rollout)
        gradients: Callable[[Tensor], Tensor] | None = None
        for epoch in range(self.settings.epochs or self.sampling.epochs):
            logp = self.logp(rollout, self.net(rollout.layout))
            if gradients is None:
                # The snapshot is the first pass itself: there a ratio is exactly 1, p exactly p_old (deviation D57).
                old = logp.detach()
                gradients = self.method.freeze(old, scores)
            gradient = gradients(logp)
            self.optimizer.zero_grad(set_to_none=True)
            # The seeds share no parameter, so the gradient of the sum is each seed's own.
            torch.autograd.backward(logp, gradient)
            if epoch == 0:
                norm = self.gradient_norm()
                figures |= {"gradient_norm": norm} | self.health(old, scores, -gradient)
                # A network that has diverged still samples, token 0 throughout: its error is no result.
                figures["error"] = torch.where(norm.isfinite(), figures["error"], math.nan)
            self.optimizer.step()
        return figures

    def draw(self) -> Draws:
        """The draws of the next episode."""
        s = self.settings
        batch = s.batch * (s.group if self.sampling.wide else 1)
        others = s.group - 1 if self.sampling.samples == TOKEN else 0
        return draw(self.generators, s.vocab, s.horizon, batch, self.sampling.rollouts_per_prompt(s), others)

    def score(self, prompts: Tensor, rollout: Rollout) -> tuple[Tensor, dict[str, Tensor]]:
        """Scores as the method takes them, and figures (S,) of the sampled answers."""
        s = self.settings
        right = targets(prompts, s.target, s.vocab)
        earned = rewards(rollout.answers == right.unsqueeze(2), s.reward).to(self.dtype)
        figures = {"error": 1 - earned.flatten(1).mean(1)}
        if self.sampling.samples == TOKEN:
            scores = candidate_rewards(rollout.answers[:, :, 0], rollout.candidates(), right, s.reward).to(self.dtype)
            return scores, figures
        if self.sampling.samples == SINGLE:
            return earned[:, :, 0], figures
        figures["duplicates"] = diagnostics.duplicate_rate(rollout.answers).mean(1)
        return earned.mean(-1), figures

    def logp(self, rollout: Rollout, policy: Tensor) -> Tensor:
        """Log-probabilities as the method takes them."""
        if self.sampling.samples == TOKEN:
            return rollout.candidate_logp(policy)
        each = rollout.logp(policy)
        return each.sum(-1) if self.sampling.samples == GROUP else each[:, :, 0]

    @torch.no_grad()
    def gradient_norm(self) -> Tensor:
        """Norm (S,) of each seed's gradient."""
        parts = [p.grad.flatten(1) for p in self.net.parameters() if p.grad is not None]
        norm: Tensor = torch.linalg.vector_norm(torch.cat(parts, 1), dim=1)
        return norm

    @torch.no_grad()
    def health(self, old: Tensor, scores: Tensor, coefficients: Tensor) -> dict[str, Tensor]:
        """Figures (S,) of groups, each a mean over those that have it."""
        if self.sampling.samples == SINGLE:
            return {}
        failed = diagnostics.group_mean(diagnostics.all_fail(scores), 1)
        winners, losers = diagnostics.winners_losers_weight(coefficients, scores)
        u = standardize(scores)
        health = diagnostics.summarise(old, u, self.settings.eta, keep_axes=1)
        figures = {
            "all_fail": failed,
            "success": 1 - failed,
            "winner_weight": diagnostics.group_mean(winners, 1),
            "loser_weight": diagnostics.group_mean(losers, 1),
            "zero_variance": diagnostics.group_mean(diagnostics.zero_variance(u), 1),
            "score_correlation": diagnostics.group_mean(diagnostics.correlation(old, scores), 1),
        }
        return figures | dict(zip(ANCHOR, health, strict=True))

    def state(self) -> Stack:
        """What a checkpoint keeps."""
        return Stack(self.net, self.optimizer, self.generators)


@contextmanager
def _precision(name: str, device: torch.device) -> Iterator[None]:
    """Products of a CUDA device in TensorFloat-32, which keeps 10 of a factor's 23 bits, only where asked for."""
    if device.type != "cuda":
        yield
        return
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def _check(name: str, sampling: Sampling, settings: ReversalSettings, device: torch.device) -> None:
    if sampling.samples == TOKEN and settings.reward == "terminal":
        raise ValueError(
            f"{name}: got reward 'terminal', expected 'bag' or 'sequential': a single token earns no terminal reward; "
            f"take {name.replace('_token', '')}, whose candidates are whole answers"
        )
    if settings.precision == "tf32" and device.type != "cuda":
        raise ValueError(f"precision: got 'tf32' on {device.type}, expected float32 or float64; tf32 is CUDA's")
