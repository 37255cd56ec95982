"""The rule that a user names: one of the list, one of an installed package, or a function in a file of their own.

NAME[,OPTION=VALUE …] or FILE.py:FUNCTION[,OPTION=VALUE …]: `grpo,epsilon=0.1`, `my.py:mine,strength=2`. A function
takes (logp, logp_old, scores, mask, lengths, **options), arrays of shape (…, K), and returns the gradient of the loss
of each group in logp, (…, K). It is tried on random groups before anything runs.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import inspect
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from tpo_ref import rules
from tpo_ref.checks import unknown
from tpo_ref.study import entries, styles, user_files
from tpo_ref.study.entries import RULES_GROUP

# What no part of a file name should have.
UNFIT = r"[^\w.=+-]"
# What stands between the parts of a rule's text.
FILE, SEPARATOR, EQUALS = ":", ",", "="
ARGUMENTS = ("logp", "logp_old", "scores", "mask", "lengths")
SIGNATURE = f"({', '.join(ARGUMENTS)}, **options)"
# The groups that a function is tried on.
TRIED_GROUPS, TRIED_CANDIDATES, TRIED_SEED = 3, 5, 0
# How far two results of the same numbers, added in another order, may lie apart.
ROUNDING = 1e-9


@dataclass(frozen=True)
class ChosenRule:
    """A rule by name or function, with its options; it becomes an object of either package by `build`.

    Args: text, as it was written; name, of the rule or function; options; function, None for a rule of the list; file,
        where the function lies, None where a package brings it; batch, whether it sees the whole batch; sha256 of the
        file.
    """

    text: str
    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    function: Callable[..., Any] | None = None
    file: Path | None = None
    batch: bool = False
    sha256: str = ""

    @property
    def method(self) -> str:
        """The name of the method that it makes, fit to be part of a file name."""
        return method_of(self.text)

    def record(self) -> dict[str, object]:
        """What a stored result says of it."""
        where = "" if self.file is None else f"{self.file.name}{FILE}"
        return {"name": f"{where}{self.name}", "options": dict(self.options), "sha256": self.sha256}

    def build(self, package: Any) -> Any:
        """The rule as an object of `tpo_ref.rules`, or of the module that mirrors it."""
        if self.function is None:
            return package.named(self.name, **self.options)
        return package.OwnRule(self.method, self.function, self.options, self.batch, self.sha256)


def choose(text: str) -> ChosenRule:
    """The rule that a text names; a file that it names is imported, so it must be code you trust.

    Raises: FileNotFoundError; TypeError, ValueError for an unknown rule or option, with the nearest, and for a function
        that is missing, raises, or returns what no rule may, with file and line.

    >>> choose("grpo,epsilon=0.1").build(rules).epsilon
    0.1
    """
    path = file_of(text)
    stamp = None if path is None or not path.is_file() else (path.stat().st_mtime_ns, path.stat().st_size)
    return _choose(text, os.getcwd(), stamp)


@functools.cache
def _choose(text: str, folder: str, stamp: object) -> ChosenRule:
    """The rule of a text, once for a state of its file."""
    place, options = parsed(text)
    path, colon, name = place.rpartition(FILE)
    if colon:
        return _of_file(text, Path(path), name, options)
    if place.endswith(".py"):
        raise ValueError(f"rule: got {text!r}, expected {place}{FILE}FUNCTION; say which function of the file")
    points = {point.name: point for point in entries.points(RULES_GROUP)}
    if place not in (*rules.RULES, *rules.ALIASES):
        if place not in points:
            names = (*rules.RULES, *rules.ALIASES, *points)
            raise ValueError(f"{unknown('rule', place, names)}; a function of yours is FILE.py:FUNCTION")
        own = _function(place, entries.load(points[place]))
        module = sys.modules.get(getattr(own, "__module__", None) or points[place].module)
        return _checked(ChosenRule(text, place, options, own, None, _sees_batch(own)), module)
    if place in points:
        raise ValueError(
            f"{RULES_GROUP}: {place} = {points[place].value} has the name of a rule of ours; {entries.REMEDY}"
        )
    rules.named(place, **options)
    return ChosenRule(text, rules.ALIASES.get(place, place), options)


@dataclass(frozen=True)
class RuleEntry:
    """An update rule as a list shows it: name, label, source, other names, options with defaults and meanings."""

    name: str
    label: str
    source: str
    aliases: tuple[str, ...] = ()
    options: Mapping[str, object] = field(default_factory=dict)
    meanings: Mapping[str, str] = field(default_factory=dict)


def listed() -> list[RuleEntry]:
    """Every rule that `choose` knows by name: ours, then those of installed packages."""
    own = [
        RuleEntry(
            name,
            rules.named(name).label,
            kind.source,
            kind.aliases,
            {option.name: option.default for option in fields(kind)},
            {option.name: option.metadata["meaning"] for option in fields(kind)},
        )
        for name, kind in rules.RULES.items()
    ]
    return [*own, *(RuleEntry(p.name, p.name, f"{p.value}, another package") for p in entries.points(RULES_GROUP))]


def method_of(text: str) -> str:
    """The name of the method that a rule's text makes, fit to be part of a file name; reads no file.

    >>> method_of("lpo,eta=0.5"), method_of("my.py:mine")
    ('tpo_ratio-eta=0.5', 'mine')
    """
    place, options = parsed(text)
    path, colon, name = place.rpartition(FILE)
    if not colon:
        name = rules.ALIASES.get(place, place)
    elif name in (*rules.RULES, *rules.ALIASES, *styles.STYLES):
        # A function that has the name of a rule of ours is not shown as that.
        name = f"{Path(path).stem}.{name}"
    words = [name, *(f"{option}{EQUALS}{value}" for option, value in options.items())]
    return re.sub(UNFIT, "_", "-".join(words))


def file_of(text: str) -> Path | None:
    """The file that a rule's text names; None where it names none."""
    path, colon, _ = parsed(text)[0].rpartition(FILE)
    return Path(path) if colon else None


