"""Records and reports of formats before: named by the readers; one command seals them and judges their claims again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import toy

from tpo_ref.study import claims, files, formats, reports, results, tables, upgrade
from tpo_ref.study.runner import Request, ensure


def before(path: Path, number: int = formats.UNSEALED) -> dict[str, object]:
    """Write a file as it was in an earlier format, its claims judged otherwise; return what it says."""
    content = dict(files.unsealed(files.read_json(path), path)) | {"format": number}
    rows: Any = content.get("claims", [])
    for row in rows:
        del row["interval"], row["level"]
        row["verdict"] = "FAILS"
    (files.write_json if number == formats.UNSEALED else files.write_sealed)(path, content)
    return content


@pytest.fixture
def record(tmp_path: Path) -> Path:
    request = Request(toy.TOY, "smoke", methods=("tpo",), out=tmp_path)
    ensure(request)
    return request.keys()[0].path(tmp_path).with_suffix(".json")


@pytest.fixture
def report(tmp_path: Path) -> Path:
    units = ensure(Request(toy.TOY, "paper", out=tmp_path))
    arrays = {name: unit.arrays for name, unit in units.items()}
    judged = claims.judge(toy.TOY, "paper", arrays)
    files.write_sealed(tmp_path / "report.json", tables.report(toy.TOY, "paper", units, judged))
    return tmp_path / "report.json"


def test_a_record_is_named_then_sealed_and_loads(record: Path) -> None:
    content = before(record)
    with pytest.raises(ValueError, match=r"got results of format 1, expected 2; `python -m tpo_ref\.study\.upgrade"):
        results.read(record)
    assert upgrade.upgrade(record) == []
    assert upgrade.upgrade(record) is None
    assert results.read(record).record.seconds == content["seconds"]
    assert files.unsealed(files.read_json(record), record) == {**content, "format": formats.RECORD}


@pytest.mark.parametrize("number", [1, 2])
def test_a_report_is_named_then_judged_again_and_loads(report: Path, number: int) -> None:
    whole = reports.load_report(report)
    before(report, number)
    with pytest.raises(ValueError, match=rf"got format {number}, expected 3; `python -m tpo_ref\.study\.upgrade"):
        reports.load_report(report)
    command = [sys.executable, "-m", upgrade.__name__, str(report), str(report.with_name("none.json"))]
    process = subprocess.run(command, capture_output=True, text=True, check=False, encoding="utf-8")
    assert process.returncode == 2
    assert process.stdout.splitlines() == [
        f"{report}: upgraded",
        "    tpo: first step with error below 0.1: FAILS → holds",
        "    AUC(pg) − AUC(tpo) of error: FAILS → holds",
    ]
    assert process.stderr.count("\n") == 1
    again = reports.load_report(report)
    assert [claim.verdict for claim in again.claims] == ["holds", "holds"]
    # An order is judged by what the report has of it; a crossing's error was an estimate without its correction.
    assert again.claims[1] == whole.claims[1]
    assert isinstance(again, reports.ExperimentReport)
    assert isinstance(whole, reports.ExperimentReport)
    assert again.winner == whole.winner
    assert upgrade.upgrade(report) is None


def test_old_numbers_are_judged_by_the_rules_of_today(report: Path) -> None:
    before(report, 2)
    content = dict(files.unsealed(files.read_json(report), report))
    row = {"source": "toy", "published": None, "verdict": "holds"}
    cases = [
        ("pg: share of solved seeds", [0.5, 0.9], (1.0, 0.0, 4), "unclear"),
        ("tpo: lowest mean error", [0.1, None], (0.3, None, 8), "unclear"),
        ("tpo: steps to 1% error", [9.0, 11.0], (10.0, 0.0, 3), "unclear"),
        ("tpo: misalignment", [None, 0.1], (0.1, 0.0, 9), "FAILS"),
    ]
    rows = [
        {**row, "claim": text, "accepted": accepted, "ours": dict(zip(("value", "error", "n"), ours, strict=True))}
        for text, accepted, ours, _ in cases
    ]
    files.write_sealed(report, {**content, "claims": rows})
    changes = upgrade.upgrade(report)
    assert changes == [f"{text}: holds → {word}" for text, _, _, word in cases]


def test_what_was_altered_is_not_upgraded(record: Path) -> None:
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
    assert files.read_json(record)["format"] == formats.UNSEALED
