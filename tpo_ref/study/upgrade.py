"""Brings records and reports of older formats to that of today: `python -m tpo_ref.study.upgrade FILE ...`.

Files of format 1 had no digest and get one, as they are. The claims of reports of format 1 and 2 are judged again, by
the numbers in them, as are the sentences on who won.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tpo_ref.study import claims, estimates, files, formats, judging, reading, tables
from tpo_ref.study.estimates import Estimate, Share
from tpo_ref.study.judging import Bounds
from tpo_ref.study.origins import provenance
from tpo_ref.study.reports import MethodRow

# Only of an older file is the kind of an estimate read off the text of its claim.
CROSSING = re.compile(r"first step with|steps to|updates to")


def upgrade(path: Path) -> list[str] | None:
    """Bring a stored json file to the format of today.

    Returns: a line for each verdict that changed, none for a record; None where the file is of today already.
    Raises: ValueError for what is no record or report, or where the arrays beside it are others.
    """
    content = files.read_json(path)
    newest = formats.REPORT if "claims" in content else formats.SEALED
    known = range(formats.UNSEALED, newest + 1)
    if content.get("format") not in known or (content["format"] == formats.UNSEALED and files.SEAL in content):
        expected = f"a record or report of format {', '.join(map(str, known))}"
        raise ValueError(f"{path}: got format {content.get('format')}, expected {expected}")
    if content["format"] > formats.UNSEALED:
        content = dict(files.unsealed(content, path))
    if content["format"] == newest:
        return None
    arrays = path.with_suffix(".npz")
    if "arrays_sha256" in content and (not arrays.is_file() or files.sha256(arrays) != content["arrays_sha256"]):
        raise ValueError(f"{arrays}: missing, or altered since it was written; delete {path}")
    judged = _judged(content, path) if "claims" in content else content
    files.write_sealed(path, {**judged, "format": newest})
    pairs = zip(content.get("claims", ()), judged.get("claims", ()), strict=True)
    return [f"{a['claim']}: {a['verdict']} → {b['verdict']}" for a, b in pairs if a["verdict"] != b["verdict"]]


def _judged(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """A report with its claims, and its sentence on who won, judged by the rules of today."""
    rows: Sequence[Mapping[str, Any]] = content["claims"]
    regions = [_region(row["accepted"]) for row in rows]
    ours = [_estimate(row, f"{path}: {row['claim']}") for row in rows]
    judgements = judging.judge(ours, regions)
    new = [
        {**row, "ours": files.plain(own), "interval": each.interval, "level": each.level, "verdict": each.word}
        for row, own, each in zip(rows, ours, judgements, strict=True)
    ]
    judged = {**content, "claims": new, "judged_by": files.plain(provenance(_libraries(content)))}
    if "methods" in content:
        methods = [reading.build(MethodRow, row, str(path)) for row in content["methods"]]
        judged["winner"] = tables.winner(methods) if methods else None
    return judged


def _estimate(row: Mapping[str, Any], place: str) -> Estimate:
    old = reading.build(Estimate, row["ours"], place)
    if row["claim"].endswith(claims.SOLVED_SHARE):
        return Share(old.value, old.error, old.n)
    if CROSSING.search(row["claim"]) and old.n > 1:
        # What was not said then: that few seeds resample too narrowly, and that a step is a rounding.
        error = max(estimates.widened(old.error, old.n), estimates.ROUNDING)
        return Estimate(old.value, error, old.n)
    return old


def _region(accepted: Sequence[float | None]) -> Bounds:
    low, high = accepted
    return -math.inf if low is None else low, math.inf if high is None else high


def _libraries(content: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(content["judged_by"]["versions"])


def main() -> int:
    """Upgrade the files named on the command line; 2 where one of them is refused."""
    code = 0
    for name in sys.argv[1:]:
        try:
            changes = upgrade(Path(name))
            print(f"{name}: {'is of today' if changes is None else 'upgraded'}", *(changes or ()), sep="\n    ")
        except (OSError, ValueError) as error:
            print(f"tpo: {error}", file=sys.stderr)
            code = 2
    return code


if __name__ == "__main__":
    sys.exit(main())
