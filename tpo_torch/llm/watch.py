"""The alarm over the anchor: raised as soon as the scores cannot move the target, or the coefficients vanish."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from tpo_torch import diagnostics, simplex
from tpo_torch.llm.groups import Coefficients, pack
from tpo_torch.llm.metrics import CompletionRows, anchor_scale
from tpo_torch.llm.target import TargetSettings

# The median TV(q, p_old) of groups with unequal rewards below which the target is the anchor; of how many groups at
# least, and of how many, the latest, at most.
DEGENERATE_TV, ENOUGH_GROUPS, LATEST_GROUPS = 0.01, 4, 64


@dataclass
class AnchorWatch:
    """What was seen of groups with a signal, those of unequal rewards, and which warnings were given."""

    # TV(q, p_old) of the latest groups with a signal.
    tv: list[float] = field(default_factory=list)
    # Groups with a signal since training began, and how many of them the scores could not move.
    groups: int = 0
    idle_groups: int = 0
    # Optimizer steps with a signal, and how many of them had coefficients that all vanish.
    steps: int = 0
    vanished_steps: int = 0
    # Whether the warning of a degenerate anchor was given, and that of coefficients that vanish.
    said_degenerate: bool = False
    said_vanished: bool = False

    def warnings(
        self, rows: CompletionRows, fit: Coefficients, settings: TargetSettings, dtype: torch.dtype
    ) -> list[str]:
        """Take note of an optimizer step; return the warnings it gives reason for, but none that was returned before.

        There are two: all coefficients vanish in the precision of the loss, or the scores hardly move the target.

        Args: rows, the completions of the step, in whole groups; fit, target and coefficients of these rows; settings
            of the target; dtype, the precision to which the loss rounds the coefficients.
        """
        if settings.rule:
            # Another rule has no anchor.
            return []
        packing = pack(rows.group.long())
        keep = packing.to_groups(rows.valid.bool()) & packing.mask
        signal = diagnostics.zero_variance(packing.to_groups(fit.u), keep) == 0
        if not bool(signal.any()):
            return []
        tv = simplex.tv(*(torch.where(keep, packing.to_groups(x), 0.0) for x in (fit.q, fit.p_old)))
        latest = tv[signal].tolist()
        self.tv = (self.tv + latest)[-max(LATEST_GROUPS, len(latest)) :]
        self.groups += len(latest)
        self.idle_groups += sum(value < DEGENERATE_TV for value in latest)
        # At the old policy: at the target itself coefficients vanish as they should.
        at_old = (fit.q - fit.p_old).abs() / anchor_scale(rows, settings)
        largest = float(packing.to_groups(at_old)[signal].max())
        vanished = largest < torch.finfo(dtype).tiny
        self.steps += 1
        self.vanished_steps += vanished
        due = []
        if vanished and not self.said_vanished:
            self.said_vanished = True
            due.append(
                f"anchor {settings.anchor!r}: the coefficients of all {len(latest)} groups with unequal rewards vanish "
                f"in {str(dtype).removeprefix('torch.')}, the largest is {largest:.2g}: their rewards move no weight. "
                f"{_remedy(settings)}"
            )
        elif self._is_degenerate() and not (self.said_degenerate or self.said_vanished):
            self.said_degenerate = True
            due.append(
                f"anchor {settings.anchor!r} is degenerate: of the last {len(self.tv)} groups with unequal rewards, "
                f"the median total variation between target and anchor is {statistics.median(self.tv):.2g}, below "
                f"{DEGENERATE_TV}. {_remedy(settings)}"
            )
        return due

    def summary(self, settings: TargetSettings) -> str | None:
        """The same once more for the end of training, with the counts of the whole run; None without a warning."""
        if not (self.said_degenerate or self.said_vanished):
            return None
        return (
            f"anchor {settings.anchor!r}, whole run: in {self.idle_groups} of {self.groups} groups with unequal "
            f"rewards the scores hardly moved the target, and in {self.vanished_steps} of {self.steps} steps all "
            f"coefficients vanished. {_remedy(settings)}"
        )

    def state(self) -> dict[str, Any]:
        """Everything as plain values, for a checkpoint."""
        return asdict(self)

    @classmethod
    def restore(cls, state: dict[str, Any]) -> AnchorWatch:
        """The watch that gave a `state`."""
        return cls(**state)

    def _is_degenerate(self) -> bool:
        return len(self.tv) >= ENOUGH_GROUPS and statistics.median(self.tv) < DEGENERATE_TV


def _remedy(settings: TargetSettings) -> str:
    if settings.anchor == "ratio":
        return f"The scores hardly tilt it: lower eta={settings.eta:g} or tau={settings.tau:g}"
    return (
        "Sequence log-probabilities spread further than the scores can tilt them, so that the target is the old policy "
        "whatever the rewards say. Use anchor='ratio', which has the same stationary points"
    )
