"""Who may import whom: read off the syntax tree, so that aliases and lazy imports count too."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import without

ROOT = Path(__file__).parent.parent
STDLIB = set(sys.stdlib_module_names)
LLM_LIBRARIES = {
    "accelerate",
    "datasets",
    "huggingface_hub",
    "peft",
    "reasoning_gym",
    "safetensors",
    "tokenizers",
    "transformers",
    "trl",
    "yaml",
}
IMPORT_FUNCTIONS = {"import_module", "__import__", "find_spec"}


def imports_of(source: str) -> Iterator[str]:
    """Every module a source imports, at any depth: import, from-import, and import functions given a literal."""
    tree = ast.parse(source)
    froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    renamed = {a.asname for node in froms for a in node.names if a.asname and a.name in IMPORT_FUNCTIONS}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where a module stands; write the full name"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and name_of(node.func) in IMPORT_FUNCTIONS | renamed:
            given = [*node.args, *(k.value for k in node.keywords)]
            yield from (a.value for a in given if isinstance(a, ast.Constant) and isinstance(a.value, str))


def name_of(function: ast.expr) -> str:
    return str(getattr(function, "attr", getattr(function, "id", "")))


def allowed(path: Path) -> set[str]:
    """The top-level packages, or module prefixes of ours, that a file may import beside the standard library."""
    parts = path.relative_to(ROOT).parts
    if parts[0] == "tpo_ref":
        if parts[1] == "study":
            own = {
                "cli.py": {"tyro"},
                "cli_llm.py": {"tyro"},
                "show.py": {"rich"},
                "figures.py": {"matplotlib"},
                "run_figures.py": {"matplotlib"},
            }
            return {"numpy", "scipy", "tpo_ref"} | own.get(parts[-1], set())
        numba = {"numba"} if parts[1] == "kernels" else set()
        return {"numpy", "scipy", "tpo_ref"} | numba
    if parts[1] == "runs":
        return {"numpy", "torch", "tpo_torch", "tpo_ref.study"}
    if parts[1] == "llm":
        return {"numpy", "torch", "tpo_torch", "tpo_ref.study", *LLM_LIBRARIES}
    if parts[1] == "data.py":
        return {"numpy", "tpo_torch", "tpo_ref.study"}
    maths = {p.stem for p in (ROOT / "tpo_torch").glob("*.py")} - {"data"} | {"rollout"}
    return {"torch", *(f"tpo_torch.{stem}" for stem in maths)}


def offences(path: Path, source: str) -> list[str]:
    """The imports of a file that its layer does not allow."""
    may = allowed(path)
    maths = path.relative_to(ROOT).parts[0] == "tpo_ref" and path.relative_to(ROOT).parts[1] != "study"
    found = []
    for name in imports_of(source):
        top = name.split(".")[0]
        fine = top in STDLIB or any(name == m or name.startswith(m + ".") for m in may)
        # `from tpo_ref import study` names the package itself and then the module; the package alone is harmless.
        fine = fine or (name == "tpo_ref" and "tpo_ref.study" in may)
        fine = fine or (name == "tpo_torch" and "tpo_torch.tpo" in may)
        if not fine or (maths and name.startswith("tpo_ref.study")):
            found.append(name)
    return found


FILES = sorted(p for package in ("tpo_ref", "tpo_torch") for p in (ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_each_file_imports_only_what_its_layer_allows(path: Path) -> None:
    assert offences(path, path.read_text()) == []


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("tpo_ref/tpo.py", "import torch as t"),
        ("tpo_ref/tpo.py", "def f():\n    from torch import nn"),
        ("tpo_ref/tpo.py", "import importlib\nimportlib.import_module('torch')"),
        ("tpo_ref/tpo.py", "from importlib import import_module as im\nim('torch')"),
        ("tpo_ref/tpo.py", "import importlib\nimportlib.import_module(name='torch')"),
        ("tpo_torch/tpo.py", "from tpo_torch.runs import mnist"),
        ("tpo_torch/tpo.py", "from tpo_torch import data"),
        ("tpo_ref/tpo.py", "import numba"),
        ("tpo_ref/tpo.py", "from tpo_ref.study import files"),
        ("tpo_ref/study/cli.py", "import matplotlib.pyplot as plt"),
        ("tpo_torch/tpo.py", "from tpo_ref import tpo"),
        ("tpo_torch/tpo.py", "import numpy"),
        ("tpo_torch/runs/mnist.py", "from tpo_ref.tpo import tpo_loss"),
        ("tpo_torch/runs/mnist.py", "from tpo_ref import tpo"),
    ],
)
def test_an_offence_is_seen(file: str, source: str) -> None:
    assert offences(ROOT / file, source)


def test_reference_and_listing_work_without_torch() -> None:
    done = without(
        "torch",
        "import tpo_ref.tpo, tpo_ref.grpo, tpo_ref.tabular\n"
        "from tpo_ref.study import cli\n"
        "assert cli.run(['list', '--json']) == 0\n",
    )
    assert done.returncode == 0, done.stderr
