"""Settings read from YAML, shipped or one's own, and changed by `key=value`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING
from pathlib import Path
from typing import Any

from tpo_ref.checks import unknown
from tpo_ref.study import files
from tpo_torch.llm.conversion import Change
from tpo_torch.llm.fields import class_fields
from tpo_torch.llm.program.settings import switching, trl_file, upstream
from tpo_torch.llm.program.settings.fields import Mappings, check_fields
from tpo_torch.llm.program.settings.sections import (
    RULE,
    EvaluationSettings,
    RunSettings,
    TinySettings,
    WarmupSettings,
)
from tpo_torch.llm.program.settings.strict_yaml import LARGEST_FILE, parse

CONFIGS = Path(__file__).parents[2] / "configs"
SUFFIXES = (".yaml", ".yml")
TASK, OPTIONS, BASE = "task", "task_options", "base"
# Sections of names and values which other libraries read, and those that are dataclasses of ours.
PLAIN_SECTIONS = (OPTIONS, "trainer", "tpo", "grpo")
SECTIONS: dict[str, type] = {
    "evaluation": EvaluationSettings,
    "tiny": TinySettings,
    "warmup": WarmupSettings,
}
# Sections that a run may be without.
OPTIONAL_SECTIONS = ("lora", "warmup")
# The names that may stand in a file.
OURS = {f.name for f in dataclasses.fields(RunSettings) if f.compare}
# Keys, outermost first, and the value.
Pairs = Sequence[tuple[list[str], Any]]


def load(
    name_or_path: str,
    overrides: Iterable[str] = (),
    method: str | None = None,
    seed: int | None = None,
    trust_code: bool = False,
) -> RunSettings:
    """Settings from a shipped configuration or a file of one's own.

    A file for `trl grpo` is translated (`trl_file`), and one for GRPO carried over where another method is asked for
    (`switching`); `changes` of the settings says what that leaves out.

    Args: name_or_path, one of `shipped()` or a path that ends in .yaml; overrides, "key=value" with dots for what is
        nested, such as "trainer.learning_rate=1e-6"; method and seed, None for the configuration's own; trust_code,
        whether the Python file of a task or a rule may be run that only the configuration names.
    Raises: ValueError, TypeError for a configuration or key that does not exist, naming the nearest; OSError.
    """
    pairs = [_pair(text) for text in overrides]
    given = {keys[0]: value for keys, value in pairs if len(keys) == 1}
    options = {name: value for name, value in {"method": method, "seed": seed}.items() if value is not None}
    content, changes = _in_our_words(_read(name_or_path, ()), {**options, **given})
    settings = _laid_over(content | options, pairs)
    changes += switching.in_vain(pairs, settings.method)
    return dataclasses.replace(
        settings,
        source=name_or_path,
        changes=changes,
        trusted=trust_code or TASK in given,
        rule_trusted=trust_code or RULE in given,
    )


def changed(content: Mappings, overrides: Iterable[str], trust_code: bool = False) -> RunSettings:
    """Settings from JSON values with "key=value" laid over them; trust_code, ValueError, TypeError as `load`.

    Another task leaves the options of the one before behind: they would mean nothing to it.
    """
    pairs = [_pair(text) for text in overrides]
    settings = _laid_over(content, pairs)
    return dataclasses.replace(settings, trusted=trust_code or any(keys == [TASK] for keys, _ in pairs))


def _laid_over(content: Mappings, pairs: Pairs) -> RunSettings:
    """Settings with values of the command line laid over them."""
    settings = dict(content)
    tasks = [value for keys, value in pairs if keys == [TASK]]
    if tasks and tasks[-1] != settings.get(TASK):
        settings[OPTIONS] = {}
    for keys, value in pairs:
        _set(settings, keys, value)
    return from_plain(settings)


def from_plain(content: Mappings) -> RunSettings:
    """Settings from JSON values, as `RunSettings.plain` gives them; ValueError, TypeError as `load`."""
    fields = {f.name: f for f in dataclasses.fields(RunSettings) if f.name in OURS}
    for name in content:
        if name not in fields:
            if name in upstream.fields_of(upstream.TPO_CONFIG):
                raise ValueError(f"setting: got {name!r}, did you mean 'trainer.{name}'?")
            raise unknown("setting", name, fields)
    required = [n for n, f in fields.items() if f.default is MISSING and f.default_factory is MISSING]
    missing = [name for name in required if name not in content]
    if missing:
        raise ValueError(f"settings: {', '.join(missing)} missing; say for example {missing[0]}=…")
    values = dict(content)
    for name in (*PLAIN_SECTIONS, *SECTIONS, "lora"):
        if values.get(name) is not None or name not in OPTIONAL_SECTIONS:
            section = _mapping(name, {} if values.get(name) is None else values[name])
            values[name] = _section(name, section) if name in SECTIONS else section
    return RunSettings(**values)


def shipped() -> tuple[str, ...]:
    """The names of the configurations that come with the package."""
    return tuple(sorted(path.stem for path in CONFIGS.glob("*.yaml")))


def _section(name: str, values: Mappings) -> object:
    """The dataclass of a section of ours, its names and types checked."""
    maker = SECTIONS[name]
    check_fields(name, values, class_fields(maker), maker.__name__)
    return maker(**values)


def _in_our_words(content: dict[str, Any], given: Mappings) -> tuple[dict[str, Any], tuple[Change, ...]]:
    """A file of TRL's, or one for GRPO, as settings of the method that is asked for, and what became of the rest.

    Args: content of a file; given, what the command line says of the settings, by name.
    """
    changes: tuple[Change, ...] = ()
    flat = trl_file.is_flat(content, OURS)
    if flat:
        content, changes = trl_file.translated(content, OURS, set(given))
    written = content.get("method")
    wanted = given.get("method", RunSettings.method if written is None else written)
    if (flat or written == switching.GRPO) and wanted in switching.SECTIONS and wanted != switching.GRPO:
        content, more = switching.to_target(content, wanted, flat)
        changes += more
    elif wanted == switching.GRPO and written in switching.SECTIONS and written != wanted:
        changes += switching.to_grpo(content)
    return content, changes


def _read(name_or_path: str, extending: tuple[str, ...]) -> dict[str, Any]:
    """The content of a configuration laid over its base; extending, the files that name this one as their base."""
    if name_or_path in extending:
        raise ValueError(f"base: {' -> '.join((*extending, name_or_path))} comes back to itself; drop one of them")
    path = files.at_home(name_or_path)
    if path.is_dir() and name_or_path not in shipped():
        raise ValueError(
            f"configuration: {path} is a folder; expected a file that ends in .yaml, or one of {', '.join(shipped())}. "
            "A run is gone on with by the command that began it, and --resume"
        )
    if path.suffix not in SUFFIXES:
        if name_or_path not in shipped():
            raise unknown("configuration", name_or_path, (*shipped(), "or a path ending in .yaml"))
        path = CONFIGS / f"{name_or_path}.yaml"
    try:
        content = _mapping(str(path), parse(_text(path), str(path)))
    except FileNotFoundError as error:
        names = ", ".join(shipped())
        raise ValueError(f"configuration: {path} is not there; expected a file, or one of {names}") from error
    base = content.pop(BASE, None)
    inherited = {} if base is None else _read(_beside(path, str(base)), (*extending, name_or_path))
    return {**_merged(inherited, content), "name": content.get("name", path.stem)}


def _beside(path: Path, base: str) -> str:
    """The base that a file names: a shipped one, or another file, as seen from the folder of the one that names it."""
    return os.path.normpath(path.parent / files.at_home(base)) if Path(base).suffix in SUFFIXES else base


def _text(path: Path) -> str:
    """The text of a configuration; FileNotFoundError, ValueError for what is no file, no text, or long."""
    if path.exists() and path.stat().st_size > LARGEST_FILE:
        raise ValueError(f"{path}: got {path.stat().st_size} bytes, expected a configuration of at most {LARGEST_FILE}")
    try:
        return files.read_bytes(path).decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not YAML: {' '.join(str(error).split())}; write it as UTF-8") from error


def _merged(base: Mappings, content: Mappings) -> dict[str, Any]:
    """A configuration laid over its base: sections are joined, what they hold is replaced."""
    merged = {**base, **content}
    for name, section in content.items():
        if name != OPTIONS and isinstance(section, Mapping) and isinstance(base.get(name), Mapping):
            merged[name] = {**base[name], **section}
    if OPTIONS not in content and merged.get(TASK) != base.get(TASK):
        merged.pop(OPTIONS, None)
    return merged


def _pair(text: str) -> tuple[list[str], Any]:
    """The keys, outermost first, and the value of "key=value"."""
    key, equals, value = text.partition("=")
    keys = key.strip().split(".")
    if not equals or not all(keys):
        raise ValueError(f"got {text!r}, expected key=value without spaces, such as trainer.learning_rate=1e-6")
    return keys, parse(value, f"{key}: got {value!r}", lines=False)


def _set(content: dict[str, Any], keys: list[str], value: object) -> None:
    """Set a value at a depth; sections on the way are copied, since what was read may be shared."""
    *outer, last = keys
    for name in outer:
        section = content.get(name)
        content[name] = {} if section is None else _mapping(f"{'.'.join(keys)}: {name}", section)
        content = content[name]
    content[last] = value


def _mapping(name: str, value: object) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"{name}: got {value!r}, expected settings with names")
    return {str(k): v for k, v in value.items()}
