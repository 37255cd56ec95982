"""The fields of TRL's and peft's configurations, read from their source: importing the classes takes seconds.

A class whose source is not as expected, in another version say, is imported instead.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from tpo_torch.llm.fields import COMPUTED, SettingField, class_fields, type_of_annotation
from tpo_torch.llm.program.settings.fields import GRPO_CLASS
from tpo_torch.llm.source import (
    UnexpectedSource,
    WrittenField,
    bases_of,
    class_in,
    folder_of,
    text_of,
    tree_of,
    written_fields,
)


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
    GRPO_CLASS,
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
# Classes of words that fields take, and the file of transformers that has them.
ENUMERATIONS = {
    **dict.fromkeys(("HubStrategy", "IntervalStrategy", "SaveStrategy", "SchedulerType"), "trainer_utils.py"),
    "OptimizerNames": "training_args.py",
}
LORA_CONFIG = Configuration(
    "peft",
    "LoraConfig",
    (
        ClassSource("peft", "config.py", "PeftConfigMixin", "PushToHubMixin"),
        ClassSource("peft", "config.py", "PeftConfig", "PeftConfigMixin"),
        ClassSource("peft", "tuners/lora/config.py", "LoraConfig", "PeftConfig"),
    ),
)


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
    written = written_fields(map(_definition, configuration.sources))
    return {
        name: SettingField(type_of_annotation(field.annotation), _default(field), _words(field.annotation))
        for name, field in written.items()
    }


def _definition(source: ClassSource) -> ast.ClassDef:
    path = folder_of(source.package) / source.file
    definition = class_in(tree_of(path, text_of(path)), source.name)
    if bases_of(definition) != ([] if source.base is None else [source.base]):
        raise UnexpectedSource(f"{path}: {source.name} extends {bases_of(definition)}, expected {source.base}")
    return definition


def _words(annotation: ast.expr) -> tuple[str, ...]:
    """The words of the enumerations in an annotation."""
    names = [node.id for node in ast.walk(annotation) if isinstance(node, ast.Name)]
    return tuple(word for name in names if name in ENUMERATIONS for word in _enumeration(ENUMERATIONS[name], name))


@lru_cache
def _enumeration(file: str, name: str) -> tuple[str, ...]:
    path = folder_of("transformers") / file
    body = class_in(tree_of(path, text_of(path)), name).body
    words = [ast.literal_eval(each.value) for each in body if isinstance(each, ast.Assign)]
    if not words or not all(isinstance(word, str) for word in words):
        raise UnexpectedSource(f"{path}: {name} has the words {words}")
    return tuple(words)


def _default(field: WrittenField) -> object:
    if field.factory:
        return COMPUTED
    if field.default is None:
        return dataclasses.MISSING
    try:
        return ast.literal_eval(field.default)
    except ValueError:
        return COMPUTED
