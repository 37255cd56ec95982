"""Records and reports of the format before: named by the readers, sealed by one command, every entry as it was."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import toy

from tpo_ref.study import claims, files, reports, results, tables, upgrade
from tpo_ref.study.runner import Request, ensure


def before(path: Path) -> dict[str, object]:
    """Write a file as it was in format 1; return what it says."""
    content = files.unsealed(files.read_json(path), path) | {"format": upgrade.BEFORE}
    files.write_json(path, content)
    return content


@pytest.fixture
def record(tmp_path: Path) -> Path:
    request = Request(toy.TOY, "smoke", methods=("tpo",), out=tmp_path)
    ensure(request)
    return request.keys()[0].path(tmp_path).with_suffix(".json")


@pytest.fixture
def report(tmp_path: Path) -> Path:
    units = ensure(Request(toy.TOY, "smoke", out=tmp_path))
    arrays = {name: unit.arrays for name, unit in units.items()}
    judged = claims.judge(toy.TOY, "smoke", arrays)
    files.write_sealed(tmp_path / "report.json", tables.report(toy.TOY, "smoke", units, judged))
    return tmp_path / "report.json"


def test_a_record_is_named_then_sealed_and_loads(record: Path) -> None:
    content = before(record)
    with pytest.raises(ValueError, match=r"got results of format 1, expected 2; `python -m tpo_ref\.study\.upgrade"):
        results.read(record)
    assert upgrade.upgrade(record)
    assert not upgrade.upgrade(record)
    assert results.read(record).record.seconds == content["seconds"]
    assert files.unsealed(files.read_json(record), record) == {**content, "format": results.FORMAT}


def test_a_report_is_named_then_sealed_and_loads(report: Path) -> None:
    content = before(report)
    with pytest.raises(ValueError, match=r"got format 1, expected 2; `python -m tpo_ref\.study\.upgrade"):
        reports.load_report(report)
    command = [sys.executable, "-m", upgrade.__name__, str(report), str(report.with_name("none.json"))]
    process = subprocess.run(command, capture_output=True, text=True, check=False, encoding="utf-8")
    assert (process.returncode, process.stdout) == (2, f"{report}: sealed\n")
    assert process.stderr.count("\n") == 1
    assert files.unsealed(files.read_json(report), report) == {**content, "format": reports.FORMAT}
    reports.load_report(report)


def test_what_was_altered_is_not_sealed(record: Path) -> None:
    sealed = json.loads(record.read_text(encoding="utf-8"))
    # The format alone set back: the digest that is there says so.
    for content, says in (
        ({**sealed, "format": 1}, "expected a record or report of format 1"),
        ({**sealed, "seconds": 0}, "altered since"),
        ({**sealed, "format": 3}, "got format 3"),
    ):
        record.write_text(json.dumps(content), encoding="utf-8")
        with pytest.raises(ValueError, match=says):
            upgrade.upgrade(record)
    record.write_text(json.dumps(sealed), encoding="utf-8")
    before(record)
    arrays = record.with_suffix(".npz")
    arrays.write_bytes(arrays.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"npz: missing, or altered"):
        upgrade.upgrade(record)
    assert files.read_json(record)["format"] == upgrade.BEFORE


def test_both_formats_are_those_of_the_readers() -> None:
    assert results.FORMAT == reports.FORMAT == upgrade.SEALED