def text_of(rule: Any) -> str:
    """The text that names a rule: itself, or that of an object of the list, with the options that are not its defaults.

    Raises: TypeError for a function, or an object that holds one: a record needs the file that it comes from.

    >>> text_of(rules.named("grpo", epsilon=0.1)), text_of("my.py:mine")
    ('grpo,epsilon=0.1', 'my.py:mine')
    """
    if isinstance(rule, str):
        return rule
    name = getattr(type(rule), "name", None)
    if name not in rules.RULES or type(rule).__name__ != rules.RULES[name].__name__:
        raise TypeError(
            f"rule: got {type(rule).__name__}, expected NAME[,OPTION=VALUE] or FILE.py:FUNCTION; write a function of "
            "yours into a file, and give its place as text"
        )
    changed = [f for f in fields(rule) if getattr(rule, f.name) != f.default]
    return SEPARATOR.join([name, *(f"{f.name}{EQUALS}{getattr(rule, f.name)}" for f in changed)])


def parsed(text: str) -> tuple[str, dict[str, Any]]:
    """The place that a rule's text names, and its options; values are Python literals, or else words.

    Raises: ValueError for a part that is no OPTION=VALUE, or an option given twice.

    >>> parsed("my.py:mine,strength=2,kind=soft")
    ('my.py:mine', {'strength': 2, 'kind': 'soft'})
    """
    if not isinstance(text, str):
        raise TypeError(f"rule: got {text!r}, expected NAME or FILE.py:FUNCTION, with ,OPTION=VALUE after it")
    place, *parts = _split(text)
    options: dict[str, Any] = {}
    for part in parts:
        name, equals, value = part.partition(EQUALS)
        if not equals or not name.isidentifier() or not value:
            raise ValueError(f"rule: got {part!r} in {text!r}, expected OPTION=VALUE, such as eta=0.5")
        if name in options:
            raise ValueError(f"rule: got {name} twice in {text!r}; give it once")
        options[name] = _literal(value)
    if not place:
        raise ValueError(f"rule: got {text!r}, expected NAME or FILE.py:FUNCTION first")
    return place, options


def _split(text: str) -> list[str]:
    """The parts between commas, but for those in brackets.

    >>> _split("my.py:mine,weights=[1,2],power=2")
    ['my.py:mine', 'weights=[1,2]', 'power=2']
    """
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == SEPARATOR and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _literal(value: str) -> Any:
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value


def _of_file(text: str, path: Path, name: str, options: Mapping[str, Any]) -> ChosenRule:
    if path.suffix != ".py":
        raise ValueError(f"rule: got {text!r}, expected FILE.py{FILE}FUNCTION before the colon")
    module = user_files.imported(path, f"{name}{SIGNATURE}")
    if not hasattr(module, name):
        public = [n for n, thing in vars(module).items() if inspect.isfunction(thing) and not n.startswith("_")]
        raise (
            unknown(f"{path}: function", name, public)
            if public
            else ValueError(f"{path}: found no function {name!r}; define {name}{SIGNATURE}")
        )
    function = _function(str(path), getattr(module, name))
    return _checked(ChosenRule(text, name, options, function, path, _sees_batch(function)), module)


