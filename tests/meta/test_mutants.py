"""The properties can fail: every mutant is caught by the property named for it. `pytest -s tests/meta` lists them."""

from __future__ import annotations

import pytest
from helpers.mutants import MUTANTS, Mutant, holds, planted


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_each_mutant_is_caught(mutant: Mutant) -> None:
    holds(mutant)
    # Only a failed comparison counts: a mutant that crashes would prove nothing about the property.
    with planted(mutant), pytest.raises(AssertionError) as caught:
        holds(mutant)
    line = str(caught.value).strip().splitlines()[0]
    print(f"caught  {mutant}  by {mutant.caught_by}: {line}")


@pytest.mark.parametrize("what", ["sign flip", "lost stop-gradient", "ddof 1", "dropped anchor", "dropped mask"])
@pytest.mark.parametrize("package", ["tpo_ref", "tpo_torch"])
def test_every_kind_is_planted_in_each_package(what: str, package: str) -> None:
    if (what, package) != ("lost stop-gradient", "tpo_ref"):  # NumPy has no graph to stop.
        assert any(m.what == what and m.package == package for m in MUTANTS)
