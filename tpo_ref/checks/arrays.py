"""Checks of arrays and masks: dtype, shape, finite."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def array(name: str, x: ArrayLike) -> NDArray[Any]:
    """A real array with a group axis; TypeError for other dtypes, ValueError for 0-d or empty input."""
    a = converted(name, x)
    if a.dtype.kind not in "biuf":
        what = f"dtype {a.dtype}" if isinstance(x, np.ndarray | list | tuple) else type(x).__name__
        raise TypeError(f"{name}: got {what}, expected real numbers; convert or drop the imaginary part first")
    if a.ndim == 0:
        raise ValueError(f"{name}: got the single number {a}, expected shape (..., K) with the group last; pass a list")
    if a.size == 0:
        raise ValueError(f"{name}: got the empty shape {a.shape}, expected at least one candidate; drop empty groups")
    return a


def converted(name: str, x: ArrayLike) -> NDArray[Any]:
    """An array of whatever dtype; TypeError, ValueError for what NumPy makes none of."""
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{name}: got a masked array, whose mask would be lost; pass its data, and mask=~x.mask")
    if hasattr(x, "detach"):
        # NumPy would take some tensors, and lose their gradient.
        raise TypeError(f"{name}: got a {type(x).__name__}, expected an array; pass x.detach().cpu().numpy()")
    try:
        return np.asarray(x)
    except Exception as error:  # whatever a foreign class raises
        what = "lists of different lengths" if "inhomogeneous" in str(error) else f"{type(x).__name__} ({error})"
        raise ValueError(f"{name}: got {what}, expected an array; pad it, with a mask for what was added") from error


def mask_for(mask: ArrayLike | None, shape: tuple[int, ...], name: str = "mask") -> Bools:
    """The boolean mask, all True when None; TypeError unless boolean, ValueError unless of the given shape."""
    if mask is None:
        return np.ones(shape, dtype=np.bool_)
    m = converted(name, mask)
    if m.dtype != np.bool_:
        raise TypeError(
            f"{name}: got dtype {m.dtype}, expected bool (True = a candidate is here); use mask.astype(bool)"
        )
    if m.shape != shape:
        raise ValueError(f"{name}: got shape {m.shape}, expected {shape}, one entry per candidate; broadcast it first")
    return m


def same_shape(name: str, a: NDArray[Any], shape: tuple[int, ...]) -> None:
    """ValueError unless `a` has exactly the given shape: nothing is broadcast silently."""
    if a.shape != shape:
        raise ValueError(f"{name}: got shape {a.shape}, expected {shape}; broadcast it explicitly")


def finite(name: str, x: ArrayLike, mask: Bools | None = None, shape: tuple[int, ...] | None = None) -> Floats:
    """Finite real numbers as float64; masked entries may hold anything and come back as 0.

    The shape must be the given one, or else that of the mask.
    """
    raw = array(name, x)
    _fits(name, raw, mask, shape)
    a = np.where(mask, raw, 0.0) if mask is not None else raw
    return _all_finite(name, a)


def log_weights(name: str, x: ArrayLike, mask: Bools | None = None, shape: tuple[int, ...] | None = None) -> Floats:
    """Log-probabilities up to a constant, float64; −inf allowed, not for a whole group; masked come back −inf."""
    raw = array(name, x)
    if raw.dtype.kind != "f":
        raise TypeError(f"{name}: got dtype {raw.dtype}, expected floating log-probabilities; were token ids passed?")
    _fits(name, raw, mask, shape)
    a = float64(raw)
    keep = np.ones(a.shape, dtype=np.bool_) if mask is None else mask
    a = np.where(keep, a, -np.inf)
    if np.isnan(a).any() or (a == np.inf).any():
        raise ValueError(f"{name}: got NaN or +inf, expected log-probabilities in [-inf, inf); mask those candidates")
    if (keep.any(-1) & (a == -np.inf).all(-1)).any():
        raise ValueError(f"{name}: a group has probability 0 for every candidate; mask that group or fix the model")
    return a


def finite_log_weights(name: str, x: ArrayLike, mask: Bools | None = None, shape: Any = None) -> Floats:
    """Finite log-probabilities, for the rules that form ratios; masked entries come back as 0."""
    a = array(name, x)
    if a.dtype.kind != "f":
        raise TypeError(f"{name}: got dtype {a.dtype}, expected floating log-probabilities; were token ids passed?")
    return finite(name, a, mask, shape)


def float64(a: NDArray[Any]) -> Floats:
    """The array as float64, in which a wider number may be infinite."""
    with np.errstate(over="ignore"):
        return np.asarray(a, dtype=np.float64)


def _fits(name: str, a: NDArray[Any], mask: Bools | None, shape: tuple[int, ...] | None) -> None:
    wanted = mask.shape if shape is None and mask is not None else shape
    if wanted is not None and a.shape != wanted:
        same_shape(name, a, wanted)


def _all_finite(name: str, x: NDArray[Any]) -> Floats:
    a = float64(x)
    if not np.isfinite(a).all():
        bad = int((~np.isfinite(a)).sum())
        raise ValueError(f"{name}: got {bad} NaN or infinite of {a.size}; fix the scorer, or mask those candidates")
    return a
