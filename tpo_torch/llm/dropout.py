"""Two forward passes must see one policy: dropout is found, and refused or switched off."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

# Rates that modules hold as plain numbers and apply in their own forward pass.
RATES = ("attention_dropout", "activation_dropout", "hidden_dropout", "dropout", "layerdrop")


def refuse_dropout(model: nn.Module, disable: bool = False) -> None:
    """See that no dropout is on: the pass that makes the coefficients would see another policy than the loss.

    Args: model; disable, switch off what TRL's `disable_dropout` leaves on: rates that are no modules of their own.
    Raises: ValueError where dropout is on.

    >>> refuse_dropout(nn.Sequential(nn.Dropout(0.1)))
    Traceback (most recent call last):
    ...
    ValueError: dropout: got p=0.1 in 0, expected 0, since two passes would see different policies; set
    lora_dropout=0 or attention_dropout=0, or disable_dropout=True
    """
    for name, module, attribute in _dropouts(model):
        if disable:
            setattr(module, attribute, 0.0)
            continue
        raise ValueError(
            f"dropout: got {attribute}={getattr(module, attribute)} in {name}, expected 0, since two passes would see "
            "different policies; set\nlora_dropout=0 or attention_dropout=0, or disable_dropout=True"
        )


def _dropouts(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    for name, module in model.named_modules():
        for attribute in ("p",) if isinstance(module, torch.nn.modules.dropout._DropoutNd) else RATES:
            rate = getattr(module, attribute, 0.0)
            if isinstance(rate, int | float) and rate > 0:
                yield name, module, attribute
