"""Input is checked once, at the public edge: public functions check and call private cores, and cores call cores."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch

from tpo_ref.rules import RULES

sys.path.insert(0, str(Path(__file__).parent))
from test_api_errors import EXAMPLES, FUNCTIONS, INNER, arguments

ROOT = Path(__file__).parents[2]
# What acts on no group: optimisers, closed forms of one policy, and names.
NO_GROUP = {"closed_form", "muon", "rules"}
# How many calls into the checks one call of a public function may make.
MOST = 12
STEMS = sorted({name.split(".")[1] for name in FUNCTIONS} - NO_GROUP)
# The names under which the stems call each other, and those of a stem of several files.
MODULES = {*STEMS, "scales", "anchor", "candidates", "means", "signal"}
ON_GROUPS = [name for name in FUNCTIONS if name.split(".")[1] not in NO_GROUP]


def calls_into_checks(name: str, given: dict[str, Any]) -> list[str]:
    """The checks that one call of a public function enters from outside, in their order."""
    return entered_checks(name.split(".")[0], lambda: FUNCTIONS[name](**given))


def entered_checks(package: str, call: Callable[[], Any]) -> list[str]:
    """The checks of a package that a call enters from outside, in their order."""
    checks = str(ROOT / package / "checks")
    entered = []

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        caller = frame.f_back.f_code.co_filename if frame.f_back else ""
        if event == "call" and frame.f_code.co_filename.startswith(checks) and not caller.startswith(checks):
            entered.append(frame.f_code.co_name)

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(before)
    return entered


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("name", ON_GROUPS)
def test_a_call_checks_each_argument_once(name: str, masked: bool) -> None:
    given = arguments(name)
    entered = calls_into_checks(name, given if masked else {key: x for key, x in given.items() if "mask" not in key})
    assert entered
    assert len(entered) <= MOST, entered


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("name", sorted(RULES))
@pytest.mark.parametrize("package", ["tpo_ref", "tpo_torch"])
def test_a_rule_checks_each_argument_once(package: str, name: str, masked: bool) -> None:
    rule = importlib.import_module(f"{package}.rules").named(name)
    given = {key: EXAMPLES[key] for key in ("logp", "logp_old", "scores", "lengths", *(["mask"] if masked else []))}
    if package == "tpo_torch":
        given = {key: torch.as_tensor(x) for key, x in given.items()}
    entered = entered_checks(package, lambda: rule.gradient(**given))
    assert 0 < len(entered) <= MOST, entered


def sources(package: str) -> dict[str, str]:
    """The text of every file of the stems, by its place below the package."""
    root = ROOT / package
    paths = [*sorted((root / "families").glob("*.py"))]
    paths += [p for stem in STEMS for p in (root / f"{stem}.py", *sorted((root / stem).glob("*.py"))) if p.exists()]
    return {str(p.relative_to(root)): p.read_text(encoding="utf-8") for p in paths}


def checking(package: str) -> set[str]:
    """The public functions that check: all but those that get what has been checked."""
    names = (name for name in FUNCTIONS if name.split(".")[0] == package)
    return {name.rpartition(".")[2] for name in names} - INNER


def nested_checks(source: str, public: set[str]) -> Iterator[str]:
    """Where a core calls a check or a public function, or a public function calls another one."""
    for node in ast.parse(source).body:
        if not isinstance(node, ast.FunctionDef):
            continue
        for call in (part for part in ast.walk(node) if isinstance(part, ast.Call)):
            called = ast.unparse(call.func)
            module, _, name = called.rpartition(".")
            checks = node.name.startswith("_") and module == "checks"
            # A function of another library may bear the same name.
            nested = name in public and module in {"", *MODULES}
            if checks or nested:
                yield f"{node.name} calls {called}"


@pytest.mark.parametrize("package", ["tpo_ref", "tpo_torch"])
def test_only_public_functions_check_and_none_calls_another(package: str) -> None:
    public = checking(package)
    found = {place: list(nested_checks(source, public)) for place, source in sources(package).items()}
    assert {place: calls for place, calls in found.items() if calls} == {}


@pytest.mark.parametrize(
    "source",
    [
        "def _tpo_loss(logp):\n    return checks.finite('logp', logp)",
        "def _tpo_loss(logp, mask):\n    return simplex.log_softmax(logp, mask)",
        "def _tpo(logp, q):\n    return tpo_loss(logp, q)",
        "def tpo(logp, q):\n    return tpo_loss(logp, q)",
    ],
)
def test_a_nested_check_is_seen(source: str) -> None:
    assert list(nested_checks(source, {"log_softmax", "tpo_loss"}))


def test_a_core_that_calls_cores_is_not_blamed() -> None:
    source = "def _tpo(x, q, mask):\n    return tpo._tpo_loss(np.log(x), simplex._softmax(q, mask), mask)"
    assert not list(nested_checks(source, {"tpo_loss", "softmax", "log"}))