def _function(where: str, function: Any) -> Callable[..., Any]:
    if not callable(function):
        raise TypeError(f"{where}: got {type(function).__name__}, expected a function {SIGNATURE}")
    return function  # type: ignore[no-any-return]


def _sees_batch(function: Any) -> bool:
    """Whether a function says of itself, by an attribute `whole_batch`, that groups depend on each other."""
    return bool(getattr(function, "whole_batch", False))


# -- what a function must do ------------------------------------------------------------------------------------------


def _checked(rule: ChosenRule, module: ModuleType | None) -> ChosenRule:
    """The rule with its digest; TypeError, ValueError where its function does on random groups what no rule may."""
    # What it prints is no part of what a command prints.
    with contextlib.redirect_stdout(sys.stderr):
        _try(rule)
    # Now that it has run, and has imported all that it imports.
    return replace(rule, sha256="" if module is None else user_files.digest(module))


def _try(rule: ChosenRule) -> None:
    _check_options(rule)
    rng = np.random.default_rng(TRIED_SEED)
    shape = (TRIED_GROUPS, TRIED_CANDIDATES)
    mask = np.ones(shape, dtype=bool)
    mask[0, 0] = False
    scores = rng.random(shape)
    # Scores as they come: of one kind, all equal, and in between.
    scores[1], scores[2] = 1.0, scores[2] > np.median(scores[2])
    given = {
        "logp": np.log(rng.dirichlet(np.ones(TRIED_CANDIDATES), TRIED_GROUPS)),
        "logp_old": np.log(rng.dirichlet(np.ones(TRIED_CANDIDATES), TRIED_GROUPS)),
        "scores": scores,
        "mask": mask,
        "lengths": rng.integers(1, 9, shape).astype(float),
    }
    g = _gradient(rule, given)
    again = _gradient(rule, given)
    _require(rule, np.array_equal(again, g), "gives another gradient for the same group; seed what it draws")
    order = rng.permutation(TRIED_CANDIDATES)
    moved = _gradient(rule, {name: x[:, order] for name, x in given.items()})
    _require(rule, _close(moved, g[:, order]), "depends on the order of the candidates; the group is a set")
    if rule.batch:
        return
    rows = [_gradient(rule, {name: x[i] for name, x in given.items()}) for i in range(TRIED_GROUPS)]
    _require(
        rule,
        _close(np.stack(rows), g),
        "lets groups change each other; sum over the last axis, or set FUNCTION.whole_batch = True",
    )
    without = _gradient(rule, {name: x[0][mask[0]] for name, x in given.items()})
    _require(rule, _close(without, g[0][mask[0]]), "lets a masked candidate count; leave out where mask is False")
    _gradient(rule, {name: x[:, 1:2] for name, x in given.items()})


def _gradient(rule: ChosenRule, given: Mapping[str, Any]) -> Any:
    with np.errstate(all="ignore"):
        return rule.build(rules).gradient(*(given[name] for name in ARGUMENTS))


def _check_options(rule: ChosenRule) -> None:
    """ValueError for an option that the function does not take, or arguments that it cannot be given."""
    assert rule.function is not None
    try:
        parameters = inspect.signature(rule.function).parameters
    except (TypeError, ValueError):
        return
    kinds = {p.kind for p in parameters.values()}
    names = [n for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    if inspect.Parameter.VAR_KEYWORD not in kinds:
        own = [name for name in names if name not in ARGUMENTS]
        for option in rule.options:
            if option not in own:
                raise (
                    unknown(f"option of {_where(rule)}", option, own)
                    if own
                    else ValueError(f"{_where(rule)}: got option {option!r}, but it has none")
                )
    try:
        inspect.signature(rule.function).bind(*ARGUMENTS, **rule.options)
    except TypeError as error:
        hint = "; give an instance of the class" if inspect.isclass(rule.function) else ""
        raise TypeError(f"{_where(rule)}: {error}; define {rule.name}{SIGNATURE}{hint}") from error


def _where(rule: ChosenRule) -> str:
    """Where a function lies, as a message says it."""
    assert rule.function is not None
    return user_files.place(rule.name, rule.function)


def _require(rule: ChosenRule, holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(f"{_where(rule)} {what}")


def _close(a: Any, b: Any) -> bool:
    return bool(np.allclose(a, b, rtol=ROUNDING, atol=ROUNDING))
