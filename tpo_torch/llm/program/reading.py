"""Settings read from YAML, shipped or one's own, and changed by `key=value`."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from dataclasses import MISSING
from pathlib import Path
from typing import Any

import yaml

from tpo_ref.checks import unknown
from tpo_torch.llm.program.fields import Mappings, check_fields, class_fields
from tpo_torch.llm.program.settings import EvaluationSettings, RunSettings, TinySettings, WarmupSettings

CONFIGS = Path(__file__).parents[1] / "configs"
SUFFIXES = (".yaml", ".yml")
# YAML 1.1 takes 1e-6 for a word, since it wants a point before the exponent.
EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")
TASK, OPTIONS = "task", "task_options"
PLAIN_SECTIONS = (OPTIONS, "trainer", "tpo", "grpo")
SECTIONS: dict[str, type] = {
    "evaluation": EvaluationSettings,
    "tiny": TinySettings,
    "warmup": WarmupSettings,
}


def load(
    name_or_path: str, overrides: Iterable[str] = (), method: str | None = None, seed: int | None = None
) -> RunSettings:
    """Settings from a shipped configuration or a file of one's own.

    Args: name_or_path, one of `shipped()` or a path that ends in .yaml; overrides, "key=value" with dots for what is
        nested, such as "trainer.learning_rate=1e-6"; method and seed, None for the configuration's own.
    Raises: ValueError, TypeError for a configuration or key that does not exist, naming the nearest; OSError.
    """
    content = _read(name_or_path, ())
    chosen = {name: value for name, value in {"method": method, "seed": seed}.items() if value is not None}
    return dataclasses.replace(changed(content | chosen, overrides), source=name_or_path)


def changed(content: Mappings, overrides: Iterable[str]) -> RunSettings:
    """Settings from JSON values with "key=value" laid over them; ValueError, TypeError as `load`.

    Another task leaves the options of the one before behind: they would mean nothing to it.
    """
    own, overrides = dict(content), tuple(overrides)
    named: dict[str, Any] = {}
    for text in overrides:
        if text.partition("=")[0] == TASK:
            _override(named, text)
    if named.get(TASK, own.get(TASK)) != own.get(TASK):
        own[OPTIONS] = {}
    for text in overrides:
        _override(own, text)
    return from_plain(own)


def from_plain(content: Mappings) -> RunSettings:
    """Settings from JSON values, as `RunSettings.plain` gives them; ValueError, TypeError as `load`."""
    known = {f.name: f for f in dataclasses.fields(RunSettings) if f.name != "source"}
    for name in content:
        if name not in known:
            raise unknown("setting", name, known)
    needed = [n for n, f in known.items() if f.default is MISSING and f.default_factory is MISSING]
    missing = [name for name in needed if name not in content]
    if missing:
        raise ValueError(f"settings: {', '.join(missing)} missing; say for example {missing[0]}=…")
    values = dict(content)
    for name in PLAIN_SECTIONS:
        values[name] = _mapping(name, values.get(name) or {})
    if values.get("lora") is not None:
        values["lora"] = _mapping("lora", values["lora"])
    for name, maker in SECTIONS.items():
        if name == "warmup" and values.get(name) is None:
            continue
        section = _mapping(name, values.get(name) or {})
        check_fields(name, section, class_fields(maker), maker.__name__)
        values[name] = maker(**section)
    return RunSettings(**values)


def shipped() -> tuple[str, ...]:
    """The names of the configurations that come with the package."""
    return tuple(sorted(path.stem for path in CONFIGS.glob("*.yaml")))


def _read(name_or_path: str, above: tuple[str, ...]) -> dict[str, Any]:
    if name_or_path in above:
        raise ValueError(f"base: {' -> '.join((*above, name_or_path))} comes back to itself; drop one of them")
    path = Path(name_or_path)
    if path.suffix not in SUFFIXES:
        if name_or_path not in shipped():
            raise unknown("configuration", name_or_path, (*shipped(), "or a path ending in .yaml"))
        path = CONFIGS / f"{name_or_path}.yaml"
    try:
        content = yaml.safe_load(path.read_text())
    except FileNotFoundError as error:
        known = ", ".join(shipped())
        raise ValueError(f"configuration: {path} is not there; expected a file, or one of {known}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: is not YAML: {' '.join(str(error).split())}") from error
    own = _numbers(_mapping(str(path), content))
    base = own.pop("base", None)
    below = {} if base is None else _read(str(base), (*above, name_or_path))
    return {**_merged(below, own), "name": own.get("name", path.stem)}


def _merged(below: Mappings, above: Mappings) -> dict[str, Any]:
    """A configuration laid over the one it names as its base: sections are joined, what they hold is replaced."""
    both = [k for k, v in above.items() if isinstance(v, Mapping) and isinstance(below.get(k), Mapping)]
    joined = {**below, **above, **{k: {**below[k], **above[k]} for k in both if k != OPTIONS}}
    if above.get(TASK, below.get(TASK)) != below.get(TASK) and OPTIONS not in above:
        joined.pop(OPTIONS, None)
    return joined


def _override(content: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    *outer, last = key.split(".")
    if not equals or not all((*outer, last)):
        raise ValueError(f"got {text!r}, expected key=value, such as trainer.learning_rate=1e-6")
    try:
        parsed = _numbers(yaml.safe_load(value))
    except yaml.YAMLError as error:
        raise ValueError(f"{key}: got {value!r}, which is no YAML value; quote it") from error
    inside = content
    for name in outer:
        # A copy: what was read may be shared.
        inside[name] = {} if inside.get(name) is None else _mapping(f"{key}: {name}", inside[name])
        inside = inside[name]
    inside[last] = parsed


def _mapping(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"{name}: got {value!r}, expected settings with names")
    return {str(k): v for k, v in value.items()}


def _numbers(value: Any) -> Any:
    """The same value with 1e-6 for "1e-6"."""
    if isinstance(value, Mapping):
        return {k: _numbers(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_numbers(v) for v in value]
    return float(value) if isinstance(value, str) and EXPONENT.fullmatch(value) else value
