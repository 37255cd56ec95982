"""The part of YAML that configurations need: words, numbers, lists and mappings, each written in one way.

Neither aliases, which make a megabyte of a line, nor tags, which make objects; no key twice, since the later would win
unsaid; integers in decimal digits alone, since 010 is eight to YAML 1.1 and ten to whoever wrote it.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

import yaml

LARGEST_FILE = 64 * 1024
DEEPEST = 32
SURROGATE = re.compile("[\ud800-\udfff]")
PREFIX = "tag:yaml.org,2002:"
NUMBERS = {
    "float": r"[-+]?(\d+\.\d*|\.\d+)([eE][-+]?\d+)?|[-+]?\d+[eE][-+]?\d+|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
    "int": r"[-+]?(0|[1-9]\d*)",
    # YAML's other forms: octal, hexadecimal and binary, with underscores, by sixties.
    "other": r"[-+]?(0[0-9_]+|0[xob][0-9a-fA-F_]+|[0-9]+_[0-9_]*(\.[0-9_]*)?|[0-9_]+(:[0-5]?[0-9])+(\.[0-9_]*)?)",
}
# What else has a meaning of its own without quotes.
KEPT = ("null", "bool", "merge")


class _Refused(yaml.MarkedYAMLError):  # type: ignore[misc]
    """What is YAML, and is not read here."""

    def __init__(self, problem: str, mark: Any) -> None:
        super().__init__(None, None, problem, mark)


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """PyYAML's safe loader with resolvers of its own, to which 1e-6 is a number, as it is to YAML 1.2."""

    yaml_implicit_resolvers: ClassVar[dict[str, list[tuple[str, Any]]]] = {
        first: [(tag, pattern) for tag, pattern in found if tag.removeprefix(PREFIX) in KEPT]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[str, Any]:
        """As PyYAML's; every key a word, and no key twice."""
        lines: dict[str, int] = {}
        for key, _ in node.value:
            name = key.value if isinstance(key.value, str) else "with parts"
            if name == "<<":
                raise _Refused("<< merges mappings; write them out", key.start_mark)
            if key.tag != f"{PREFIX}str":
                raise _Refused(f"the key {name} is no word to YAML; quote it", key.start_mark)
            if name in lines:
                raise _Refused(f"{name} is written twice, first in line {lines[name]}; keep one", key.start_mark)
            lines[name] = key.start_mark.line + 1
        made: dict[str, Any] = super().construct_mapping(node, deep)
        return made

    def construct_other(self, node: Any) -> Any:
        """Refuse a number that is not written in decimal digits."""
        problem = f"{node.value} is a number in another form than decimal digits; write those, or quote it"
        raise _Refused(problem, node.start_mark)


for _tag, _pattern in NUMBERS.items():
    _Loader.add_implicit_resolver(f"{PREFIX}{_tag}", re.compile(rf"(?:{_pattern})$"), list("-+.0123456789"))
_Loader.add_constructor(f"{PREFIX}other", _Loader.construct_other)
_Loader.add_constructor(f"{PREFIX}map", lambda loader, node: loader.construct_mapping(node, deep=True))


def parse(text: str, place: str, lines: bool = True) -> Any:
    """The value that a text says.

    Args: text; place, a file or the name of a setting, for messages; lines, whether they name the line too.
    Raises: ValueError in one line.

    >>> parse("trainer: {learning_rate: 1e-6}", "mine.yaml")
    {'trainer': {'learning_rate': 1e-06}}
    >>> parse("seed: 1\\nseed: 2", "mine.yaml")
    Traceback (most recent call last):
    ...
    ValueError: mine.yaml:2: seed is written twice, first in line 1; keep one
    """
    if len(text) > LARGEST_FILE:
        raise ValueError(f"{place}: got {len(text)} characters, expected a configuration of at most {LARGEST_FILE}")
    try:
        _check(text)
        return yaml.load(text, _Loader)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        character = error.character if isinstance(error.character, int) else ord(error.character)
        where = f"{place}:{line}" if lines else place
        raise ValueError(f"{where}: the character U+{character:04X} cannot stand in YAML; remove it") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{place}:{mark.line + 1}" if lines and mark is not None else place
        kind = "" if isinstance(error, _Refused) else "is not YAML: "
        raise ValueError(f"{where}: {kind}{' '.join(str(error.problem or error.context).split())}") from error
    except ValueError as error:
        # Python does not convert an integer of thousands of digits.
        raise ValueError(f"{place}: got a number of too many digits; write a shorter one") from error


def _check(text: str) -> None:
    """Stop at the first of what is not read here, before anything is made of it."""
    depth = documents = 0
    for event in yaml.parse(text, _Loader):
        problem = None
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            problem = "aliases (&name, *name) are not read; write the value out"
        elif getattr(event, "tag", None) is not None:
            problem = f"tags ({event.tag}) are not read; leave it out"
        elif isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            problem = f"lists and mappings lie more than {DEEPEST} deep in each other" if depth > DEEPEST else None
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            problem = "a second document (---) begins; keep one" if documents > 1 else None
        elif isinstance(event, yaml.ScalarEvent) and not event.value.isascii() and SURROGATE.search(event.value):
            problem = "half of a surrogate pair is no character; write the character itself"
        if problem is not None:
            raise _Refused(problem, event.start_mark)
