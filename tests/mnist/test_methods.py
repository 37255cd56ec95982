"""Any rule of the list, and of the user's own, on MNIST: trained, resumed, stored, by either grouping."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.digits import DATA, SMALL

from tpo_ref.study.chosen_rules import choose
from tpo_ref.study.cli import commands as cli
from tpo_ref.study.context import Context
from tpo_torch.mnist import runs
from tpo_torch.mnist.methods import GROUPINGS, RULES, Method, act, resolve
from tpo_torch.mnist.table import METHODS

MINE = """
import numpy as np

def mine(logp, logp_old, scores, mask, lengths):
    count = np.maximum(mask.sum(-1, keepdims=True), 1)
    return -(scores - (scores * mask).sum(-1, keepdims=True) / count) * mask / count
"""
SETTINGS = replace(SMALL, mechanism_update=None)


def mine(folder: Path) -> str:
    (folder / "my.py").write_text(MINE, encoding="utf-8")
    return f"{folder / 'my.py'}:mine"


def run(text: str, grouping: str, **context: Any) -> dict[str, np.ndarray]:
    rule = choose(text)
    return dict(runs.run(rule.method, SETTINGS, (3, 5), DATA, Context(rule=rule, grouping=grouping, **context)))


@pytest.mark.parametrize("grouping", [g for g in GROUPINGS if g != "batch"])
def test_a_rule_that_divides_by_successes_refuses_what_is_below_zero(grouping: str) -> None:
    feedback = act(torch.zeros(2, 6, 10), torch.zeros(2, 6, dtype=torch.long), torch.full((2, 6), 0.5))
    with pytest.raises(ValueError, match="shift them, or use centred"):
        resolve(choose("maxrl"), SETTINGS, grouping).losses(feedback)


def test_the_general_form_of_tpo_has_the_gradient_of_its_fast_form() -> None:
    logits = torch.randn(2, 50, 10, generator=torch.Generator().manual_seed(0), dtype=torch.double).requires_grad_()
    labels = torch.randint(10, (2, 50), generator=torch.Generator().manual_seed(1))
    feedback = act(logits, labels, torch.rand(2, 50, generator=torch.Generator().manual_seed(2)).double())
    fast = resolve("tpo", SETTINGS)
    for method in (fast, Method(fast.rule, "classes")):
        (g,) = torch.autograd.grad(method.losses(feedback).mean(-1).sum(), logits, retain_graph=True)
        if method is fast:
            expected = g
    torch.testing.assert_close(g, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("grouping", GROUPINGS)
def test_a_file_of_ones_own_trains_as_the_rule_that_it_writes_out(grouping: str, tmp_path: Path) -> None:
    own, named = run(mine(tmp_path), grouping), run("pg", grouping)
    np.testing.assert_allclose(own["test_error"], named["test_error"], atol=0.02)
    assert np.isnan(own["mechanism_gain"]).all()


def test_a_rule_of_the_batch_trains_each_seed_as_alone() -> None:
    rule = choose("reinforce_pp")
    together = run("reinforce_pp", "batch")
    alone = runs.run("reinforce_pp", SETTINGS, (5,), DATA, Context(rule=rule, grouping="batch"))
    np.testing.assert_array_equal(together["test_error"][1], alone["test_error"][0])


def test_a_run_goes_on_with_its_own_rule_alone(tmp_path: Path) -> None:
    text, checkpoint = mine(tmp_path), tmp_path / "state.npz"

    def stop(count: int, total: int) -> None:
        if count >= SETTINGS.eval_every:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(text, "batch", checkpoint=checkpoint, progress=stop)
    assert checkpoint.exists()
    with pytest.raises(ValueError, match="of another run"):
        run(text, "classes", checkpoint=checkpoint)
    (tmp_path / "my.py").write_text(MINE + "# other\n", encoding="utf-8")
    with pytest.raises(ValueError, match="of another run"):
        run(text, "batch", checkpoint=checkpoint)
    went_on = run(mine(tmp_path), "batch", checkpoint=checkpoint)
    np.testing.assert_array_equal(went_on["test_error"], run(text, "batch")["test_error"])


def test_unknown_names_and_groupings_are_answered_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'tpo'"):
        resolve("tpp", SETTINGS)
    with pytest.raises(ValueError, match="did you mean 'classes'"):
        resolve(choose("pg"), SETTINGS, "class")
    assert tuple(RULES) == METHODS


def test_a_figure_draws_a_rule_beside_a_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runs, "load_data", lambda: DATA)
    mine(tmp_path)
    words = ["figure", "mnist", "--rule", "my.py:mine", "--methods", "tpo", "--scale", "smoke", "--seeds", "1"]
    code = cli.run(words)
    shown = capsys.readouterr()
    assert code == 0, shown.err
    assert {path.name.partition("-")[0] for path in (tmp_path / "runs/mnist").glob("*.json")} == {"mine", "tpo"}
    assert list(tmp_path.rglob("*.png"))


def test_the_command_keeps_the_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runs, "load_data", lambda: DATA)
    mine(tmp_path)
    words = ["run", "mnist", "--scale", "smoke", "--seeds", "1", "--rule", "my.py:mine", "--grouping", "batch"]
    code = cli.run(words)
    shown = capsys.readouterr()
    assert code == 0, shown.err
    (path,) = (tmp_path / "runs/mnist").glob("mine-*.json")
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record["rule"]["grouping"] == "batch"
    assert len(record["rule"]["sha256"]) == 64
