"""Files that are whole or absent: written to a temporary name, synced, renamed; json, with a digest of what it says."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import re
import shutil
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

# The entry of a json file that has the digest of the others.
SEAL = "sha256"
# The computer's part of a temporary name: short, whatever the computer is called.
_HOST = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
LEFTOVER = re.compile(r"^\..+?(\.(?P<host>[0-9a-f]{8}))?\.(?P<pid>\d+)\.tmp$")
# Metadata of a field, a mapping or a dataclass, that is flattened into the enclosing json object.
INLINE = {"inline": True}
# What a json file can say.
Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file that is whole or absent, also after a power failure; what dead processes left half written goes.

    Raises: OSError with the path and the remedy when the folder is read-only or full.
    """
    half = temporary(path)
    try:
        make_folder(path.parent)
        sweep(path.parent)
        with half.open("wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        os.replace(half, path)
        sync_folder(path.parent)
    except BaseException as error:
        # An interruption leaves nothing half written either.
        remove(half)
        if not isinstance(error, OSError):
            raise
        what = f"cannot write {path}: {error.strerror}; choose a writable folder with free space (--out)"
        raise OSError(error.errno, what) from error


def at_home(text: str) -> Path:
    """The path with ~ and ~user at its head replaced; ValueError where there is no such home."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{text}: found no home folder for it; write the whole path") from error


def temporary(path: Path) -> Path:
    """The name under which this process writes a file, or a folder, before it gets its own: `sweep` knows it."""
    return path.with_name(f".{path.name}.{_HOST}.{os.getpid()}.tmp")


def sweep(folder: Path) -> None:
    """Delete the `temporary` files and folders that dead processes of this computer have left in a folder."""
    for half in folder.glob(".*.tmp"):
        match = LEFTOVER.search(half.name)
        if match and match["host"] in (None, _HOST) and not is_alive(int(match["pid"])):
            shutil.rmtree(half, ignore_errors=True) if half.is_dir() else remove(half)


def is_alive(pid: int) -> bool:
    """Whether a process of this computer is running."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        # Somebody else's process.
        return True
    return True


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, if they are not there, such that they outlast a power failure."""
    absent = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for place in absent:
        sync_folder(place.parent)


def sync_folder(folder: Path) -> None:
    """Write a folder's list of names to the disk: a renamed file is safe only then."""
    # Some systems open no folders, some file systems cannot sync them.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def remove(path: Path) -> None:
    """Delete a file if it is there; errors are ignored, because the next write reports them with a remedy."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def remove_folder(path: Path) -> None:
    """Remove a folder; under its own name it is gone at once, even where removing its files is cut short."""
    if path.exists():
        doomed = path.with_name(f".{path.name}.{os.getpid()}.removed")
        path.rename(doomed)
        shutil.rmtree(doomed)


def check_writable(folder: Path) -> None:
    """OSError with the remedy when files cannot be written into a folder, which is made if it is not there."""
    # By a name that is swept, should the process die in between.
    probe = temporary(folder / "writable")
    write_bytes(probe, b"")
    remove(probe)


def plain(value: object) -> Json:
    """A value as json says it: dataclasses are objects, tuples and arrays lists, paths text, non-finite floats null.

    Raises: TypeError for a value of another kind.

    >>> plain({"error": float("nan"), "path": Path("runs"), "seeds": (0, 1)})
    {'error': None, 'path': 'runs', 'seeds': [0, 1]}
    """
    if hasattr(value, "tolist"):
        # An array, or a number of NumPy's own types.
        return plain(value.tolist())
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        content: dict[str, Json] = {}
        for field in dataclasses.fields(value):
            part = plain(getattr(value, field.name))
            content |= part if isinstance(part, dict) and is_inline(field) else {field.name: part}
        return content
    if isinstance(value, Mapping):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, Iterable):
        return [plain(part) for part in value]
    raise TypeError(f"json: got {type(value).__name__}, expected numbers, text, lists, objects or dataclasses of them")


def is_inline(field: dataclasses.Field[object]) -> bool:
    """Whether json has the entries of a field beside the other fields."""
    return bool(field.metadata.get("inline"))


def json_text(value: object) -> str:
    """The `plain` value as indented json text, keys in the order given."""
    return json.dumps(plain(value), indent=1, allow_nan=False)


def write_json(path: Path, content: object) -> None:
    """Write a value as json, atomically."""
    write_bytes(path, f"{json_text(content)}\n".encode())


def write_sealed(path: Path, content: object) -> None:
    """Write a `sealed` dataclass as json, atomically."""
    write_json(path, sealed(content))


def sealed(content: object) -> dict[str, Json]:
    """What json says of a dataclass or mapping, together with the digest of all of it; see `unsealed`."""
    said = plain(content)
    if not isinstance(said, dict):
        raise TypeError(f"json: got {type(content).__name__}, expected a dataclass or mapping")
    # That of an earlier content does not count.
    said.pop(SEAL, None)
    return {**said, SEAL: digest(said)}


def digest(content: Json) -> str:
    """The SHA-256 of what json says, whatever its layout and the order of keys.

    >>> digest({"a": 1, "b": [2.0]}) == digest({"b": [2.0], "a": 1})
    True
    """
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def check_regular(path: Path) -> None:
    """ValueError for a folder, a pipe, which would be waited for without end, or another thing that is no file."""
    if path.exists() and not path.is_file():
        raise ValueError(f"{path}: is no regular file; move it away and run again")


def read_bytes(path: Path) -> bytes:
    """The content of a file; ValueError for what is no file, or cannot be read, with the remedy."""
    check_regular(path)
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise
    except (OSError, MemoryError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); make it readable, or delete it and run again") from error


# `Any`, as `json.loads` returns; `reading.build` checks the types and makes a dataclass of it.
def read_json(path: Path) -> dict[str, Any]:
    """Read a json object; ValueError when it is truncated or no object."""
    return parse_json(read_bytes(path), path)


def parse_json(data: bytes, path: Path) -> dict[str, Any]:
    """The json object that bytes in UTF-8 say; ValueError when it is truncated or no object; path, for messages."""
    try:
        content = strict_json(data.decode())
    except ValueError as error:
        raise ValueError(f"{path}: truncated or not json ({error}); delete it and run again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: got {type(content).__name__}, expected an object; delete it and run again")
    return content


def strict_json(text: str) -> Any:
    """The value that json text says; ValueError for a name written twice, NaN, infinities, and depth without end.

    >>> strict_json('{"a": 1, "a": 2}')
    Traceback (most recent call last):
    ...
    ValueError: 'a' is written twice
    """
    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=_no_number, parse_float=_finite)
    except RecursionError as error:
        raise ValueError("lists and objects lie too deep in each other") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is written twice")
    return content


def _no_number(word: str) -> float:
    raise ValueError(f"{word} is no number in json")


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _no_number(text)


def unsealed(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """What was `sealed`, of the object read from its file; ValueError when it was altered since."""
    rest = {name: part for name, part in content.items() if name != SEAL}
    if content.get(SEAL) != digest(rest):
        raise ValueError(f"{path}: altered since it was written, its SHA-256 is another; delete it and run again")
    return rest
