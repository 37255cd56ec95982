"""`tpo compare`: two runs side by side."""

from __future__ import annotations

from tpo_ref.study import compare as comparisons
from tpo_ref.study import files
from tpo_ref.study.choices import Choices
from tpo_ref.study.cli import show
from tpo_ref.study.cli.selection import units


def compare(names: tuple[str, str], choices: Choices, as_json: bool) -> int:
    """Print the comparison of two runs."""
    report = comparisons.comparison(names, choices, units)
    if as_json:
        # Sealed as a stored report is: the output may be kept as one.
        show.print_json(files.sealed(report))
    else:
        show.print_table(comparisons.table(report))
        print(report.sentence)
    return 0
