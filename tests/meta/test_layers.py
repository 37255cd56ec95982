"""Who may import whom: read off the syntax tree, so that aliases and lazy imports count too."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.processes import without

from tpo_torch.llm import LIBRARIES

ROOT = Path(__file__).parents[2]
STDLIB = set(sys.stdlib_module_names)
# The hub's client is installed and versioned by transformers.
LLM_LIBRARIES = {*LIBRARIES, "huggingface_hub"}
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


# Folder to what it may import beside the standard library and itself: libraries, and folders of ours. A folder that is
# not named here stands with the one above it. "tpo_ref" and "tpo_torch" are the stems that lie in them directly.
ARRAYS = {"numpy", "scipy"}
STUDY = {"tpo_ref.study", "tpo_ref.checks"}
TABLE: dict[str, set[str]] = {
    "tpo_ref": ARRAYS,
    "tpo_ref/bandits": ARRAYS | {"tpo_ref", "tpo_ref.study", "tpo_ref.bandits.compiled"},
    "tpo_ref/bandits/compiled": ARRAYS | {"numba", "tpo_ref", "tpo_ref.bandits"},
    "tpo_ref/study": ARRAYS | {"tpo_ref.checks", "tpo_ref"},
    "tpo_ref/study/cli": ARRAYS | {"tpo_ref.study", "tpo_ref.checks"},
    "tpo_torch": {"torch"},
    "tpo_torch/shared": {"numpy", "torch", "tpo_torch"} | STUDY,
    "tpo_torch/mnist": {"numpy", "torch", "tpo_torch", "tpo_torch.shared"} | STUDY,
    "tpo_torch/reversal": {
        "numpy",
        "torch",
        "tpo_torch",
        "tpo_torch.shared",
        "tpo_torch.reversal.engine",
        "tpo_ref.closed_form",
    }
    | STUDY,
    "tpo_torch/reversal/engine": {"numpy", "torch", "tpo_torch", "tpo_torch.shared", "tpo_torch.reversal"} | STUDY,
    "tpo_torch/llm": {"numpy", "torch", "tpo_torch", "tpo_torch.shared", *LLM_LIBRARIES} | STUDY,
    "tpo_torch/llm/tasks": {
        *("numpy", "torch", "tpo_torch", "tpo_torch.shared", "tpo_torch.llm.source"),
        *LLM_LIBRARIES,
    }
    | STUDY,
    "tpo_torch/llm/program": {
        *("numpy", "torch", "tpo_torch", "tpo_torch.shared", "tpo_torch.llm", "tpo_torch.llm.tasks"),
        *LLM_LIBRARIES,
    }
    | STUDY,
}
# Files that may import a library beyond what their folder may.
OWN: dict[str, set[str]] = {
    # A rule knows how it is drawn.
    "tpo_ref/rules.py": {"tpo_ref.study.styles", "tpo_ref.study.user_files"},
    "tpo_ref/families/base.py": {"tpo_ref.study.styles"},
    "tpo_torch/rules.py": {"tpo_ref.study.styles", "tpo_ref.study.user_files", "tpo_ref.checks"},
    "tpo_torch/families/base.py": {"tpo_ref.study.styles"},
    "tpo_ref/study/drawing.py": {"matplotlib"},
    "tpo_ref/study/locks.py": {"filelock"},
    "tpo_ref/study/cli/commands.py": {"tyro"},
    "tpo_ref/study/cli/options.py": {"tyro"},
    "tpo_ref/study/cli/show.py": {"rich"},
    "tpo_torch/llm/program/commands.py": {"tyro", "tpo_ref.study.cli"},
    # The door that launchers start is the command line.
    "tpo_torch/llm/train.py": {"tpo_ref.study.cli"},
    # Where names of the first version still lead to.
    "tpo_ref/bandit.py": {"tpo_ref.bandits"},
    "tpo_ref/kernels.py": {"tpo_ref.bandits.compiled"},
    "tpo_torch/runs.py": {"tpo_torch.mnist", "tpo_torch.reversal"},
}
FOLDERS = sorted(
    str(p.parent.relative_to(ROOT)).replace("/", ".")
    for package in ("tpo_ref", "tpo_torch")
    for p in (ROOT / package).rglob("__init__.py")
)
NAMED = {folder.replace("/", ".") for folder in TABLE}


def layer(module: str) -> str:
    """The longest folder of the table that a module lies in, or the module where it is named one by one."""
    parts = module.split(".")
    prefixes = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
    return next(p for p in prefixes if p in NAMED)


def allowed(path: Path) -> set[str]:
    """The libraries, folders and modules of ours that a file may import beside the standard library."""
    own = str(path.relative_to(ROOT))
    folder = layer(".".join(path.relative_to(ROOT).with_suffix("").parts))
    return TABLE[folder.replace(".", "/")] | {folder} | OWN.get(own, set())


def offences(path: Path, source: str) -> list[str]:
    """The imports of a file that its layer does not allow."""
    may = allowed(path)
    names = set(imports_of(source))
    # A package named on the way to one of its own parts: the part is judged.
    passed = {name.rpartition(".")[0] for name in names} & set(FOLDERS) - imported_whole(source)
    wrong = []
    for name in sorted(names - passed):
        top = name.split(".")[0]
        if top in STDLIB or top in may - {"tpo_ref", "tpo_torch"}:
            continue
        if top not in ("tpo_ref", "tpo_torch") or (
            layer(name) not in may
            and not any(name == module or name.startswith(f"{module}.") for module in may - NAMED)
        ):
            wrong.append(name)
    return wrong


def imported_whole(source: str) -> set[str]:
    """The modules of plain import statements, which give all that lies in them."""
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import)]
    return {alias.name for node in nodes for alias in node.names}


FILES = sorted(p for package in ("tpo_ref", "tpo_torch") for p in (ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_each_file_imports_only_what_its_layer_allows(path: Path) -> None:
    assert offences(path, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("tpo_ref/tpo.py", "import torch as t"),
        ("tpo_ref/tpo.py", "def f():\n    from torch import nn"),
        ("tpo_ref/tpo.py", "import importlib\nimportlib.import_module('torch')"),
        ("tpo_ref/tpo.py", "from importlib import import_module as im\nim('torch')"),
        ("tpo_ref/tpo.py", "import importlib\nimportlib.import_module(name='torch')"),
        ("tpo_torch/tpo.py", "from tpo_torch.mnist import runs"),
        ("tpo_torch/tpo.py", "from tpo_torch.shared import data"),
        ("tpo_ref/tpo.py", "import numba"),
        ("tpo_ref/tpo.py", "from tpo_ref.study import files"),
        ("tpo_ref/study/cli/commands.py", "import matplotlib.pyplot as plt"),
        ("tpo_torch/tpo.py", "from tpo_ref import tpo"),
        ("tpo_torch/tpo.py", "import numpy"),
        ("tpo_ref/tpo.py", "import tpo_torch"),
        ("tpo_ref/tpo.py", "import tpo_torch.mnist"),
        ("tpo_ref/tpo.py", "from tpo_torch import llm"),
        ("tpo_ref/tpo.py", "from tpo_ref import study"),
        ("tpo_ref/tpo.py", "from tpo_ref.bandits import compiled"),
        ("tpo_torch/tpo.py", "import tpo_ref.bandits.compiled"),
        ("tpo_torch/llm/layout.py", "from tpo_torch.llm import program"),
        ("tpo_ref/study/claims.py", "from tpo_ref import bandits"),
        ("tpo_ref/study/claims.py", "from tpo_ref.study import cli"),
        ("tpo_torch/mnist/runs.py", "from tpo_ref.tpo import tpo_loss"),
        ("tpo_torch/mnist/runs.py", "from tpo_ref import tpo"),
    ],
)
def test_an_offence_is_seen(file: str, source: str) -> None:
    assert offences(ROOT / file, source)


def test_folders_of_the_table_depend_on_each_other_in_one_direction() -> None:
    """Where two folders of the reference or the mirror need each other, one is a part of the other."""
    for folder, may in TABLE.items():
        name = folder.replace("/", ".")
        for other in may & NAMED:
            back = TABLE[other.replace(".", "/")]
            assert name not in back or name.startswith(f"{other}.") or other.startswith(f"{name}."), (name, other)


def module_name(path: Path) -> str:
    """The name by which a file is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def circles(sources: dict[str, str]) -> list[set[str]]:
    """The sets of modules that need each other, imports inside functions included.

    A package named on the way to one of its modules is not needed by that; a name taken from it is.
    """
    needs: dict[str, set[str]] = {}
    for module, source in sources.items():
        names = set(imports_of(source))
        parents = {name.rpartition(".")[0] for name in names if name in sources}
        named = {name if name in sources else name.rpartition(".")[0] for name in names - (parents - {module})}
        needs[module] = (named & set(sources)) - {module}
    reach = {module: reachable(module, needs) for module in needs}
    found = {frozenset(other for other in reach[m] if m in reach[other]) for m in needs if m in reach[m]}
    return [set(circle) for circle in found]


