"""The exactness check of the trainer is independent of what it checks, and sees an error on either side."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import tiny_llm
from torch import Tensor

from tpo_torch.llm import trainer
from tpo_torch.llm.program.exactness import check as exactness
from tpo_torch.llm.program.exactness import dense

pytestmark = tiny_llm.FILTERS

SPLIT = next(case for case in exactness.CASES if case.name == "three epochs, split")
TRUNCATED = next(case for case in exactness.CASES if case.name == "truncated rows masked, split")


def test_the_dense_reference_imports_nothing_of_ours() -> None:
    nodes = list(ast.walk(ast.parse(Path(dense.__file__).read_text(encoding="utf-8"))))
    modules = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    modules |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in modules} == {"__future__", "collections", "dataclasses", "math", "torch"}
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    assert not names & {"__import__", "importlib", "getattr", "exec", "eval"}
    # Nor does the reference call anything private of an object that is handed in.
    assert [node.attr for node in nodes if isinstance(node, ast.Attribute) and node.attr.startswith("_")] == []


def without_the_last_token(inputs: dict[str, Any]) -> Tensor:
    """A wrong mask: the end of a completion is not trained."""
    mask: Tensor = inputs["completion_mask"]
    return mask * (mask.flip(-1).cumsum(-1).flip(-1) > 1)


@pytest.mark.parametrize("case", [SPLIT, TRUNCATED], ids=lambda case: case.name)
def test_a_wrong_mask_of_the_trainer_is_seen(case: exactness.Case, monkeypatch: pytest.MonkeyPatch) -> None:
    assert exactness.check(case).holds
    monkeypatch.setattr(trainer, "trained_tokens", without_the_last_token)
    assert not exactness.check(case).holds


def test_a_wrong_token_of_the_reference_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    right = dense.log_probabilities

    def without_ends(model: Any, completions: Any, pad: int) -> Tensor:
        cut = [dense.Completion(c.prompt, c.tokens[:-1], c.reward) for c in completions]
        return right(model, cut, pad)

    monkeypatch.setattr(dense, "log_probabilities", without_ends)
    assert not exactness.check(SPLIT).holds


def test_a_gradient_that_is_no_number_does_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    right = dense.gradient

    def broken(*arguments: Any) -> dict[str, Tensor]:
        return {name: torch.full_like(g, torch.nan) for name, g in right(*arguments).items()}

    monkeypatch.setattr(dense, "gradient", broken)
    assert not exactness.check(SPLIT).holds


@pytest.mark.parametrize("name", ["anchor", "score_scale", "divergence"])
def test_an_unknown_name_is_refused_by_the_reference(name: str) -> None:
    settings = dense.DenseSettings(
        0, 1, mask_truncated=False, anchor="policy", eta=1.0, tau=0.0, anchor_temperature=1.0, divide_by_length=False
    )
    with pytest.raises(ValueError, match=f"{name}: got 'rato'"):
        dense.group_loss(*torch.eye(2), torch.tensor([1.0, 0.0]), torch.ones(2), replace(settings, **{name: "rato"}))
