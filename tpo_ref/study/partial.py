"""The state of a run that is not finished: a file whose every bit is covered by a digest in its first line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tpo_ref.study import files, npz, reading
from tpo_ref.study.origins import Part
from tpo_ref.study.sources import Code

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Opens the first line; the digest of all that follows the line is the rest of it. The number rises with the layout.
MAGIC = b"tpo partial 1 "
CODE = "code"
REMEDY = "move it away, or delete it to start the run over"


@dataclass(frozen=True)
class Partial:
    """What a partial file holds: which run it belongs to, how it was made so far, and the state."""

    # Plain json values; the entry "code" is that of a `sources.Code`.
    identity: Mapping[str, object]
    parts: tuple[Part, ...]
    arrays: Mapping[str, NDArray[Any]]


def write(
    path: Path, identity: Mapping[str, object], arrays: Mapping[str, NDArray[Any]], parts: Iterable[Part] = ()
) -> None:
    """Write a state, atomically.

    Args: identity, what tells this run from others, as json can say it; arrays, the state; parts, how it was made.
    Raises: OSError with the path when the folder is read-only or full; the file before then remains.
    """
    head = json.dumps({"identity": files.plain(identity), "parts": files.plain(tuple(parts))}, allow_nan=False)
    body = head.encode() + b"\n" + npz.packed(arrays)
    files.write_bytes(path, MAGIC + hashlib.sha256(body).hexdigest().encode() + b"\n" + body)


def read(path: Path, identity: Mapping[str, object]) -> Partial:
    """Read the state of a run.

    Args: identity, as `write`.
    Raises: ValueError for a damaged file, or that of another run or of other code, naming what differs.
    """
    head, packed = _verified(path)
    arrays = npz.unpacked(packed, path)
    there = dict(reading.mapping(head.get("identity"), str(path)))
    now = dict(reading.mapping(files.plain(identity), str(path)))
    codes = [there.pop(CODE, None), now.pop(CODE, None)]
    if there != now:
        raise ValueError(f"{path}: is the checkpoint of another run ({'; '.join(_differences(there, now))}); {REMEDY}")
    if codes[0] != codes[1]:
        old, new = (reading.build(Code, code, f"{path}: {CODE}") for code in codes)
        raise ValueError(
            f"{path}: was written by other code, which may compute other numbers ({'; '.join(new.differences(old))}); "
            f"go back to that code, or {REMEDY}"
        )
    return Partial(there, _parts(head, path), arrays)


def parts(path: Path) -> tuple[Part, ...]:
    """How the state in a file was made; nothing where there is none, or for a damaged one, which `read` refuses."""
    try:
        return _parts(_verified(path)[0], path)
    except (FileNotFoundError, ValueError):
        return ()


def _verified(path: Path) -> tuple[dict[str, object], bytes]:
    """The head and the packed arrays of a file whose digest is right."""
    first, _, body = files.read_bytes(path).partition(b"\n")
    if not first.startswith(MAGIC):
        raise ValueError(f"{path}: is no checkpoint of a run, or has an earlier layout; {REMEDY}")
    if first != MAGIC + hashlib.sha256(body).hexdigest().encode():
        raise ValueError(f"{path}: truncated or altered since it was written; {REMEDY}")
    line, _, packed = body.partition(b"\n")
    return files.parse_json(line, path), packed


def _differences(there: Mapping[str, object], now: Mapping[str, object]) -> Iterator[str]:
    """The entries of two identities that differ, in words; of an entry that is an object, the entries inside."""
    for name in sorted({*there, *now}):
        old, new = there.get(name), now.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _differences(old, new)
        elif old != new:
            yield f"{name} = {old!r} there, {new!r} here"


def _parts(head: Mapping[str, object], path: Path) -> tuple[Part, ...]:
    content = head.get("parts")
    if not isinstance(content, list):
        raise ValueError(f"{path}: does not say how it was made; {REMEDY}")
    return tuple(reading.build(Part, part, f"{path}: parts") for part in content)
