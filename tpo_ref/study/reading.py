"""The reader beside the one json writer: from what a json file says to the dataclass it was written from."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import TypeVar

from tpo_ref.study import files

T = TypeVar("T")

# What json calls a value of each of these types.
WORDS = {int: "a whole number", str: "text", bool: "true or false"}


def build(kind: type[T], content: object, place: str) -> T:
    """Rebuild a dataclass from the plain data that `files.plain` made of one: the inverse of that function.

    Lists become tuples, and null becomes NaN where a number is expected. Fields with a default may be missing; entries
    that the dataclass does not know are left out.

    Args: kind, the dataclass, whose fields are numbers, text, tuples, mappings or dataclasses; content, the plain data;
        place, where the data came from, for error messages.
    Raises: ValueError for a value of the wrong type, or a missing field; the message has the place and the field.
    """
    value = _value(kind, content, place)
    assert isinstance(value, kind)
    return value


def _value(kind: object, value: object, place: str) -> object:
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if kind is object:
        return value
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return _dataclass(kind, value, place)
    if origin in (types.UnionType, typing.Union):
        inner = next(part for part in parts if part is not type(None))
        return None if value is None else _value(inner, value, place)
    if origin is tuple:
        return _tuple(parts, value, place)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {name: _value(parts[1], part, f"{place}: {name}") for name, part in mapping(value, place).items()}
    if kind is float:
        return _number(value, place)
    # A bool would pass for a whole number.
    if type(value) is not kind:
        raise _wrong(place, value, WORDS.get(kind, str(kind)) if isinstance(kind, type) else str(kind))
    return value


def _dataclass(kind: type, value: object, place: str) -> object:
    content, kinds = mapping(value, place), typing.get_type_hints(kind)
    fields = dataclasses.fields(kind)
    names = {field.name for field in fields if not files.is_inline(field)}
    values: dict[str, object] = {}
    for field in fields:
        inner = kinds[field.name]
        if not files.is_inline(field):
            if field.name in content:
                values[field.name] = _value(inner, content[field.name], f"{place}: {field.name}")
            elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                raise ValueError(f"{place}: lacks {field.name}; delete it and run again")
        elif dataclasses.is_dataclass(inner):
            values[field.name] = _value(inner, content, place)
        else:
            rest = {name: part for name, part in content.items() if name not in names}
            values[field.name] = _value(inner, rest, place)
    return kind(**values)


def mapping(value: object, place: str) -> Mapping[str, object]:
    """A value that has to be an object of json; ValueError for another; place, as `build`."""
    if not isinstance(value, Mapping):
        raise _wrong(place, value, "an object")
    return value


def _tuple(parts: tuple[object, ...], value: object, place: str) -> tuple[object, ...]:
    if not isinstance(value, list | tuple):
        raise _wrong(place, value, "a list")
    kinds = [parts[0]] * len(value) if parts[-1] is Ellipsis else parts
    if len(kinds) != len(value):
        raise ValueError(f"{place}: got {len(value)} entries, expected {len(kinds)}; delete it and run again")
    return tuple(_value(kind, part, f"{place}: {i}") for i, (kind, part) in enumerate(zip(kinds, value, strict=True)))


def _number(value: object, place: str) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong(place, value, "a number")
    return value


def _wrong(place: str, value: object, expected: str) -> ValueError:
    return ValueError(f"{place}: got {value!r} of {type(value).__name__!r}, expected {expected}; delete it, run again")
