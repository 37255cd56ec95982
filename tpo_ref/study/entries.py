"""The entry points by which installed packages bring experiments, commands and rules to `tpo`."""

from __future__ import annotations

from collections.abc import Callable, Collection
from importlib.metadata import EntryPoint, entry_points
from typing import cast

EXPERIMENTS_GROUP, COMMANDS_GROUP, RULES_GROUP = "tpo.experiments", "tpo.commands", "tpo.rules"
REMEDY = "uninstall or rename one of them"


def commands(own: Collection[str]) -> dict[str, Callable[..., int]]:
    """The commands that packages add to `tpo`, by name.

    Args: own, the names that `tpo` has itself.
    Raises: ImportError naming the package whose command cannot be loaded; ValueError for a name that is taken.
    """
    entries = points(COMMANDS_GROUP)
    names = [*own, *(entry.name for entry in entries)]
    for entry in entries:
        if names.count(entry.name) > 1:
            raise ValueError(
                f"{entry.group}: {entry.name} = {entry.value}: there is another command of that name; {REMEDY}"
            )
    return {entry.name: cast("Callable[..., int]", load(entry)) for entry in entries}


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
    except Exception as error:  # whatever somebody else's module raises while it is loaded
        package = "an unknown package" if point.dist is None else point.dist.name
        raise ImportError(
            f"{point.group}: {point.name} = {point.value} of {package} cannot be loaded "
            f"({type(error).__name__}: {error}); mend or uninstall it"
        ) from error
