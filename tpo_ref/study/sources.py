"""A digest of the code that numbers come from: sources without what cannot change a number, and library versions."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PYTHON = "python"


@dataclass(frozen=True)
class Code:
    """What a run computes with. Equal codes give equal numbers, on the same machine."""

    # SHA-256 by module.
    sources: Mapping[str, str]
    # By library, and Python's without its last part.
    versions: Mapping[str, str]

    def differences(self, other: Code) -> list[str]:
        """What differs, in words, the other one's first: code by module, libraries by version.

        >>> here = Code({"walks": "ab"}, {"numpy": "2.1"})
        >>> here.differences(Code({"walks": "cd"}, {"numpy": "2.0"}))
        ['code of walks', 'numpy 2.0 there, 2.1 here']
        """
        own, others = self.sources, other.sources
        modules = sorted(name for name in own.keys() | others.keys() if own.get(name) != others.get(name))
        return [
            *([f"code of {', '.join(modules)}"] if modules else []),
            *(
                f"{name} {other.versions.get(name, 'none')} there, {self.versions.get(name, 'none')} here"
                for name in sorted(self.versions.keys() | other.versions.keys())
                if self.versions.get(name) != other.versions.get(name)
            ),
        ]


def code(modules: Iterable[str], libraries: Iterable[str], *, without: Collection[str] = ()) -> Code:
    """The code of modules and of all that they import from their own packages, without importing any.

    Docstrings, comments, annotations, the layout of the text, and what errors say do not count.

    Args: modules, the names of those that compute; libraries, whose versions count; without, modules and packages that
        are left out, with what only they import.
    Raises: ValueError for a module whose source is not found.

    >>> [name for name in code(["tpo_ref.dg"], ["numpy"]).sources if name.count(".") < 2]
    ['tpo_ref', 'tpo_ref.checks', 'tpo_ref.dg']
    """
    waiting, sources = list(modules), dict[str, str]()
    packages = frozenset(name.partition(".")[0] for name in (*waiting, __name__))
    while waiting:
        name = waiting.pop()
        if name in sources or any(f"{name}.".startswith(f"{other}.") for other in without):
            continue
        path = _path(name)
        if path is None:
            raise ValueError(f"module {name}: found no source file; install the package as source files")
        sources[name], imports = _summary(path, path.stat().st_mtime_ns, name, packages)
        waiting += (other for other in imports if _path(other) is not None)
    return Code(dict(sorted(sources.items())), versions(libraries))


def versions(libraries: Iterable[str]) -> dict[str, str]:
    """The versions of libraries, of those that are installed, and Python's without its last part."""
    found = {PYTHON: f"{sys.version_info.major}.{sys.version_info.minor}"}
    for name in libraries:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@cache
def _root(package: str) -> Path | None:
    """The folder above a package or top-level module, which is found without being imported."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    place = Path(spec.origin)
    return place.parents[1] if spec.submodule_search_locations else place.parent


def _path(name: str) -> Path | None:
    """The source file of a module."""
    root = _root(name.partition(".")[0])
    if root is None:
        return None
    base = root.joinpath(*name.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


@cache
def _summary(path: Path, _: int, name: str, packages: frozenset[str]) -> tuple[str, tuple[str, ...]]:
    """The digest of a source file, and what it imports from some packages."""
    tree = ast.parse(path.read_bytes())
    imports = tuple(other for other in _imports(tree, name, path) if other.partition(".")[0] in packages)
    _simplify(tree)
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), imports


def _imports(tree: ast.Module, name: str, path: Path) -> Iterator[str]:
    """All modules that a source may import, at any depth, and the packages they lie in."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = name if path.stem == "__init__" else name.rpartition(".")[0]
            above = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            base = ".".join(part for part in (above, node.module) if part)
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for other in names:
            parts = other.split(".")
            yield from (".".join(parts[:count]) for count in range(1, len(parts) + 1))


def _simplify(tree: ast.Module) -> None:
    """Take out of a tree, in place, what changes no number: docstrings, annotations, and what errors say."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [_bare(child) for child in node.body if not _is_text(child)]
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.returns = None
        elif isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            node.exc.args, node.exc.keywords = [], []


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _bare(node: ast.stmt) -> ast.stmt:
    """An assignment without its annotation; the name alone where it assigns nothing, since a field's order counts."""
    if not isinstance(node, ast.AnnAssign):
        return node
    return ast.Expr(node.target) if node.value is None else ast.Assign([node.target], node.value)
