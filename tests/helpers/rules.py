"""What the tests of the baselines share: rollouts away from the kinks of every clip, a gradient check in three ways."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from helpers.backends import BACKENDS, Backend, group_difference
from helpers.strategies import Group, groups
from hypothesis import strategies as st

# log r at which a clip used by these tests has its kink, and how far central differences must keep away from it.
KINKS = tuple(np.log([0.7, 0.8, 0.9, 1.1, 1.2, 1.28, 1.5]))
MARGIN = 1e-3


@dataclass(frozen=True)
class Rollout:
    """One update half done: log-ratios on both sides of every clip, advantages of both signs, some exactly zero."""

    group: Group
    logp: np.ndarray
    logp_old: np.ndarray
    advantages: np.ndarray
    lengths: np.ndarray
    accepted: np.ndarray

    @property
    def x(self) -> np.ndarray:
        return self.logp - self.logp_old

    @property
    def ratio(self) -> np.ndarray:
        return np.exp(self.x)


def away_from_kinks(x: np.ndarray) -> np.ndarray:
    for kink in KINKS:
        x = np.where(np.abs(x - kink) < MARGIN, kink + 2 * MARGIN, x)
    return x


@st.composite
def rollouts(draw: st.DrawFn, min_k: int = 1, max_k: int = 24) -> Rollout:
    group = draw(groups(min_k=min_k, max_k=max_k, spreads=(0.1, 1.0, 5.0)))
    rng = group.rng
    shape = group.logp.shape
    lengths = rng.integers(1, 6, shape)
    x = away_from_kinks(rng.uniform(-1, 1, shape))
    return Rollout(
        group=group,
        logp=group.logp_old + x,
        logp_old=group.logp_old,
        advantages=rng.normal(size=shape) * (rng.random(shape) < 0.9),
        lengths=lengths,
        accepted=rng.random(shape) < 0.5,
    )


def inside(ratio: np.ndarray, advantages: np.ndarray, low: float = 0.2, high: float = 0.2) -> np.ndarray:
    """The indicator of the formula sheet, as written there: in r."""
    return ((advantages >= 0) & (ratio <= 1 + high)) | ((advantages < 0) & (ratio >= 1 - low))


def assert_gradient(backend: Backend, rule: str, expected: np.ndarray, *args: Any, **options: Any) -> None:
    """The backend's gradient is the closed form, the formula as the test writes it, and the central difference."""
    g = backend.grad(rule, *args, **options)
    np.testing.assert_allclose(g, expected, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(g, BACKENDS["numpy"].grad(rule, *args, **options), rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(g, group_difference(backend, rule, *args, **options), rtol=1e-6, atol=1e-6)
