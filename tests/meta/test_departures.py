"""Each file that is run lists at its top where it departs from the paper; the list is whole, and each entry exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENTRIES = set(re.findall(r"^## (D\d+) ·", (ROOT / "spec" / "deviations.md").read_text(encoding="utf-8"), re.MULTILINE))
HEADING = "Departures from the paper, each explained in spec/deviations.md:"
NUMBER = re.compile(r"\bD\d+\b")
FOLDERS = {
    "tpo_ref/bandits": ("readable.py", "experiments.py"),
    "tpo_torch/mnist": ("runs.py", "experiments.py"),
    "tpo_torch/reversal": ("runs.py", *(f"experiments/{name}.py" for name in ("dense", "terminal", "ablations"))),
}
FILES = [f"{folder}/{name}" for folder, names in FOLDERS.items() for name in names]


def listed(path: str) -> set[str]:
    """The numbers in the list at the top of a file."""
    text = ast.get_docstring(ast.parse((ROOT / path).read_text(encoding="utf-8"))) or ""
    _, heading, items = text.partition(HEADING)
    assert heading, f"{path}: its docstring has no list under {HEADING!r}"
    return set(NUMBER.findall(items))


@pytest.mark.parametrize("path", FILES)
def test_each_departure_at_the_top_of_a_run_is_explained(path: str) -> None:
    assert listed(path)
    assert listed(path) <= ENTRIES


@pytest.mark.parametrize("folder", FOLDERS)
def test_what_the_code_of_a_folder_cites_stands_in_its_lists(folder: str) -> None:
    cited = {
        f"D{n}"
        for path in (ROOT / folder).rglob("*.py")
        for n in re.findall(r"deviations? D(\d+)\b", path.read_text(encoding="utf-8"))
    }
    assert cited <= set().union(*(listed(f"{folder}/{name}") for name in FOLDERS[folder]))
