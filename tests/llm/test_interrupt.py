"""An interrupted run ends between two steps, with a checkpoint from which it goes on as if nothing had happened."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import llm_worker
from helpers import tiny_llm as tiny
from safetensors.torch import load_file

from tpo_ref.study.cli import commands as cli
from tpo_torch.llm.interrupt import NOTICE, between_steps
from tpo_torch.llm.program import callbacks
from tpo_torch.llm.program.record import Folder

pytestmark = tiny.FILTERS


def trainer_of_one() -> Any:
    added: list[Any] = []
    accelerator = SimpleNamespace(num_processes=1)
    return SimpleNamespace(
        accelerator=accelerator, added=added, add_callback=added.append, remove_callback=added.remove
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_asks_once_and_what_was_there_comes_back(number: int) -> None:
    # A program that a shell starts in the background ignores SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    said, trainer = [], trainer_of_one()
    before = signal.getsignal(number)
    control = SimpleNamespace(should_save=False, should_training_stop=False)
    with between_steps(trainer, said.append) as stop:
        stop.on_step_end(None, SimpleNamespace(global_step=1, max_steps=3), control)
        assert not control.should_save
        os.kill(os.getpid(), number)
        assert stop.asked
        assert said == [NOTICE]
        # After the last step there is nothing to interrupt.
        stop.on_step_end(None, SimpleNamespace(global_step=3, max_steps=3), control)
        assert not control.should_training_stop
        stop.on_step_end(None, SimpleNamespace(global_step=2, max_steps=3), control)
        assert control.should_save
        assert control.should_training_stop
        if number == signal.SIGINT:
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), number)
        else:
            os.kill(os.getpid(), number)
        assert said == [NOTICE]
    assert signal.getsignal(number) == before
    assert not trainer.added


def test_outside_the_main_thread_signals_are_left_alone() -> None:
    before = signal.getsignal(signal.SIGINT)

    def enter() -> None:
        with between_steps(trainer_of_one(), print):
            assert signal.getsignal(signal.SIGINT) == before

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()


def test_an_interrupted_run_goes_on_from_the_step_it_was_in(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    micro = ["train", "tiny", *tiny.MICRO, "trainer.save_steps=3"]
    assert cli.run([*micro, "--out", "whole"]) == 0
    real = callbacks.Progress.on_step_begin

    def interrupted(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 1:
            os.kill(os.getpid(), signal.SIGINT)
        real(self, args, state, control, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(callbacks.Progress, "on_step_begin", interrupted)
        capsys.readouterr()
        assert cli.run(micro) == cli.INTERRUPTED
    shown = capsys.readouterr()
    assert NOTICE in shown.out
    assert "--resume goes on from the last checkpoint" in shown.err
    folder, whole = Folder(Path("runs/llm/micro-tpo")), Folder(Path("whole/llm/micro-tpo"))
    assert [path.name for path in folder.checkpoints.glob("checkpoint-*")] == ["checkpoint-2"]
    assert json.loads(folder.record.read_text(encoding="utf-8"))["state"] == "running"
    assert not folder.model.exists()
    assert cli.run([*micro, "--resume"]) == 0
    ours, theirs = (load_file(one.model / "model.safetensors") for one in (folder, whole))
    assert all(torch.equal(ours[name], weight) for name, weight in theirs.items())
    lines = [[(line["step"], line.get("loss")) for line in one.history()] for one in (folder, whole)]
    assert lines[0] == lines[1]


def test_two_processes_stop_in_the_same_step_though_one_alone_was_told(tmp_path: Path) -> None:
    job = llm_worker.start(tmp_path / "job", "interrupted", 2, run=str(tmp_path / "run"))
    job.wait().fine()
    steps = [json.loads((tmp_path / "job" / f"stopped_{rank}.json").read_text(encoding="utf-8")) for rank in range(2)]
    assert steps == [[2, True], [2, True]]
    assert (tmp_path / "run" / "checkpoint-2" / "manifest.json").exists()
