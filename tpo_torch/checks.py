"""Input checks of the torch mirror: `tpo_ref.checks` without a host synchronisation.

Shapes and dtypes are always checked. Values are checked where reading them costs nothing: on the CPU, outside
`torch.compile`. On an accelerator a NaN stays a visible NaN in the loss of its group (deviation D6).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any, Literal, overload

import torch
from torch import Tensor

# A distribution handed in by a caller may have been computed in float32 over many candidates.
SUM_TOLERANCE = 1e-4
# Every integer up to here is a float64 of its own; longer ones than LONG are not written out; no float64 is larger.
LARGEST_WHOLE, LONG, LARGEST_FLOAT = 2**53, 10**30, 10**308
# What results are divided by may be this small.
SMALLEST = 1e-120
# In which arithmetic is defined; the others hold numbers only for storage.
DTYPES = {
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool),
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.complex64, torch.complex128),
}


Kind = Callable[[str, Tensor, Tensor | None], Tensor]


@overload
def group(
    name: str, x: Tensor, mask: Tensor | None, kind: Kind | None = ..., mask_name: str = ..., fill: Literal[True] = ...
) -> tuple[Tensor, Tensor]: ...


@overload
def group(
    name: str, x: Tensor, mask: Tensor | None, kind: Kind | None = ..., mask_name: str = ..., *, fill: Literal[False]
) -> tuple[Tensor, Tensor | None]: ...


def group(
    name: str,
    x: Tensor,
    mask: Tensor | None,
    kind: Kind | None = None,
    mask_name: str = "mask",
    fill: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """The tensor that gives a group its shape, and the mask of that shape, all True when None.

    Args: name, in errors; x (…, K); mask (…, K) bool, False = no candidate here; kind, the check of this module that
        says what x may hold and what comes back at a masked entry, `log_weights` when None; mask_name, in errors; fill,
        False where no mask shall stay None, which costs nothing.
    Raises: TypeError, ValueError as `array`, `mask_for` and that check.

    >>> group("logp", torch.tensor([0.0, math.nan]), torch.tensor([True, False]))
    (tensor([0., -inf]), tensor([ True, False]))
    """
    if mask is not None:
        x = array(name, x)
        mask = mask_for(mask, x, mask_name)
    values = (kind or log_weights)(name, x, mask)
    return values, torch.ones_like(values, dtype=torch.bool) if mask is None and fill else mask


def rollout(logp: Tensor, logp_old: Tensor, advantages: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What a rule of ratios is given: current and old log-probabilities, and advantages, all finite, of one shape."""
    new = finite_log_weights("logp", logp)
    old = finite_log_weights("logp_old", logp_old, like=new)
    return new, old, finite("advantages", advantages, like=new)


def array(name: str, x: Tensor) -> Tensor:
    """A real tensor with a group axis; TypeError for other types, ValueError for 0-d or empty input."""
    x = dense(name, x)
    if x.ndim == 0:
        raise ValueError(f"{name}: got a 0-d tensor, expected shape (..., K) with the group last; use x.reshape(1)")
    if x.numel() == 0:
        raise ValueError(f"{name}: got the empty shape {tuple(x.shape)}, expected a candidate; drop empty groups")
    return x


