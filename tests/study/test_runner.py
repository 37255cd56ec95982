"""Runs that stop, go on by other code, or meet another process: what is computed, refused, said and recorded."""

from __future__ import annotations

import dataclasses
import errno
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from helpers import toy

from tpo_ref.bandits.experiments import EXPERIMENTS as BANDITS
from tpo_ref.study import files, locks, partial, results, runner
from tpo_ref.study.context import Context
from tpo_ref.study.errors import InUse
from tpo_ref.study.origins import Provenance, provenance
from tpo_ref.study.runner import Request, ensure

TESTS = Path(__file__).parents[1]


class Stopped(Exception):
    """Stands for kill -9: raised where nothing in the run can catch it."""


def count(method: str, settings: toy.ToySettings, seeds: Sequence[int], context: Context) -> dict[str, np.ndarray]:
    """Four steps, with a checkpoint after each."""
    identity, done = {"method": method, partial.CODE: None}, 0
    assert context.checkpoint is not None
    if context.checkpoint.exists():
        done = int(partial.read(context.checkpoint, identity).arrays["done"])
    for step in range(done + 1, 5):
        partial.write(context.checkpoint, identity, {"done": np.array(step)}, context.parts())
        context.progress(step, 4)
    return {"error": np.ones((len(seeds), 4))}


COUNT = dataclasses.replace(toy.TOY, run=count)


def request(out: Path, **options: object) -> Request:
    return dataclasses.replace(Request(COUNT, "smoke", methods=("tpo",), out=out), **options)


def checkpoint(out: Path) -> Path:
    (key,) = request(out).keys()
    return runner._checkpoint(out, key)


def stop_at(out: Path, last: int) -> None:
    def stop(_: str, done: int, total: int) -> None:
        if done == last:
            raise Stopped

    with pytest.raises(Stopped):
        ensure(request(out), stop)


def go_on_as(commit: str, monkeypatch: pytest.MonkeyPatch, numpy: str = "2.0") -> Provenance:
    """Be another commit with another version of a library."""
    now = dataclasses.replace(provenance(), commit=commit, versions={"numpy": numpy})
    monkeypatch.setattr(runner, "provenance", lambda _: now)
    return now


def test_a_run_that_other_code_goes_on_with_says_so_and_names_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    says: list[str] = []
    origins = []
    for number, commit in enumerate(("a" * 40, "b" * 40, "c" * 40), start=1):
        origins.append(go_on_as(commit, monkeypatch, numpy=f"2.{number}"))
        if number < 3:
            stop_at(tmp_path, number)
    record = ensure(request(tmp_path), say=says.append)["tpo"].record
    assert says == [
        "toy/tpo: begun by other code (commit bbbbbbbbb, now ccccccccc; numpy 2.2, now 2.3); its record will name both"
    ]
    assert record.resumed
    assert record.origins == tuple(origins)
    assert record == results.load(tmp_path, request(tmp_path).keys()[0]).record  # type: ignore[union-attr]


def test_the_seconds_are_those_of_all_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1_000, 10))
    monkeypatch.setattr(runner.time, "perf_counter", lambda: float(next(clock)))
    says: list[str] = []
    stop_at(tmp_path, 2)
    # Start at 0, checkpoints at 10 and 20; start at 30, checkpoints at 40 and 50, end at 60.
    record = ensure(request(tmp_path), say=says.append)["tpo"].record
    assert (record.seconds, record.resumed, record.earlier, says) == (50.0, True, (), [])


def test_a_damaged_checkpoint_is_refused_or_removed_by_fresh(tmp_path: Path) -> None:
    stop_at(tmp_path, 2)
    path = checkpoint(tmp_path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="truncated or altered"):
        ensure(request(tmp_path))
    assert not ensure(request(tmp_path, fresh=True))["tpo"].record.resumed
    assert not path.exists()


@pytest.mark.parametrize("bandit", BANDITS, ids=lambda e: e.id)
def test_a_bandit_keeps_no_state_and_reads_none(bandit: runner.Experiment, tmp_path: Path) -> None:
    own = Request(bandit, "smoke", methods=bandit.methods[:1], seeds=1, out=tmp_path)
    (key,) = own.keys()
    foreign = runner._checkpoint(tmp_path, key)
    partial.write(foreign, {}, {}, ())
    before = foreign.read_bytes()
    record = ensure(own)[key.method].record
    assert (record.resumed, record.earlier, foreign.read_bytes()) == (False, (), before)


@pytest.mark.parametrize("suffix", [".npz", ".json"])
@pytest.mark.parametrize("fresh", [False, True])
def test_a_folder_in_the_place_of_a_file_is_found_before_the_run(suffix: str, fresh: bool, tmp_path: Path) -> None:
    def run(*_: object) -> dict[str, np.ndarray]:
        raise Stopped

    (key,) = request(tmp_path).keys()
    key.path(tmp_path).with_suffix(suffix).mkdir(parents=True)
    with pytest.raises(ValueError, match="no regular file"):
        ensure(request(tmp_path, experiment=dataclasses.replace(COUNT, run=run), fresh=fresh))


def test_a_disk_that_fills_up_is_one_line_with_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_at(tmp_path, 2)
    before = checkpoint(tmp_path).read_bytes()

    def full(_: int) -> None:
        if any(checkpoint(tmp_path).parent.glob("*.partial.npz.*.tmp")):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match=r"cannot write .*\.partial\.npz: No space left on device; choose"):
        ensure(request(tmp_path))
    assert [path.name for path in checkpoint(tmp_path).parent.iterdir()] == [checkpoint(tmp_path).name]
    assert checkpoint(tmp_path).read_bytes() == before


WAIT = """
import sys, time; from pathlib import Path; from helpers import toy
from tpo_ref.study.runner import Request, ensure
def progress(method, done, total):
    print(method, flush=True)
    sys.stdin.readline()
ensure(Request(toy.TOY, "smoke", out=Path(sys.argv[1]), fresh=True), progress)
"""


def test_a_second_process_is_refused_what_the_first_computes_and_nothing_is_lost(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])}
    first = subprocess.Popen(
        [sys.executable, "-c", WAIT, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        encoding="utf-8",
    )
    assert first.stdout is not None
    assert first.stdout.readline() == "tpo\n"
    # It has stored tpo, and works on pg: that is refused, also to --fresh, which deletes nothing.
    whole = Request(toy.TOY, "smoke", out=tmp_path)
    done, held = [key.path(tmp_path) for key in Request.keys(whole)]
    for fresh in (False, True):
        second = dataclasses.replace(whole, methods=("pg",), fresh=fresh)
        says = f"toy/pg: {held} is in use by process {first.pid} on '{socket.gethostname()}'; wait"
        with pytest.raises(InUse, match=says):
            ensure(second)
    assert ensure(dataclasses.replace(whole, methods=("tpo",)))["tpo"].record.key.method == "tpo"
    first.communicate("\n\n")
    assert first.returncode == 0
    assert set(ensure(whole)) == {"tpo", "pg"}
    assert {path.suffix for path in done.parent.iterdir()} == {".json", ".npz"}
    assert not locks.lock_file(held).exists()
