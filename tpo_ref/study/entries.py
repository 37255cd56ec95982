"""The entry points by which installed packages bring experiments and commands to `tpo`."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import cast

EXPERIMENTS_GROUP, COMMANDS_GROUP = "tpo.experiments", "tpo.commands"


def commands() -> dict[str, Callable[..., int]]:
    """The commands that packages add to `tpo`, by name; ImportError naming the package whose command is broken."""
    return {point.name: cast("Callable[..., int]", load(point)) for point in points(COMMANDS_GROUP)}


def points(group: str) -> list[EntryPoint]:
    """Entry points of a group: the packages of this distribution first, then others by name."""
    own = __name__.partition(".")[0]
    points = entry_points(group=group)
    first = {p.dist.name for p in points if p.dist is not None and p.module.partition(".")[0] == own}
    unique = {(p.name, p.value): p for p in points}.values()
    return sorted(unique, key=lambda p: p.dist is None or p.dist.name not in first)


def load(point: EntryPoint) -> object:
    """What an entry point names; ImportError naming the package where it is broken."""
    try:
        return point.load()
    except (ImportError, AttributeError) as error:
        package = "an unknown package" if point.dist is None else point.dist.name
        raise ImportError(
            f"{point.group}: {point.name} = {point.value} of {package} cannot be loaded ({error}); mend or uninstall it"
        ) from error
