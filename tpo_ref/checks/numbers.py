"""Checks of single numbers and names."""

from __future__ import annotations

import difflib
import math
import operator
from collections.abc import Iterable
from typing import Any

import numpy as np

# Every integer up to here is a float64 of its own; more of anything is a slip. Longer ones are not written out.
LARGEST_WHOLE, LONG = 2**53, 10**30
# What results are divided by may be this small.
SMALLEST = 1e-120
# A misspelt name is answered with so many names at most, each at least this similar.
CLOSEST, CLOSE = 3, 0.4
# All options are listed where their names take at most so many characters, else only some; and how much of what was
# given is repeated.
LISTED, SOME, SHOWN = 300, 8, 80


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


def whole(name: str, x: int, least: int, most: int = LARGEST_WHOLE) -> int:
    """An integer from `least` to `most`."""
    if isinstance(x, bool) or not hasattr(x, "__index__") or np.ndim(x) > 0:
        raise TypeError(f"{name}: got {x!r}, expected one integer, {least} or above")
    value = operator.index(x)
    if value < least:
        raise ValueError(f"{name}: got {shown(value)}, expected one integer, {least} or above")
    if value > most:
        raise ValueError(f"{name}: got {shown(value)}, expected one integer, {most} at most")
    return value


def axes(name: str, x: int, most: int) -> int:
    """How many leading axes of some values, all at most."""
    value = whole(name, x, 0)
    if value > most:
        raise ValueError(f"{name}: got {value}, expected at most {most}, the axes of values")
    return value


def truth(name: str, x: bool) -> bool:
    """True or False; TypeError for what merely counts as one of them."""
    if not isinstance(x, bool | np.bool_):
        raise TypeError(f"{name}: got {x!r}, expected True or False")
    return bool(x)


def choice(name: str, x: object, options: tuple[Any, ...]) -> None:
    """ValueError unless `x` is one of the options, which the message lists."""
    if not (x is None or isinstance(x, str | int | float)) or x not in options:
        raise ValueError(f"{name}: got {x!r}, expected one of {', '.join(map(repr, options))}")


def shown(x: object) -> str:
    """A value in a message: as it is written, or how long it is.

    >>> shown(3), shown(10**400)
    ('3', 'an integer of 401 digits')
    """
    if isinstance(x, int) and abs(x) >= LONG:
        return f"an integer of {int(math.log10(abs(x))) + 1} digits"
    return repr(x)


def unknown(name: str, x: object, options: Iterable[str]) -> ValueError:
    """The error for a name that is none of the options: it says what was given, and lists them, the closest first.

    Of many options only some are listed, or none where some are close.

    >>> str(unknown("method", "tpp", ("tpo", "dg")))
    "method: got 'tpp', did you mean 'tpo'? All of them: tpo, dg"
    >>> str(unknown("gym", "item-7", [f"item{i}" for i in range(100)]))
    "gym: got 'item-7', did you mean 'item7' or 'item97' or 'item87'? There are 100"
    """
    names = list(options)
    given = repr(x)
    if len(given) > SHOWN:
        given = f"{given[: SHOWN // 2]}…{given[-SHOWN // 4 :]}"
    # A name that is much longer than any resembles none, and finding that out takes long.
    short = str(x)[: 2 * max(map(len, names), default=0)]
    close = difflib.get_close_matches(short, names, n=CLOSEST, cutoff=CLOSE) if short == str(x) else []
    meant = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
    if len(", ".join(names)) <= LISTED:
        listed = f"{'All of them:' if close else 'expected one of'} {', '.join(names)}"
    else:
        listed = (
            f"There are {len(names)}" if close else f"expected one of {len(names)}, such as {', '.join(names[:SOME])}"
        )
    return ValueError(f"{name}: got {given}, {meant}{listed}")


def _scalar(name: str, x: float, what: str, holds: Any) -> float:
    if isinstance(x, bool) or not isinstance(x, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name}: got {x!r}, expected one finite number {what}")
    try:
        value = float(x)
    except OverflowError:
        value = math.inf
    if not math.isfinite(value) or not holds(value):
        raise ValueError(f"{name}: got {shown(x)}, expected one finite number {what}")
    return value
