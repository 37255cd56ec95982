"""One process at a time on a folder: refused with the holder's name, or waited for; free when the holder dies."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.processes import without

from tpo_ref.study import locks
from tpo_ref.study.errors import InUse

HOLD = """
import sys, time
from pathlib import Path
from tpo_ref.study import locks
with locks.held(Path(sys.argv[1]), "toy"):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def holder(path: Path, seconds: float) -> subprocess.Popen[str]:
    """A process that holds the lock of a path, once this returns."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), str(seconds)], stdout=subprocess.PIPE, text=True, encoding="utf-8"
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_refused_and_told_who_holds_the_folder(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with holder(path, 60) as process:
        says = f"toy: {path} is in use by process {process.pid} on '{socket.gethostname()}'; wait until .* or choose"
        with pytest.raises(InUse, match=says), locks.held(path, "toy"):
            pass
        os.kill(process.pid, signal.SIGKILL)
    # Nothing of the dead process is in the way.
    with locks.held(path, "toy"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_second_lock_of_one_process_is_refused_too(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to("run")
    with locks.held(tmp_path / "run", "toy"):
        for name in ("run", "link"):
            with pytest.raises(InUse, match=f"process {os.getpid()}"), locks.held(tmp_path / name, "toy"):
                pass
        with locks.held(tmp_path / "other", "toy"):
            pass


def test_who_wants_to_wait_is_told_so_and_comes_next(tmp_path: Path) -> None:
    says: list[str] = []
    path = tmp_path / "run"
    with holder(path, 0.5) as process, locks.held(path, "toy", waiting=says.append):
        assert process.wait(5) == 0
    assert [f"process {process.pid}" in text and "waiting" in text for text in says] == [True]


def test_where_the_file_system_has_no_locks_a_warning_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    def missing(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", missing)
    with (
        pytest.warns(RuntimeWarning, match=r"has no locks; start no second process"),
        locks.held(tmp_path / "r", "toy"),
    ):
        pass


def test_a_folder_that_takes_no_lock_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"cannot lock .*file/\.run\.lock.*choose a writable"):
        locks.held(tmp_path / "file" / "run", "toy").__enter__()


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_file_in_the_place_of_a_lock_is_refused(make: Callable[[Path], object], tmp_path: Path) -> None:
    make(locks.lock_file(tmp_path / "run"))
    with pytest.raises(ValueError, match=r"\.run\.lock: is no regular file"), locks.held(tmp_path / "run", "toy"):
        pass


def test_the_lock_of_a_folder_made_again_is_left_to_its_holder(tmp_path: Path) -> None:
    file = locks.lock_file(tmp_path / "run")
    with locks.held(tmp_path / "run", "toy"):
        file.unlink()
        other = holder(tmp_path / "run", 60)
    assert file.exists()
    other.kill()
    other.communicate()


def test_without_filelock_a_warning_says_that_nothing_is_locked(tmp_path: Path) -> None:
    program = (
        "import warnings\nfrom pathlib import Path\nfrom tpo_ref.study import locks\n"
        "with warnings.catch_warnings(record=True) as caught:\n    warnings.simplefilter('always')\n"
        "    with locks.held(Path('here'), 'the store'):\n        pass\nprint(caught[0].message)\n"
    )
    done = without("filelock", program)
    assert done.returncode == 0, done.stderr
    assert "the store: nothing is locked without filelock; start no second process in here" in done.stdout
