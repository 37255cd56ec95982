"""Score, u, p_old and q of each completion in TRL's table of completions."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from tpo_torch.llm.groups import Coefficients
from tpo_torch.llm.metrics import CompletionRows

# Prefixed, since a reward function may log a "score" of its own.
COLUMNS = ("tpo/score", "tpo/u", "tpo/p_old", "tpo/q")
NAN = float("nan")


class CompletionTable:
    """Columns beside TRL's, which it fills before anything is known of the target; NaN until an optimizer step has.

    Args: logs, the trainer's `_logs`: deques that hold the completions of one round of generation.
    """

    def __init__(self, logs: MutableMapping[str, Any]) -> None:
        self.logs = logs
        self.since = 0

    def begin(self, count: int, train: bool) -> None:
        """A round of `count` completions was appended to TRL's columns, for training or for evaluation."""
        for name in COLUMNS:
            self.logs["extra"][name].extend([NAN] * count)
        self.since = 0 if train else self.since + count

    def fill(self, rows: CompletionRows, fit: Coefficients, count: int, group: int) -> None:
        """What an optimizer step has seen of the newest round, whose groups have numbers of `group` and above."""
        columns = zip(COLUMNS, (rows.score, fit.u, fit.p_old, fit.q), strict=True)
        newest = (rows.group >= group).tolist()
        for name, values in columns:
            column = self.logs["extra"][name]
            for row, value, here in zip(rows.row.long().tolist(), values.tolist(), newest, strict=True):
                place = len(column) - self.since - count + row
                if here and place >= 0:
                    column[place] = value
