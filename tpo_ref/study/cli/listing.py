"""What there is to run: experiments with their costs, and the suites that stand for several."""

from __future__ import annotations

from typing import Any

from tpo_ref.study import registry
from tpo_ref.study.protocol import SCALES, Experiment, Suite


def plain() -> list[dict[str, Any]]:
    """Every experiment, then every suite, as plain data."""
    known, suites = registry.EXPERIMENTS.values(), registry.SUITES.values()
    return [*(_experiment(e) for e in known), *(_suite(s) for s in suites)]


def experiment_table(whole: bool = False) -> list[list[str]]:
    """Header and a row per experiment; those that a suite's name announces only in the whole of it."""
    suites = registry.SUITES.values()
    shown = [e for e in registry.EXPERIMENTS.values() if whole or not any(_folded(e, s) for s in suites)]
    head = ["id", "paper", "title", "smoke", "cpu", "paper scale", "needs"]
    return [head, *([e.id, e.paper, e.title, *(_cost(e, name) for name in SCALES), e.extra or ""] for e in shown)]


def suite_table() -> list[list[str]]:
    """Header and a row per suite."""
    rows = [[s.id, s.paper, s.title, ", ".join(s.members)] for s in registry.SUITES.values()]
    return [["id", "paper", "title", "experiments"], *rows]


def _folded(e: Experiment, s: Suite) -> bool:
    return e.id in s.members and e.id.startswith(f"{s.id}-")


def _experiment(e: Experiment) -> dict[str, Any]:
    cost = {name: {"seeds": scale.seeds, "cost": scale.cost} for name, scale in e.scales.items()}
    return {"id": e.id, "title": e.title, "paper": e.paper, "methods": e.methods, "scales": cost, "needs": e.extra}


def _suite(s: Suite) -> dict[str, Any]:
    return {"id": s.id, "title": s.title, "paper": s.paper, "members": s.members}


def _cost(e: Experiment, scale: str) -> str:
    return f"{e.scales[scale].cost} ({e.scales[scale].seeds} seeds)" if scale in e.scales else ""
