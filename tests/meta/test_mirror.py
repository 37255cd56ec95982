"""Both packages offer the same names with the same signatures, stem by stem; each stem stands in all five rooms."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

# The edge differs by array type.
NUMPY_STEMS = {"checks"}
TORCH_STEMS = {"checks"}
# Where names of the first version still lead to.
EARLIER = {"bandit", "kernels", "runs"}
# Stems of more than one file, whose names stand in the package.
SPLIT = {"diagnostics"}
# scipy's root finder has no mirror.
NUMPY_NAMES = {"closed_form.no_anchor_root"}


def stems(package: str) -> set[str]:
    """Modules of maths; the packages of experiments and studies have rooms of their own."""
    return ({p.stem for p in (ROOT / package).glob("*.py")} | SPLIT) - {"__init__"} - EARLIER


RULES = sorted(stems("tpo_ref") - NUMPY_STEMS)


def public(package: str, stem: str) -> dict[str, Any]:
    module = importlib.import_module(f"{package}.{stem}")
    return {
        name: thing
        for name, thing in vars(module).items()
        if inspect.isfunction(thing)
        and f"{thing.__module__}.".startswith(f"{module.__name__}.")
        and not name.startswith("_")
    }


def shape_of(function: Any) -> list[tuple[str, Any, Any]]:
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


def test_the_stems_are_the_same() -> None:
    assert stems("tpo_ref") - NUMPY_STEMS == stems("tpo_torch") - TORCH_STEMS


@pytest.mark.parametrize("stem", RULES)
def test_names_and_signatures_are_the_same(stem: str) -> None:
    reference, mirror = public("tpo_ref", stem), public("tpo_torch", stem)
    expected = {n for n in reference if not n.endswith("_grad") and f"{stem}.{n}" not in NUMPY_NAMES}
    assert set(mirror) == expected
    for name in sorted(expected):
        assert shape_of(mirror[name]) == shape_of(reference[name]), name


@pytest.mark.parametrize("stem", RULES)
def test_every_loss_has_a_closed_form_gradient_with_the_same_arguments(stem: str) -> None:
    reference = public("tpo_ref", stem)
    for name in [n for n in reference if n.endswith("_loss")]:
        assert shape_of(reference[name.removesuffix("_loss") + "_grad"]) == shape_of(reference[name]), name


@pytest.mark.parametrize("stem", sorted((stems("tpo_ref") | stems("tpo_torch")) - {"checks"}))
def test_each_stem_is_tested_and_has_its_chapter_and_benchmark(stem: str) -> None:
    assert (ROOT / "tests" / f"test_{stem}.py").exists()
    assert (ROOT / "spec" / f"{stem}.md").exists()
    assert (ROOT / "benchmarks" / f"bench_{stem}.py").exists()


SIGNATURES = {
    "standardize.standardize": "(scores, mask=None, tau=0.0, compat=None)",
    "tpo.tpo_target": "(logp_old, u, eta=1.0, mask=None)",
    "tpo.tpo_loss": "(logp, q, mask=None)",
    "tpo.tpo_ratio_loss": "(logp, logp_old, w, mask=None)",
    "grpo.grpo_loss": "(logp, logp_old, advantages, epsilon=0.2, beta=0.04)",
    "dg.dg_loss": "(logp, advantages, dg_eta=1.0)",
    "ppo.ppo_loss": "(logp, logp_old, advantages, epsilon=0.2)",
    "pg.pg_loss": "(logp, advantages)",
}


@pytest.mark.parametrize("path", SIGNATURES)
def test_signatures_others_build_on_do_not_change(path: str) -> None:
    stem, name = path.split(".")
    parameters = shape_of(public("tpo_ref", stem)[name])
    written = [n if d is inspect.Parameter.empty else f"{n}={d!r}" for n, _, d in parameters]
    assert f"({', '.join(written)})" == SIGNATURES[path]
