"""A configuration written for one method and run by the other: what is carried over, and what that leaves behind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tpo_torch.llm.conversion import SCORE_SCALE, Change, convert

# The section of the settings that belongs to a method alone. The listwise update is TPO with one anchor.
SECTIONS = {"tpo": "tpo", "grpo": "grpo", "lpo": "tpo"}
GRPO = "grpo"
DROPOUT, RATE = "disable_dropout", "lora_dropout"
NO_EFFECT = "no effect"


def to_target(content: Mapping[str, Any], method: str, flat: bool = False) -> tuple[dict[str, Any], tuple[Change, ...]]:
    """A configuration of GRPO as one of a method with a target.

    The section grpo is carried too where there is no section tpo, in which the author says what that method is given.

    Args: content, checked nowhere yet; method, tpo or lpo; flat, whether the file knew no sections.
    Returns: the content for that method, and what became of the options it cannot follow.
    Raises: ValueError as `convert`.
    """
    settings: dict[str, Any] = {**content, "method": method}
    changes: list[Change] = []
    written = content.get("tpo")
    own = dict(written) if isinstance(written, Mapping) else {}
    for section in ("trainer", GRPO) if not own else ("trainer",):
        given = content.get(section)
        if not isinstance(given, Mapping):
            continue
        made = convert(given)
        carried = dict(made.values)
        if SCORE_SCALE in carried and SCORE_SCALE not in given:
            own.setdefault(SCORE_SCALE, carried.pop(SCORE_SCALE))
        if section == GRPO:
            own, settings[section] = {**carried, **own}, {}
        else:
            settings[section] = carried
        changes += [change if flat else replace(change, name=f"{section}.{change.name}") for change in made.changes]
    if own:
        settings["tpo"] = own
    lora = content.get("lora")
    disabled = any(isinstance(part, Mapping) and part.get(DROPOUT) for part in (settings.get("trainer"), own))
    if isinstance(lora, Mapping) and lora.get(RATE) and not disabled:
        settings["lora"] = {**lora, RATE: 0.0}
        reason = "two passes over the same rows must agree"
        changes.append(Change(RATE if flat else f"lora.{RATE}", lora[RATE], "set to 0", reason))
    return settings, tuple(changes)


def to_grpo(content: Mapping[str, Any]) -> tuple[Change, ...]:
    """What a configuration of a method with a target says in vain where GRPO is run."""
    given = content.get("tpo")
    names = given.items() if isinstance(given, Mapping) else ()
    return tuple(_in_vain(f"tpo.{name}", value, GRPO) for name, value in names)


def in_vain(pairs: Iterable[tuple[Sequence[str], Any]], method: str) -> tuple[Change, ...]:
    """What the command line says in vain: settings of the section of another method.

    Args: pairs of the keys, outermost first, and the value; method that runs.
    """
    others = set(SECTIONS.values()) - {SECTIONS.get(method, method)}
    return tuple(_in_vain(".".join(keys), value, method) for keys, value in pairs if keys[0] in others)


def _in_vain(name: str, value: object, method: str) -> Change:
    section = name.split(".")[0]
    return Change(name, value, NO_EFFECT, f"the method is {method}, which reads no section {section}")
