"""A run's folder: what it was made from, its curve, its checkpoints, its final model."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tpo_ref.study import files, results
from tpo_torch.llm.program.places import RECORD
from tpo_torch.llm.program.settings import RunSettings

FORMAT = 1
RUNNING, FINISHED = "running", "finished"
NEEDED = ("name", "model", "task", "method")
PACKAGES = ("transformers", "trl", "peft", "accelerate", "datasets", "reasoning-gym", "tokenizers")


@dataclass(frozen=True)
class Folder:
    """Where a run keeps what.

    Args: path, OUT/llm/NAME-METHOD.
    """

    path: Path

    @property
    def record(self) -> Path:
        """Settings as used, versions, commit, layout, and whether the run is finished."""
        return self.path / RECORD

    @property
    def metrics(self) -> Path:
        """The trainer's log, one JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """What a killed run goes on from."""
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """The trained weights, or the adapter of a LoRA run, and the tokenizer."""
        return self.path / "model"

    @property
    def samples(self) -> Path:
        """Held-out prompts with the greedy answers of each evaluation."""
        return self.path / "samples"

    def read(self) -> dict[str, Any]:
        """The record; ValueError for a folder that holds no run, one of a later format, or one without settings."""
        if not self.record.exists():
            raise ValueError(f"{self.path}: got no folder of a run (it has no run.json); `tpo train` makes one")
        record = files.read_json(self.record)
        if record.get("format") != FORMAT:
            raise ValueError(f"{self.record}: got format {record.get('format')!r}, expected {FORMAT}")
        found = record.get("settings")
        if not isinstance(found, Mapping) or any(name not in found for name in NEEDED) or "state" not in record:
            raise ValueError(f"{self.record}: got no settings of a run, or no state; delete the folder and run again")
        return record

    def check(self, settings: RunSettings, resume: bool, fresh: bool) -> bool:
        """Whether there is anything to do; ValueError with the remedy for a folder that is another run's, or half done.

        Reads only, so that every process comes to the same answer.
        """
        if fresh:
            return True
        if not self.record.exists():
            if self._has_checkpoints():
                raise ValueError(
                    f"{self.checkpoints}: holds checkpoints of a run whose record (run.json) is gone; --fresh removes "
                    "them, another name=… leaves them"
                )
            return True
        record = self.read()
        if record["state"] == RUNNING and not self.metrics.exists() and not self._has_checkpoints():
            # It failed before its first evaluation: there is nothing to lose and nothing to go on from.
            return True
        other = differing(record["settings"], json.loads(json.dumps(settings.plain())))
        if other:
            raise ValueError(
                f"{self.path}: holds a run with other settings ({'; '.join(other)}); choose another name=…, another "
                "--out, or --fresh to replace it"
            )
        if record["state"] == FINISHED:
            return False
        if not resume:
            raise ValueError(
                f"{self.path}: holds an unfinished run; --resume goes on with it from its last checkpoint, --fresh "
                "begins again"
            )
        return True

    def begin(self, settings: RunSettings, layout: str, fresh: bool) -> None:
        """Make the folder and its record; with `fresh`, without what was there."""
        if fresh:
            # A folder without a record may hold what is none of ours.
            _remove(self.path if self.record.exists() else self.checkpoints)
        self._write(settings, layout, RUNNING, {})

    def finish(self, settings: RunSettings, layout: str, outcome: Mapping[str, Any]) -> None:
        """Mark the run as finished, with what it came to."""
        self._write(settings, layout, FINISHED, outcome)

    def log(self, history: Iterable[Mapping[str, Any]]) -> None:
        """Write the whole log anew, so that a resumed run has no line twice; numbers that are none become null."""
        lines = [json.dumps({k: _plain(v) for k, v in entry.items()}, allow_nan=False) for entry in history]
        files.write_bytes(self.metrics, "".join(f"{line}\n" for line in lines).encode())

    def history(self) -> list[dict[str, Any]]:
        """The log as written; empty when there is none yet; ValueError for a damaged line."""
        found: list[dict[str, Any]] = []
        with contextlib.suppress(FileNotFoundError):
            for number, line in enumerate(self.metrics.read_text().splitlines(), 1):
                try:
                    found.append(dict(json.loads(line)))
                except ValueError as error:
                    raise ValueError(f"{self.metrics}, line {number}: got no JSON object ({error})") from error
        return found

    def _has_checkpoints(self) -> bool:
        return self.checkpoints.is_dir() and any(self.checkpoints.iterdir())

    def _write(self, settings: RunSettings, layout: str, state: str, outcome: Mapping[str, Any]) -> None:
        content = {"format": FORMAT, "state": state, "settings": settings.plain(), "layout": layout}
        plain = {name: _plain(value) for name, value in outcome.items()}
        origin = results.provenance(("torch", *PACKAGES))
        files.write_json(self.record, {**content, "outcome": plain, **vars(origin)})


def differing(there: Mapping[str, Any], here: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Which settings of two runs differ, as "key = there there, here here"."""
    found = []
    for name in {**there, **here}:
        a, b = there.get(name), here.get(name)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += differing(a, b, f"{prefix}{name}.")
        elif a != b:
            found.append(f"{prefix}{name} = {a!r} there, {b!r} here")
    return found


def _remove(path: Path) -> None:
    """Without the folder at once, even where removing its files is cut short."""
    if path.exists():
        gone = path.with_name(f".{path.name}-{os.getpid()}.removed")
        path.rename(gone)
        shutil.rmtree(gone)


def finite(value: Any) -> Any:
    """The same value, None for a float that JSON has no number for."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _plain(value: Any) -> Any:
    value = finite(value)
    return value if isinstance(value, (str, int, float, bool, type(None))) else float(value)
