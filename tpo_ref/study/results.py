"""One result per (experiment, method, settings, seeds): arrays in npz, the rest in json, both whole or absent."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from tpo_ref.study import files, formats, npz, reading
from tpo_ref.study.chosen_rules import ChosenRule
from tpo_ref.study.origins import Part, Provenance, joined
from tpo_ref.study.origins import provenance as provenance
from tpo_ref.study.protocol import Settings

DIGEST_LENGTH = 10
# Fields whose absence makes a record incomplete: how the unit was made, and the identity of the result.
ORIGIN_FIELDS = ("commit", "versions", "machine", "device", "seconds", "resumed")
KEY_FIELDS = ("experiment", "method", "settings", "seeds", "device")


@dataclass(frozen=True)
class PlainKey:
    """A key as json says it."""

    experiment: str
    method: str
    # The fields of the settings, after the name of their class.
    settings: Mapping[str, object]
    seeds: tuple[int, ...]
    device: str
    # Of a method that is not the experiment's own: name, options and SHA-256 of its rule, and what makes its groups.
    rule: Mapping[str, object] | None = None


@dataclass(frozen=True)
class Key:
    """The identity of a result. Equal keys mean equal arrays, on the same machine and versions."""

    experiment: str
    method: str
    settings: Settings
    seeds: tuple[int, ...]
    device: str = "cpu"
    rule: ChosenRule | None = None
    grouping: str = ""

    def plain(self) -> PlainKey:
        """The key as a stored record says it."""
        fields = {"class": type(self.settings).__name__, **dataclasses.asdict(self.settings)}
        rule = None if self.rule is None else {**self.rule.record(), "grouping": self.grouping}
        # Json has lists where settings have tuples.
        settings = json.loads(json.dumps(fields))
        return PlainKey(self.experiment, self.method, settings, self.seeds, self.device, json.loads(json.dumps(rule)))

    def path(self, out: Path) -> Path:
        """The result's path without suffix: readable up to a digest of everything else in the key."""
        plain = dataclasses.asdict(self.plain())
        if self.rule is None:
            # So that results from before there were such rules keep their place.
            del plain["rule"]
        text = json.dumps(plain, sort_keys=True)
        # A dot would be taken for the head of a suffix.
        name = self.method if self.rule is None else self.method.replace(".", "_")
        return out / self.experiment / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:DIGEST_LENGTH]}"


@dataclass(frozen=True)
class Record:
    """What is stored beside the arrays of a unit: what they are, and how they were made."""

    format: int
    key: PlainKey = field(metadata=files.INLINE)
    arrays_sha256: str
    # Wall time, of all parts of a run that was resumed.
    seconds: float
    resumed: bool
    # That of the last part.
    provenance: Provenance = field(metadata=files.INLINE)
    # The parts before, of a run that was resumed by another commit, or with other versions or another machine.
    earlier: tuple[Part, ...] = ()

    @property
    def origins(self) -> tuple[Provenance, ...]:
        """How the parts were made, in their order."""
        return (*(part.provenance for part in self.earlier), self.provenance)


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
    before: Sequence[Part] = (),
) -> Result:
    """Store a finished unit. The json is written last: if it exists, the npz is complete.

    `seconds` is wall time of this process. `origin` is what `provenance()` was at its start, None for the present one:
    the files may have changed since they were loaded. `before` are the parts of a resumed run that were made before.
    """
    base = key.path(out)
    arrays_path = base.with_suffix(".npz")
    # A record of older arrays must not stand beside the new ones, should the process die in between.
    files.remove(base.with_suffix(".json"))
    npz.write(arrays_path, arrays)
    *earlier, last = joined([*before, Part(origin or provenance(), seconds)])
    total = round(sum(part.seconds for part in (*earlier, last)), 3)
    digest = files.sha256(arrays_path)
    record = Record(formats.RECORD, key.plain(), digest, total, resumed, last.provenance, tuple(earlier))
    files.write_sealed(base.with_suffix(".json"), record)
    return Result(arrays, record)


def check_place(out: Path, key: Key) -> None:
    """ValueError where something that is no file lies in the place of a unit's files."""
    for suffix in (".npz", ".json"):
        files.check_regular(key.path(out).with_suffix(suffix))


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
    if content.get("format") != formats.RECORD:
        raise ValueError(
            f"{record_path}: got results of format {content.get('format')}, expected {formats.RECORD}; "
            f"{formats.remedy(content, formats.RECORD, 'run again with --fresh')}, or use another --out"
        )
    foreign = [name for name in (*KEY_FIELDS, "arrays_sha256") if name not in content]
    if foreign:
        raise ValueError(f"{record_path}: is no result of one method (lacks {', '.join(foreign)}); name one of --out")
    content = files.unsealed(content, record_path)
    # A pipe would be waited for without end.
    if not arrays_path.is_file() or files.sha256(arrays_path) != content["arrays_sha256"]:
        raise ValueError(f"{arrays_path}: missing, truncated or altered since it was written; delete {record_path}")
    incomplete = [name for name in ORIGIN_FIELDS if name not in content]
    if incomplete:
        raise ValueError(f"{record_path}: lacks {', '.join(incomplete)}; delete it and run again")
    return Result(npz.read(arrays_path), reading.build(Record, content, str(record_path)))