def reachable(module: str, needs: dict[str, set[str]]) -> set[str]:
    """Every module that one needs, or that those need."""
    seen: set[str] = set()
    waiting = list(needs[module])
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting.extend(needs[name])
    return seen


def test_no_modules_need_each_other() -> None:
    assert circles({module_name(path): path.read_text(encoding="utf-8") for path in FILES}) == []


@pytest.mark.parametrize(
    "lazy",
    ["from p import a", "def f():\n    from p.a import x", "import importlib\nimportlib.import_module('p.a')"],
)
def test_a_circle_is_seen_through_a_lazy_import(lazy: str) -> None:
    sources = {"p": "", "p.a": "from p.b import y", "p.b": "import p.c", "p.c": lazy, "p.d": "from p import a"}
    assert circles(sources) == [{"p.a", "p.b", "p.c"}]


# What a clear run, the textbook form beside a fast engine, must not call: else their agreement would prove nothing.
FAST = re.compile(r"\.(engine|runs|methods|mechanism|rules|families)\b")


def fast_imports(source: str) -> set[str]:
    """The imports of a source from a fast engine, but for those of types alone."""
    tree = ast.parse(source)
    tree.body = [
        node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
    ]
    return {name for name in imports_of(ast.unparse(tree)) if FAST.search(name)}


