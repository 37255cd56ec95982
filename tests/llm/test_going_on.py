"""One process in a folder at a time; what a run goes on from, and by which code, is said."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import tiny_llm as tiny

from tpo_ref.study import locks, origins
from tpo_ref.study.cli import commands as cli
from tpo_ref.study.errors import InUse
from tpo_torch.llm import TargetPOConfig, TargetPOTrainer, origin
from tpo_torch.llm.program import callbacks
from tpo_torch.llm.program import tiny as small
from tpo_torch.llm.program.record import Folder

pytestmark = tiny.FILTERS
MICRO = ["train", "tiny", *tiny.MICRO, "trainer.save_steps=1", "trainer.save_total_limit=null"]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results with a run that was stopped after its second step."""
    out = tmp_path_factory.mktemp("stopped")
    real = callbacks.Progress.on_step_begin

    def interrupted(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 1:
            os.kill(os.getpid(), signal.SIGINT)
        real(self, args, state, control, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(callbacks.Progress, "on_step_begin", interrupted)
        assert cli.run([*MICRO, "--out", str(out)]) == cli.INTERRUPTED
    return out


@pytest.fixture
def out(stopped: Path, tmp_path: Path) -> Iterator[Path]:
    shutil.copytree(stopped, tmp_path / "runs")
    yield tmp_path / "runs"
    assert not list(tmp_path.rglob("*.lock")), "a lock outlives its run"


def folder_of(out: Path) -> Folder:
    return Folder(out / "llm" / "micro-tpo")


def content(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}


@pytest.mark.parametrize("option", ["--resume", "--fresh"])
def test_a_second_process_is_told_who_has_the_folder(
    option: str, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = content(out)
    with locks.held(folder_of(out).path, "the run's folder"):
        assert cli.run([*MICRO, "--out", str(out), option]) == 2
    said = capsys.readouterr().err
    assert f"{folder_of(out).path} is in use by process {os.getpid()} on " in said
    assert "choose another name=…, seed=… or --out" in said
    assert content(out) == before


def test_a_run_that_another_process_has_finished_meanwhile_is_left_alone(
    out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = locks.held

    def late(path: Path, *args: Any, **kwargs: Any) -> Any:
        record = folder_of(out)
        if path == record.path:
            record.finish(*finished, {}, 1.0)
        return real(path, *args, **kwargs)

    from tpo_torch.llm.program.settings import reading

    finished = (reading.load("tiny", MICRO[2:]), "")
    monkeypatch.setattr(locks, "held", late)
    before = content(folder_of(out).checkpoints)
    assert cli.run([*MICRO, "--out", str(out), "--resume"]) == 0
    assert "finished already" in capsys.readouterr().out
    assert content(folder_of(out).checkpoints) == before


def test_two_trainers_do_not_write_into_one_folder(tmp_path: Path) -> None:
    trainer = TargetPOTrainer(
        tiny.model(),
        tiny.reward,
        TargetPOConfig(**tiny.arguments(tmp_path, save_strategy="steps", max_steps=1)),
        train_dataset=tiny.prompts(),
        processing_class=tiny.tokenizer(),
    )
    with locks.held(tmp_path, "here"), pytest.raises(InUse, match="choose another output_dir"):
        trainer.train()
    trainer.args.save_strategy = "no"
    with locks.held(tmp_path, "here"):
        trainer.train()


def test_a_cold_start_waits_for_the_warm_up_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tpo_torch.llm import tasks
    from tpo_torch.llm.program.display import Silent
    from tpo_torch.llm.program.settings import reading

    settings = reading.load("tiny", tiny.MICRO)
    task = tasks.load(settings.task, **settings.task_options)
    real, said = locks.held, []

    class Told(Silent):
        def say(self, line: str) -> None:
            said.append(line)

    def other_first(path: Path, *args: Any, waiting: Any = None, **kwargs: Any) -> Any:
        # The other process ends while this one waits.
        monkeypatch.setattr(locks, "held", real)
        small.ensure(settings, task, tmp_path)
        waiting("waited")
        return real(path, *args, waiting=waiting, **kwargs)

    monkeypatch.setattr(locks, "held", other_first)
    made = small.ensure(settings, task, tmp_path, Told())
    assert said == ["waited", f"warm-up: {made} (cached)"]


@pytest.mark.filterwarnings("default:.*made by other code")
def test_other_code_is_refused_unless_asked_for(
    out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = origin.here()
    other = replace(
        here, sources={**here.sources, "tpo_torch.tpo": "another"}, versions={**here.versions, "trl": "9.9"}
    )
    monkeypatch.setattr(origin, "here", lambda: other)
    before = content(out)
    assert cli.run([*MICRO, "--out", str(out), "--resume"]) == 2
    said = capsys.readouterr().err
    assert f"was made by other code (code of tpo_torch.tpo; trl {here.versions['trl']} there, 9.9 here)" in said
    assert "say --other-code" in said
    assert content(out) == before
    assert cli.run([*MICRO, "--out", str(out), "--resume", "--other-code"]) == 0
    assert "checkpoint-2: was made by other code (code of tpo_torch.tpo; trl" in capsys.readouterr().err


def test_a_task_whose_file_was_edited_is_other_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "mine.py"
    text = (
        "def dataset(split, size, seed):\n    return [{'prompt': f'{split} {i}'} for i in range(size or 4)]\n"
        "def reward(completions, **columns):\n    return [float(len(c) % 3) for c in completions]\n"
        "def solution(row):\n    return 'yes'\n"
    )
    file.write_text(text, encoding="utf-8")
    words = [word for word in MICRO if not word.startswith("task")] + [f"task={file}", "--out", str(tmp_path / "out")]
    real = callbacks.Progress.on_step_begin

    def interrupted(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        real(self, args, state, control, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(callbacks.Progress, "on_step_begin", interrupted)
        assert cli.run(words) == cli.INTERRUPTED, capsys.readouterr().err
    file.write_text(text.replace("% 3", "% 5"), encoding="utf-8")
    assert cli.run([*words, "--resume"]) == 2
    assert "was made by other code (code of the task's file)" in capsys.readouterr().err
    assert cli.run([*words, "--resume", "--other-code"]) == 0


def test_every_part_of_a_run_is_recorded_and_another_commit_is_said(
    out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of(out)
    (first,) = folder.parts()
    other = replace(first.provenance, commit="0123456789abcdef", versions={**first.provenance.versions, "trl": "9.9"})
    monkeypatch.setattr(origins, "provenance", lambda libraries: other)
    assert cli.run([*MICRO, "--out", str(out), "--resume"]) == 0
    assert f"goes on by other code or versions than before: {origins.change(first.provenance, other)}" in (
        capsys.readouterr().out
    )
    before, after = folder.parts()
    assert (before.provenance, after.provenance) == (first.provenance, other)
    assert before.seconds > 0 < after.seconds
    outcome = folder.read()["outcome"]
    assert outcome["resumed"] is True
    assert outcome["seconds"] == pytest.approx(before.seconds + after.seconds)


@pytest.mark.parametrize("entry", ["state", "settings", "layout", "outcome", "parts"])
def test_an_edited_record_is_refused_by_every_command(
    entry: str, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of(out)
    content = json.loads(folder.record.read_text(encoding="utf-8"))
    match content[entry]:
        case dict() as section:
            section["seconds"] = 3
        case list() as parts:
            parts[0]["seconds"] = 3
        case _:
            content[entry] = "finished"
    folder.record.write_text(json.dumps(content), encoding="utf-8")
    for words in (["eval", str(folder.path)], ["figure", str(folder.path)], [*MICRO, "--out", str(out), "--resume"]):
        assert cli.run(words) == 2
        assert f"{folder.record}: altered since it was written" in capsys.readouterr().err


def test_a_checkpoint_of_another_run_is_not_taken_for_ones_own(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run([*MICRO, "trainer.learning_rate=0.5", "--out", str(tmp_path / "other")]) == 0
    theirs = folder_of(tmp_path / "other").checkpoints / "checkpoint-3"
    shutil.copytree(theirs, folder_of(out).checkpoints / "checkpoint-3")
    assert cli.run([*MICRO, "--out", str(out), "--resume"]) == 2
    assert "checkpoint-3: is a checkpoint of a run with other settings" in capsys.readouterr().err


def test_a_log_that_was_edited_is_not_drawn(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([*MICRO, "--out", str(out), "--resume"]) == 0
    log = folder_of(out).metrics
    log.write_text(log.read_text(encoding="utf-8").replace('"reward": 0.0', '"reward": 1.0'), encoding="utf-8")
    assert cli.run(["figure", str(folder_of(out).path)]) == 2
    assert f"{log}: altered since the run ended" in capsys.readouterr().err


def test_what_is_passed_over_is_said(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoints = folder_of(out).checkpoints
    (checkpoints / "checkpoint-2" / "optimizer.pt").unlink()
    assert cli.run([*MICRO, "--out", str(out), "--resume"]) == 0
    said = capsys.readouterr().out
    assert f"{checkpoints}/checkpoint-2: passed over, its optimizer.pt" in said
    assert f"resumed from {checkpoints}/checkpoint-1" in said
