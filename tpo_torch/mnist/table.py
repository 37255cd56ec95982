"""The methods of the MNIST bandit by name, for whoever needs no more: experiments, and the clear twin."""

from __future__ import annotations

from collections.abc import Mapping

from tpo_ref.study.protocol import unknown

METHODS = ("tpo", "dg", "pg", "pg_batchnorm", "group_pg", "ce")
# What Fig. 4 calls GRPO has no group (deviation D22).
ALIASES: Mapping[str, str] = {"grpo": "pg_batchnorm"}


def own_name(method: str) -> str:
    """Return the method's own name; ValueError with the nearest names for an unknown one.

    >>> own_name("grpo")
    'pg_batchnorm'
    """
    name = ALIASES.get(method, method)
    if name not in METHODS:
        raise unknown("method of mnist", method, (*METHODS, *ALIASES))
    return name
