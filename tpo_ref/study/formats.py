"""The formats of stored json files, raised whenever the meaning of an entry changes: older files are never misread."""

from __future__ import annotations

from collections.abc import Mapping

# A record or report without a digest; one with a digest of all its entries.
UNSEALED, SEALED = 1, 2
# Records of runs; reports of comparisons; reports of experiments and suites, whose claims are judged by intervals.
RECORD, COMPARISON, REPORT = SEALED, SEALED, 3
REMEDY = "`python -m tpo_ref.study.upgrade FILE` brings it to the format of today"


def remedy(content: Mapping[str, object], expected: int, otherwise: str) -> str:
    """What to do about a file of another format than expected."""
    older = content.get("format") in range(UNSEALED, expected)
    return REMEDY if older else otherwise
