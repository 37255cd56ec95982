"""One process at a time on a file or folder: a lock that the system releases when its process dies."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import json
import os
import socket
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tpo_ref.study import files
from tpo_ref.study.errors import InUse

if TYPE_CHECKING:
    from filelock import FileLock

# What a file system answers that has no locks.
NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOLCK}
POLL_SECONDS = 0.2


@contextmanager
def held(
    path: Path, what: str, remedy: str = "choose another folder (--out)", waiting: Callable[[str], None] | None = None
) -> Iterator[None]:
    """Hold the lock of a file or folder, which need not exist; the lock is a hidden file beside it.

    It is no part of what it guards: the folder may be deleted and made again while its lock is held. Where the file
    system has no locks, or filelock is not installed, a warning says so, and nothing is locked.

    Args: path, what is worked on; what, its name in messages; remedy, what else to do than wait; waiting, called once
        with a message before waiting for a lock that another process has, None to refuse at once.
    Raises: InUse naming the process that has the lock; OSError, ValueError with the path where no lock can be written.
    """
    if importlib.util.find_spec("filelock") is None:
        # In Python, beside the base install alone: the command line and torch bring it.
        message = f"{what}: nothing is locked without filelock; start no second process in {path}"
        warnings.warn(message, RuntimeWarning, 3)
        yield
        return
    lock, file = _lock(path), lock_file(path)
    files.check_regular(file)
    if not _acquire(lock, file, blocking=False):
        message = f"{what}: {path} is in use by {_holder(file)}"
        if waiting is None:
            raise InUse(f"{message}; wait until that process ends, end it, or {remedy}")
        waiting(f"{message}; waiting for it to end")
        _acquire(lock, file, blocking=True)
    if not lock.is_locked:
        warnings.warn(
            f"{what}: the file system of {file} has no locks; start no second process there", RuntimeWarning, 3
        )
    own = _identity(file)
    try:
        yield
    finally:
        # A folder that was deleted and made again in between may hold the lock of another process.
        _release(lock, file if own == _identity(file) else None)


def lock_file(path: Path) -> Path:
    """The hidden file whose lock guards a path: one for all the links that lead there."""
    real = path.resolve()
    return real.with_name(f".{real.name}.lock")


def _lock(path: Path) -> FileLock:
    # Only what writes a store needs it: the rules are imported without.
    from filelock import FileLock

    # A lock that is a file's mere existence would outlive a killed process.
    return FileLock(lock_file(path), fallback_to_soft=False)


def _acquire(lock: FileLock, file: Path, blocking: bool) -> bool:
    """Take the lock and write the holder into its file; False where another has it."""
    from filelock import Timeout

    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=blocking, poll_interval=POLL_SECONDS)
    except Timeout:
        return False
    except OSError as error:
        if error.errno in NO_LOCKS:
            return True
        what = f"cannot lock {file}: {error.strerror}; choose a writable folder with free space (--out)"
        raise OSError(error.errno, what) from error
    with contextlib.suppress(OSError):
        # On a full disk the lock holds all the same; only the message to others lacks the name.
        file.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}), encoding="utf-8")
    return True


def _identity(file: Path) -> tuple[int, int] | None:
    """What tells a file from another one of the same name; None where there is none."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _release(lock: FileLock, file: Path | None) -> None:
    """Give the lock back and delete its file, if one is given."""
    if lock.is_locked:
        # Deleted while the lock is held: who opened the file before sees that it has no name left, and tries again.
        if file is not None:
            with contextlib.suppress(OSError):
                file.unlink(missing_ok=True)
        lock.release()


def _holder(file: Path) -> str:
    """The process that a lock's file names."""
    try:
        holder = json.loads(file.read_text(encoding="utf-8"))
        return f"process {int(holder['pid'])} on {str(holder['host'])!r}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
