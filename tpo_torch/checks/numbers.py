"""Checks of single numbers and names."""

from __future__ import annotations

import math
import operator
from typing import Any

from torch import Tensor

# Every integer up to here is a float64 of its own; longer ones than LONG are not written out; no float64 is larger.
LARGEST_WHOLE, LONG, LARGEST_FLOAT = 2**53, 10**30, 10**308
# What results are divided by may be this small.
SMALLEST = 1e-120


def positive(name: str, x: float) -> float:
    """A finite number above zero."""
    return _scalar(name, x, "above 0", lambda v: v > 0)


def divisor(name: str, x: float) -> float:
    """A finite number above zero, the square of whose inverse is finite."""
    return _scalar(name, x, f"above 0 (at least {SMALLEST:g})", lambda v: v >= SMALLEST)


def non_negative(name: str, x: float) -> float:
    """A finite number, zero or above."""
    return _scalar(name, x, "0 or above", lambda v: v >= 0)


def real(name: str, x: float) -> float:
    """A finite number."""
    return _scalar(name, x, "real", lambda v: True)


def share(name: str, x: float) -> float:
    """A number from 0 to 1."""
    value = non_negative(name, x)
    if value > 1:
        raise ValueError(f"{name}: got {x!r}, expected a share in [0, 1]")
    return value


def whole(name: str, x: int, least: int) -> int:
    """An integer from `least` to 2⁵³."""
    if isinstance(x, (bool, Tensor)) or not hasattr(x, "__index__") or getattr(x, "shape", ()) != ():
        raise TypeError(f"{name}: got {x!r}, expected one integer, {least} or above")
    value = operator.index(x)
    if value < least:
        raise ValueError(f"{name}: got {shown(value)}, expected one integer, {least} or above")
    if value > LARGEST_WHOLE:
        raise ValueError(f"{name}: got {shown(value)}, expected one integer, {LARGEST_WHOLE} at most")
    return value


def axes(name: str, x: int, most: int) -> int:
    """How many leading axes of some values, all at most."""
    value = whole(name, x, 0)
    if value > most:
        raise ValueError(f"{name}: got {value}, expected at most {most}, the axes of values")
    return value


def truth(name: str, x: bool) -> bool:
    """True or False; TypeError for what merely counts as one of them."""
    if not isinstance(x, bool):
        raise TypeError(f"{name}: got {x!r}, expected True or False")
    return x


def choice(name: str, x: object, options: tuple[Any, ...]) -> None:
    """ValueError unless `x` is one of the options, which the message lists."""
    if not (x is None or isinstance(x, (str, int, float))) or x not in options:
        raise ValueError(f"{name}: got {x!r}, expected one of {', '.join(map(repr, options))}")


def shown(x: object) -> str:
    """A value in a message: as it is written, or how long it is."""
    if isinstance(x, int) and abs(x) >= LONG:
        return f"an integer of {int(math.log10(abs(x))) + 1} digits"
    return repr(x)


def _scalar(name: str, x: float, what: str, holds: Any) -> float:
    # Tensors are refused: reading one would synchronise. NumPy's scalars know __float__ and no shape of their own.
    # A number that torch.compile made symbolic (a schedule for eta) knows its type and its order, nothing else.
    number = isinstance(x, (int, float)) and not isinstance(x, bool)
    if not number and (isinstance(x, (bool, Tensor)) or not hasattr(x, "__float__") or getattr(x, "shape", ()) != ()):
        raise TypeError(f"{name}: got {x!r}, expected one finite number {what}")
    if isinstance(x, int) and abs(x) >= LARGEST_FLOAT:
        raise ValueError(f"{name}: got {shown(x)}, expected one finite number {what}")
    if not -math.inf < x < math.inf or not holds(x):
        raise ValueError(f"{name}: got {x!r}, expected one finite number {what}")
    return float(x)
