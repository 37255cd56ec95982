"""The words of a command line, checked before anything else reads them, so that each mistake is told in one line."""

from __future__ import annotations

import inspect
import os
import re
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tpo_ref.study import names
from tpo_ref.study.cli.options import POSITIONAL, Options

HELP = ("-h", "--help")
# A path at home, alone, or after the name of an option or setting; key=~ is YAML's null.
HOME = re.compile(r"(?P<name>-{1,2}[\w-]+=|[\w.-]+=(?=~[\w.-]*/))?(?P<path>~[\w.-]*(/.*)?)", re.DOTALL)
WHOLE = re.compile(r"[+-]?[0-9]{1,18}")


@dataclass(frozen=True)
class Grammar:
    """What may follow a command.

    Args: options, the type of each, by its word such as "--seeds"; places, the names of what stands without an option;
        many, whether that is any number of words.
    """

    options: Mapping[str, Any]
    places: tuple[str, ...]
    many: bool


def check(arguments: Sequence[str], commands: Mapping[str, Callable[..., int]], known: Sequence[str]) -> None:
    """ValueError for a command line that a command cannot take; whatever asks for help passes.

    Args: arguments; commands to check the words of; known, the names of all commands.

    >>> def example(seeds: int | None = None) -> int: ...
    >>> check(["run", "--seedz", "3"], {"run": example}, ["run"])
    Traceback (most recent call last):
    ...
    ValueError: option of tpo run: got '--seedz', did you mean '--seeds'? All of them: --seeds
    """
    if not arguments or arguments[0] in HELP or arguments[0].startswith("--tyro-"):
        return
    command = arguments[0]
    if command not in known:
        raise _unknown("command", command, known)
    if command not in commands or any(word in HELP for word in arguments):
        return
    grammar = grammar_of(commands[command])
    places = []
    seen: set[str] = set()
    for name, values in _groups(arguments[1:], grammar.options):
        if name is None:
            places += values
            continue
        if name not in grammar.options:
            raise _unknown(f"option of tpo {command}", name, grammar.options)
        if name in seen:
            raise ValueError(f"{name[2:]}: given twice; give it once")
        seen.add(name)
        _check_values(name[2:], values, grammar.options[name])
    _check_places(command, places, grammar)


def grammar_of(function: Callable[..., int]) -> Grammar:
    """What a command takes, read off the annotations of its parameters."""
    options: dict[str, Any] = {}
    places: list[str] = []
    many = False
    parameters = inspect.signature(function, eval_str=True).parameters.values()
    hints = {parameter.name: parameter.annotation for parameter in parameters}
    common = [name for name, hint in hints.items() if typing.get_args(hint)[:1] == (Options,)]
    for name in common:
        del hints[name]
        hints |= typing.get_type_hints(Options, include_extras=True)
    for name, hint in hints.items():
        base, *marks = typing.get_args(hint) if hasattr(hint, "__metadata__") else (hint,)
        named = [mark.name for mark in marks if getattr(mark, "name", None)]
        if POSITIONAL in marks:
            places.append(next((mark.metavar for mark in marks if getattr(mark, "metavar", None)), name))
            many |= typing.get_origin(base) is tuple
        else:
            options["--" + (named[0] if named else name.rstrip("_").replace("_", "-"))] = base
    return Grammar(options, tuple(places), many)


def takes_value(word: str, options: Mapping[str, Any]) -> bool:
    """Whether an option, as a command line writes it, takes a value."""
    return options.get("--" + word[2:].replace("_", "-"), bool) is not bool


def at_home(arguments: Sequence[str]) -> list[str]:
    """The words with ~ and ~user at the head of a path replaced, also behind "=", where a shell leaves them.

    Raises: ValueError where there is no such home.
    """
    return [_at_home(word) for word in arguments]


def _at_home(word: str) -> str:
    match = HOME.fullmatch(word)
    if match is None:
        return word
    path = os.path.expanduser(match["path"])
    if path.startswith("~"):
        raise ValueError(f"{names.shown(word)}: found no home folder for {match['path']}; write the whole path")
    return f"{match['name'] or ''}{path}"


def _groups(words: Sequence[str], options: Mapping[str, Any]) -> Iterator[tuple[str | None, list[str]]]:
    """Each option with its values, and each word that belongs to none."""
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            yield None, [word]
            continue
        name, equals, value = word.partition("=")
        name = "--" + name[2:].replace("_", "-")
        values = [value] if equals else []
        several = _is_several(options.get(name, bool))
        while rest and not rest[0].startswith("--") and options.get(name, bool) is not bool and (several or not values):
            values.append(rest.pop(0))
        yield name, values


def _is_several(kind: Any) -> bool:
    return any(typing.get_origin(each) is tuple for each in (kind, *typing.get_args(kind)))


def _check_values(name: str, values: Sequence[str], kind: Any) -> None:
    if kind is bool:
        if values:
            raise ValueError(f"{name}: got {names.shown(values[0])}, but it takes no value; leave that out")
        return
    kinds = typing.get_args(kind)
    if not values and not _is_several(kind):
        raise ValueError(f"{name}: got no value, expected one after it")
    for value in values:
        if typing.get_origin(kind) is Literal and value not in kinds:
            raise _unknown(name, value, kinds)
        if int in kinds and not WHOLE.fullmatch(value):
            raise ValueError(f"{name}: got {names.shown(value)}, expected a whole number of at most 18 digits")
        if name == "device":
            names.check_device(value)
        if Path in (kind, *kinds):
            names.check_folder(name, Path(value))
        else:
            names.check_name(name, value)


def _check_places(command: str, places: Sequence[str], grammar: Grammar) -> None:
    if not grammar.many and len(places) != len(grammar.places):
        expected = " ".join(grammar.places) or "no more words"
        raise ValueError(f"{command}: got {names.shown(' '.join(places)) if places else 'none'}, expected {expected}")
    for place in places:
        names.check_name(grammar.places[0].split()[0], place)


def _unknown(name: str, word: str, options: Sequence[str] | Mapping[str, Any]) -> ValueError:
    # Imported where needed: it takes NumPy along, for which help need not wait.
    from tpo_ref.checks import unknown

    return unknown(name, word, options)
