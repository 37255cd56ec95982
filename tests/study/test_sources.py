"""The digest of the code that numbers come from: blind to words, not to numbers; quick, and without an import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tpo_ref.study import sources

BASE = '''"""A walk."""
import helper_of_walk
RATE = 0.5
class Options:
    steps: int = 3
    width: float
def walk(x: int) -> float:
    """Walk on."""
    if x < 0:
        raise ValueError(f"x: got {x}, expected none below 0")
    return x * RATE  # forward
'''
HELPER = "SEED = 1\n"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "walking"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    sources._root.cache_clear()
    return folder


def digest(folder: Path, base: str = BASE, helper: str = HELPER) -> sources.Code:
    (folder / "__init__.py").touch()
    (folder / "walk.py").write_text(base.replace("helper_of_walk", "walking.helper"), encoding="utf-8")
    (folder / "helper.py").write_text(helper, encoding="utf-8")
    (folder / "other.py").write_text(helper, encoding="utf-8")
    sources._summary.cache_clear()
    return sources.code(["walking.walk"], ["numpy"])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""A walk."""', '"""A long walk.\n\nOf many steps.\n"""'),
        ("  # forward", ""),
        ("x: int) -> float", "x: float)"),
        ("steps: int = 3", "steps: float = 3"),
        ("x * RATE", "(x\n        * RATE)"),
        ("expected none below 0", "expected a positive number"),
        ('"""Walk on."""\n', "'''Walk.'''\n"),
    ],
)
def test_words_do_not_count(old: str, new: str, package: Path) -> None:
    assert old in BASE
    assert digest(package, BASE.replace(old, new)) == digest(package)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("0.5", "0.25"),
        ("x * RATE", "x + RATE"),
        ("x < 0", "x <= 0"),
        ("steps: int = 3", "steps: int = 4"),
        ("steps: int = 3\n    width: float", "width: float\n    steps: int = 3"),
        ("import helper_of_walk", "import helper_of_walk, walking.other"),
    ],
)
def test_what_changes_a_number_counts(old: str, new: str, package: Path) -> None:
    assert old in BASE
    before = digest(package)
    after = digest(package, BASE.replace(old, new))
    assert any("walking.walk" in text for text in after.differences(before))


def test_imported_modules_count_and_others_do_not(package: Path) -> None:
    before = digest(package)
    assert set(before.sources) == {"walking", "walking.walk", "walking.helper"}
    assert digest(package, helper="SEED = 2\n").differences(before) == ["code of walking.helper"]
    assert set(sources.code(["walking.walk"], [], without=["walking.helper"]).sources) == {"walking", "walking.walk"}


def test_versions_count(package: Path) -> None:
    here = digest(package)
    there = sources.Code(here.sources, {**here.versions, "numpy": "1.0"})
    assert here.differences(there) == [f"numpy 1.0 there, {here.versions['numpy']} here"]


def test_a_module_without_a_source_is_named() -> None:
    with pytest.raises(ValueError, match="module no_such_module: found no source file"):
        sources.code(["no_such_module"], [])


def test_nothing_is_imported() -> None:
    program = (
        "import sys; from tpo_ref.study import sources\n"
        "code = sources.code(['tpo_torch.reversal.runs'], ['torch'])\n"
        "assert 'tpo_torch.reversal.engine.merged' in code.sources\n"
        "assert not any(name.startswith(('tpo_torch', 'torch', 'numpy')) for name in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
