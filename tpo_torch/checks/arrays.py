"""Checks of tensors and masks: dtype, shape, device, finite."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# In which arithmetic is defined; the others hold numbers only for storage.
DTYPES = {
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool),
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.complex64, torch.complex128),
}


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


def _floating_logp(name: str, x: Tensor) -> Tensor:
    if not array(name, x).is_floating_point():
        raise TypeError(f"{name}: got dtype {x.dtype}, expected floating log-probabilities; were token ids passed?")
    return _floats(x)


def _floats(x: Tensor) -> Tensor:
    # Half precision is computed in float32 (deviation D4): in bfloat16, 4,096 token log-probabilities err by 0.07 nats.
    return x.to(torch.promote_types(x.dtype, torch.float32) if x.is_floating_point() else torch.get_default_dtype())


def _readable(x: Tensor) -> bool:
    return x.device.type == "cpu" and not torch.compiler.is_compiling()
