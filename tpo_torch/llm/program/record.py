"""A run's folder: what it was made from, its curve, its checkpoints, its final model."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tpo_ref.study import chosen_rules, files, origins, reading
from tpo_ref.study.origins import Part
from tpo_torch.llm import LIBRARIES, checkpoints
from tpo_torch.llm.program.places import RECORD
from tpo_torch.llm.program.settings.sections import RunSettings

FORMAT = 2
RUNNING, FINISHED = "running", "finished"
# The digest of the prompts that the run began with.
PROMPTS = "prompts_sha256"
# The digest of the Python file of a user's own task.
TASK_FILE = "task_sha256"
# That of the file of a user's own rule.
RULE_FILE = "rule_sha256"
# That of the log of a finished run, among its outcome.
LOG = "metrics_sha256"
NEEDED = ("name", "model", "task", "method")


@dataclass(frozen=True)
class Parts:
    """The parts of a run, as its record has them."""

    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Folder:
    """Paths of the files in the folder of a run.

    Args: path, OUT/llm/NAME-METHOD.
    """

    path: Path

    @property
    def record(self) -> Path:
        """Settings as used, layout, outcome, and by which code and versions each part of the run was made."""
        return self.path / RECORD

    @property
    def metrics(self) -> Path:
        """The trainer's log, one JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints, which a killed run goes on from."""
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
        """The record; ValueError for a folder without a run, another format, an altered one, or no settings in it."""
        if not self.record.exists():
            raise ValueError(f"{self.path}: got no folder of a run (it has no {RECORD}); `tpo train` makes one")
        record = files.read_json(self.record)
        if record.get("format") != FORMAT:
            raise ValueError(f"{self.record}: got format {record.get('format')!r}, expected {FORMAT}; run it again")
        record = files.unsealed(record, self.record)
        settings = record.get("settings")
        if not isinstance(settings, Mapping) or any(name not in settings for name in NEEDED) or "state" not in record:
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
                    f"{self.checkpoints}: holds checkpoints of a run whose record ({RECORD}) is gone; --fresh removes "
                    "them, another name=… leaves them"
                )
            if resume:
                raise ValueError(
                    f"{self.path}: got --resume, but holds no run; leave --resume out to begin one, or correct name=…, "
                    "seed=…, --method or --out"
                )
            return True
        record = self.read()
        if record["state"] == RUNNING and not self.metrics.exists() and not self._has_checkpoints():
            # It failed before its first evaluation: there is nothing to lose and nothing to go on from.
            return True
        differences = differing(record["settings"], json.loads(json.dumps(settings.plain())))
        if differences:
            raise ValueError(
                f"{self.path}: holds a run with other settings ({'; '.join(differences)}); choose another name=…, "
                "another --out, or --fresh to replace it"
            )
        if record["state"] == FINISHED:
            return False
        if not resume:
            raise ValueError(
                f"{self.path}: holds an unfinished run; --resume goes on with it from its last checkpoint, --fresh "
                "begins again"
            )
        return True

    def begin(
        self,
        settings: RunSettings,
        layout: str,
        fresh: bool,
        prompts: str | None = None,
        checkpoint: Path | None = None,
    ) -> str:
        """Make the folder and its record; with `fresh`, without what was there.

        Args: prompts, their digest; checkpoint, which the run goes on from: the parts before it stay in the record, up
            to there.
        Returns: in what code the part before differs from this one, in words; empty where it does not.
        """
        if fresh:
            # A folder without a record may belong to another program; leave its files.
            files.remove_folder(self.path if self.record.exists() else self.checkpoints)
        earlier = [] if checkpoint is None else self.parts()
        if checkpoint is not None and earlier:
            before = sum(part.seconds for part in earlier[:-1])
            earlier[-1] = dataclasses.replace(earlier[-1], seconds=max(checkpoints.seconds(checkpoint) - before, 0.0))
        here = Part(origins.provenance(("torch", *LIBRARIES.values())), 0.0)
        self._write(settings, layout, RUNNING, {}, [*earlier, here], prompts)
        return origins.change(earlier[-1].provenance, here.provenance) if earlier else ""

    def finish(self, settings: RunSettings, layout: str, outcome: Mapping[str, Any], seconds: float) -> None:
        """Mark the run as finished, with its final figures; seconds, that its last part took."""
        parts = self.parts()
        parts[-1] = dataclasses.replace(parts[-1], seconds=seconds)
        total = {"seconds": sum(part.seconds for part in parts), "resumed": len(parts) > 1}
        log = {LOG: files.sha256(self.metrics)} if self.metrics.exists() else {}
        self._write(settings, layout, FINISHED, {**outcome, **total, **log}, parts, self.read().get(PROMPTS))

    def parts(self) -> list[Part]:
        """How the run was made, a part for every time that it was begun or gone on with."""
        return list(reading.build(Parts, self.read(), str(self.record)).parts)

    def log(self, history: Iterable[Mapping[str, Any]]) -> None:
        """Write the whole log anew, so that a resumed run has no line twice; non-finite numbers become null."""
        lines = [json.dumps(files.plain(entry), allow_nan=False) for entry in history]
        files.write_bytes(self.metrics, "".join(f"{line}\n" for line in lines).encode())

    def history(self) -> list[dict[str, Any]]:
        """The log as written; empty when there is none yet; ValueError for a damaged line, or an altered log."""
        outcome = self.read().get("outcome") or {} if self.record.exists() else {}
        if LOG in outcome and (not self.metrics.exists() or files.sha256(self.metrics) != outcome[LOG]):
            raise ValueError(f"{self.metrics}: altered since the run ended, its SHA-256 is another; run it again")
        entries: list[dict[str, Any]] = []
        with contextlib.suppress(FileNotFoundError):
            for number, line in enumerate(self.metrics.read_text(encoding="utf-8").splitlines(), 1):
                try:
                    entries.append(dict(files.strict_json(line)))
                except ValueError as error:
                    raise ValueError(f"{self.metrics}, line {number}: got no JSON object ({error})") from error
        return entries

    def _has_checkpoints(self) -> bool:
        return self.checkpoints.is_dir() and any(self.checkpoints.iterdir())

    def _write(
        self,
        settings: RunSettings,
        layout: str,
        state: str,
        outcome: Mapping[str, Any],
        parts: Sequence[Part],
        prompts: str | None,
    ) -> None:
        content = {"format": FORMAT, "state": state, "settings": settings.plain(), "layout": layout}
        content |= {PROMPTS: prompts, TASK_FILE: task_file(settings), RULE_FILE: rule_file(settings)}
        files.write_sealed(self.record, {**content, "outcome": outcome, "parts": parts})


def identity(settings: RunSettings) -> str:
    """A digest of the settings of a run, which its checkpoints carry."""
    return files.digest(settings.plain())


def task_file(settings: RunSettings) -> str | None:
    """The digest of the Python file of a user's own task; None for the others."""
    path = Path(settings.task)
    return files.sha256(path) if path.suffix == ".py" and path.is_file() else None


def rule_file(settings: RunSettings) -> str | None:
    """The digest of the sources of a user's own rule, which is imported; None for the others."""
    return chosen_rules.choose(settings.rule).sha256 or None if settings.rule else None


def differing(stored: Mapping[str, Any], own: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Which settings of a stored run differ from one's own, as "key = 1 there, 2 here".

    >>> differing({"seed": 1, "trainer": {"beta": 0}}, {"seed": 1, "trainer": {"beta": 0.1}})
    ['trainer.beta = 0 there, 0.1 here']
    """
    differences = []
    for name in {**stored, **own}:
        a, b = stored.get(name), own.get(name)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            differences += differing(a, b, f"{prefix}{name}.")
        elif a != b:
            differences.append(f"{prefix}{name} = {a!r} there, {b!r} here")
    return differences
