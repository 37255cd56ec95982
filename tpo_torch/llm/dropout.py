"""Rates of noise, found by their names: refused, or set to 0. What has no such name is left to `noise`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.modules.dropout import _DropoutNd

# What is said of a rate, in the names of attributes, of entries of configurations, and of classes of modules.
NOISE = re.compile("drop|jitter", re.IGNORECASE)
CONFIGURATION = re.compile("config|cfg|args", re.IGNORECASE)
# What a module that is a dropout by its class calls its rate.
OWN_RATES = ("p", "rate", "prob", "probability")


@dataclass(frozen=True)
class Rate:
    """A rate above 0.

    Args: place, the module it is in; name, as it is written there; owner, an object, dictionary or list; key, its
        attribute, key or index; value.
    """

    place: str
    name: str
    owner: Any
    key: Any
    value: float

    def set(self, value: float) -> None:
        """Put another value in its place."""
        if isinstance(self.owner, dict | list):
            self.owner[self.key] = value
        else:
            setattr(self.owner, self.key, value)


def refuse_dropout(model: nn.Module) -> None:
    """See that no module holds a rate of noise: the pass that makes the coefficients would see another policy.

    Raises: ValueError for the first one; what a configuration alone holds may be of no effect and is no reason.

    >>> refuse_dropout(nn.Sequential(nn.Dropout(0.1)))
    Traceback (most recent call last):
    ...
    ValueError: dropout: got p=0.1 in 0, expected 0, since two passes would see different policies; set it to 0 in
    the configuration of the model or adapter, or disable_dropout=True
    """
    for rate in _rates(model, configurations=False):
        raise ValueError(
            f"dropout: got {rate.name}={rate.value} in {rate.place}, expected 0, since two passes would see "
            "different policies; set it to 0 in\nthe configuration of the model or adapter, or disable_dropout=True"
        )


def silence_dropout(model: nn.Module) -> list[Rate]:
    """Set every rate of noise of modules and their configurations to 0; return what they were.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.FeatureAlphaDropout(0.25))
    >>> [(rate.place, rate.name, rate.value) for rate in silence_dropout(model)], model[1].p
    ([('1', 'p', 0.25)], 0.0)
    """
    rates = list(_rates(model, configurations=True))
    for rate in rates:
        rate.set(0.0)
    return rates


def _rates(model: nn.Module, *, configurations: bool) -> Iterator[Rate]:
    seen: set[int] = set()
    for place, module in model.named_modules():
        own = OWN_RATES if isinstance(module, _DropoutNd) or NOISE.search(type(module).__name__) else ()
        for key, value in vars(module).items():
            if key in own or NOISE.search(key):
                yield from _numbers(place or "the model", key, module, key, value)
            elif configurations and CONFIGURATION.search(key):
                yield from _configured(place or "the model", key, value, seen)


def _numbers(place: str, name: str, owner: Any, key: Any, value: Any) -> Iterator[Rate]:
    """The value if it is a rate, and those of a dictionary or list of rates, as PEFT has one per adapter."""
    # Other whole numbers, and what is above 1, count something.
    if isinstance(value, float) or (type(value) is int and key in OWN_RATES):
        if 0 < value <= 1:
            yield Rate(place, name, owner, key, value)
    elif isinstance(value, dict | list):
        for inner, entry in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _numbers(place, f"{name}[{inner!r}]", value, inner, entry)


def _configured(place: str, name: str, value: Any, seen: set[int]) -> Iterator[Rate]:
    """The rates of a configuration and of those inside it."""
    if id(value) in seen or isinstance(value, type | nn.Module):
        return
    seen.add(id(value))
    entries = value if isinstance(value, dict) else getattr(value, "__dict__", {})
    for key, entry in entries.items():
        if isinstance(key, str) and NOISE.search(key):
            yield from _numbers(place, f"{name}.{key}", value, key, entry)
        elif isinstance(entry, dict) or hasattr(entry, "__dict__"):
            yield from _configured(place, f"{name}.{key}", entry, seen)
