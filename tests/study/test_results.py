"""Stored results: whole or absent, refused when not to be trusted, picked up after a kill."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import toy

from tpo_ref.study import files, formats, npz, origins, results
from tpo_ref.study.errors import MissingExtra
from tpo_ref.study.runner import Request, ensure

TESTS = Path(__file__).parents[1]
KEY = results.Key("toy", "tpo", toy.ToySettings(), (0, 1))
ARRAYS = {"error": np.eye(3)}


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    assert results.load(tmp_path, KEY) is None
    results.save(tmp_path, KEY, ARRAYS, 1.5)
    found = results.load(tmp_path, KEY)
    assert found is not None
    np.testing.assert_array_equal(found.arrays["error"], ARRAYS["error"])
    assert found.record.key.settings == {"class": "ToySettings", "steps": toy.STEPS}
    assert found.record.key.seeds == (0, 1)
    assert set(found.record.provenance.versions) >= {"python", "numpy", "scipy", "numba"}


def test_other_settings_or_seeds_are_another_result(tmp_path: Path) -> None:
    results.save(tmp_path, KEY, ARRAYS, 0)
    for other in (
        results.Key("toy", "tpo", toy.ToySettings(steps=3), (0, 1)),
        results.Key("toy", "tpo", toy.ToySettings(), (0, 2)),
        results.Key("toy", "pg", toy.ToySettings(), (0, 1)),
    ):
        assert results.load(tmp_path, other) is None


def test_truncated_altered_and_foreign_files_are_refused(tmp_path: Path) -> None:
    results.save(tmp_path, KEY, ARRAYS, 0)
    base = KEY.path(tmp_path)
    arrays, record = base.with_suffix(".npz"), base.with_suffix(".json")
    whole, text = arrays.read_bytes(), record.read_text(encoding="utf-8")
    arrays.write_bytes(whole[:-7])
    with pytest.raises(ValueError, match="truncated"):
        results.load(tmp_path, KEY)
    arrays.write_bytes(whole)
    record.write_text(text[: len(text) // 2], encoding="utf-8")
    with pytest.raises(ValueError, match="not json"):
        results.load(tmp_path, KEY)
    record.write_text(json.dumps({**json.loads(text), "format": formats.RECORD + 1}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"format 3, expected 2; run again with --fresh"):
        results.load(tmp_path, KEY)
    # A record that is whole, but of another unit.
    files.write_sealed(record, {**json.loads(text), "seeds": [0, 5]})
    with pytest.raises(ValueError, match="is the result of"):
        results.load(tmp_path, KEY)


def test_a_record_with_one_field_altered_is_refused(tmp_path: Path) -> None:
    results.save(tmp_path, KEY, ARRAYS, 1.5)
    record = KEY.path(tmp_path).with_suffix(".json")
    whole = json.loads(record.read_text(encoding="utf-8"))
    for name in whole:
        for value in (None, 0.25, "other", {**whole, "more": 1}):
            if value == whole[name]:
                # A field that says nothing, as `rule` does for a method of the experiment's own.
                continue
            record.write_text(json.dumps({**whole, name: value}), encoding="utf-8")
            with pytest.raises(ValueError, match=r"altered since|is no result|expected 2"):
                results.load(tmp_path, KEY)
        record.write_text(json.dumps({n: part for n, part in whole.items() if n != name}), encoding="utf-8")
        with pytest.raises(ValueError, match=r"altered since|is no result|expected 2"):
            results.load(tmp_path, KEY)
    record.write_text(json.dumps({**whole, "more": 1}), encoding="utf-8")
    with pytest.raises(ValueError, match="altered since"):
        results.load(tmp_path, KEY)
    # The layout of the text says nothing.
    record.write_text(json.dumps(dict(reversed(whole.items()))), encoding="utf-8")
    assert results.load(tmp_path, KEY) is not None


def test_incomplete_records_and_arrays_are_refused(tmp_path: Path) -> None:
    request = Request(toy.TOY, "smoke", methods=("tpo",), out=tmp_path)
    (key,) = request.keys()
    results.save(tmp_path, key, {"other": np.ones(3)}, 0)
    with pytest.raises(ValueError, match=r"lacks error; delete"):
        ensure(request)
    record = key.path(tmp_path).with_suffix(".json")
    whole = json.loads(record.read_text(encoding="utf-8"))
    files.write_sealed(record, {name: v for name, v in whole.items() if name != "seconds"})
    with pytest.raises(ValueError, match=r"lacks seconds; delete"):
        ensure(request)


def test_results_of_other_code_are_known_as_such(tmp_path: Path) -> None:
    origin = results.save(tmp_path, KEY, ARRAYS, 0).record.provenance
    now = origins.provenance()
    assert not origins.made_by_other_code(origin, now)
    assert origins.made_by_other_code(dataclasses.replace(origin, commit="0" * 40), now)
    assert origins.made_by_other_code(dataclasses.replace(origin, versions={}), now)


def test_pickled_objects_are_never_loaded(tmp_path: Path) -> None:
    path = tmp_path / "bad.npz"
    np.savez(path, x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match="plain arrays"):
        npz.read(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"[1, 2]"])
def test_damaged_archives_say_so(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="truncated or not an npz"):
        npz.read(path)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder", encoding="utf-8")
    with pytest.raises(OSError, match=r"cannot write .*choose a writable folder"):
        results.save(blocked, KEY, ARRAYS, 0)


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left.*--out"):
        files.write_bytes(tmp_path / "x.json", b"{}")
    assert list(tmp_path.iterdir()) == []


def test_finished_units_are_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = Request(toy.TOY, "smoke", out=tmp_path)
    first = ensure(request)
    monkeypatch.setattr(toy, "decay", None)
    again = ensure(request)
    np.testing.assert_array_equal(again["tpo"].arrays["error"], first["tpo"].arrays["error"])
    with pytest.raises(TypeError):
        ensure(Request(toy.TOY, "smoke", out=tmp_path, fresh=True))


def test_a_killed_run_picks_up_at_the_last_finished_unit(tmp_path: Path) -> None:
    note = tmp_path / "die"
    note.touch()
    program = (
        "import sys; from pathlib import Path; from helpers import toy\n"
        "from tpo_ref.study.runner import Request, ensure\n"
        "ensure(Request(toy.TOY, 'smoke', out=Path(sys.argv[1])))"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "out")]
    environment = {**os.environ, toy.DEATH_NOTE: str(note), "PYTHONPATH": str(TESTS)}
    assert subprocess.run(command, env=environment, check=False).returncode == -9
    # The locks of the dead process are free, and their files no results.
    stored = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out" / "toy").glob("[!.]*")}
    assert {name.split("-")[0] for name in stored} == {"tpo"}
    assert subprocess.run(command, env=environment, check=False).returncode == 0
    after = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out" / "toy").iterdir()}
    assert {name.split("-")[0] for name in after} == {"tpo", "pg"}
    assert all(after[name] == stored[name] for name in stored)


def test_unknown_names_come_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'tpp', did you mean 'tpo'"):
        Request(toy.TOY, "smoke", methods=("tpp",), out=tmp_path).keys()
    with pytest.raises(ValueError, match=r"scale of toy: got 'papr', did you mean 'paper'"):
        Request(toy.TOY, "papr", out=tmp_path).keys()
    with pytest.raises(ValueError, match="seeds: got 0"):
        Request(toy.TOY, "smoke", seeds=0, out=tmp_path).keys()
    with pytest.raises(ValueError, match="device: got 'cuda'"):
        ensure(Request(toy.TOY, "smoke", device="cuda", out=tmp_path))


def test_an_alias_and_a_repeat_are_one_method(tmp_path: Path) -> None:
    keys = Request(toy.TOY, "smoke", methods=("reinforce", "pg"), out=tmp_path).keys()
    assert [k.method for k in keys] == ["pg"]


def test_a_missing_extra_is_named(tmp_path: Path) -> None:
    needy = dataclasses.replace(toy.TOY, extra="no_such_package")
    with pytest.raises(MissingExtra, match=r"run: pip install no_such_package$"):
        ensure(Request(needy, "smoke", out=tmp_path))