@pytest.mark.parametrize("path", [path for path in FILES if path.stem == "clear"], ids=lambda p: p.parent.name)
def test_a_clear_run_imports_nothing_of_its_engine(path: Path) -> None:
    assert fast_imports(path.read_text(encoding="utf-8")) == set()


def test_an_import_of_the_engine_is_seen() -> None:
    assert fast_imports("def f():\n    from tpo_torch.reversal.engine import merged")
    assert fast_imports("from tpo_torch import rules")
    assert fast_imports("from tpo_torch.families.tilted import Tpo")
    assert not fast_imports("if TYPE_CHECKING:\n    from tpo_torch.reversal.engine import Draws")


FORBIDDEN = "torch"


def strings_naming_torch(source: str) -> list[str]:
    """Every string or bytes constant that names it, docstrings and pieces of f-strings included, sums of them too."""
    constants = []
    for node in ast.walk(ast.parse(source)):
        try:
            value = ast.literal_eval(node) if isinstance(node, ast.Constant) else _sum(node)
        except ValueError:
            continue
        if isinstance(value, bytes):
            value = value.decode(errors="replace")
        if isinstance(value, str) and FORBIDDEN in value.lower():
            constants.append(value)
    return constants


def _sum(node: ast.AST) -> str:
    """A sum of string constants; ValueError for anything else."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _sum(node.left) + _sum(node.right)
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    raise ValueError


@pytest.mark.parametrize("path", sorted((ROOT / "tpo_ref").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_reference_holds_no_string_that_names_torch(path: Path) -> None:
    named = [
        text for text in strings_naming_torch(path.read_text(encoding="utf-8")) if "never imports torch" not in text
    ]
    assert named == []


@pytest.mark.parametrize(
    "source",
    [
        "RUNNER = 'tpo_torch.mnist.runs:run'",
        "f'torch.{name}'",
        "x = b'torch'",
        "x = 'tpo_' + 'torch.llm'",
        "x = 'to' + 'rch'",
        "def f(place='tpo_' 'torch'): ...",
        "{'torch': 1}",
    ],
)
def test_a_planted_string_is_seen(source: str) -> None:
    assert strings_naming_torch(source)


def test_reference_and_listing_work_without_torch() -> None:
    done = without(
        "torch",
        "import tpo_ref.tpo, tpo_ref.grpo, tpo_ref.bandits.readable\n"
        "from tpo_ref.study.cli import commands\n"
        "assert commands.run(['list', '--json']) == 0\n",
    )
    assert done.returncode == 0, done.stderr
