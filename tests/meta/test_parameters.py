"""A long row of values whose order a reader must know: no function takes ten by position."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PATHS = [path for package in ("tpo_ref", "tpo_torch") for path in sorted((ROOT / package).rglob("*.py"))]
MOST = 9
# Every call gives its rare parameters by keyword.
KNOWN = {"tpo_ref/study/claims.py:first_step"}


@pytest.mark.parametrize("path", PATHS, ids=lambda path: str(path.relative_to(ROOT)))
def test_ten_parameters_are_not_told_apart_by_position(path: Path) -> None:
    functions = [n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.FunctionDef)]
    long = {
        f"{path.relative_to(ROOT).as_posix()}:{f.name}"
        for f in functions
        if len(f.args.posonlyargs) + len(f.args.args) > MOST
    }
    assert long <= KNOWN, "put a * before those that are not essential"
