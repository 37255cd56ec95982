"""Settings classes under their old import path; import them from the experiment's package instead."""

from __future__ import annotations

from tpo_ref.study.registry import EXPERIMENTS


def __getattr__(name: str) -> type[object]:
    kinds = {type(s.settings).__name__: type(s.settings) for e in EXPERIMENTS.values() for s in e.scales.values()}
    if name not in kinds:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(sorted(kinds))}")
    return kinds[name]
