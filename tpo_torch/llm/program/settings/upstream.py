"""The fields of TRL's and peft's configurations, read from their source: importing the classes takes seconds.

A class whose source is not as expected, in another version say, is imported instead.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from tpo_torch.llm.program.settings.fields import COMPUTED, SettingField, class_fields, type_of_annotation


@dataclass(frozen=True)
class ClassSource:
    """Where a dataclass is written.

    Args: package; file, below the package's folder; name; base, the only class it extends, None for none.
    """

    package: str
    file: str
    name: str
    base: str | None


@dataclass(frozen=True)
class Configuration:
    """A configuration class that a run gives values to.

    Args: module and name, to import it; sources of the class and its bases, the deepest base first.
    """

    module: str
    name: str
    sources: tuple[ClassSource, ...]


GRPO_CONFIG = Configuration(
    "trl",
    "GRPOConfig",
    (
        ClassSource("transformers", "training_args.py", "TrainingArguments", None),
        ClassSource("trl", "trainer/base_config.py", "_BaseConfig", "TrainingArguments"),
        ClassSource("trl", "trainer/grpo_config.py", "GRPOConfig", "_BaseConfig"),
    ),
)
TPO_CONFIG = Configuration(
    "tpo_torch.llm.config",
    "TargetPOConfig",
    (*GRPO_CONFIG.sources, ClassSource("tpo_torch", "llm/config.py", "TargetPOConfig", "GRPOConfig")),
)
LORA_CONFIG = Configuration(
    "peft",
    "LoraConfig",
    (
        ClassSource("peft", "config.py", "PeftConfigMixin", "PushToHubMixin"),
        ClassSource("peft", "config.py", "PeftConfig", "PeftConfigMixin"),
        ClassSource("peft", "tuners/lora/config.py", "LoraConfig", "PeftConfig"),
    ),
)
TRAINER_CONFIGS = {"tpo": TPO_CONFIG, "grpo": GRPO_CONFIG}


class UnexpectedSource(Exception):
    """The source of a class is not where, or not as, this module expects it."""


@lru_cache
def fields_of(configuration: Configuration) -> Mapping[str, SettingField]:
    """The fields which a configuration class takes, by name, without importing it where its source can be read."""
    try:
        return source_fields(configuration)
    except UnexpectedSource:
        return class_fields(imported(configuration))


def default_of(configuration: Configuration, name: str) -> object:
    """The default of a field; the class is imported where the source computes it."""
    default = fields_of(configuration)[name].default
    return getattr(imported(configuration), name) if default is COMPUTED else default


def imported(configuration: Configuration) -> Any:
    """The class itself."""
    return getattr(importlib.import_module(configuration.module), configuration.name)


def source_fields(configuration: Configuration) -> Mapping[str, SettingField]:
    """The fields as the source of the class and its bases says; UnexpectedSource where it cannot be read."""
    fields: dict[str, SettingField] = {}
    for source in configuration.sources:
        for statement in _definition(source).body:
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                _add_field(fields, statement.target.id, statement)
    return fields


def _definition(source: ClassSource) -> ast.ClassDef:
    spec = importlib.util.find_spec(source.package)
    if spec is None or not spec.submodule_search_locations:
        raise UnexpectedSource(f"{source.package}: no folder of sources")
    path = Path(spec.submodule_search_locations[0]) / source.file
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError) as error:
        raise UnexpectedSource(f"{path}: {error}") from error
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == source.name:
            bases = [ast.unparse(base) for base in node.bases]
            if bases == ([] if source.base is None else [source.base]):
                return node
            raise UnexpectedSource(f"{path}: {source.name} extends {bases}, expected {source.base}")
    raise UnexpectedSource(f"{path}: no class {source.name}")


def _add_field(fields: dict[str, SettingField], name: str, statement: ast.AnnAssign) -> None:
    """Add the field that an annotated assignment makes; none for a class variable, or one that __init__ leaves out."""
    if ast.unparse(statement.annotation).startswith(("ClassVar", "typing.ClassVar")):
        return
    options: dict[str, ast.expr | None] = {"default": statement.value}
    if isinstance(statement.value, ast.Call) and ast.unparse(statement.value.func).endswith("field"):
        options = {str(keyword.arg): keyword.value for keyword in statement.value.keywords}
    if _literal(options.get("init")) is False:
        fields.pop(name, None)
        return
    if "default_factory" in options:
        default: object = COMPUTED
    else:
        value = options.get("default")
        default = dataclasses.MISSING if value is None else _literal(value)
    fields[name] = SettingField(type_of_annotation(statement.annotation), default)


def _literal(node: ast.expr | None) -> object:
    try:
        return COMPUTED if node is None else ast.literal_eval(node)
    except ValueError:
        return COMPUTED
