"""Token reversal on an accelerator: the CPU's answers, no synchronisation, replays equal to eager episodes."""

from __future__ import annotations

import gc
import json
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.gpu import reversal as gpu
from tpo_ref.study.chosen_rules import choose
from tpo_ref.study.context import Context
from tpo_torch.reversal import runs
from tpo_torch.reversal.engine.graph import Captured, garbage_collection_off
from tpo_torch.reversal.engine.training import ReversalTraining
from tpo_torch.reversal.settings import ReversalSettings
from tpo_torch.reversal.table import TABLE as METHODS

# As many slots in a block as the largest experiment has.
SMALL = ReversalSettings(horizon=8, batch=8, group=32, episodes=12)
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def test_the_script_runs_without_an_accelerator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # One tiny method and no experiment: what is left of the script is its plumbing.
    monkeypatch.setattr("sys.argv", ["gpu", "--device", "cpu", "--minutes", "0", "--out", str(tmp_path)])
    for name, value in {"METHODS": ("dg",), "HORIZON": 3, "SQUARE": 512, "FEW_SEEDS": (1,)}.items():
        monkeypatch.setattr(gpu, name, value)
    assert gpu.main() == 0
    assert "same gradient" in capsys.readouterr().out
    assert [row[1] for row in json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))["checks"]] == [
        "result",
        "holds",
        "holds",
    ]


@pytest.mark.skipif(torch.cuda.is_available(), reason="shows what happens without a CUDA device")
def test_a_missing_accelerator_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["gpu"])
    assert gpu.main() == 2
    assert "no CUDA device" in capsys.readouterr().err


@pytest.mark.gpu
@needs_cuda
def test_same_answers_and_gradient_as_on_the_cpu() -> None:
    assert {row[1] for row in gpu._correctness(torch.device("cuda"))} == {"holds"}


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("method", METHODS)
def test_an_episode_reads_nothing_back(method: str) -> None:
    training = ReversalTraining(method, SMALL, (0, 1), torch.device("cuda"))
    draws = training.draw().to(training.device)
    training.update(draws)
    torch.cuda.set_sync_debug_mode("error")
    try:
        training.update(draws)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("method", METHODS)
def test_replays_equal_eager_episodes_and_a_run_repeats(method: str) -> None:
    eager = ReversalTraining(method, SMALL, (0, 1), torch.device("cuda"))
    eager.start = eager._on_device
    curves = eager.train(SMALL.episodes)["error"]
    for _ in range(2):
        np.testing.assert_array_equal(runs.run(method, SMALL, (0, 1), Context(device="cuda"))["error"], curves)


def test_a_recording_sees_no_garbage_collection() -> None:
    # A run refers to its graph and the graph to the run, so that only the collector frees them.
    class Ring:
        def __init__(self) -> None:
            self.me = self

    before = weakref.ref(Ring())
    with garbage_collection_off():
        assert before() is None
        within = weakref.ref(Ring())
        [[] for _ in range(10 * sum(gc.get_threshold()))]
        assert within() is not None
    assert gc.isenabled()
    gc.collect()
    assert within() is None


@pytest.mark.gpu
@needs_cuda
def test_a_killed_run_goes_on_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(runs, "BLOCK_SECONDS", 0.0)
    monkeypatch.setattr(runs, "BLOCK", 5)
    whole = runs.run("tpo", SMALL, (0, 1), Context(device="cuda"))

    def stop(done: int, total: int) -> None:
        if done >= 2 * runs.BLOCK:
            raise KeyboardInterrupt

    path = tmp_path / "state.npz"
    with pytest.raises(KeyboardInterrupt):
        runs.run("tpo", SMALL, (0, 1), Context(device="cuda", checkpoint=path, progress=stop))
    resumed = runs.run("tpo", SMALL, (0, 1), Context(device="cuda", checkpoint=path))
    np.testing.assert_array_equal(resumed["error"], whole["error"])


@pytest.mark.gpu
@needs_cuda
def test_a_function_of_ones_own_is_not_recorded_and_trains_as_on_the_cpu(tmp_path: Path) -> None:
    (tmp_path / "my.py").write_text(
        "def mine(logp, logp_old, scores, mask, lengths):\n"
        "    return -(scores - scores.mean(-1, keepdims=True)) * mask\n",
        encoding="utf-8",
    )
    rule = choose(f"{tmp_path / 'my.py'}:mine")
    short = replace(SMALL, horizon=3, group=4, episodes=6, precision="float64")
    there, here = (runs.run("mine", short, (0, 1), Context(device=d, rule=rule)) for d in ("cuda", "cpu"))
    np.testing.assert_allclose(there["error"], here["error"], atol=1e-9)
    assert not isinstance(ReversalTraining(rule, short, (0,), torch.device("cuda")).start, Captured)
