"""What `benchmarks.gpu.llm` has measured so far: on disk after every part, shown as tables at the end."""

from __future__ import annotations

import gc
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.llm.stopwatch import Stopwatch
from tpo_ref.study import files
from tpo_ref.study.cli import show

# Title and columns by kind of part; a column that a part has not is a dash.
TABLES = {
    "steps": (
        "{machine}, torch {torch}, {matrix_tflops:.3g} TFLOP/s in bf16 products; seconds of an optimizer step",
        ("weights", "method", "groups", "total", *Stopwatch.PARTS, "other", "peak_gb", "tokens_per_second", "mfu"),
    ),
    "rollouts": ("rollouts by transformers", ("weights", "tokens", "seconds", "tokens_per_second")),
    "checkpoint": ("the study's checkpoint", ("weights", "loss_first", "loss_last", "accuracy", "accuracy_se")),
    "study": (
        "graph colouring from one checkpoint; accuracy on held-out problems",
        ("method", "seed", "seconds", "reward_first", "reward_last", "accuracy", "accuracy_se"),
    ),
}


@dataclass
class Results:
    """What is known so far, on disk after every part."""

    path: Path
    until: float
    content: dict[str, Any]
    longest: dict[str, float] = field(default_factory=dict)
    failed: bool = False

    def part(self, kind: str, name: str, f: Callable[[], dict[str, Any]], until: float | None = None) -> None:
        """Run one part if one as long as the longest of its kind would end in time; keep what it gives."""
        start = time.monotonic()
        if start + self.longest.get(kind, 0.0) > (self.until if until is None else until):
            self._line("skipped", f"{name}: no time left")
            return
        try:
            self.content.setdefault(kind, []).append(f())
        except Exception as error:
            traceback.print_exc()
            self.failed = True
            self._line("failed", f"{name}: {type(error).__name__}: {error}")
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.longest[kind] = max(self.longest.get(kind, 0.0), time.monotonic() - start)
        print(f"{name}: {time.monotonic() - start:.1f} s", flush=True)
        files.write_json(self.path, self.content)

    def _line(self, kind: str, line: str) -> None:
        self.content.setdefault(kind, []).append(line)
        print(f"{kind}: {line}", flush=True)
        files.write_json(self.path, self.content)

    def show(self) -> None:
        """The tables, and what was skipped or failed."""
        for kind, (title, columns) in TABLES.items():
            rows = [[_text(row.get(name)) for name in columns] for row in self.content.get(kind, [])]
            show.print_table([list(columns), *rows], title.format(**self.content))
        for kind in ("skipped", "failed"):
            show.print_lines(f"{kind}: {line}" for line in self.content.get(kind, []))


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
