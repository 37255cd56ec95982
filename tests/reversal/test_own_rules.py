"""Any rule of the list, and of the user's own, on the sequence tasks: by each grouping, resumed, stored."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st

from tpo_ref import rules as reference
from tpo_ref.study.chosen_rules import choose
from tpo_ref.study.cli import commands as cli
from tpo_ref.study.context import Context
from tpo_torch import rules
from tpo_torch.reversal import runs
from tpo_torch.reversal.engine.training import ReversalTraining
from tpo_torch.reversal.methods import GROUPINGS, resolve
from tpo_torch.reversal.settings import ReversalSettings

TINY = ReversalSettings(horizon=2, batch=6, group=4, episodes=3, epochs=2)
MINE = """
import numpy as np

def mine(logp, logp_old, scores, mask, lengths, strength=1.0):
    count = np.maximum(mask.sum(-1, keepdims=True), 1)
    return -strength * (scores - (scores * mask).sum(-1, keepdims=True) / count) * mask
"""


def mine(folder: Path) -> str:
    (folder / "my.py").write_text(MINE, encoding="utf-8")
    return f"{folder / 'my.py'}:mine"


def run(text: str, grouping: str = "", settings: ReversalSettings = TINY, **context: Any) -> dict[str, np.ndarray]:
    rule = choose(text)
    return dict(runs.run(rule.method, settings, (3, 5), Context(rule=rule, grouping=grouping, **context)))


def written_out(name: str, grouping: str, logp: np.ndarray, old: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Gradient of one seed's loss, the mean over its B prompts, by the rule of `tpo_ref`: logp (B, K), (B, H, K), or
    (B, H) where the prompts at a position are a group."""
    rule, prompts = reference.named(name), len(logp)
    if grouping != "batch":
        return rule.gradient(logp, old, scores) / logp[..., 0].size
    # Position by position, unless all are one batch.
    parts = [slice(None)] if rule.whole_batch else [slice(t, t + 1) for t in range(logp.shape[1])]
    g = np.concatenate([rule.gradient(logp[:, t].T, old[:, t].T, scores[:, t].T).T for t in parts], 1)
    return g / prompts if rule.reduction == "candidates" else g


@pytest.mark.parametrize("name", sorted(rules.RULES))
@profile(max_examples=10)
@given(seed=st.integers(0, 10_000), later=st.booleans())
def test_the_gradient_of_a_grouping_is_the_rules_written_out(name: str, seed: int, later: bool) -> None:
    """Of the mean over prompts of losses that are sums over candidates; a seed is a batch of its own."""
    rng = np.random.default_rng(seed)
    for grouping, shape in {"group": (2, 5, 3), "token": (2, 5, 4, 3), "batch": (2, 5, 4)}.items():
        old = np.log(rng.uniform(0.05, 1.0, shape))
        logp = old + (0.05 * rng.normal(size=shape) if later else 0.0)
        scores = rng.integers(0, 2, shape).astype(float)
        method = resolve(choose(name), TINY, grouping)
        got = method.freeze(torch.tensor(old), torch.tensor(scores))(torch.tensor(logp))
        expected = np.stack([written_out(name, grouping, logp[s], old[s], scores[s]) for s in range(2)])
        np.testing.assert_allclose(got.numpy(), expected, rtol=1e-7, atol=1e-10, err_msg=grouping)


@pytest.mark.parametrize("grouping", GROUPINGS)
@pytest.mark.parametrize("rule", sorted(rules.RULES))
def test_no_rule_reads_back_from_a_device(rule: str, grouping: str) -> None:
    # A meta tensor has no values to read: what would synchronise a GPU, or end a recording, fails here.
    training = ReversalTraining(choose(rule), TINY, (0, 1), torch.device("meta"), grouping)
    assert all(figure.is_meta and figure.shape == (2,) for figure in training.episode().values())


