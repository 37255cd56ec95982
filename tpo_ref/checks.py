"""Input checks, made once at the public edge. A message says what was given, what was expected and what to do."""

from __future__ import annotations

import difflib
import math
import operator
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

# A distribution handed in by a caller may have been computed in float32 over many candidates.
SUM_TOLERANCE = 1e-4
# Every integer up to here is a float64 of its own; more of anything is a slip. Longer ones are not written out.
LARGEST_WHOLE, LONG = 2**53, 10**30
# What results are divided by may be this small.
SMALLEST = 1e-120
# A misspelt name is answered with so many names at most, each at least this similar.
CLOSEST, CLOSE = 3, 0.4
# All options are listed where their names take at most so many characters, else only some; and how much of what was
# given is repeated.
LISTED, SOME, SHOWN = 300, 8, 80


def group(
    name: str,
    x: ArrayLike,
    mask: ArrayLike | None,
    kind: Callable[[str, ArrayLike, Bools | None], NDArray[Any]] | None = None,
    mask_name: str = "mask",
) -> tuple[NDArray[Any], Bools]:
    """The array that gives a group its shape, and the mask of that shape, all True when None.

    Args: name, in errors; x (…, K); mask (…, K) bool, False = no candidate here; kind, the check of this module that
        says what x may hold and what comes back at a masked entry, `log_weights` when None; mask_name, in errors.
    Raises: TypeError, ValueError as `array`, `mask_for` and that check.

    >>> group("logp", [0.0, np.nan], [True, False])
    (array([  0., -inf]), array([ True, False]))
    """
    keep = None if mask is None else mask_for(mask, array(name, x).shape, mask_name)
    values = (kind or log_weights)(name, x, keep)
    return values, np.ones(values.shape, dtype=np.bool_) if keep is None else keep


def rollout(logp: ArrayLike, logp_old: ArrayLike, advantages: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """What a rule of ratios is given: current and old log-probabilities, and advantages, all finite, of one shape."""
    new = finite_log_weights("logp", logp)
    old = finite_log_weights("logp_old", logp_old, shape=new.shape)
    return new, old, finite("advantages", advantages, shape=new.shape)


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


def scores(name: str, x: ArrayLike, mask: Bools | None) -> NDArray[Any]:
    """Finite real numbers in a dtype of their own, which tells a spread from rounding; masked come back as 0."""
    a = array(name, x)
    if mask is not None:
        _fits(name, a, mask, None)
        a = np.where(mask, a, a.dtype.type(0))
    _all_finite(name, a)
    return a


def successes(name: str, x: ArrayLike, mask: Bools | None) -> NDArray[Any]:
    """Scores that count successes: none is negative."""
    a = scores(name, x, mask)
    if (a < 0).any():
        raise ValueError(f"{name}: got {a.min():g}, expected 0 (failed) or 1 (solved); shift them, or use centred")
    return a


def flags(name: str, x: ArrayLike, shape: tuple[int, ...]) -> Bools:
    """Truth values, one for each candidate, of exactly the given shape."""
    a = converted(name, x)
    if a.dtype != np.bool_:
        raise TypeError(f"{name}: got dtype {a.dtype}, expected bool; threshold the scores first")
    same_shape(name, a, shape)
    return a


def lengths(name: str, x: ArrayLike, mask: Bools) -> Floats:
    """Numbers of tokens, at least 1; masked entries come back as 1."""
    n = np.where(mask, finite(name, x, mask), 1.0)
    if (n < 1).any():
        raise ValueError(f"{name}: got {n.min():g}, expected at least 1 token; mask the empty candidate, or give it 1")
    return n


def masses(name: str, x: ArrayLike, mask: Bools | None = None, shape: tuple[int, ...] | None = None) -> Floats:
    """Finite and non-negative, as a distribution is, whatever they sum to; masked entries come back as 0."""
    a = finite(name, x, mask, shape)
    if (a < 0).any():
        raise ValueError(f"{name}: got the negative entry {a.min():g}, expected a distribution over the group")
    return a


def token_log_weights(name: str, x: ArrayLike, mask: Bools | None) -> Floats:
    """Finite log-probabilities of tokens, which have an axis of their own; masked entries come back as 0."""
    a = finite_log_weights(name, x, mask)
    if a.ndim == 1:
        raise ValueError(f"{name}: got shape {a.shape}, expected (..., K, T) with the tokens last; use grpo_loss")
    return a


def figures(name: str, x: ArrayLike) -> Floats:
    """Real numbers as float64, one for each group, which may be a single number; NaN allowed."""
    # The axis makes an array of a single number, and is taken away again.
    return float64(array(name, converted(name, x)[np.newaxis])[0])


def deviations(name: str, x: ArrayLike) -> Floats:
    """Standard deviations: finite, zero or above."""
    a = finite(name, x)
    if (a < 0).any():
        raise ValueError(f"{name}: got {a.min():g}, expected a standard deviation, 0 or more")
    return a


def distribution(name: str, x: ArrayLike, mask: Bools | None, shape: tuple[int, ...] | None = None) -> Floats:
    """Non-negative, summing to 1 over the unmasked candidates of every group that has one."""
    a = masses(name, x, mask, shape)
    off = np.abs(a.sum(-1) - (1.0 if mask is None else mask.any(-1))).max()
    if off > SUM_TOLERANCE:
        raise ValueError(f"{name}: a group sums to 1 only within {off:g}; was it made with another mask?")
    return a


def probabilities(name: str, x: ArrayLike) -> Floats:
    """Numbers in [0, 1] as float64, each a probability of its own."""
    a = finite(name, x)
    if (a < 0).any() or (a > 1).any():
        raise ValueError(f"{name}: got values in [{a.min():g}, {a.max():g}], expected probabilities in [0, 1]")
    return a


def log_probabilities(name: str, x: ArrayLike, mask: Bools | None = None, shape: Any = None) -> Floats:
    """Finite logarithms of probabilities, each of its own: at most 0; masked entries come back as 0."""
    a = finite_log_weights(name, x, mask, shape)
    if (a > 0).any():
        most = float(a.max())
        raise ValueError(f"{name}: got {most:g}, expected log-probabilities, at most 0; clip it, or pass no density")
    return a


def labels(name: str, x: ArrayLike, shape: tuple[int, ...], classes: int) -> NDArray[Any]:
    """Integers 0…classes − 1, of exactly the given shape."""
    a = converted(name, x)
    if a.dtype.kind not in "iu":
        raise TypeError(f"{name}: got dtype {a.dtype}, expected integers, one class each; a one-hot row needs argmax")
    same_shape(name, a, shape)
    if (a < 0).any() or (a >= classes).any():
        raise ValueError(f"{name}: got values in [{a.min()}, {a.max()}], expected classes 0 to {classes - 1}")
    return a


def float64(a: NDArray[Any]) -> Floats:
    """The array as float64, in which a wider number may be infinite."""
    with np.errstate(over="ignore"):
        return np.asarray(a, dtype=np.float64)


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


def share(name: str, x: float) -> float:
    """A number from 0 to 1."""
    value = non_negative(name, x)
    if value > 1:
        raise ValueError(f"{name}: got {x!r}, expected a share in [0, 1]")
    return value


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


def choice(name: str, x: object, options: tuple[Any, ...]) -> None:
    """ValueError unless `x` is one of the options, which the message lists."""
    if not (x is None or isinstance(x, str | int | float)) or x not in options:
        raise ValueError(f"{name}: got {x!r}, expected one of {', '.join(map(repr, options))}")
