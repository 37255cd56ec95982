"""`report_to`: each tracker runs once, writes into the run's folder alone, and stays offline."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import tiny_llm
from helpers.processes import ROOT

from tpo_ref.study.errors import Unavailable
from tpo_torch.llm.program import trackers
from tpo_torch.llm.program.settings import reading

INSTALLED = [name for name in trackers.TRACKERS if importlib.util.find_spec(name) is not None]
# What each leaves in the folder of the run.
FILES = {
    "tensorboard": "tensorboard/events.out.*",
    "trackio": "trackio/tpo.db",
    "wandb": "wandb/offline-run-*/run-*.wandb",
}


@pytest.mark.skipif(not INSTALLED, reason="no tracker is installed; pip install '.[dev]'")
def test_each_tracker_writes_into_the_folder_of_the_run(tmp_path: Path) -> None:
    """In a process of its own: trackers read the environment when TRL imports them."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB", "TRACKIO"))}
    home = {"HOME": str(tmp_path / "home"), "HF_HOME": str(tmp_path / "home" / "hf")}
    names = f"trainer.report_to=[{', '.join(INSTALLED)}]"
    done = subprocess.run(
        [sys.executable, "-m", "tpo_torch.llm.train", "tiny", *tiny_llm.MICRO, names],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=own | home | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii", "OMP_NUM_THREADS": "1"},
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    assert "step 3/3  reward" in done.stdout
    folder = tmp_path / "runs" / "llm" / "micro-tpo"
    for name in INSTALLED:
        assert [path.stat().st_size > 0 for path in folder.glob(FILES[name])] == [True], name
    outside = [p for p in tmp_path.rglob("*") if p.is_file() and not p.is_relative_to(tmp_path / "runs")]
    assert [p for p in outside if any(name in str(p.relative_to(tmp_path)).lower() for name in trackers.TRACKERS)] == []


def test_a_tracker_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    trackers.check(reading.load("tiny"))
    trackers.check(reading.load("tiny", ["trainer.report_to=none"]))
    for given in ("wandb", "[tensorboard, wandb]"):
        with pytest.raises(Unavailable, match=r"which is not installed; run `pip install"):
            trackers.check(reading.load("tiny", [f"trainer.report_to={given}"]))


def test_the_users_own_environment_goes_first_and_is_left_as_it_was(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.delenv("WANDB_DIR", raising=False)
    before = dict(os.environ)
    with trackers.local(reading.load("tiny", ["trainer.report_to=wandb"]), tmp_path):
        assert os.environ["WANDB_MODE"] == "online"
        assert os.environ["WANDB_DIR"] == str(tmp_path)
        assert "TRACKIO_DIR" not in set(os.environ) - set(before)
    assert dict(os.environ) == before
