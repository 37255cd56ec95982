"""A disk that fills up while a run saves: one line with the path, and the checkpoint before is still there."""

from __future__ import annotations

import resource
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import tiny_llm as tiny
from transformers import TrainerCallback

from tpo_ref.study.cli import commands as cli
from tpo_torch.llm import TargetPOTrainer, manifest
from tpo_torch.llm.checkpoints import Newest, newest
from tpo_torch.llm.program.record import Folder

pytestmark = tiny.FILTERS


class Fills(TrainerCallback):  # type: ignore[misc]
    """From the end of a step on, no file may grow beyond a size: what is written then fails as on a full disk."""

    def __init__(self, step: int, size: int) -> None:
        self.step, self.size = step, size

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@pytest.fixture(autouse=True)
def _with_space() -> Any:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_whichever_file_does_not_fit_is_said_in_one_line(tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = tiny.arguments(run, use_cpu=True, save_strategy="steps", save_steps=1, max_steps=2, optim="adamw_torch")

    def train(*callbacks: TrainerCallback) -> None:
        shutil.rmtree(run, ignore_errors=True)
        model = tiny.model(dtype=torch.float32)
        tiny.build(
            TargetPOTrainer, model, tiny.reward, settings, tiny.prompts(), tiny.tokenizer(), callbacks=list(callbacks)
        ).train()

    train()
    limits = {path.stat().st_size - 1 for path in (run / "checkpoint-2").iterdir()}
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in sorted({0, *limits}):
        with pytest.raises(OSError, match=rf"^\[Errno \d+\] cannot save {run}/checkpoint-2: [^\n]+; make space there"):
            train(Fills(2, limit))
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert newest(run) == Newest(run / "checkpoint-1", ())


def test_a_model_that_does_not_fit_costs_one_line_and_the_run_can_be_made_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(manifest, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        assert cli.run(["train", "tiny", *tiny.MICRO, "warmup=null"]) != 0
    shown = capsys.readouterr().err
    assert "warmups" in shown
    assert "cannot save" in shown
    assert shown.count("\n") == 1
    assert cli.run(["train", "tiny", *tiny.MICRO, "warmup=null"]) == 0
    assert manifest.fault(Folder(Path("runs/llm/micro-tpo")).model) is None
