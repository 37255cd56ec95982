"""The files of a folder by name, size and SHA-256, written last: a folder that agrees with its list is whole."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from safetensors import SafetensorError

from tpo_ref.study import files

NAME = "manifest.json"
FORMAT = 1
# Digests are computed side by side, outside Python's lock.
THREADS = 8


def write(folder: Path) -> None:
    """List every file of a folder, once each has reached the disk; OSError as `files.write_bytes`."""
    paths = sorted(_files(folder))
    for path in (*paths, *{path.parent for path in paths}):
        _to_disk(path)
    with ThreadPoolExecutor(THREADS) as pool:
        digests = list(pool.map(sha256, paths))
    entries = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": digest}
        for path, digest in zip(paths, digests, strict=True)
    }
    files.write_json(folder / NAME, {"format": FORMAT, "files": entries, "sha256": _digest(entries)})


@contextlib.contextmanager
def saving(folder: Path, first: bool = True) -> Iterator[None]:
    """Around everything that writes a folder: what fails for want of space, or of leave to write, is said in one line.

    Args: first, whether this process removes what was written by then, so that its space is free to go on with.
    Raises: OSError with the path and the remedy, whatever the library that was writing raises.
    """
    try:
        yield
    except Exception as error:
        # The tokenizers' library raises Exception itself.
        if not isinstance(error, OSError | RuntimeError | SafetensorError) and type(error) is not Exception:
            raise
        if first:
            with contextlib.suppress(OSError):
                files.remove_folder(folder)
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        number = getattr(error, "errno", None) or errno.EIO
        what = f"cannot save {folder}: {reason}; make space there, or move the run to a folder with free space"
        raise OSError(number, what) from error


def begin(folder: Path) -> None:
    """Forget the list of a folder that is about to be written again: until `write`, it is not whole."""
    files.remove(folder / NAME)


def replace(half: Path, folder: Path) -> None:
    """Put a folder in the place of another, once all its files are on the disk and listed; OSError as `write`."""
    write(half)
    files.remove_folder(folder)
    half.rename(folder)


def fault(folder: Path) -> str | None:
    """What is wrong with a folder, in a few words; None where every listed file is there and unaltered.

    Files beside those of the list are nobody's business.
    """
    try:
        content = files.read_json(folder / NAME)
        entries = content["files"]
        if content["format"] != FORMAT or content["sha256"] != _digest(entries):
            raise ValueError
        sizes = {folder / name: entry["bytes"] for name, entry in entries.items()}
        digests = {folder / name: entry["sha256"] for name, entry in entries.items()}
    except FileNotFoundError:
        return f"it has no {NAME}, so it is half written, or of an earlier version"
    except NotADirectoryError:
        return "it is no folder"
    except (ValueError, KeyError, TypeError, AttributeError, OSError):
        return f"its {NAME} is damaged"
    # Sizes first: most damage shows there, and costs nothing to find.
    for path, size in sizes.items():
        if not path.is_file():
            return f"its {path.relative_to(folder)} is missing"
        if path.stat().st_size != size:
            return f"its {path.relative_to(folder)} has {path.stat().st_size} bytes of {size}"
    with ThreadPoolExecutor(THREADS) as pool:
        for path, digest in zip(sizes, pool.map(_readable_sha256, sizes), strict=True):
            if digest != digests[path]:
                return f"its {path.relative_to(folder)} was altered since it was written"
    return None


def sha256(path: Path) -> str:
    """The digest of a file's content, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _readable_sha256(path: Path) -> str:
    """The digest of a file; of one that cannot be read, nothing."""
    try:
        return sha256(path)
    except OSError:
        return ""


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file() and path != folder / NAME)


def _to_disk(path: Path) -> None:
    """Wait until a file, or the entries of a folder, are on the disk; what cannot be opened for that is left."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        # Windows opens no folders.
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _digest(entries: object) -> str:
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()
