"""A language model trained by any update rule: of the list, and of a file of the user's, exact however it is cut."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import tiny_llm
from hypothesis import given, settings
from hypothesis import strategies as st

from tpo_ref import rules as reference
from tpo_ref.study.cli import commands as cli
from tpo_torch import rules
from tpo_torch.llm import TargetPOConfig, TargetSettings, group_coefficients
from tpo_torch.llm.program.record import Folder
from tpo_torch.llm.program.settings import reading
from tpo_torch.llm.rule_groups import rule_of
from tpo_torch.llm.step_plan import Need, need

pytestmark = tiny_llm.FILTERS

RLOO = """
import numpy as np

print("was imported")


def rloo(logp, logp_old, scores, mask, lengths, strength=1.0):
    count = mask.sum(-1, keepdims=True)
    mean = (scores * mask).sum(-1, keepdims=True) / np.maximum(count, 1)
    advantages = (scores - mean) * count / np.maximum(count - 1, 1)
    return -strength * advantages / np.maximum(count, 1) * mask
"""


def own(folder: Path, text: str = RLOO) -> str:
    (folder / "mine.py").write_text(text, encoding="utf-8")
    return f"{folder / 'mine.py'}:rloo"


def trained(folder: Path, rule: str, **options: Any) -> list[torch.Tensor]:
    trainer, _ = tiny_llm.train(folder, rule=rule, anchor="ratio", **options)
    return [p.detach() for p in trainer.model.parameters()]


# -- coefficients -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(reference.RULES))
@settings(max_examples=10)
@given(seed=st.integers(0, 2**32 - 1))
def test_each_row_has_what_the_reference_gives_its_group(name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    count, size = int(rng.integers(1, 4)), int(rng.integers(1, 6))
    shape = (count, size)
    scores, lengths = rng.integers(0, 3, shape) / 2, rng.integers(1, 9, shape)
    old = rng.normal(-9, 3, shape)
    logp, valid = old + rng.normal(0, 0.3, shape), rng.random(shape) < 0.8
    expected = -reference.named(name).gradient(logp, old, scores, valid, lengths)
    if reference.named(name).reduction == reference.CANDIDATES:
        expected /= np.maximum(valid.sum(-1, keepdims=True), 1)
    order = rng.permutation(count * size)
    flat = (torch.as_tensor(x.reshape(-1)[order]) for x in (logp, old, scores))
    ids = torch.as_tensor(np.repeat(np.arange(count), size)[order])
    more = (torch.as_tensor(x.reshape(-1)[order]) for x in (lengths, valid))
    made = group_coefficients(*flat, ids, TargetSettings(rule=name), *more)
    np.testing.assert_allclose(made.c.numpy(), expected.reshape(-1)[order], rtol=1e-9, atol=1e-12)
    assert made.ids.tolist() == list(range(count))


@pytest.mark.parametrize("name", sorted(reference.RULES))
def test_coefficients_without_log_probabilities_are_those_at_the_snapshot(name: str) -> None:
    scores, ids = torch.tensor([1.0, 0.0, 0.5, 2.0]), torch.tensor([0, 0, 0, 1])
    at = torch.tensor([-3.0, -4.0, -5.0, -6.0], dtype=torch.double)
    with_them = group_coefficients(at, at, scores.double(), ids, TargetSettings(rule=name))
    if reference.RULES[name].reads == reference.POLICY:
        with pytest.raises(ValueError, match="expected log-probabilities"):
            group_coefficients(None, None, scores, ids, TargetSettings(rule=name))
    else:
        without = group_coefficients(None, None, scores.double(), ids, TargetSettings(rule=name))
        torch.testing.assert_close(without.c, with_them.c, rtol=1e-12, atol=1e-12)


def test_a_rule_of_the_batch_sees_each_batch_alone() -> None:
    scores = torch.tensor([1.0, 0.0, 5.0, 3.0], dtype=torch.double)
    ids, batches = torch.tensor([0, 0, 1, 1]), torch.tensor([1, 1, 2, 2])
    both = group_coefficients(None, None, scores, ids, TargetSettings(rule="reinforce_pp"), batches=batches)
    first = group_coefficients(None, None, scores[:2], ids[:2], TargetSettings(rule="reinforce_pp"))
    torch.testing.assert_close(both.c[:2], first.c)
    assert not torch.allclose(
        both.c, group_coefficients(None, None, scores, ids, TargetSettings(rule="reinforce_pp")).c
    )


# -- what a step waits for --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reads", [rules.SCORES, rules.MOVED, rules.POLICY])
def test_a_step_waits_for_no_more_than_it_needs(reads: str) -> None:
    for whole_batch, whole, shuffled, moved, old_known in product([False, True], repeat=5):
        waits = need(reads, whole_batch, whole, shuffled, moved, old_known)
        unread = reads == rules.SCORES or (reads == rules.MOVED and not moved)
        assert (waits is Need.NOTHING) == unread
        in_training = whole and not shuffled and not whole_batch
        assert (waits is Need.TRAINING_PASS) == (in_training and not unread)
        assert (waits is Need.OLD) == (not unread and not in_training and old_known and not moved)


# -- the trainer ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["rloo", "dg", "reinforce_pp", "own"])
def test_a_rule_is_exact_however_the_batch_is_cut(rule: str, tmp_path: Path) -> None:
    rule = own(tmp_path) if rule == "own" else rule
    whole = trained(tmp_path / "whole", rule, **tiny_llm.cut(8, num_iterations=2))
    for name in ("half a group per micro-batch", "one row per micro-batch", "rows shuffled"):
        layout = tiny_llm.LAYOUTS[name] | {"num_iterations": 2}
        for a, b in zip(whole, trained(tmp_path / name, rule, **layout), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_a_file_of_ones_own_trains_as_the_rule_of_that_name(tmp_path: Path) -> None:
    named = trained(tmp_path / "named", "rloo", **tiny_llm.cut(8))
    for a, b in zip(named, trained(tmp_path / "own", own(tmp_path), **tiny_llm.cut(8)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    twice = trained(tmp_path / "twice", own(tmp_path) + ",strength=2.0", **tiny_llm.cut(8))
    assert any(not torch.allclose(a, b) for a, b in zip(named, twice, strict=True))


def test_a_rule_logs_its_loss_and_no_anchor(tmp_path: Path) -> None:
    trainer, _ = tiny_llm.train(tmp_path, rule="rloo", anchor="ratio", **tiny_llm.cut(2, 4))
    logged = {name for entry in trainer.state.log_history for name in entry}
    assert {"rule/loss", "rule/max_coefficient", "group/zero_variance", "entropy"} <= logged
    assert not [name for name in logged if name.startswith(("tpo/", "anchor/", "policy_anchor/"))]
    steps = [entry for entry in trainer.state.log_history if "rule/loss" in entry]
    length = trainer._length()
    assert steps[-1]["loss"] == pytest.approx(steps[-1]["rule/loss"], abs=1e-4) or length == 1.0


# -- configuration ----------------------------------------------------------------------------------------------------


def test_an_object_of_the_list_is_kept_as_its_text(tmp_path: Path) -> None:
    config = TargetPOConfig(str(tmp_path), rule=rules.named("grpo", epsilon=0.1), bf16=False, use_cpu=True)
    assert config.rule == config.target.rule == "grpo,epsilon=0.1"
    for wrong in (rules.OwnRule("mine", lambda *_: None), len):
        with pytest.raises(TypeError, match="write a function of yours into a file"):
            TargetPOConfig(str(tmp_path), rule=wrong, bf16=False, use_cpu=True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rule": "mxrl"}, "did you mean 'maxrl'"),
        ({"rule": "rloo,eta=1"}, "option of rule rloo.*no options"),
        ({"rule": "grpo,epsilon=-1"}, "epsilon: got -1"),
        ({"rule": "rloo", "eta": 0.5}, "eta: got 0.5 beside rule 'rloo'.*rule=rloo,OPTION=VALUE"),
        ({"rule": "rloo", "anchor": "policy"}, "anchor: got 'policy' beside rule"),
        ({"rule": "rloo", "score_scale": "none"}, "score_scale: got 'none' beside rule"),
        ({"rule": "my.txt:mine"}, "FILE.py"),
    ],
)
def test_what_does_not_go_with_a_rule_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        rule_of(TargetSettings(**options))


# -- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def micro(*more: str) -> int:
    return cli.run(["train", "tiny", *tiny_llm.MICRO, *more])


@pytest.mark.usefixtures("_elsewhere")
def test_a_run_is_called_by_its_rule_and_keeps_its_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own(tmp_path)
    assert micro("rule=mine.py:rloo,strength=2.0") == 0
    folder = Folder(tmp_path / "runs" / "llm" / "micro-mine.rloo-strength=2.0")
    record = folder.read()
    assert record["settings"]["rule"] == f"{tmp_path / 'mine.py'}:rloo,strength=2.0"
    assert record["settings"]["method"] == "tpo"
    assert len(record["rule_sha256"]) == 64
    assert cli.run(["figure", str(folder.path)]) == 0
    assert "mine.rloo-strength=2.0" in capsys.readouterr().out
    # Its weights are evaluated without its rule.
    own(tmp_path, "raise SystemExit('was run')")
    assert cli.run(["eval", str(folder.path), "evaluation.samples=0"]) == 0


@pytest.mark.usefixtures("_elsewhere")
def test_a_rule_that_only_a_configuration_names_is_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "theirs.yaml").write_text(f"base: tiny\nrule: {own(tmp_path)}\n", encoding="utf-8")
    assert cli.run(["train", "theirs.yaml", *tiny_llm.MICRO, "--dry-run"]) == cli.USAGE_ERROR
    shown = capsys.readouterr()
    assert "asks to run the Python file" in shown.err
    assert "--trust-code" in shown.err
    assert "was imported" not in shown.out
    assert reading.load("theirs.yaml", trust_code=True).rule_trusted
    assert not reading.load("theirs.yaml", ["task=gym:chain_sum"]).rule_trusted
    assert not reading.load("tiny", [f"rule={own(tmp_path)}"]).trusted


@pytest.mark.usefixtures("_elsewhere")
def test_a_run_goes_on_with_the_rule_that_it_began_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tpo_torch.llm import trainer

    text, steps = own(tmp_path), []
    close = trainer.TargetPOTrainer._close_window

    def interrupted(self: Any) -> None:
        close(self)
        steps.append(1)
        if len(steps) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(trainer.TargetPOTrainer, "_close_window", interrupted)
    assert micro(f"rule={text}") == cli.INTERRUPTED
    capsys.readouterr()
    own(tmp_path, RLOO + "# changed\n")
    assert micro(f"rule={text}", "--resume") == cli.USAGE_ERROR
    assert "code of the rule's file" in capsys.readouterr().err
    own(tmp_path)
    assert micro(f"rule={text}", "--resume") == 0
    # A finished run is no run of another rule.
    capsys.readouterr()
    own(tmp_path, RLOO + "# changed\n")
    assert micro(f"rule={text}") == cli.USAGE_ERROR
    assert "holds a finished run of other code (that of the rule's file)" in capsys.readouterr().err


@pytest.mark.usefixtures("_elsewhere")
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["rule=mxrl"], "did you mean 'maxrl'"),
        (["tpo.rule=maxrl"], "tpo.rule: is no option of the trainer here; write rule="),
        (["rule=maxrl", "tpo.eta=0.5"], "tpo.eta: got 0.5 beside rule 'maxrl'"),
        (["rule=maxrl", "--method", "grpo"], "beside method grpo"),
        (["rule=maxrl", "--method", "lpo"], "beside method lpo"),
        (["rule=none.py:mine"], "none.py: no such file"),
        (["rule=3"], "rule: got 3"),
    ],
)
def test_mistakes_are_told_in_one_line(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert micro(*words) == cli.USAGE_ERROR
    said = capsys.readouterr().err
    assert says in said
    assert len(said.strip().splitlines()) == 1
