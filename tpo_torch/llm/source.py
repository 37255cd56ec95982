"""Dataclasses read from their source: importing a library to learn the names of its fields takes a second or more."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


class UnexpectedSource(Exception):
    """The source of a library is not where, or not as, the reader expects it; import the library instead."""


@dataclass(frozen=True)
class WrittenField:
    """A field of a dataclass, as its source writes it.

    Args: annotation; default, None for none; factory, whether a function makes the default.
    """

    annotation: ast.expr
    default: ast.expr | None
    factory: bool


def folder_of(package: str) -> Path:
    """The folder of a package's sources; the package itself is not imported."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UnexpectedSource(f"{package}: no folder of sources")
    return Path(spec.submodule_search_locations[0])


def text_of(path: Path) -> str:
    """The text of a source."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UnexpectedSource(f"{path}: {error}") from error


def tree_of(path: Path, text: str) -> ast.Module:
    """The syntax tree of a source; path, for the message."""
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError) as error:
        raise UnexpectedSource(f"{path}: {error}") from error


def class_in(tree: ast.Module, name: str) -> ast.ClassDef:
    """The class of that name, defined at the top of a module."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return node
    raise UnexpectedSource(f"no class {name}")


def bases_of(definition: ast.ClassDef) -> list[str]:
    """What a class extends, as written."""
    return [ast.unparse(base) for base in definition.bases]


def written_fields(definitions: Iterable[ast.ClassDef]) -> dict[str, WrittenField]:
    """The fields that the __init__ of a dataclass takes, by name.

    Args: definitions of the class and its bases, the deepest base first.

    >>> base = "class A:\\n    x: int = 1\\n    hidden: int = field(init=False)"
    >>> own = "class B(A):\\n    y: list[int] = field(default_factory=list)"
    >>> list(written_fields(class_in(ast.parse(text), name) for text, name in ((base, "A"), (own, "B"))))
    ['x', 'y']
    """
    fields: dict[str, WrittenField] = {}
    for definition in definitions:
        for statement in definition.body:
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                _add_field(fields, statement.target.id, statement)
    return fields


def _add_field(fields: dict[str, WrittenField], name: str, statement: ast.AnnAssign) -> None:
    """Add the field that an annotated assignment makes; none for a class variable, or one that __init__ leaves out."""
    if ast.unparse(statement.annotation).startswith(("ClassVar", "typing.ClassVar")):
        return
    options: dict[str, ast.expr | None] = {"default": statement.value}
    if isinstance(statement.value, ast.Call) and ast.unparse(statement.value.func).endswith("field"):
        options = {str(keyword.arg): keyword.value for keyword in statement.value.keywords}
    init = options.get("init")
    if isinstance(init, ast.Constant) and init.value is False:
        fields.pop(name, None)
        return
    fields[name] = WrittenField(statement.annotation, options.get("default"), "default_factory" in options)