@pytest.mark.parametrize("grouping", GROUPINGS)
@pytest.mark.parametrize("rule", ["grpo_masked", "reinforce_pp"])
def test_a_rule_of_the_batch_trains_each_seed_as_alone(rule: str, grouping: str) -> None:
    precise = replace(TINY, precision="float64")
    together, alone = (
        ReversalTraining(choose(rule), precise, seeds, torch.device("cpu"), grouping).train(3)
        for seeds in ((3, 5), (5,))
    )
    for name in alone:
        np.testing.assert_allclose(together[name][1:], alone[name], rtol=1e-7, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("grouping", GROUPINGS)
@pytest.mark.parametrize("rule", sorted(rules.RULES))
def test_every_rule_trains_by_every_grouping(rule: str, grouping: str) -> None:
    arrays = run(rule, grouping)
    assert arrays["error"].shape == (2, TINY.episodes)
    assert np.isfinite(arrays["error"]).all()
    assert ("anchor_tv" in arrays) == (grouping != "batch")


@pytest.mark.parametrize(
    ("method", "text", "grouping"),
    [
        ("tpo", "tpo", "group"),
        ("tpo_ratio", "lpo", "group"),
        ("grpo", "grpo,epsilon_std=1e-8,log_ratio_limit=20", "group"),
        ("grpo_masked", "grpo_masked,epsilon_std=1e-8,log_ratio_limit=20", "group"),
        ("group_pg", "group_pg", "group"),
        ("tpo_token", "tpo", "token"),
        ("ppo", "ppo", "batch"),
        ("dg", "dg", "batch"),
        ("pg", "pg", "batch"),
    ],
)
def test_a_rule_by_name_is_the_method_of_the_table(method: str, text: str, grouping: str) -> None:
    own, named = run(text, grouping), runs.run(method, TINY, (3, 5))
    assert set(own) == set(named)
    for name in named:
        np.testing.assert_array_equal(own[name], named[name])


@pytest.mark.parametrize("grouping", GROUPINGS)
def test_a_file_of_ones_own_trains_as_the_rule_that_it_writes_out(grouping: str, tmp_path: Path) -> None:
    precise = replace(TINY, precision="float64")
    own, named = run(mine(tmp_path), grouping, precise), run("pg", grouping, precise)
    np.testing.assert_allclose(own["error"], named["error"], atol=1e-12)
    # What a function returns is used as it is; of the list's, the loss of a batch is the mean over its prompts.
    factor = TINY.batch if grouping == "batch" else 1
    np.testing.assert_allclose(own["gradient_norm"][:, 0], factor * named["gradient_norm"][:, 0], rtol=1e-9)


def test_how_many_steps_a_chosen_rule_takes() -> None:
    settings = replace(TINY, epochs=None)
    steps = {name: resolve(choose(name), settings).sampling.epochs for name in ("dg", "pg", "grpo", "rloo", "rebel")}
    assert steps == {"dg": 1, "pg": 1, "grpo": 4, "rloo": 1, "rebel": 4}
    with pytest.raises(ValueError, match="did you mean 'group'"):
        resolve(choose("pg"), settings, "groups")


def test_a_function_named_as_a_method_takes_the_steps_of_any_function(tmp_path: Path) -> None:
    (tmp_path / "my.py").write_text(MINE.replace("def mine", "def dg"), encoding="utf-8")
    chosen = choose(f"{tmp_path / 'my.py'}:dg")
    assert resolve(chosen, replace(TINY, epochs=None)).sampling.epochs == 4


def test_a_run_goes_on_with_its_own_rule_alone(tmp_path: Path) -> None:
    text, checkpoint = mine(tmp_path), tmp_path / "state.npz"

    def stop(count: int, total: int) -> None:
        if count >= 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(text, checkpoint=checkpoint, progress=stop)
    (tmp_path / "my.py").write_text(MINE + "# other\n", encoding="utf-8")
    with pytest.raises(ValueError, match="of another run"):
        run(text, checkpoint=checkpoint)
    with pytest.raises(ValueError, match="of another run"):
        run(mine(tmp_path), "batch", checkpoint=checkpoint)
    went_on = run(mine(tmp_path), checkpoint=checkpoint)
    np.testing.assert_array_equal(went_on["error"], run(text)["error"])


def test_a_figure_draws_a_rule_beside_a_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    mine(tmp_path)
    words = ["figure", "terminal-h4", "--rule", "my.py:mine", "--methods", "tpo", "--scale", "smoke", "--seeds", "1"]
    assert cli.run(words) == 0, capsys.readouterr().err
    assert {path.name.partition("-")[0] for path in (tmp_path / "runs/terminal-h4").glob("*.json")} == {"mine", "tpo"}
    assert list(tmp_path.rglob("*.png"))


def test_the_command_runs_a_file_and_keeps_its_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    mine(tmp_path)
    words = ["run", "terminal-h4", "--scale", "smoke", "--seeds", "1", "--rule", "my.py:mine,strength=2"]
    assert cli.run(words) == 0
    shown = capsys.readouterr()
    assert "mine-strength=2" in shown.out
    (path,) = (tmp_path / "runs/terminal-h4").glob("mine-*.json")
    assert json.loads(path.read_text(encoding="utf-8"))["rule"]["options"] == {"strength": 2}
    assert cli.run([*words, "--grouping", "token"]) == cli.USAGE_ERROR
    assert "expected one of group, batch" in capsys.readouterr().err
