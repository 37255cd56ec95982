"""Files that are whole or absent, also beside what dead processes left."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpo_ref.study import files, npz


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_what_dead_processes_left_goes_at_the_next_write(tmp_path: Path) -> None:
    dead, host = dead_pid(), files._HOST
    gone = [f".x.json.{host}.{dead}.tmp", f".old.npz.{dead}.tmp", f".folder.{host}.{dead}.tmp"]
    kept = [f".y.json.{host}.{os.getppid()}.tmp", f".z.json.01234567.{dead}.tmp", ".notes.tmp", "a.tmp", "b.npz"]
    for name in [*gone[:2], *kept]:
        (tmp_path / name).write_text("half", encoding="utf-8")
    (tmp_path / gone[2]).mkdir()
    (tmp_path / gone[2] / "part").touch()
    files.write_bytes(tmp_path / "x.json", b"{}")
    assert {path.name for path in tmp_path.iterdir()} == {"x.json", *kept}


def test_a_killed_write_leaves_what_the_next_one_sweeps(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; from tpo_ref.study import files\n"
        "os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "files.write_bytes(Path(sys.argv[1]), b'half')"
    )
    path = tmp_path / "x.json"
    assert subprocess.run([sys.executable, "-c", program, str(path)], check=False).returncode == -9
    assert len(list(tmp_path.iterdir())) == 1
    files.write_bytes(path, b"whole")
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"whole"]


def test_file_and_folders_are_synced_in_the_order_that_outlasts_a_power_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noted(descriptor: int) -> None:
        folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        calls.append(os.readlink(f"/proc/self/fd/{descriptor}").rpartition("/")[2] if folder else "file")
        fsync(descriptor)

    def renamed(*arguments: Path) -> None:
        calls.append("rename")
        replace(*arguments)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(os, "replace", renamed)
    files.write_bytes(tmp_path / "new" / "x.json", b"{}")
    assert calls == [tmp_path.name, "file", "rename", "new"]


NAMES = st.text(max_size=8)
SAID = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(NAMES, part, max_size=3),
    max_leaves=4,
)


@given(content=st.dictionaries(NAMES.filter(lambda name: name != files.SEAL), SAID, max_size=4), data=st.data())
def test_a_sealed_object_that_says_anything_else_is_refused(content: dict[str, Any], data: st.DataObject) -> None:
    path = Path("x.json")
    sealed = json.loads(files.json_text(files.sealed(content)))
    assert files.unsealed(dict(reversed(sealed.items())), path) == content
    name = data.draw(st.sampled_from([*content, files.SEAL]) | NAMES)
    other = {**sealed, name: data.draw(SAID)}
    if json.dumps(other, sort_keys=True) != json.dumps(sealed, sort_keys=True):
        with pytest.raises(ValueError, match="altered since"):
            files.unsealed(other, path)
    with pytest.raises(ValueError, match="altered since"):
        files.unsealed({part: value for part, value in sealed.items() if part != files.SEAL}, path)


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_file_is_refused_without_waiting(make: Callable[[Path], object], tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    make(path)
    for read in (files.read_json, npz.read, files.read_bytes):
        with pytest.raises(ValueError, match=r"x\.json: is no regular file; move it away"):
            read(path)


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1, "a": 1}',
        '{"a": {"b": 1, "b": 2}}',
        '{"a": NaN}',
        '{"a": -Infinity}',
        '{"a": 1e999}',
        "[" * 100_000,
        '{"a": ' * 50_000,
        f'{{"a": {"9" * 5000}}}',
        '{"a": 1',
        '{"a": 1}x',
        "[1]",
        "\ufeff{}",
    ],
)
def test_json_that_says_two_things_or_none_is_refused_in_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: ") as refusal:
        files.read_json(path)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 400
