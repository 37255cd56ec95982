"""Runs of token reversal: whole episodes against the clear twin, stacked seeds, resumption, stopping, bad input."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tpo_ref.study.context import Context
from tpo_ref.study.protocol import Arrays
from tpo_torch.mnist.settings import MnistSettings
from tpo_torch.reversal import runs
from tpo_torch.reversal.clear import ClearTraining
from tpo_torch.reversal.engine import dense
from tpo_torch.reversal.engine.training import METRICS, ReversalTraining
from tpo_torch.reversal.settings import ReversalSettings
from tpo_torch.reversal.table import SINGLE, TOKEN
from tpo_torch.reversal.table import TABLE as METHODS
from tpo_torch.shared.transformer import CausalTransformer

CPU = torch.device("cpu")
TINY = ReversalSettings(vocab=3, horizon=3, batch=4, group=3, episodes=6, precision="float64")
# A quarter of all answers right: no batch without a signal, whose pull is rounding and differs between engines.
TERMINAL = replace(TINY, vocab=2, horizon=2, batch=6, reward="terminal")
# A run of three blocks of two episodes.
SMALL = replace(TINY, batch=3, precision="float32")
TASKS = [
    *((method, TINY) for method in METHODS),
    *((method, replace(TINY, reward="sequential", target="flip")) for method in ("tpo", "tpo_token", "dg")),
    *((method, TERMINAL) for method in ("tpo", "grpo_masked", "ppo")),
    ("grpo", replace(TINY, epochs=2, epsilon=0.01, beta=0.5, target="copy")),
    ("tpo", replace(TINY, eta=0.3, target="reverse_flip", learning_rate=3e-3)),
    ("dg", replace(TINY, dg_eta=0.3, epochs=3)),
]


def parameters(net: CausalTransformer, seed: int = 0) -> dict[str, Tensor]:
    """Of one seed, without the biases of keys.

    A key's bias moves every score of a softmax alike, so its gradient is 0 but for rounding, and Muon makes full steps
    of that in single precision, and in double what its ε of 1e-8 leaves: two engines differ there for no reason.
    """
    found = {name: p.detach()[seed] for name, p in net.named_parameters()}
    found["attention_in_bias"] = found["attention_in_bias"][:, [0, 2]]
    return found


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor], atol: float = 1e-9) -> None:
    # A step is of 1e-3: 1e-9 is a millionth of it.
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=atol, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.paper("Fig. 5")
@pytest.mark.paper("Fig. 6")
@pytest.mark.paper("Fig. 7")
@pytest.mark.parametrize(("method", "settings"), TASKS, ids=lambda x: x if isinstance(x, str) else x.reward)
@pytest.mark.parametrize("engine", ["merged", "dense"])
def test_an_episode_is_the_clear_twins(engine: str, method: str, settings: ReversalSettings) -> None:
    training, clear = ReversalTraining(method, settings, (7,), CPU), ClearTraining(method, settings, 7)
    if engine == "dense":
        training.generate = dense.generate
    for _ in range(2):
        figures = training.episode()
        assert figures["error"].item() == pytest.approx(clear.episode(), abs=1e-12)
        assert_same(parameters(training.net), parameters(clear.net))
        for (name, ours), theirs in zip(training.net.named_parameters(), clear.net.parameters(), strict=True):
            assert ours.grad is not None
            assert theirs.grad is not None
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-6, atol=1e-9, msg=lambda m, n=name: n + m)


@pytest.mark.parametrize("method", METHODS)
def test_a_seed_trains_as_it_would_alone(method: str) -> None:
    together = ReversalTraining(method, TINY, (3, 5, 11), CPU)
    alone = ReversalTraining(method, TINY, (5,), CPU)
    both, own = (training.train(2) for training in (together, alone))
    assert both.keys() == own.keys()
    for name in own:
        np.testing.assert_allclose(both[name][1:2], own[name], rtol=1e-7, atol=1e-9, err_msg=name)
    assert_same(parameters(together.net, 1), parameters(alone.net))


@pytest.mark.parametrize("method", METHODS)
def test_an_episode_reads_nothing_back_from_the_device(method: str) -> None:
    # A meta tensor has no values to read: whatever would synchronise a GPU fails here.
    training = ReversalTraining(method, SMALL, (0, 1), torch.device("meta"))
    figures = training.episode()
    assert all(figure.is_meta and figure.shape == (2,) for figure in figures.values())


def test_wide_methods_take_more_prompts_at_a_larger_rate() -> None:
    narrow, wide = (ReversalTraining(name, TINY, (0,), CPU) for name in ("dg", "dg_wide"))
    assert narrow.draw().uniforms.shape == (1, 4, 1, 3)
    assert wide.draw().uniforms.shape == (1, 4 * 3, 1, 3)
    rates = [training.optimizer.param_groups[0]["lr"] for training in (narrow, wide)]
    assert rates == [1e-3, pytest.approx(1e-3 * 3**0.5)]
    # As many answers as a grouped method samples.
    assert ReversalTraining("tpo", TINY, (0,), CPU).draw().uniforms.shape == (1, 4, 3, 3)
    assert ReversalTraining("tpo_token", TINY, (0,), CPU).draw().more.shape == (1, 4, 3, 2)


@pytest.mark.parametrize("method", ["tpo", "tpo_ratio", "grpo", "grpo_no_kl", "grpo_masked", "group_pg"])
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_a_batch_that_fails_throughout_moves_nothing(method: str, precision: str) -> None:
    # 4⁸ answers, 12 of them tried: the optimiser would make full steps of what rounding leaves of a zero gradient.
    settings = replace(TINY, vocab=4, horizon=8, reward="terminal", precision=precision)
    training = ReversalTraining(method, settings, (0,), CPU)
    before = {name: p.detach().clone() for name, p in training.net.named_parameters()}
    figures = training.episode()
    assert figures["error"].item() == figures["all_fail"].item() == 1
    assert figures["success"].item() == 0
    assert figures["gradient_norm"].item() == 0
    for name, p in training.net.named_parameters():
        assert torch.equal(p, before[name]), name


@pytest.mark.parametrize("method", ["tpo", "dg", "grpo_token"])
def test_figures_are_of_the_batch_before_the_update(method: str) -> None:
    arrays = runs.run(method, SMALL, (4, 9))
    assert all(curve.shape == (2, 6) and curve.dtype == np.float64 for curve in arrays.values())
    assert set(arrays) <= set(METRICS)
    assert {"error", "gradient_norm"} <= set(arrays)
    assert np.isfinite(arrays["error"]).all()
    assert ((arrays["error"] >= 0) & (arrays["error"] <= 1)).all()
    assert (arrays["gradient_norm"] > 0).any(1).all()
    grouped = METHODS[method].samples != SINGLE
    assert ("all_fail" in arrays) == grouped
    assert ("duplicates" in arrays) == (grouped and METHODS[method].samples != TOKEN)
    # The first batch is sampled from the initial policy, whatever the method makes of it afterwards.
    slower = runs.run(method, replace(SMALL, learning_rate=1e-9), (4, 9))
    np.testing.assert_array_equal(arrays["error"][:, 0], slower["error"][:, 0])
    assert (arrays["error"] != slower["error"]).any()


def test_the_gradient_norm_is_that_of_the_first_gradient() -> None:
    training, clear = (ReversalTraining("tpo", replace(TINY, epochs=n), (2,), CPU) for n in (4, 1))
    norm = training.episode()["gradient_norm"]
    clear.episode()
    gradient = torch.cat([p.grad.flatten() for p in clear.net.parameters() if p.grad is not None])
    assert norm.item() == pytest.approx(gradient.norm().item(), rel=1e-9)


def test_a_run_is_reproducible_and_does_not_touch_the_global_generator() -> None:
    before = torch.get_rng_state()
    first, second = (runs.run("tpo", SMALL, (0, 1)) for _ in range(2))
    assert_equal_bits(first, second)
    assert torch.equal(before, torch.get_rng_state())
    # A seed's curve does not depend on which others run beside it, nor on their order.
    for beside in ((1,), (1, 5)):
        other = runs.run("tpo", SMALL, beside)
        assert_equal_bits({n: c[1:] for n, c in first.items()}, {n: c[:1] for n, c in other.items()})


def test_aliases_run_as_what_they_name() -> None:
    assert_equal_bits(runs.run("reinforce", SMALL, (0,)), runs.run("pg", SMALL, (0,)))


@pytest.mark.parametrize(("method", "episodes"), [("tpo", 50), ("tpo_token", 50), ("dg", 120)])
def test_learns(method: str, episodes: int) -> None:
    error = runs.run(method, ReversalSettings(horizon=2, batch=32, episodes=episodes), (0,))["error"]
    # Chance is a half; DG takes one step per episode, the others four.
    assert error[:, 0].min() > 0.3
    assert error[:, -5:].mean() < 0.03


class Killed(Exception):
    """Stands for kill -9: raised where nothing in the run can catch it."""


@pytest.fixture
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of two episodes, and a checkpoint after each."""
    monkeypatch.setattr(runs, "BLOCK", 2)
    monkeypatch.setattr(runs, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(runs, "BLOCK_SECONDS", 0.0)


@pytest.mark.usefixtures("_hasty")
@pytest.mark.parametrize("method", ["tpo", "grpo_token"])
def test_a_killed_run_continues_bit_for_bit(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = runs.run(method, SMALL, (0, 1))
    for moment in (2, 6):
        path = tmp_path / f"{moment}.npz"

        def kill(done: int, total: int, moment: int = moment) -> None:
            if done == moment:
                raise Killed

        with pytest.raises(Killed):
            runs.run(method, SMALL, (0, 1), Context(checkpoint=path, progress=kill))
        calls: list[tuple[int, int]] = []
        resumed = runs.run(
            method, SMALL, (0, 1), Context(checkpoint=path, progress=lambda *call, calls=calls: calls.append(call))
        )
        assert calls == [(done, 6) for done in range(moment, 7)]
        assert_equal_bits(whole, resumed)
    # In the middle of a block: what was computed since the last checkpoint is computed again.
    path, count, episode = tmp_path / "middle.npz", [0], ReversalTraining.episode

    def fail(self: ReversalTraining) -> dict[str, Tensor]:
        count[0] += 1
        if count[0] == 7:
            raise Killed
        return episode(self)

    monkeypatch.setattr(ReversalTraining, "episode", fail)
    with pytest.raises(Killed):
        runs.run(method, SMALL, (0, 1), Context(checkpoint=path))
    monkeypatch.setattr(ReversalTraining, "episode", episode)
    assert_equal_bits(whole, runs.run(method, SMALL, (0, 1), Context(checkpoint=path)))


@pytest.mark.usefixtures("_hasty")
def test_a_process_that_was_killed_continues_bit_for_bit(tmp_path: Path) -> None:
    path = tmp_path / "partial.npz"
    # Killed in the middle of a block, after the first seed's part of it.
    program = (
        "import os, signal, sys, torch; from pathlib import Path; import test_training as t\n"
        "torch.set_num_threads(1); t.runs.CHECKPOINT_SECONDS = t.runs.BLOCK_SECONDS = 0.0\n"
        "episode, count = t.ReversalTraining.episode, []\n"
        "def die(self):\n"
        "    count.append(0)\n"
        "    return os.kill(os.getpid(), signal.SIGKILL) if len(count) == 10 else episode(self)\n"
        "t.ReversalTraining.episode = die\n"
        "t.runs.run('tpo', t.SMALL, (0, 1), t.Context(checkpoint=Path(sys.argv[1])))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    killed = subprocess.run([sys.executable, "-c", program, str(path)], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    starts: list[int] = []
    resumed = runs.run("tpo", SMALL, (0, 1), Context(checkpoint=path, progress=lambda done, _: starts.append(done)))
    assert starts[0] == 4
    assert_equal_bits(runs.run("tpo", SMALL, (0, 1)), resumed)


@pytest.mark.usefixtures("_hasty")
def test_a_checkpoint_of_another_run_is_refused_with_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "partial.npz"
    runs.run("tpo", SMALL, (0, 1), Context(checkpoint=path))
    others: list[tuple[str, ReversalSettings, tuple[int, ...], str]] = [
        ("tpo_ratio", SMALL, (0, 1), "method = 'tpo' there, 'tpo_ratio' here"),
        ("tpo", replace(SMALL, eta=2.0), (0, 1), "eta"),
        ("tpo", SMALL, (0, 2), "seeds"),
        ("tpo", SMALL, (1, 0), "seeds"),
    ]
    for method, settings, seeds, message in others:
        with pytest.raises(ValueError, match=message):
            runs.run(method, settings, seeds, Context(checkpoint=path))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="truncated"):
        runs.run("tpo", SMALL, (0, 1), Context(checkpoint=path))
    np.savez(path, x=np.zeros(1))
    with pytest.raises(ValueError, match="no checkpoint"):
        runs.run("tpo", SMALL, (0, 1), Context(checkpoint=path))


@given(
    seed=st.integers(0, 2**32 - 1),
    episodes=st.integers(1, 160),
    share=st.sampled_from([0.9, 0.98, 0.995, 1.0]),
)
def test_a_run_stops_after_so_many_episodes_below_the_level(seed: int, episodes: int, share: float) -> None:
    # Two seeds, whose mean decides: below the level of 0.1 in most episodes.
    rng = np.random.default_rng(seed)
    error = np.where(rng.random(episodes) < share, 0.05, 0.15) + rng.uniform(-0.05, 0.05, (2, episodes))
    below = error.mean(0) < 0.1
    run = runs.STOP_COUNT
    ends = [n for n in range(run, episodes + 1) if below[n - run : n].all()]
    settings = replace(SMALL, stop_below=0.1)
    assert runs._stop({"error": error}, settings) == (ends[0] if ends else None)
    assert runs._stop({"error": error}, SMALL) is None
    assert runs._stop({}, settings) is None


@pytest.mark.usefixtures("_hasty")
def test_where_a_run_stops_does_not_depend_on_its_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "STOP_COUNT", 4)
    may_stop = replace(SMALL, vocab=2, horizon=1, batch=8, episodes=14, stop_below=0.3)
    whole = runs.run("tpo", replace(may_stop, stop_below=None), (0, 1))
    below = whole["error"].mean(0) < 0.3
    stop = next(n for n in range(4, 14) if below[n - 4 : n].all())
    assert stop < 14
    stopped = []
    for block in (1, 5, 14):
        monkeypatch.setattr(runs, "BLOCK", block)
        calls: list[tuple[int, int]] = []
        path = tmp_path / f"{block}.npz"
        progress = lambda *call, calls=calls: calls.append(call)  # noqa: E731
        stopped.append(runs.run("tpo", may_stop, (0, 1), Context(checkpoint=path, progress=progress)))
        # A run that has stopped is done.
        assert calls[-1] == (14, 14)
        # And stays so when it is asked for again.
        assert_equal_bits(stopped[-1], runs.run("tpo", may_stop, (0, 1), Context(checkpoint=path)))
    for arrays in stopped:
        assert_equal_bits(arrays, stopped[0])
        for name, curve in arrays.items():
            assert curve.shape == (2, 14)
            np.testing.assert_array_equal(curve[:, :stop], whole[name][:, :stop])
            assert np.isnan(curve[:, stop:]).all()


def test_threads_are_as_before_after_a_run() -> None:
    before = torch.get_num_threads()
    runs.run("pg", replace(SMALL, episodes=1), (0, 1, 2))
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"method": "tpp"}, ValueError, "tpp"),
        ({"settings": MnistSettings()}, TypeError, "settings: got MnistSettings, expected ReversalSettings"),
        ({"settings": None}, TypeError, "settings: got NoneType"),
        ({"settings": replace(SMALL, precision="tf32")}, ValueError, "precision: got 'tf32' on cpu"),
        ({"seeds": ()}, ValueError, r"seeds: got \[\], expected at least one"),
        ({"seeds": (0, 0)}, ValueError, "each once"),
        ({"seeds": (-1,)}, ValueError, "seeds: got -1"),
        ({"seeds": (0.5,)}, ValueError, "seeds: got 0.5"),
        ({"seeds": (True,)}, ValueError, "seeds: got True"),
        ({"context": Context("gpu")}, ValueError, "device: got 'gpu'"),
        ({"context": Context("cuda:99")}, ValueError, "device: got 'cuda:99'"),
        ({"context": Context("meta")}, ValueError, "device: got 'meta'"),
    ],
)
def test_bad_arguments_are_refused(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments: dict[str, Any] = {"method": "tpo", "settings": SMALL, "seeds": (0,)} | changes
    with pytest.raises(error, match=message):
        runs.run(**arguments)


@pytest.mark.parametrize(
    ("method", "reward", "message"),
    [("tpp", "bag", "tpp.*did you mean.*'tpo'"), ("tpo_token", "terminal", "got reward 'terminal'")],
)
def test_the_clear_twin_refuses_the_same(method: str, reward: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClearTraining(method, replace(SMALL, reward=reward), 0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("method", METHODS)
def test_an_episode_on_a_gpu_is_the_cpus(method: str) -> None:
    ours, theirs = (ReversalTraining(method, TINY, (3, 5), torch.device(where)) for where in ("cuda", "cpu"))
    # Enough that the graph, which is recorded after the first few, is replayed.
    for _ in range(6):
        figures, expected = ours.episode(), theirs.episode()
        torch.testing.assert_close(figures["error"].cpu(), expected["error"])
    for seed in range(2):
        found = {name: p.cpu() for name, p in parameters(ours.net, seed).items()}
        assert_same(found, parameters(theirs.net, seed), atol=1e-6)


def assert_equal_bits(a: Arrays, b: Arrays) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype
        assert a[name].tobytes() == b[name].tobytes(), name
