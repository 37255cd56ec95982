"""From options of GRPO to options of TPO: what is carried over, translated, dropped, and why. Needs no TRL."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from tpo_ref import checks
from tpo_torch.llm.options import SCALE, refused_options

DROPPED = "dropped"
# What GRPO divides centred rewards by, in TPO's words.
SCORE_SCALE = "score_scale"
SCALES: dict[object, str] = {"group": "group_std", "batch": "batch_std", "none": "none"}
# TRL's older words for two of them.
WORDS: dict[object, str] = {True: "group", False: "none"}


@dataclass(frozen=True)
class Change:
    """What became of one option on the way from GRPO to TPO.

    Args: name and value, as they were given; became, "dropped", or what stands in its place; reason.

    >>> print(Change("delta", 2.0, "dropped", "TPO clips nothing"))
    delta=2.0: dropped; TPO clips nothing
    """

    name: str
    value: object
    became: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}={self.value!r}: {self.became}; {self.reason}"


@dataclass(frozen=True)
class Conversion:
    """Options of TPO, and how they differ from the options of GRPO that they were made of.

    Args: values, by name; changes, in the order of the options. A value that is GRPO's default is no wish of anybody's
        and leaves no change behind.
    """

    values: dict[str, Any]
    changes: tuple[Change, ...]


def convert(options: Mapping[str, Any], target: Mapping[str, Any] = MappingProxyType({})) -> Conversion:
    """The options of TPO that mean what options of GRPO mean, as far as TPO can follow.

    Args: options, fields of `trl.GRPOConfig` with their values; target, fields that TPO adds, which come first.
    Raises: ValueError for a `scale_rewards` that GRPO does not know.

    >>> made = convert({"learning_rate": 1e-6, "epsilon": 0.3, "scale_rewards": "batch", "loss_type": "dapo"})
    >>> made.values
    {'learning_rate': 1e-06, 'score_scale': 'batch_std'}
    >>> print(listing(made.changes))
    epsilon=0.3: dropped; TPO clips nothing
    scale_rewards='batch': score_scale='batch_std'; the same deviation, in TPO's words
    """
    refused = refused_options()
    values: dict[str, Any] = {}
    changes = []
    for name, value in options.items():
        option = refused.get(name)
        if option is None:
            values[name] = value
        elif option.asks_nothing(value):
            continue
        elif name == SCALE and SCORE_SCALE in target:
            changes.append(Change(name, value, DROPPED, f"{SCORE_SCALE}={target[SCORE_SCALE]!r} takes its place"))
        elif name == SCALE:
            values[SCORE_SCALE] = translated = score_scale(value)
            reason = "the same deviation, in TPO's words" if translated != "none" else "centred rewards, not divided"
            changes.append(Change(name, value, f"{SCORE_SCALE}={translated!r}", reason))
        else:
            changes.append(Change(name, value, DROPPED, option.reason))
    return Conversion(values, tuple(changes))


def score_scale(scale_rewards: object) -> str:
    """TPO's word for a value of GRPO's `scale_rewards`; ValueError for one that GRPO does not know.

    >>> [score_scale(value) for value in ("group", True, "batch", "none", False)]
    ['group_std', 'group_std', 'batch_std', 'none', 'none']
    """
    word = WORDS[scale_rewards] if isinstance(scale_rewards, bool) else scale_rewards
    checks.choice(SCALE, word, tuple(SCALES))
    return SCALES[word]


def listing(changes: Iterable[Change]) -> str:
    """The changes, a line each."""
    return "\n".join(map(str, changes))
