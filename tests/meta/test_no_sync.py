"""No function of the torch maths waits for the device, and each compiles into one graph.

Meta tensors have shapes and no values: whatever would read a value (`.item()`, `bool(tensor)`, `nonzero`, boolean
indexing, a copy to the host) raises on them. On a CUDA device the same calls run under the synchronisation alarm.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tpo_torch.checks import arrays

# Every stem of the torch maths; one that is not written yet is passed over.
STEMS = (
    "diagnostics",
    "muon",
    *("simplex", "standardize", "tpo", "variants", "closed_form", "pg", "ppo", "grpo", "dg", "advantages"),
    *("dapo", "gspo", "rebel", "regression", "pmpo", "scale", "lpo", "single"),
)
SHAPE = (3, 4)
RANDOM = torch.Generator().manual_seed(0)
PER_GROUP, DISTRIBUTION = torch.rand(SHAPE[:-1], generator=RANDOM), torch.rand(SHAPE, generator=RANDOM).softmax(-1)
BINARY = torch.eye(*SHAPE)
# What a required parameter of each name holds; any other name holds numbers in [-1, 1], which suits scores, advantages
# and log-probabilities. A new name is one new line.
ARGUMENTS: dict[str, Any] = {
    "tokens": torch.tensor([[1, 2], [1, 3], [1, 2], [4, 4]]).expand(*SHAPE, 2),
    "second": DISTRIBUTION,
    "step": 1,
    **dict.fromkeys(("p", "q", "r", "w", "pi", "error"), DISTRIBUTION),
    "mask": torch.ones(SHAPE, dtype=torch.bool),
    "accepted": BINARY.bool(),
    "lengths": torch.tensor([[1, 2, 3, 4]]).expand(SHAPE),
    "label": torch.tensor([0, 1, 2]),
    "temperature": 1 + PER_GROUP,
    **dict.fromkeys(("epsilon", "epsilon_low", "epsilon_high", "sigma"), 0.2),
    "arms": 10,
}
# Functions for which a name holds something else.
SPECIAL: dict[str, dict[str, Any]] = {
    "advantages.maxrl": {"scores": BINARY},
    "grpo.grpo_token_loss": {"advantages": PER_GROUP},
    "single.tpo_single_target": {"logp_old": DISTRIBUTION.log()},
    "single.tpo_single_loss": {"logp": DISTRIBUTION.log()},
}


# Functions without groups of their own: two standardise over the batch, one takes the shape for a single group of
# sequences, one is the constant 1.
NO_GROUPS = {
    *("diagnostics.group_mean", "diagnostics.summarise"),
    *("muon.newton_schulz", "muon.muon_step", "muon.nesterov_adam_step"),
    "scale.batch_deviation",
    *("advantages.batch_standardised", "advantages.group_centred_batch_standardised"),
    *("grpo.grpo_token_loss", "closed_form.beta_ce"),
}


def functions() -> list[str]:
    """Every public function of every stem, as "stem.name"."""
    found = []
    for stem in STEMS:
        if importlib.util.find_spec(f"tpo_torch.{stem}"):
            module = importlib.import_module(f"tpo_torch.{stem}")
            members = inspect.getmembers(module, inspect.isfunction)
            own = [name for name, f in members if f"{f.__module__}.".startswith(f"{module.__name__}.")]
            found += [f"{stem}.{name}" for name in own if not name.startswith("_")]
    return found


def lookup(path: str) -> Any:
    stem, name = path.split(".")
    return getattr(importlib.import_module(f"tpo_torch.{stem}"), name)


def arguments(path: str, device: str, masked: bool) -> dict[str, Any]:
    parameters = inspect.signature(lookup(path)).parameters.values()
    names = [p.name for p in parameters if p.default is p.empty or (masked and p.name == "mask")]
    numbers = 2 * torch.rand(SHAPE, generator=torch.Generator().manual_seed(1)) - 1
    values = {name: {**ARGUMENTS, **SPECIAL.get(path, {})}.get(name, numbers) for name in names}
    values = {k: v.to(device, copy=True) if isinstance(v, torch.Tensor) else v for k, v in values.items()}
    if "logp" in values:
        values["logp"].requires_grad_()
    return values


def tensors(result: Any) -> Iterator[torch.Tensor]:
    for x in result if isinstance(result, tuple) else (result,):
        if isinstance(x, torch.Tensor):
            yield x


def forward_and_backward(path: str, device: str, masked: bool) -> Any:
    result = lookup(path)(**arguments(path, device, masked))
    for x in tensors(result):
        if x.requires_grad:
            x.sum().backward()
    return result


def test_the_core_is_in_the_table() -> None:
    assert {p.split(".")[0] for p in functions()} >= {"simplex", "standardize", "tpo", "variants"}
    assert "tpo.tpo_loss" in functions()


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("path", functions())
def test_nothing_reads_a_value(path: str, masked: bool) -> None:
    result = forward_and_backward(path, "meta", masked)
    assert all(x.is_meta for x in tensors(result))


def poisons() -> list[tuple[str, str]]:
    """Every per-group result with every floating argument that has groups of its own."""
    pairs = []
    for path in functions():
        given = arguments(path, "cpu", False)
        names = [n for n, v in given.items() if isinstance(v, torch.Tensor) and v.is_floating_point()]
        pairs += [(path, name) for name in names if path not in NO_GROUPS]
    return pairs


@pytest.mark.parametrize(("path", "name"), poisons())
def test_where_values_are_not_read_a_nan_is_seen_in_its_own_group_and_there_only(
    path: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on an accelerator (deviation D6): what is not refused must not be hidden either.
    monkeypatch.setattr(arrays, "_readable", lambda x: False)
    given = arguments(path, "cpu", False)
    with torch.no_grad():
        given[name][0].view(-1)[0] = float("nan")
    for result in tensors(lookup(path)(**given)):
        if result.is_floating_point():
            rows = result.isnan().reshape(SHAPE[0], -1)
            assert rows.any(-1).tolist() == [True, False, False]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("path", functions())
def test_nothing_synchronises_on_cuda(path: str) -> None:
    given = arguments(path, "cuda", False)
    torch.cuda.set_sync_debug_mode("error")
    try:
        lookup(path)(**given)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("path", functions())
def test_compiles_into_one_graph_with_the_same_values(path: str) -> None:
    given = arguments(path, "cpu", True)
    torch.compiler.reset()
    compiled = torch.compile(lookup(path), fullgraph=True, backend="eager")
    for ours, theirs in zip(tensors(compiled(**given)), tensors(lookup(path)(**given)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def schedules() -> list[tuple[str, dict[str, float]]]:
    """Every function with float options, each option moved off its default as a schedule would."""
    found = []
    for path in functions():
        defaults = {p.name: p.default for p in inspect.signature(lookup(path)).parameters.values()}
        moved = {name: 0.9 * d + 0.05 for name, d in defaults.items() if isinstance(d, float)}
        if moved:
            found.append((path, moved))
    return found


@pytest.mark.parametrize(("path", "moved"), schedules())
def test_a_schedule_does_not_break_the_graph(path: str, moved: dict[str, float]) -> None:
    # The second value of an option makes torch.compile treat it as symbolic.
    given = arguments(path, "cpu", False)
    torch.compiler.reset()
    compiled = torch.compile(lookup(path), fullgraph=True, backend="eager")
    for options in ({}, moved):
        for ours, theirs in zip(
            tensors(compiled(**given, **options)), tensors(lookup(path)(**given, **options)), strict=True
        ):
            torch.testing.assert_close(ours, theirs)


def test_reading_a_value_is_noticed() -> None:
    x = torch.zeros(SHAPE, device="meta")
    for read in (lambda: x.sum().item(), lambda: bool((x > 0).any()), lambda: x[x > 0], lambda: x.cpu()):
        with pytest.raises((RuntimeError, NotImplementedError)):
            read()
