"""Hypothesis strategies: groups from one candidate to 64, from flat to one-hot anchors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

SPREADS = (0.1, 1.0, 5.0, 50.0, 300.0)
SCORE_KINDS = ("normal", "binary", "onehot", "tied", "constant")
ETAS = (0.1, 0.25, 1.0, 4.0)

# What no log-probability may be: (id, value, error, words its message must hold).
BAD_LOGP = (
    ("nan", np.array([0.0, np.nan]), ValueError, "NaN"),
    ("plus-inf", np.array([0.0, np.inf]), ValueError, "inf"),
    ("impossible-group", np.array([-np.inf, -np.inf]), ValueError, "probability 0"),
    ("complex", np.array([1j, 0.0]), TypeError, "complex"),
    ("integer", np.array([1, 2]), TypeError, "token ids"),
    ("empty", np.zeros((0, 2)), ValueError, "empty"),
    ("0-d", np.array(0.0), ValueError, r"\(\.\.\., K\)"),
)
# What no vector of scores, weights or lengths may be.
BAD_NUMBERS = (
    ("nan", np.array([0.5, np.nan]), ValueError, "NaN or infinite"),
    ("plus-inf", np.array([0.5, np.inf]), ValueError, "NaN or infinite"),
    ("minus-inf", np.array([0.5, -np.inf]), ValueError, "NaN or infinite"),
    ("complex", np.array([1j, 0.5]), TypeError, "complex"),
    ("empty", np.zeros((0, 2)), ValueError, "empty"),
    ("0-d", np.array(0.5), ValueError, r"\(\.\.\., K\)"),
)
# What no second array of a group may be, beside a first one of shape (2,).
BAD_SHAPES = (
    ("shorter", np.array([1.0]), ValueError, r"shape \(1,\)"),
    ("longer", np.array([0.5, 0.25, 0.25]), ValueError, r"shape \(3,\)"),
    ("batched", np.array([[0.5, 0.5]]), ValueError, r"shape \(1, 2\)"),
)
BAD_MASKS = (
    ("integers", np.array([1, 0]), TypeError, "bool"),
    ("shape", np.array([True]), ValueError, "shape"),
    ("batched", np.array([[True, True]]), ValueError, "shape"),
)
# What no temperature may be.
BAD_POSITIVES = (
    ("zero", 0.0, ValueError, "above 0"),
    ("negative", -1.0, ValueError, "above 0"),
    ("nan", float("nan"), ValueError, "above 0"),
    ("inf", float("inf"), ValueError, "above 0"),
    ("bool", True, TypeError, "one finite number"),
    ("text", "1", TypeError, "one finite number"),
)


def bad(cases: tuple[tuple[str, object, type[Exception], str], ...]) -> pytest.MarkDecorator:
    """Parametrise a test over (value, error, words)."""
    return pytest.mark.parametrize(("value", "error", "words"), [pytest.param(*c[1:], id=c[0]) for c in cases])


def filled(template: tuple[Any, ...], value: Any) -> list[Any]:
    """The arguments of a call whose open place (None) takes a bad value."""
    return [value if a is None else a for a in template]


@dataclass(frozen=True)
class Group:
    """B groups of K candidates: current and old log-probabilities, raw scores, a mask that keeps one candidate."""

    logp: np.ndarray
    logp_old: np.ndarray
    scores: np.ndarray
    mask: np.ndarray
    seed: int

    @property
    def k(self) -> int:
        return self.logp.shape[-1]

    @property
    def differ(self) -> np.ndarray:
        """Which groups have scores that are not all equal."""
        return np.ptp(self.scores, axis=-1) > 0

    def distribution(self) -> np.ndarray:
        """Random distributions over the candidates, some nearly one-hot."""
        return self.rng.dirichlet(np.full(self.k, 0.5), len(self.logp))

    @property
    def rng(self) -> np.random.Generator:
        return np.random.default_rng(self.seed + 1)


def make_scores(kind: str, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    if kind == "normal":
        return rng.normal(size=shape)
    if kind == "binary":
        return rng.integers(0, 2, shape).astype(float)
    if kind == "onehot":
        s = np.zeros(shape)
        s[..., 0] = 1.0
        return rng.permuted(s, axis=-1)
    if kind == "tied":
        return rng.integers(0, 3, shape) / 10
    return np.full(shape, rng.normal())


@st.composite
def groups(
    draw: st.DrawFn,
    min_k: int = 1,
    max_k: int = 64,
    spreads: tuple[float, ...] = SPREADS,
    kinds: tuple[str, ...] = SCORE_KINDS,
) -> Group:
    """A batch of groups; sizes and shapes are Hypothesis', the numbers inside come from one drawn seed."""
    k = draw(st.integers(min_k, max_k))
    b = draw(st.integers(1, 3))
    spread = draw(st.sampled_from(spreads))
    kind = draw(st.sampled_from(kinds))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    mask = rng.random((b, k)) < 0.7
    mask[:, rng.integers(k)] = True
    return Group(
        logp=rng.normal(0, spread, (b, k)),
        logp_old=rng.normal(0, spread, (b, k)),
        scores=make_scores(kind, rng, (b, k)),
        mask=mask,
        seed=seed,
    )


etas = st.sampled_from(ETAS)
