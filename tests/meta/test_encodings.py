"""Every text file is read and written as UTF-8, whatever the computer's own encoding is."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    path for folder in ("tpo_ref", "tpo_torch", "benchmarks", "spec", "tests") for path in (ROOT / folder).rglob("*.py")
)
# The place of the mode among the arguments, of a function and of a method of paths; None where text is meant always.
PLACES = {"read_text": None, "write_text": None, "open": 0, "fdopen": 1, "NamedTemporaryFile": 0, "TemporaryFile": 0}
TEXT_PROCESSES = {"run", "Popen", "check_output", "check_call", "call"}


def without_encoding(tree: ast.AST) -> Iterator[int]:
    """The lines of calls that read or write text in the encoding of whoever runs them."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or any(keyword.arg in ("encoding", None) for keyword in node.keywords):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        keywords = {keyword.arg: keyword.value for keyword in node.keywords}
        if (name in TEXT_PROCESSES and _true(keywords.get("text")) | _true(keywords.get("universal_newlines"))) or (
            name in PLACES and _is_text(node, name, keywords)
        ):
            yield node.lineno


def _is_text(node: ast.Call, name: str, keywords: dict[str | None, ast.expr]) -> bool:
    place = PLACES[name]
    if place is None:
        # Of importlib.resources and paths alike; the encoding may stand first of read_text.
        return not (name == "read_text" and node.args)
    if name == "open" and isinstance(node.func, ast.Name):
        place = 1
    elif name == "open" and ast.unparse(node.func) in ("os.open", "tarfile.open", "zipfile.open", "webbrowser.open"):
        return False
    mode = keywords.get("mode", node.args[place] if len(node.args) > place else None)
    default = "w+b" if name.endswith("TemporaryFile") else "r"
    if mode is None:
        return "b" not in default
    return isinstance(mode, ast.Constant) and isinstance(mode.value, str) and "b" not in mode.value


def _true(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is True


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_text_is_utf_8(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert list(without_encoding(tree)) == [], 'say encoding="utf-8"'


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("p.read_text()", True),
        ("p.write_text(x)", True),
        ("open(p)", True),
        ("open(p, 'w')", True),
        ("p.open()", True),
        ("p.open('a')", True),
        ("subprocess.run(x, text=True)", True),
        ("os.fdopen(f, 'w')", True),
        ("p.read_text(encoding='utf-8')", False),
        ("open(p, 'rb')", False),
        ("p.open('wb')", False),
        ("open(p, mode='xb')", False),
        ("os.open(p, os.O_RDONLY)", False),
        ("subprocess.run(x)", False),
        ("tempfile.NamedTemporaryFile()", False),
    ],
)
def test_the_law_sees_what_it_should(source: str, found: bool) -> None:
    assert bool(list(without_encoding(ast.parse(source)))) == found
