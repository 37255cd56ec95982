"""Checkpoints of MNIST and reversal runs: the newest block survives Ctrl-C, and what was altered is never read."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpo_ref.study import sources
from tpo_ref.study.context import Context
from tpo_ref.study.protocol import Arrays
from tpo_torch.mnist import runs as mnist
from tpo_torch.mnist.settings import MnistSettings
from tpo_torch.reversal import runs as reversal
from tpo_torch.reversal.settings import ReversalSettings
from tpo_torch.shared import checkpoint as checkpoints
from tpo_torch.shared.data import Mnist

MNIST = MnistSettings(updates=60, batch=20, eval_every=20, hidden=16, mechanism_update=None)
REVERSAL = ReversalSettings(vocab=3, horizon=3, batch=3, group=3, episodes=6)
IMAGES = np.random.default_rng(0).integers(0, 256, (100, 16)).astype(np.uint8)
LABELS = (np.arange(100) % 10).astype(np.uint8)
DATA = Mnist(IMAGES, LABELS, IMAGES[:50], LABELS[:50])
RUNS: dict[str, Callable[[Context], Arrays]] = {
    "mnist": lambda context: mnist.run("tpo", MNIST, (0, 1), DATA, context),
    "reversal": lambda context: reversal.run("tpo", REVERSAL, (0, 1), context),
}
# Where each is interrupted: after its second block of three or six.
SECOND = {"mnist": 40, "reversal": 2}


@pytest.fixture(autouse=True, scope="module")
def _small_blocks_and_interrupts() -> Iterator[None]:
    # A program that a shell starts in the background ignores SIGINT.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reversal, "BLOCK", 1)
        yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(params=tuple(RUNS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def interrupt(name: str, path: Path) -> None:
    """Press Ctrl-C after the second block, long before a checkpoint is due."""

    def press(done: int, total: int) -> None:
        if done == SECOND[name]:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        RUNS[name](Context(checkpoint=path, progress=press))


def assert_equal_bits(a: Arrays, b: Arrays) -> None:
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key])


def test_an_interruption_leaves_the_newest_block(name: str, tmp_path: Path) -> None:
    path, starts = tmp_path / "run.partial.npz", list[int]()
    interrupt(name, path)
    resumed = RUNS[name](Context(checkpoint=path, progress=lambda done, _: starts.append(done)))
    assert starts[0] == SECOND[name]
    assert_equal_bits(RUNS[name](Context()), resumed)


def test_an_interruption_inside_a_block_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, starts, train = tmp_path / "run", list[int](), mnist.MnistTraining.step

    def press(self: mnist.MnistTraining, losses: object) -> None:
        if self.update == SECOND["mnist"]:
            signal.raise_signal(signal.SIGINT)
        train(self, losses)  # type: ignore[arg-type]

    monkeypatch.setattr(mnist.MnistTraining, "step", press)
    with pytest.raises(KeyboardInterrupt):
        RUNS["mnist"](Context(checkpoint=path))
    monkeypatch.undo()
    resumed = RUNS["mnist"](Context(checkpoint=path, progress=lambda done, _: starts.append(done)))
    assert starts[0] == SECOND["mnist"]
    assert_equal_bits(RUNS["mnist"](Context()), resumed)


def test_an_interruption_before_the_first_block_leaves_nothing(tmp_path: Path) -> None:
    def press(done: int, total: int) -> None:
        signal.raise_signal(signal.SIGINT)

    for name, run in RUNS.items():
        with pytest.raises(KeyboardInterrupt):
            run(Context(checkpoint=tmp_path / name, progress=press))
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def written(_small_blocks_and_interrupts: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("written")
    for name in RUNS:
        interrupt(name, folder / name)
    return {name: (folder / name).read_bytes() for name in RUNS}


@given(data=st.data())
def test_a_run_never_goes_on_from_an_altered_state(
    data: st.DataObject, written: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    name = data.draw(st.sampled_from(tuple(RUNS)))
    content = bytearray(written[name])
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= data.draw(st.integers(1, 255))
    del content[len(content) - data.draw(st.integers(0, 9)) :]
    path = tmp_path_factory.getbasetemp() / f"altered-{name}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"altered-.*(truncated or altered|no checkpoint)"):
        RUNS[name](Context(checkpoint=path))


def test_a_run_does_not_go_on_from_another_experiments_state(written: dict[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.write_bytes(written["mnist"])
    with pytest.raises(ValueError, match=r"another run .*module = 'tpo_torch.mnist.runs' there"):
        RUNS["reversal"](Context(checkpoint=path))


def test_arrays_of_other_names_shapes_or_types_are_refused_and_change_nothing(tmp_path: Path) -> None:
    """Under a digest that is right."""
    path, weights = tmp_path / "run", "0:parameter:0"
    run = mnist.MnistTraining("tpo", MNIST, (0, 1), DATA, "cpu")
    run.train(MNIST.eval_every)
    arrays = checkpoints.collect([run.stack()], run.progress())
    other = {name: x + 1 if x.dtype == np.float32 else x for name, x in arrays.items()}
    for changed in (
        {**other, weights: arrays[weights].astype(np.float16)},
        {**other, weights: arrays[weights].reshape(-1)},
        {**other, "0:more:0": np.ones(1)},
        {name: x for name, x in other.items() if name != weights},
        {**arrays, "curve:test_error": np.zeros((2, 3))},
        {name: x for name, x in arrays.items() if name != "curve:done"},
    ):
        checkpoints.save(path, run.identity(), changed)
        with pytest.raises(ValueError, match=f"{path}: lacks .* as this run has it"):
            run.load(path)
        assert_equal_bits(checkpoints.collect([run.stack()], run.progress()), arrays)


def test_other_code_is_refused_and_the_same_goes_on(
    name: str, written: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, real = tmp_path / "run", sources.code
    path.write_bytes(written[name])

    def other(modules: list[str], *rest: object, **more: object) -> sources.Code:
        code = real(modules, *rest, **more)  # type: ignore[arg-type]
        return dataclasses.replace(code, sources={**code.sources, "tpo_torch.tpo": "ab"})

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.sources, "code", other)
        with pytest.raises(ValueError, match=r"other code.*\(code of tpo_torch.tpo\); go back to that code, or move"):
            RUNS[name](Context(checkpoint=path))
    RUNS[name](Context(checkpoint=path))


@pytest.mark.parametrize(
    ("module", "rule"), [("tpo_torch.mnist.runs", "closed_form"), ("tpo_torch.reversal.runs", "tpo")]
)
def test_the_code_that_counts_is_that_of_the_numbers(module: str, rule: str) -> None:
    counted = set(sources.code([module], (), without=checkpoints.STORES).sources)
    assert {module, f"tpo_torch.{rule}", "tpo_torch.standardize", "tpo_torch.shared.seeds"} <= counted
    assert not {n for n in counted if n.startswith(("tpo_torch.llm", "tpo_torch.verl", "tpo_ref.study.cli"))}
    assert not counted & set(checkpoints.STORES)
