"""A Python file of the user's: imported, that is, run, and what it raises said with its line.

Only files are imported that a user has named where code is expected, never one that a configuration brings unasked.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from tpo_ref.study import files


def check_file(path: Path, what: str) -> None:
    """Check that a user's file exists.

    Args: path; what, what the file should define, for the message.
    Raises: FileNotFoundError where there is no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give the path of the .py file that defines {what}")


def imported(path: Path, what: str) -> ModuleType:
    """The module of a file. FileNotFoundError, ValueError as it is missing, or raises, with its line."""
    check_file(path, what)
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        # So that it finds its neighbours, as a script does; last, so that none of them hides a library.
        sys.path.append(folder)
    # Named by its whole path, so that two files of one name do not mix.
    name = f"tpo_own_{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path}: Python cannot import this file; give it a name that ends in .py")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by name while it is being imported.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if not isinstance(error, Exception):
            raise
        raise ValueError(raised(path, "importing it", error)) from error
    return module


def called(path: Path, function: Callable[..., Any], /, *values: Any, **options: Any) -> Any:
    """What a function of the file returns; ValueError saying where in the file it raised."""
    try:
        return function(*values, **options)
    except Exception as error:
        raise ValueError(raised(path, getattr(function, "__name__", "a function"), error)) from error


def digest(module: ModuleType) -> str:
    """SHA-256 of a module's source, and of all modules of the user's that it imports; empty where it has none.

    Of the user's are those outside this package, the standard library and the installed libraries; of an installed
    module, those of its own package.
    """
    paths = _sources(module, set())
    if len(paths) < 2:
        return files.sha256(paths[0]) if paths else ""
    return hashlib.sha256("".join(files.sha256(path) for path in sorted(paths)).encode()).hexdigest()


def _sources(module: ModuleType, seen: set[str]) -> list[Path]:
    seen.add(module.__name__)
    try:
        path = Path(inspect.getsourcefile(module) or "")
    except TypeError:
        return []
    if not path.is_file():
        return []
    found, top = [path], module.__name__.partition(".")[0]
    for name in _imports(path.read_text(encoding="utf-8"), module.__package__ or ""):
        other = sys.modules.get(name)
        if other is not None and name not in seen and (name.partition(".")[0] == top or _is_users(other)):
            found += _sources(other, seen)
    return found


def _imports(source: str, package: str) -> Iterator[str]:
    """The names of the modules that a source may import, at any depth."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _is_users(module: ModuleType) -> bool:
    file = getattr(module, "__file__", None)
    if file is None or module.__name__.partition(".")[0] == __name__.partition(".")[0]:
        return False
    folder = Path(file).resolve().parent
    # Where Python and its libraries lie; their own folders may lie in a project of the user's.
    installed = {Path(path).resolve() for path in sysconfig.get_paths().values()}
    return not any(folder.is_relative_to(place) for place in installed)


def place(name: str, function: Callable[..., Any]) -> str:
    """Where a function lies, and its name, as a message begins; the name alone where no file is known."""
    try:
        path, line = inspect.getsourcefile(function), inspect.getsourcelines(function)[1]
    except (OSError, TypeError):
        return f"rule {name}"
    return f"{path}, line {max(line, 1)}: {name}"


def run(name: str, function: Callable[..., Any], /, *values: Any, **options: Any) -> Any:
    """What a function of the user's returns, wherever it lies; ValueError saying where it raised."""
    try:
        return function(*values, **options)
    except (Exception, SystemExit) as error:
        try:
            source = inspect.getsourcefile(function)
        except TypeError:
            source = None
        if source is None:
            raise ValueError(f"rule {name} raised {type(error).__name__}: {error}") from error
        raise ValueError(raised(Path(source), name, error)) from error


def raised(path: Path, what: str, error: BaseException) -> str:
    """The message of an error that a file of the user's raised, with its line."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame.lineno for frame in frames if Path(frame.filename).resolve() == path.resolve()]
    line = error.lineno if isinstance(error, SyntaxError) else own[-1] if own else None
    where = path if line is None else f"{path}, line {line}"
    reason = error.msg if isinstance(error, SyntaxError) else error
    return f"{where}: {what} raised {type(error).__name__}: {reason}"
