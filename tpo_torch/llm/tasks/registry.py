"""The datasets of Reasoning Gym and their options, read from its source: importing it takes most of a second.

Where it is imported already its registry is asked, and it is imported where its source is not as expected.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from tpo_ref.checks import unknown
from tpo_torch.llm.source import (
    UnexpectedSource,
    bases_of,
    class_in,
    folder_of,
    text_of,
    tree_of,
    written_fields,
)

PACKAGE = "reasoning_gym"
REGISTER = "register_dataset"
# What looks like a call of that function: its definition, and calls of the method which shares its name.
OTHERS = (f"def {REGISTER}(", f"version_manager.{REGISTER}(")
# name, dataset class, configuration class; a fourth, the curriculum, does not matter here.
ARGUMENTS = 3


@dataclass(frozen=True)
class GymDataset:
    """A dataset as registered.

    Args: name; source of the module which defines it; options, the fields of its configuration.
    """

    name: str
    source: str
    options: tuple[str, ...]


@dataclass(frozen=True)
class Registration:
    """A dataset registered in a source.

    Args: name; source of the module; tree of that source; configuration, the name of its class.
    """

    name: str
    source: str
    tree: ast.Module
    configuration: str


def dataset_of(name: str) -> GymDataset:
    """The dataset of that name; ValueError for an unknown one, with the nearest."""
    if PACKAGE not in sys.modules:
        try:
            return written_dataset(name)
        except UnexpectedSource:
            pass
    return imported_dataset(name)


def imported_dataset(name: str) -> GymDataset:
    """Return the dataset of that name, from the registry of the imported Reasoning Gym.

    Raises: ValueError for a name that no dataset has, with the names nearest to it.
    """
    from reasoning_gym.factory import DATASETS

    if name not in DATASETS:
        raise unknown("gym", name, sorted(DATASETS))
    dataset, configuration = DATASETS[name]
    options = tuple(field.name for field in dataclasses.fields(configuration) if field.init)
    return GymDataset(name, inspect.getsource(sys.modules[dataset.__module__]), options)


def written_dataset(name: str) -> GymDataset:
    """Return the dataset of that name, read from Reasoning Gym's source code without importing it.

    Raises: UnexpectedSource where that source is not in the form that this reader expects; ValueError for a name that
        no dataset has, with the names nearest to it.
    """
    names = []
    for registration in registrations(name):
        if registration.name == name:
            return GymDataset(name, registration.source, options_of(registration))
        names.append(registration.name)
    if not names:
        raise UnexpectedSource(f"{PACKAGE}: no dataset is registered")
    raise unknown("gym", name, sorted(names))


def registrations(first: str = "") -> Iterator[Registration]:
    """Every dataset that a source of upstream registers, those of files which quote the name `first` before others."""
    texts = ((path, text_of(path)) for path in sorted(folder_of(PACKAGE).rglob("*.py")))
    registering = [(path, text, count) for path, text in texts if (count := _calls_in(text))]
    for path, text, count in sorted(registering, key=lambda item: f'"{first}"' not in item[1]):
        tree = tree_of(path, text)
        calls = [s.value for s in tree.body if isinstance(s, ast.Expr) and isinstance(s.value, ast.Call)]
        calls = [call for call in calls if ast.unparse(call.func) == REGISTER]
        # One inside a loop, or a decorator, would be missed.
        if len(calls) != count:
            raise UnexpectedSource(f"{path}: got {len(calls)} plain calls of {REGISTER}, expected {count}")
        for call in calls:
            yield _registration(call, text, tree)


def options_of(registration: Registration) -> tuple[str, ...]:
    """The fields of the configuration of a registered dataset, inherited ones first."""
    return tuple(written_fields(_with_bases(registration.tree, registration.configuration)))


def _calls_in(text: str) -> int:
    """How often a source calls the function that registers a dataset, as its text shows."""
    return text.count(f"{REGISTER}(") - sum(text.count(other) for other in OTHERS)


def _registration(call: ast.Call, source: str, tree: ast.Module) -> Registration:
    if len(call.args) < ARGUMENTS:
        raise UnexpectedSource(f"{ast.unparse(call)}: expected {ARGUMENTS} arguments by position")
    name, _, configuration = call.args[:ARGUMENTS]
    return Registration(_word(name, tree), source, tree, ast.unparse(configuration))


def _word(node: ast.expr, tree: ast.Module) -> str:
    """The text which an expression stands for: a literal, or the only literal assigned to a name of the module."""
    values = [node]
    if isinstance(node, ast.Name):
        values = [s.value for s in tree.body if isinstance(s, ast.Assign) and ast.unparse(s.targets[0]) == node.id]
    if len(values) == 1 and isinstance(values[0], ast.Constant) and isinstance(values[0].value, str):
        return values[0].value
    raise UnexpectedSource(f"{ast.unparse(node)}: expected the name of a dataset")


def _with_bases(tree: ast.Module, name: str) -> list[ast.ClassDef]:
    """The definitions of a dataclass and its bases, the deepest first; all must be dataclasses of the one module."""
    definition = class_in(tree, name)
    if not any(ast.unparse(decorator).split("(")[0].endswith("dataclass") for decorator in definition.decorator_list):
        raise UnexpectedSource(f"{name}: no dataclass")
    bases = bases_of(definition)
    if len(bases) > 1:
        raise UnexpectedSource(f"{name} extends {bases}, expected one class at most")
    return [*(d for base in bases for d in _with_bases(tree, base)), definition]
