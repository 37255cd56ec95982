"""`tpo verify llm-exactness`: the table of the trainer's gradient against the dense one, layout by layout."""

from __future__ import annotations

import importlib
from typing import Any

from tpo_ref.study.errors import MissingExtra

NAME = "llm-exactness"
MODULE = "tpo_torch.llm.exactness"


def reports() -> list[dict[str, Any]]:
    """One plain mapping per layout; MissingExtra without the libraries that the trainer stands on."""
    try:
        module = importlib.import_module(MODULE)
    except ModuleNotFoundError as error:
        raise MissingExtra(f"{NAME} needs {error.name}, which is not installed; run: pip install '.[llm]'") from error
    return [
        {
            "layout": report.name,
            "cut": report.cut,
            "steps": report.steps,
            "largest": report.largest,
            "difference": report.difference,
            "holds": report.holds,
        }
        for report in module.verify(together=True)
    ]


def table(found: list[dict[str, Any]]) -> list[list[str]]:
    """Rows of text, the header first."""
    header = ["layout", "processes x micro-batches x rows", "steps", "largest entry", "relative difference", "verdict"]
    return [header] + [
        [
            report["layout"],
            report["cut"],
            str(report["steps"]),
            f"{report['largest']:.2g}",
            f"{report['difference']:.1e}",
            "holds" if report["holds"] else "fails",
        ]
        for report in found
    ]