def dense(name: str, x: Tensor) -> Tensor:
    """A real tensor that holds all its numbers, and that autograd may keep; TypeError for what is none."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: got {type(x).__name__}, expected torch.Tensor; use torch.as_tensor")
    if x.layout != torch.strided or x.is_nested:
        kind = "a nested tensor" if x.is_nested else f"a tensor of layout {x.layout}"
        raise TypeError(f"{name}: got {kind}, expected a dense one; use x.to_dense(), or pad it, with a mask")
    if x.is_quantized or x.dtype not in DTYPES:
        raise TypeError(f"{name}: got dtype {x.dtype}, expected real numbers; convert them first (x.float())")
    if x.is_complex():
        raise TypeError(f"{name}: got dtype {x.dtype}, expected real numbers; convert or drop the imaginary part first")
    # Rewards and masks made where completions are sampled: autograd keeps no tensor of inference mode.
    kept = torch.compiler.is_compiling() or torch.is_inference_mode_enabled() or not x.is_inference()
    return x if kept else x.clone()


def mask_for(mask: Tensor | None, like: Tensor, name: str = "mask") -> Tensor:
    """The boolean mask, all True when None; TypeError unless boolean, ValueError unless shaped and placed as `like`."""
    if mask is None:
        return torch.ones_like(like, dtype=torch.bool)
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        kind = getattr(mask, "dtype", type(mask).__name__)
        raise TypeError(f"{name}: got {kind}, expected a bool tensor (True = a candidate is here); use mask.bool()")
    mask = dense(name, mask)
    if mask.shape != like.shape:
        shape = tuple(mask.shape)
        raise ValueError(f"{name}: got shape {shape}, expected {tuple(like.shape)}, one entry per candidate")
    same_device(name, mask, like)
    return mask


def same_device(name: str, x: Tensor, like: Tensor) -> None:
    """ValueError unless a tensor lies where another one does."""
    if x.device != like.device:
        raise ValueError(f"{name}: got a tensor on {x.device}, expected {like.device}, where the others are; use x.to")


def same_shape(name: str, x: Tensor, shape: tuple[int, ...]) -> None:
    """ValueError unless `x` has exactly the given shape: nothing is broadcast silently."""
    if tuple(x.shape) != tuple(shape):
        raise ValueError(f"{name}: got shape {tuple(x.shape)}, expected {tuple(shape)}; expand it explicitly")


def finite(
    name: str,
    x: Tensor,
    mask: Tensor | None = None,
    shape: tuple[int, ...] | None = None,
    like: Tensor | None = None,
) -> Tensor:
    """Finite real numbers in float32 or wider; masked entries may hold anything and come back as 0.

    Args: shape, or like, a tensor with it on the device where this one must lie, or else those of the mask.
    """
    x = _floats(array(name, x))
    _fits(name, x, mask if like is None else like, shape)
    if mask is not None:
        x = torch.where(mask, x, 0.0)
    if _suspect(x):
        _refuse_infinite(name, x)
    return x


def log_weights(
    name: str,
    x: Tensor,
    mask: Tensor | None = None,
    shape: tuple[int, ...] | None = None,
    like: Tensor | None = None,
) -> Tensor:
    """Log-probabilities up to a constant; −inf allowed, not for a whole group; masked come back −inf."""
    x = _floating_logp(name, x)
    _fits(name, x, mask if like is None else like, shape)
    if mask is not None:
        x = torch.where(mask, x, -math.inf)
    if _suspect(x):
        if bool((torch.isnan(x) | (x == math.inf)).any()):
            raise ValueError(f"{name}: got NaN or +inf, expected log-probabilities in [-inf, inf); mask them")
        impossible = (x == -math.inf).all(-1)
        if bool((impossible if mask is None else impossible & mask.any(-1)).any()):
            raise ValueError(f"{name}: a group has probability 0 for every candidate; mask that group or fix the model")
    return x


def finite_log_weights(
    name: str,
    x: Tensor,
    mask: Tensor | None = None,
    shape: tuple[int, ...] | None = None,
    like: Tensor | None = None,
) -> Tensor:
    """Finite log-probabilities, for the rules that form ratios; masked entries come back as 0."""
    return finite(name, _floating_logp(name, x), mask, shape, like)


def scores(name: str, x: Tensor, mask: Tensor | None) -> Tensor:
    """Finite real numbers in a dtype of their own, which tells a spread from rounding; masked come back as 0."""
    x = array(name, x)
    if mask is not None:
        _fits(name, x, mask)
        x = torch.where(mask, x, torch.zeros((), dtype=x.dtype, device=x.device))
    if x.is_floating_point() and _suspect(x):
        _refuse_infinite(name, x)
    return x


def successes(name: str, x: Tensor, mask: Tensor | None) -> Tensor:
    """Scores that count successes: none is negative."""
    x = scores(name, x, mask)
    if not all_hold(x >= 0):
        raise ValueError(
            f"{name}: got {float(x.min()):g}, expected 0 (failed) or 1 (solved); shift them, or use centred"
        )
    return x


def flags(name: str, x: Tensor, like: Tensor) -> Tensor:
    """Truth values, one for each candidate, shaped and placed as another tensor."""
    if not isinstance(x, Tensor) or x.dtype != torch.bool:
        kind = getattr(x, "dtype", type(x).__name__)
        raise TypeError(f"{name}: got {kind}, expected a bool tensor; threshold the scores first")
    x = dense(name, x)
    _fits(name, x, like)
    return x


def lengths(name: str, x: Tensor, mask: Tensor | None = None, like: Tensor | None = None) -> Tensor:
    """Numbers of tokens, at least 1, shaped as the mask or as `like`; masked entries come back as 1."""
    n = finite(name, x, mask, like=like)
    if mask is not None:
        n = torch.where(mask, n, 1.0)
    if not all_hold(n >= 1):
        least = float(n.min())
        raise ValueError(f"{name}: got {least:g}, expected at least 1 token; mask the empty candidate, or give it 1")
    return n


def masses(name: str, x: Tensor, mask: Tensor | None = None, like: Tensor | None = None) -> Tensor:
    """Finite and non-negative, as a distribution is, whatever they sum to; masked entries come back as 0."""
    x = finite(name, x, mask, like=like)
    if _readable(x) and bool((x < 0).any()):
        raise _negative(name, x)
    return x


def token_log_weights(name: str, x: Tensor, mask: Tensor | None) -> Tensor:
    """Finite log-probabilities of tokens, which have an axis of their own; masked entries come back as 0."""
    if x.ndim == 1:
        shape = tuple(x.shape)
        raise ValueError(f"{name}: got shape {shape}, expected (..., K, T) with the tokens last; use grpo_loss")
    return finite_log_weights(name, x, mask)


def figures(name: str, x: Tensor) -> Tensor:
    """Real numbers in float32 or wider, one for each group, which may be a single number; NaN allowed."""
    # The axis makes a batch of a single number, and is taken away again.
    return _floats(array(name, dense(name, x).unsqueeze(0))[0])


def deviations(name: str, x: Tensor, like: Tensor) -> Tensor:
    """Standard deviations: finite, zero or above, placed as another tensor."""
    x = finite(name, x)
    same_device(name, x, like)
    if not all_hold(x >= 0):
        raise ValueError(f"{name}: got {float(x.min()):g}, expected a standard deviation, 0 or more")
    return x


def distribution(
    name: str,
    x: Tensor,
    mask: Tensor | None,
    shape: tuple[int, ...] | None = None,
    like: Tensor | None = None,
) -> Tensor:
    """Non-negative, summing to 1 over the unmasked candidates of every group that has one; detached."""
    x = finite(name, x, mask, shape, like).detach()
    if _readable(x):
        if bool((x < 0).any()):
            raise _negative(name, x)
        total = 1.0 if mask is None else mask.any(-1).to(x.dtype)
        off = float((x.sum(-1) - total).abs().max())
        if off > SUM_TOLERANCE:
            raise ValueError(f"{name}: a group sums to 1 only within {off:g}; was it made with another mask?")
    return x


def probabilities(name: str, x: Tensor) -> Tensor:
    """Numbers in [0, 1], each a probability of its own."""
    x = finite(name, x)
    if not all_hold((x >= 0) & (x <= 1)):
        raise ValueError(f"{name}: got values in [{float(x.min()):g}, {float(x.max()):g}], expected [0, 1]")
    return x


def log_probabilities(name: str, x: Tensor, mask: Tensor | None = None, shape: tuple[int, ...] | None = None) -> Tensor:
    """Finite logarithms of probabilities, each of its own: at most 0; masked entries come back as 0."""
    x = finite_log_weights(name, x, mask, shape)
    if not all_hold(x <= 0):
        most = float(x.max())
        raise ValueError(f"{name}: got {most:g}, expected log-probabilities, at most 0; clamp it, or pass no density")
    return x


def labels(name: str, x: Tensor, shape: tuple[int, ...], classes: int) -> Tensor:
    """Integers 0…classes − 1, of exactly the given shape."""
    if not isinstance(x, Tensor) or x.is_floating_point() or x.is_complex() or x.dtype == torch.bool or x.is_quantized:
        kind = getattr(x, "dtype", type(x).__name__)
        raise TypeError(f"{name}: got {kind}, expected an integer tensor, one class each; a one-hot row needs argmax")
    x = dense(name, x)
    same_shape(name, x, shape)
    if not all_hold((x >= 0) & (x < classes)):
        raise ValueError(f"{name}: got values in [{int(x.min())}, {int(x.max())}], expected classes 0 to {classes - 1}")
    return x


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


def choice(name: str, x: object, options: tuple[Any, ...]) -> None:
    """ValueError unless `x` is one of the options, which the message lists."""
    if not (x is None or isinstance(x, (str, int, float))) or x not in options:
        raise ValueError(f"{name}: got {x!r}, expected one of {', '.join(map(repr, options))}")


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


def shown(x: object) -> str:
    """A value in a message: as it is written, or how long it is."""
    if isinstance(x, int) and abs(x) >= LONG:
        return f"an integer of {int(math.log10(abs(x))) + 1} digits"
    return repr(x)


def all_hold(condition: Tensor) -> bool:
    """Whether every entry is true, as far as that can be read without a synchronisation; True where it cannot."""
    return not _readable(condition) or bool(condition.all())


def _fits(name: str, x: Tensor, like: Tensor | None, shape: tuple[int, ...] | None = None) -> None:
    if like is not None and (x.shape != like.shape or x.device != like.device):
        same_shape(name, x, tuple(like.shape))
        same_device(name, x, like)
    if shape is not None:
        same_shape(name, x, shape)


def _suspect(x: Tensor) -> bool:
    # NaN and infinity survive a sum, so a finite one clears every term in a single pass. Finite terms may still
    # overflow: only then is each looked at.
    return _readable(x) and not math.isfinite(float(x.detach().sum()))


def _refuse_infinite(name: str, x: Tensor) -> None:
    if not bool(torch.isfinite(x).all()):
        bad = int((~torch.isfinite(x)).sum())
        raise ValueError(f"{name}: got {bad} NaN or infinite of {x.numel()}; fix the scorer, or mask those candidates")


def _negative(name: str, x: Tensor) -> ValueError:
    return ValueError(f"{name}: got the negative entry {float(x.min()):g}, expected a distribution")


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


def _floating_logp(name: str, x: Tensor) -> Tensor:
    if not array(name, x).is_floating_point():
        raise TypeError(f"{name}: got dtype {x.dtype}, expected floating log-probabilities; were token ids passed?")
    return _floats(x)


def _floats(x: Tensor) -> Tensor:
    # Half precision is computed in float32 (deviation D4): in bfloat16, 4,096 token log-probabilities err by 0.07 nats.
    return x.to(torch.promote_types(x.dtype, torch.float32) if x.is_floating_point() else torch.get_default_dtype())


def _readable(x: Tensor) -> bool:
    return x.device.type == "cpu" and not torch.compiler.is_compiling()
