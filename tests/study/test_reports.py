"""Reports: what is written is read back, committed ones included, and what is no report is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers import toy

from tpo_ref.study import claims, files, reading, reports, tables
from tpo_ref.study.estimates import Estimate
from tpo_ref.study.reports import ExperimentReport, SuiteReport
from tpo_ref.study.runner import Request, ensure

RESULTS = Path(__file__).parents[2] / "spec" / "results"
# Comparisons have a folder of their own.
COMMITTED = sorted(p for p in RESULTS.rglob("*.json") if p.parent.name != "compare")
COMPARED = sorted((RESULTS / "compare").glob("*.json"))


def report_of_toy(out: Path, seeds: int) -> ExperimentReport:
    units = ensure(Request(toy.TOY, "paper", seeds=seeds, out=out))
    arrays = {method: result.arrays for method, result in units.items()}
    return tables.report(toy.TOY, "paper", units, claims.judge(toy.TOY, "paper", arrays))


@pytest.mark.parametrize("seeds", [1, 5])
def test_a_written_report_is_read_back(seeds: int, tmp_path: Path) -> None:
    report = report_of_toy(tmp_path, seeds)
    path = tmp_path / "report.json"
    files.write_sealed(path, report)
    again = reports.load_report(path)
    assert isinstance(again, ExperimentReport)
    assert files.json_text(again) == files.json_text(report)
    # One seed has no standard error, and the second claim's interval is open: json has null for both.
    assert tables.method_table(again.methods) == tables.method_table(report.methods)
    assert tables.claim_table(again.claims) == tables.claim_table(report.claims)
    assert tables.winner(again.methods) == report.winner


@pytest.mark.parametrize("path", COMMITTED, ids=lambda p: p.stem)
def test_a_committed_report_is_read_whole(path: Path) -> None:
    report, content = reports.load_report(path), files.unsealed(files.read_json(path), path)
    assert isinstance(report, SuiteReport) == ("members" in content)
    assert keeps(json.loads(files.json_text(report)), content)


@pytest.mark.parametrize("path", COMPARED, ids=lambda p: p.stem)
def test_a_committed_comparison_is_read_whole(path: Path) -> None:
    again = json.loads(files.json_text(reports.load_comparison(path)))
    assert keeps(again, files.unsealed(files.read_json(path), path))


def keeps(new: object, old: object) -> bool:
    """Whether json says all that an older one said, which may lack what was added since."""
    if isinstance(old, dict) and isinstance(new, dict):
        return all(name in new and keeps(new[name], part) for name, part in old.items())
    if isinstance(old, list) and isinstance(new, list):
        return len(new) == len(old) and all(map(keeps, new, old))
    return type(new) is type(old) and new == old


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("format", 2, "got format 2, expected 3; `python -m tpo_ref.study.upgrade"),
        ("format", 4, "got format 4, expected 3; make it again"),
        ("title", 3, "title: got 3 of 'int', expected text"),
        ("claims", {}, "claims: got {} of 'dict', expected a list"),
        ("methods", [{"method": "tpo"}], "methods: 0: lacks label"),
        ("judged_by", None, "judged_by: got None of 'NoneType', expected an object"),
        ("runs", {"tpo": 1}, "runs: tpo: got 1 of 'int', expected an object"),
    ],
)
def test_what_is_no_report_is_refused(name: str, value: object, says: str, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    content = json.loads(files.json_text(report_of_toy(tmp_path, 2)))
    files.write_sealed(path, {**content, name: value})
    with pytest.raises(ValueError, match=says.replace("[", r"\[")) as refused:
        reports.load_report(path)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize("value", [True, "1", [1]])
def test_a_number_is_no_truth_text_or_list(value: object) -> None:
    with pytest.raises(ValueError, match=r"x: value: got .*, expected a number"):
        reading.build(Estimate, {"value": value, "error": 0.0, "n": 1}, "x")
    with pytest.raises(ValueError, match=r"x: n: got .*, expected a whole number"):
        reading.build(Estimate, {"value": 0.0, "error": 0.0, "n": value}, "x")
