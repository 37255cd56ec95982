"""What the fields of a configuration class hold: their types, read from the class or its source, and the errors."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import difflib
import enum
import numbers
import types
import typing
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

# A misspelt field is answered with so many names at most, each so similar: TRL knows well over a hundred.
CLOSEST, CLOSE = 3, 0.5
LISTED = 20
NONE = type(None)
# Types whose values are checked; a field that may hold anything else is left to its class.
SIMPLE: dict[str, type] = {"bool": bool, "int": int, "float": float, "str": str, "None": NONE}


class Computed:
    """The type of COMPUTED."""


# Stands for a default that a class computes when it is made.
COMPUTED: Final = Computed()


@dataclass(frozen=True)
class FieldType:
    """What a field may hold.

    Args: simple, the types of SIMPLE in the order written; truth, whether it takes true or false; more, whether it may
        hold something of another type, whose values are not checked here.
    """

    simple: tuple[type, ...]
    truth: bool
    more: bool


@dataclass(frozen=True)
class SettingField:
    """A field of a configuration.

    Args: type; default, dataclasses.MISSING for none, COMPUTED for one that only the class knows; words, of an
        enumeration, the only ones that it takes; empty where it takes any.
    """

    type: FieldType
    default: object
    words: tuple[str, ...] = ()


@lru_cache
def class_fields(maker: Any) -> Mapping[str, SettingField]:
    """The fields which a dataclass takes, by name."""
    hints = typing.get_type_hints(maker)
    return {
        field.name: SettingField(
            type_of_hint(hints[field.name]),
            field.default if field.default_factory is dataclasses.MISSING else COMPUTED,
            _words(hints[field.name]),
        )
        for field in dataclasses.fields(maker)
        if field.init
    }


def default_of(field: dataclasses.Field[Any]) -> Any:
    """The default of a dataclass's field, made anew where a factory makes it."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _words(hint: Any) -> tuple[str, ...]:
    """The words of the enumerations in a type hint."""
    kinds = (part for part in typing.get_args(hint) or (hint,) if isinstance(part, type))
    return tuple(str(word.value) for kind in kinds if issubclass(kind, enum.Enum) for word in kind)


def type_of_hint(hint: Any) -> FieldType:
    """The type of a field from its type hint.

    >>> type_of_hint(float | None) == FieldType((float, NONE), truth=False, more=False)
    True
    """
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    parts = typing.get_args(hint) if union else (hint,)
    words = [value for part in parts if typing.get_origin(part) is typing.Literal for value in typing.get_args(part)]
    simple = {part: None for part in parts if part in SIMPLE.values()}
    return _field_type(simple, words, more=any(part not in SIMPLE.values() for part in parts))


def type_of_annotation(node: ast.expr) -> FieldType:
    """The type of a field from its annotation in a source.

    >>> type_of_annotation(ast.parse("Optional[float]", mode="eval").body) == type_of_hint(float | None)
    True
    """
    parts = list(_parts(node))
    simple = {SIMPLE[ast.unparse(part)]: None for part in parts if ast.unparse(part) in SIMPLE}
    words = [
        ast.literal_eval(word)
        for part in parts
        if isinstance(part, ast.Subscript) and _last_name(part.value) == "Literal"
        for word in _elements(part.slice)
    ]
    return _field_type(simple, words, more=any(ast.unparse(part) not in SIMPLE for part in parts))


def unknown_field(section: str, name: str, fields: Collection[str], maker: str) -> ValueError:
    """The error for a name that is no field: the closest ones, or all where they are few.

    Args: section of the settings; name; fields, the names that there are; maker, the class, for the message.
    """
    close = difflib.get_close_matches(name, fields, n=CLOSEST, cutoff=CLOSE)
    # TRL and peft have too many fields to list.
    listing = f"see the fields of {maker}" if len(fields) > LISTED else f"expected {', '.join(fields)}"
    meant = f"did you mean {' or '.join(map(repr, close))}?" if close else listing
    return ValueError(f"{section}: got {name!r}, {meant}")


def check_type(name: str, value: object, expected: FieldType) -> None:
    """TypeError for a value that a field of this type cannot hold."""
    if isinstance(value, bool) and str in expected.simple and not expected.truth:
        raise TypeError(f"{name}: got {value!r}, expected a word{quoted(value)}")
    if expected.more:
        return
    # A whole number is a fine float; True is no number here.
    fits = type(value) in expected.simple or (type(value) is int and float in expected.simple)
    if not fits:
        kinds = " or ".join(_article(kind.__name__) for kind in expected.simple if kind is not NONE)
        null = " or null" if NONE in expected.simple else ""
        raise TypeError(f"{name}: got {value!r}, expected {kinds}{null}{_unquoted(value, expected)}")


def check_word(name: str, value: object, words: Collection[str]) -> None:
    """ValueError for a word that is none of those which a field takes, naming the nearest; nothing for what is none."""
    if not words or not isinstance(value, str) or value in words:
        return
    close = difflib.get_close_matches(value, words, n=CLOSEST, cutoff=CLOSE)
    meant = f"did you mean {' or '.join(map(repr, close))}?" if close else f"expected one of {', '.join(words)}"
    raise ValueError(f"{name}: got {value!r}, {meant}")


def check_number(name: str, value: object, expected: FieldType) -> None:
    """TypeError for what is no number, or no truth value, where a field takes nothing else; words are not looked at."""
    kinds = set(expected.simple) - {NONE}
    if value is None or expected.more or not kinds or not kinds <= {bool, int, float}:
        return
    truth = value in (0, 1) if isinstance(value, numbers.Integral) else type(value).__name__ in ("bool", "bool_")
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not (truth if bool in kinds else number):
        said = " or ".join(_article(kind.__name__) for kind in expected.simple if kind is not NONE)
        raise TypeError(f"{name}: got {value!r}, expected {said}{_unquoted(value, expected)}")


def quoted(value: object) -> str:
    """The remedy for a word that YAML reads as a truth value; empty for everything else."""
    if not isinstance(value, bool):
        return ""
    return f"; YAML reads yes and no as true and false; quote it: {'yes' if value else 'no'!r}"


def _unquoted(value: object, expected: FieldType) -> str:
    """The remedy for a number or a truth value in quotes, which is a word; empty for everything else."""
    if not isinstance(value, str):
        return ""
    if bool in expected.simple and value.lower() in ("true", "false"):
        return f"; write {value.lower()} without quotes"
    with contextlib.suppress(ValueError):
        if {int, float} & set(expected.simple):
            number = float(value) if float in expected.simple else int(value)
            return f"; write {number!r} without quotes"
    return ""


def _field_type(simple: Iterable[type], words: Iterable[object], more: bool) -> FieldType:
    kinds = tuple(simple)
    return FieldType(kinds, bool in kinds or any(isinstance(word, bool) for word in words), more)


def _parts(node: ast.expr) -> Iterable[ast.expr]:
    """The members of a union in whatever notation, or the annotation itself."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        yield from _parts(node.left)
        yield from _parts(node.right)
    elif isinstance(node, ast.Subscript) and _last_name(node.value) in ("Optional", "Union"):
        for element in _elements(node.slice):
            yield from _parts(element)
        if _last_name(node.value) == "Optional":
            yield ast.Constant(None)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield from _parts(ast.parse(node.value, mode="eval").body)
    else:
        yield node


def _elements(node: ast.expr) -> Iterable[ast.expr]:
    return node.elts if isinstance(node, ast.Tuple) else (node,)


def _last_name(node: ast.expr) -> str:
    return ast.unparse(node).rpartition(".")[2]


def _article(word: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"
