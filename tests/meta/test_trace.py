"""Every item of the paper is explained, implemented twice and held to account, and spec/trace.md says where."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def _load() -> Any:
    spec = importlib.util.spec_from_file_location("spec_trace", ROOT / "spec" / "trace.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


trace = _load()
FOUND = trace.collect()


@pytest.mark.parametrize("room", trace.ROOMS)
@pytest.mark.parametrize("item", trace.ITEMS)
def test_each_item_stands_in_each_room(item: str, room: str) -> None:
    assert FOUND[item][room], f"{item} has no {room}"


@pytest.mark.parametrize("item", trace.FIGURES)
def test_each_figure_is_explained_implemented_and_held_to_account(item: str) -> None:
    rooms = FOUND[item]
    assert rooms["chapter"], item
    assert rooms["tpo_ref"] or rooms["tpo_torch"], item
    assert rooms["property"], item


def test_the_generated_table_is_not_stale() -> None:
    assert (ROOT / "spec" / "trace.md").read_text(encoding="utf-8") == trace.render(FOUND), "run make trace"


def test_no_chapter_or_property_names_an_unknown_item() -> None:
    named = {item for item, _ in (*trace._chapters(ROOT), *trace._markers(ROOT))}
    assert named <= set(trace.ITEMS + trace.FIGURES)


def test_deviations_cited_anywhere_are_written_down() -> None:
    entries = set(
        re.findall(r"^## (D\d+) · ", (ROOT / "spec" / "deviations.md").read_text(encoding="utf-8"), re.MULTILINE)
    )
    files = [p for d in ("tpo_ref", "tpo_torch", "spec") for s in ("*.py", "*.md") for p in (ROOT / d).rglob(s)]
    several = re.compile(r"\bdeviations? (D\d+(?:(?:, | and | or )D\d+)*)")
    lists = [text for p in files for text in several.findall(p.read_text(encoding="utf-8"))]
    cited = {number for text in lists for number in re.findall(r"D\d+", text)}
    assert cited <= entries, cited - entries


def test_each_deviation_lies_in_a_range_that_the_head_of_the_chapter_names() -> None:
    head, *entries = re.split(
        r"^## D", (ROOT / "spec" / "deviations.md").read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    ranges = [(int(low), int(high)) for low, high in re.findall(r"D(\d+)–D(\d+)", head)]
    numbers = [int(entry.split(" ")[0]) for entry in entries]
    assert numbers == sorted(numbers)
    assert [n for n in numbers if not any(low <= n <= high for low, high in ranges)] == []
