"""The state of an unfinished run: whatever is done to the file by hand is found, and said in one line."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpo_ref.study import npz, partial
from tpo_ref.study.origins import Machine, Part, Provenance
from tpo_ref.study.sources import Code

CODE = Code({"walks": "ab"}, {"numpy": "2.1"})
IDENTITY = {"method": "tpo", "settings": {"steps": 3}, "seeds": [0, 1], partial.CODE: CODE}
ARRAYS = {"a": np.arange(6.0).reshape(2, 3), "b": -np.arange(6.0).reshape(2, 3), "n": np.array(7)}
PARTS = (Part(Provenance({"numpy": "2.1"}, "c0", Machine("Linux", "x86_64", 2)), 1.5),)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "run.partial.npz"
    partial.write(path, IDENTITY, ARRAYS, PARTS)
    return path


def refused(path: Path, says: str = "run", identity: dict[str, object] = IDENTITY) -> None:
    with pytest.raises(ValueError, match=says) as error:
        partial.read(path, identity)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert any(word in str(error.value) for word in ("delete", "move it away"))


def test_what_is_written_is_read(whole: Path) -> None:
    found = partial.read(whole, IDENTITY)
    assert found.parts == partial.parts(whole) == PARTS
    assert found.identity == {name: part for name, part in IDENTITY.items() if name != partial.CODE}
    assert found.arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert found.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(found.arrays[name], array)


@given(data=st.data())
def test_one_flipped_bit_is_found(whole: Path, data: st.DataObject) -> None:
    content = bytearray(whole.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    other = whole.with_name("flipped")
    other.write_bytes(content)
    refused(other, "truncated or altered|no checkpoint")
    assert partial.parts(other) == ()


@given(data=st.data())
def test_bytes_that_are_missing_or_too_many_are_found(whole: Path, data: st.DataObject) -> None:
    content = whole.read_bytes()
    start = data.draw(st.integers(0, len(content)))
    stop = data.draw(st.integers(start, len(content)))
    more = data.draw(st.binary(max_size=8))
    changed = content[:start] + more + content[stop:]
    other = whole.with_name("cut")
    other.write_bytes(changed)
    if changed == content:
        partial.read(other, IDENTITY)
    else:
        refused(other, "truncated or altered|no checkpoint")


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_npz(path: Path) -> None:
    np.savez(path.with_suffix(".npz"), **ARRAYS)
    path.with_suffix(".npz").rename(path)


def make_swapped(path: Path) -> None:
    """Two arrays under each other's names, under the digest of before."""
    partial.write(path, IDENTITY, ARRAYS, PARTS)
    first, _, _ = path.read_bytes().partition(b"\n")
    partial.write(path, IDENTITY, {**ARRAYS, "a": ARRAYS["b"], "b": ARRAYS["a"]}, PARTS)
    path.write_bytes(first + b"\n" + path.read_bytes().partition(b"\n")[2])


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (Path.mkdir, "no regular file"),
        (make_pipe, "no regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "no regular file"),
        (lambda path: path.symlink_to(path.name), "cannot be read|no regular file"),
        (Path.touch, "no checkpoint"),
        (make_npz, "no checkpoint"),
        (make_swapped, "altered"),
        (lambda path: path.write_bytes(partial.MAGIC), "altered"),
        (lambda path: path.write_text("{}", encoding="utf-8"), "no checkpoint"),
    ],
    ids=["folder", "pipe", "device", "loop", "empty", "npz", "swapped", "head", "json"],
)
def test_what_is_no_checkpoint_is_refused_without_waiting(
    make: Callable[[Path], object], says: str, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    make(path)
    refused(path, says)
    assert partial.parts(path) == ()


def test_none_is_no_error_of_parts(tmp_path: Path) -> None:
    assert partial.parts(tmp_path / "none") == ()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"method": "pg"}, "another run .method = 'tpo' there, 'pg' here"),
        ({"settings": {"steps": 4}}, "steps = 3 there, 4 here"),
        ({"seeds": [0, 1, 2]}, "seeds"),
        ({"more": None}, "another run"),
        ({partial.CODE: dataclasses.replace(CODE, sources={"walks": "cd"})}, "other code.*code of walks"),
        ({partial.CODE: dataclasses.replace(CODE, versions={"numpy": "2.2"})}, "numpy 2.1 there, 2.2 here"),
    ],
)
def test_another_run_and_other_code_are_told_apart(whole: Path, changes: dict[str, object], says: str) -> None:
    refused(whole, says, {**IDENTITY, **changes})


@pytest.mark.parametrize("body", [b"", b"\n", b"[]\n", b"{}\n", b'{"identity": 1, "parts": []}\n', b"\xff\n"])
def test_a_digest_alone_makes_no_checkpoint(body: bytes, tmp_path: Path) -> None:
    path = tmp_path / "run"
    for packed in (b"", npz.packed(ARRAYS)):
        content = body + packed
        path.write_bytes(partial.MAGIC + hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
        refused(path)
