"""One face for both implementations, so that a property is written once and holds each of them to account.

`backend.call("tpo.tpo_target", ...)` takes and returns NumPy arrays. `backend.grad("tpo.tpo", logp, ...)` is the
gradient of the summed loss in its first argument: the closed form `tpo_grad` in NumPy, autograd of `tpo_loss` in torch.
"""

from __future__ import annotations

import importlib
from typing import Any, Protocol

import numpy as np
import torch


class Backend(Protocol):
    name: str

    def call(self, path: str, *args: Any, **options: Any) -> Any: ...

    def grad(self, rule: str, logp: Any, *args: Any, **options: Any) -> Any: ...

    def attached(self, path: str, *args: Any, **options: Any) -> list[int]: ...


def lookup(package: str, path: str) -> Any:
    stem, function = path.split(".")
    return getattr(importlib.import_module(f"{package}.{stem}"), function)


class NumpyBackend:
    name = "numpy"

    def call(self, path: str, *args: Any, **options: Any) -> Any:
        return lookup("tpo_ref", path)(*args, **options)

    def grad(self, rule: str, logp: Any, *args: Any, **options: Any) -> Any:
        return lookup("tpo_ref", f"{rule}_grad")(logp, *args, **options)

    def attached(self, path: str, *args: Any, **options: Any) -> list[int]:
        """Positions of the arguments that a gradient of the result would reach: NumPy has no graph."""
        return []


class TorchBackend:
    name = "torch"

    def __init__(self, device: str = "cpu") -> None:
        self.device = device

    def tensor(self, x: Any) -> Any:
        is_array = isinstance(x, (list, np.ndarray))
        return torch.as_tensor(np.asarray(x), device=self.device) if is_array else x

    def array(self, x: Any) -> Any:
        if isinstance(x, tuple):
            return tuple(self.array(part) for part in x)
        return x.detach().cpu().numpy() if isinstance(x, torch.Tensor) else x

    def call(self, path: str, *args: Any, **options: Any) -> Any:
        tensors = [self.tensor(a) for a in args]
        return self.array(lookup("tpo_torch", path)(*tensors, **{k: self.tensor(v) for k, v in options.items()}))

    def grad(self, rule: str, logp: Any, *args: Any, **options: Any) -> Any:
        leaf = self.tensor(np.asarray(logp)).clone().requires_grad_()
        rest = [self.tensor(a) for a in args]
        loss = lookup("tpo_torch", f"{rule}_loss")(leaf, *rest, **{k: self.tensor(v) for k, v in options.items()})
        (g,) = torch.autograd.grad(loss.sum(), leaf)
        return self.array(g)

    def attached(self, path: str, *args: Any, **options: Any) -> list[int]:
        """Positions of the arguments that a gradient of the result would reach."""
        leaves = [self.tensor(np.asarray(a, dtype=float)).clone().requires_grad_() for a in args]
        result = lookup("tpo_torch", path)(*leaves, **{k: self.tensor(v) for k, v in options.items()})
        if not result.requires_grad:
            return []
        grads = torch.autograd.grad(result.sum(), leaves, allow_unused=True)
        return [i for i, g in enumerate(grads) if g is not None]


BACKENDS: dict[str, Backend] = {"numpy": NumpyBackend(), "torch": TorchBackend()}
if torch.cuda.is_available():
    BACKENDS["cuda"] = TorchBackend("cuda")


def central_difference(f: Any, x: np.ndarray, step: float = 1e-5) -> np.ndarray:
    """Gradient of a scalar function by central differences, error O(step²)."""
    g = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[i] += step
        down[i] -= step
        g[i] = (f(up) - f(down)) / (2 * step)
    return g


def group_difference(
    backend: Backend, rule: str, logp: np.ndarray, *args: Any, step: float = 1e-5, **options: Any
) -> Any:
    """Gradient of a rule's loss in `logp` by central differences: one loss call on K shifted copies of every group."""
    k = logp.shape[-1]
    shift = step * np.eye(k).reshape(k, *[1] * (logp.ndim - 1), k)

    def copies(x: Any) -> Any:
        return np.broadcast_to(x, (k, *np.shape(x))).copy() if isinstance(x, np.ndarray) else x

    def loss(x: np.ndarray) -> Any:
        return backend.call(f"{rule}_loss", x, *map(copies, args), **{n: copies(v) for n, v in options.items()})

    return np.moveaxis((loss(logp + shift) - loss(logp - shift)) / (2 * step), 0, -1)
