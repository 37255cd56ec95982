"""One result per (experiment, method, settings, seeds): arrays in npz, the rest in json, both whole or absent."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

import tpo_ref
from tpo_ref.study import files, npz, reading
from tpo_ref.study.errors import DISTRIBUTION
from tpo_ref.study.protocol import Settings

# Raised whenever the meaning of a stored array changes: older files are then refused instead of misread.
FORMAT = 1
DIGEST_LENGTH = 10
GIT_SECONDS = 10
# Fields whose absence makes a record incomplete: how the unit was made, and the identity of the result.
ORIGIN_FIELDS = ("commit", "versions", "machine", "device", "seconds", "resumed")
KEY_FIELDS = ("experiment", "method", "settings", "seeds", "device")
# What every run computes with; an experiment names the others.
BASE = ("numpy", "scipy", "numba")


@dataclass(frozen=True)
class PlainKey:
    """A key as json says it."""

    experiment: str
    method: str
    # The fields of the settings, after the name of their class.
    settings: Mapping[str, object]
    seeds: tuple[int, ...]
    device: str


@dataclass(frozen=True)
class Key:
    """The identity of a result. Equal keys mean equal arrays, on the same machine and versions."""

    experiment: str
    method: str
    settings: Settings
    seeds: tuple[int, ...]
    device: str = "cpu"

    def plain(self) -> PlainKey:
        """The key as a stored record says it."""
        fields = {"class": type(self.settings).__name__, **dataclasses.asdict(self.settings)}
        # Json has lists where settings have tuples.
        return PlainKey(self.experiment, self.method, json.loads(json.dumps(fields)), self.seeds, self.device)

    def path(self, out: Path) -> Path:
        """The result's path without suffix: readable up to a digest of everything else in the key."""
        text = json.dumps(dataclasses.asdict(self.plain()), sort_keys=True)
        return out / self.experiment / f"{self.method}-{hashlib.sha256(text.encode()).hexdigest()[:DIGEST_LENGTH]}"


@dataclass(frozen=True)
class Machine:
    """The computer that a result was made on."""

    system: str
    machine: str
    cores: int | None


@dataclass(frozen=True)
class Provenance:
    """Versions, commit and machine."""

    # By library.
    versions: Mapping[str, str]
    # With "+changes" where files were edited since; None outside a checkout.
    commit: str | None
    machine: Machine


@dataclass(frozen=True)
class Record:
    """What is stored beside the arrays of a unit: what they are, and how they were made."""

    format: int
    key: PlainKey = field(metadata=files.INLINE)
    arrays_sha256: str
    # Wall time; of a run resumed from a checkpoint, that since it was resumed.
    seconds: float
    resumed: bool
    provenance: Provenance = field(metadata=files.INLINE)


@dataclass(frozen=True)
class Result:
    """Arrays of one unit and the record of how they were made."""

    arrays: Mapping[str, NDArray[Any]]
    record: Record


# The result of each method.
StoredResults = Mapping[str, Result]


def save(
    out: Path,
    key: Key,
    arrays: Mapping[str, NDArray[Any]],
    seconds: float,
    resumed: bool = False,
    origin: Provenance | None = None,
) -> Result:
    """Store a finished unit. The json is written last: if it exists, the npz is complete.

    `seconds` is wall time; of a run resumed from a checkpoint, that since it was resumed. `origin` is what
    `provenance()` was at its start, None for the present one: the files may have changed since they were loaded.
    """
    base = key.path(out)
    arrays_path = base.with_suffix(".npz")
    # A record of older arrays must not stand beside the new ones, should the process die in between.
    files.remove(base.with_suffix(".json"))
    npz.write(arrays_path, arrays)
    digest = _sha256(arrays_path)
    record = Record(FORMAT, key.plain(), digest, round(seconds, 3), resumed, origin or provenance())
    files.write_json(base.with_suffix(".json"), record)
    return Result(arrays, record)


def forget(out: Path, key: Key) -> None:
    """Delete a stored unit, the record first."""
    files.remove(key.path(out).with_suffix(".json"))
    files.remove(key.path(out).with_suffix(".npz"))


def load(out: Path, key: Key) -> Result | None:
    """A stored unit, or None when it is not there; ValueError when it is truncated, altered or of another format."""
    record_path = key.path(out).with_suffix(".json")
    if not record_path.exists():
        return None
    result = read(record_path)
    # Keys are compared whole: a digest of ten characters is a name, not a proof.
    if result.record.key != key.plain():
        record_key, request_key = (dataclasses.asdict(plain) for plain in (result.record.key, key.plain()))
        raise ValueError(f"{record_path}: is the result of {record_key}, expected {request_key}; use another --out")
    return result


def read(path: Path) -> Result:
    """A stored unit by the path of its json or npz; ValueError when missing, truncated, altered or of other format."""
    record_path, arrays_path = path.with_suffix(".json"), path.with_suffix(".npz")
    if not record_path.exists():
        raise ValueError(
            f"{record_path}: no such file, expected the record of a stored result; see the folder of --out"
        )
    content = files.read_json(record_path)
    if content.get("format") != FORMAT:
        raise ValueError(
            f"{record_path}: got results of format {content.get('format')}, expected {FORMAT}; "
            "move them away, or use another --out"
        )
    foreign = [name for name in (*KEY_FIELDS, "arrays_sha256") if name not in content]
    if foreign:
        raise ValueError(f"{record_path}: is no result of one method (lacks {', '.join(foreign)}); name one of --out")
    if not arrays_path.exists() or _sha256(arrays_path) != content["arrays_sha256"]:
        raise ValueError(f"{arrays_path}: missing, truncated or altered since it was written; delete {record_path}")
    incomplete = [name for name in ORIGIN_FIELDS if name not in content]
    if incomplete:
        raise ValueError(f"{record_path}: lacks {', '.join(incomplete)}; delete it and run again")
    return Result(npz.read(arrays_path), reading.build(Record, content, str(record_path)))


def provenance(libraries: tuple[str, ...] = ()) -> Provenance:
    """Versions, commit and machine, as every result records them; libraries, those beyond the base install."""
    versions = {"python": platform.python_version(), DISTRIBUTION: tpo_ref.__version__}
    for name in (*BASE, *libraries):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return Provenance(versions, _commit(), Machine(platform.system(), platform.machine(), os.cpu_count()))


def made_by_other_code(origin: Provenance, now: Provenance) -> bool:
    """Whether a result comes from another commit, or other versions, than another one, or the present code."""
    return (origin.commit, origin.versions) != (now.commit, now.versions)


def _packages(root: Path) -> list[str]:
    """The packages of a checkout: its folders that are one, tests and benchmarks aside."""
    return sorted(path.parent.name for path in root.glob("*/py.typed"))


def _commit() -> str | None:
    """Commit of the checkout this package runs from, "+changes" when it was edited; None outside one."""
    root = Path(__file__).parents[2]

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, check=True, timeout=GIT_SECONDS
        ).stdout.strip()

    try:
        if not git("ls-files", "--", str(Path(__file__).relative_to(root))):
            return None
        edited = git("status", "--porcelain", "--", *_packages(root))
        return git("rev-parse", "HEAD") + ("+changes" if edited else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
