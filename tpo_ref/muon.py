"""Muon and Adam with Nesterov momentum: the two rules of the optimiser that trains the transformer."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from tpo_ref import checks
from tpo_ref.checks import Floats

# The sequence tasks train with learning rate 1e-3; all else is what the authors' optimiser library does by default.
LEARNING_RATE = 1e-3
# Muon: decay of the momentum, iterations of the polynomial and its coefficients, of X, XXᵀX and (XXᵀ)²X.
MOMENTUM = 0.95
ITERATIONS = 5
LINEAR, CUBIC, QUINTIC = 3.4445, -4.7750, 2.0315
# Adam: decays of its two moments.
BETA1, BETA2 = 0.9, 0.999
# Added to Muon's Frobenius norm and to Adam's root, so that no gradient at all is no step at all.
EPSILON = 1e-8


def newton_schulz(matrix: ArrayLike) -> Floats:
    """A matrix with its singular vectors kept and its singular values brought near 1.

    Paper: Sec. 5 (its optimiser)

    X₀ = M/(‖M‖_F + ε), X ← aX + (bG + cG²)X with G = XXᵀ: each singular value s becomes as + bs³ + cs⁵, five times.
    A tall matrix is transposed before and after, so that G is the smaller of the two possible.

    Args: matrix (…, in, out), each one of the batch normalised and iterated alone.
    Returns: (…, in, out). 0 stays exactly 0; values below about 1e-3 of the norm are still on their way to 1.
    Raises: TypeError, ValueError for a bad dtype, fewer than two axes, NaN or infinity.

    >>> newton_schulz([[3.0, 0.0], [0.0, 0.0]]).round(2).tolist()
    [[0.7, 0.0], [0.0, 0.0]]
    """
    m = _matrix("matrix", matrix)
    tall = m.shape[-2] > m.shape[-1]
    x = m.mT if tall else m
    x = x / (np.linalg.norm(x, axis=(-2, -1), keepdims=True) + EPSILON)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = LINEAR * x + (CUBIC * gram + QUINTIC * gram @ gram) @ x
    return np.asarray(x.mT if tall else x)


def muon_step(gradient: ArrayLike, momentum: ArrayLike, step: int, lr: float = LEARNING_RATE) -> tuple[Floats, Floats]:
    """The change of a matrix under Muon, and its new momentum.

    Paper: Sec. 5 (its optimiser)

    m ← βm + (1−β)g, μ̂ = βm/(1−β^{t+1}) + (1−β)g/(1−β^t), Δ = −lr √max(1, out/in) NewtonSchulz(μ̂).

    Args: gradient, momentum (…, in, out), momentum 0 before the first step; step, t = 1, 2, …; lr > 0.
    Returns: (Δ, m), both (…, in, out).
    Raises: TypeError, ValueError for a bad dtype, shape, step or lr, NaN or infinity.

    >>> change, momentum = muon_step([[1.0, 0.0], [0.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]], step=1)
    >>> change.round(5).tolist()
    [[-0.00111, -0.0], [-0.0, -0.00111]]
    """
    g = _matrix("gradient", gradient)
    old = checks.finite("momentum", momentum, shape=g.shape)
    step, lr = checks.whole("step", step, 1), checks.positive("lr", lr)
    m = MOMENTUM * old + (1 - MOMENTUM) * g
    scale = math.sqrt(max(1, g.shape[-1] / g.shape[-2]))
    return -lr * scale * newton_schulz(_look_ahead(g, m, step, MOMENTUM)), m


def nesterov_adam_step(
    gradient: ArrayLike, first: ArrayLike, second: ArrayLike, step: int, lr: float = LEARNING_RATE
) -> tuple[Floats, Floats, Floats]:
    """The change of a parameter under Adam with Nesterov momentum, and its two new moments; each entry alone.

    Paper: Sec. 5 (its optimiser)

    m ← β₁m + (1−β₁)g, v ← β₂v + (1−β₂)g², μ̂ = β₁m/(1−β₁^{t+1}) + (1−β₁)g/(1−β₁^t), Δ = −lr μ̂/(√(v/(1−β₂^t)) + ε).

    Args: gradient, first, second of one shape (…), both moments 0 before the first step, second ≥ 0; step, t = 1, 2, …;
        lr > 0.
    Returns: (Δ, m, v), each (…).
    Raises: TypeError, ValueError for a bad dtype, shape, step or lr, NaN or infinity, a negative second moment.

    >>> change, first, second = nesterov_adam_step([5.0, -0.1, 0.0], [0.0] * 3, [0.0] * 3, step=1)
    >>> change.round(5).tolist()
    [-0.00147, 0.00147, -0.0]
    """
    g = checks.finite("gradient", gradient)
    m = checks.finite("first", first, shape=g.shape)
    v = checks.finite("second", second, shape=g.shape)
    if (v < 0).any():
        raise ValueError(
            f"second: got the negative entry {v.min():g}, expected means of squares; were moments swapped?"
        )
    step, lr = checks.whole("step", step, 1), checks.positive("lr", lr)
    m = BETA1 * m + (1 - BETA1) * g
    v = BETA2 * v + (1 - BETA2) * g**2
    root = np.sqrt(v / (1 - BETA2**step))
    return -lr * _look_ahead(g, m, step, BETA1) / (root + EPSILON), m, v


def _look_ahead(g: Floats, m: Floats, step: int, beta: float) -> Floats:
    """Nesterov's estimate: the momentum as it would stand after one more step with the same gradient, unbiased."""
    return beta * m / (1 - beta ** (step + 1)) + (1 - beta) * g / (1 - beta**step)


def _matrix(name: str, x: ArrayLike) -> Floats:
    m = checks.finite(name, x)
    if m.ndim < 2:
        raise ValueError(f"{name}: got shape {m.shape}, expected matrices (..., in, out); vectors take Adam")
    return m
