"""Every experiment, suite, check and kind of run folder that installed packages bring, found by their entry points.

Raises on import: ValueError for an entry point that is no catalogue, or a name that two packages use; ImportError for
one that cannot be loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from tpo_ref.checks import unknown
from tpo_ref.study import styles
from tpo_ref.study.protocol import Catalogue, Check, Experiment, FolderKind, Suite

EXPERIMENTS_GROUP, COMMANDS_GROUP = "tpo.experiments", "tpo.commands"
# What a package that brings experiments or commands writes into its pyproject.toml.
WRITE_EXPERIMENTS = f'[project.entry-points."{EXPERIMENTS_GROUP}"] name = "module:CATALOGUE"'
REMEDY = "uninstall or rename one of them"


def commands(own: Collection[str] = ()) -> dict[str, Callable[..., int]]:
    """The commands that packages add to `tpo`, by name.

    Args: own, the names that `tpo` has itself.
    Raises: ImportError naming the package whose command cannot be loaded; ValueError for a name that is taken.
    """
    points = _points(COMMANDS_GROUP)
    names = [*own, *(point.name for point in points)]
    for point in points:
        if names.count(point.name) > 1:
            raise ValueError(
                f"{point.group}: {point.name} = {point.value}: there is another command of that name; {REMEDY}"
            )
    return {point.name: _loaded(point) for point in points}


def _points(group: str) -> list[EntryPoint]:
    """Entry points of a group: the packages of this distribution first, then others by name."""
    own = __name__.partition(".")[0]
    points = entry_points(group=group)
    first = {p.dist.name for p in points if p.dist is not None and p.module.partition(".")[0] == own}
    unique = {(p.name, p.value): p for p in points}.values()
    return sorted(unique, key=lambda p: p.dist is None or p.dist.name not in first)


def _loaded(point: EntryPoint) -> Any:
    try:
        return point.load()
    except (ImportError, AttributeError) as error:
        package = "an unknown package" if point.dist is None else point.dist.name
        raise ImportError(
            f"{point.group}: {point.name} = {point.value} of {package} cannot be loaded ({error}); mend or uninstall it"
        ) from error


def _catalogue(point: EntryPoint) -> Catalogue:
    content = _loaded(point)
    if not isinstance(content, Catalogue):
        raise ValueError(
            f"{point.group}: {point.name} = {point.value} is {type(content).__name__}, expected a "
            f"{Catalogue.__module__}.{Catalogue.__name__}; write {WRITE_EXPERIMENTS}"
        )
    return content


def _by_name(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """The things under their names; ValueError for a name that two packages use."""
    named: dict[str, Any] = {}
    for name, thing in pairs:
        if name in named:
            raise ValueError(f"{EXPERIMENTS_GROUP}: two packages bring {name!r}; {REMEDY}")
        named[name] = thing
    return named


_CATALOGUES = [_catalogue(point) for point in _points(EXPERIMENTS_GROUP)]

for _content in _CATALOGUES:
    styles.add(_content.styles)
# What there is to run, each under its name, in the order in which packages bring it.
EXPERIMENTS: dict[str, Experiment] = _by_name((e.id, e) for c in _CATALOGUES for e in c.experiments)
SUITES: dict[str, Suite] = _by_name((s.id, s) for c in _CATALOGUES for s in c.suites)
CHECKS: dict[str, Check] = _by_name((k.name, k) for c in _CATALOGUES for k in c.checks)
FOLDERS: tuple[FolderKind, ...] = tuple(f for c in _CATALOGUES for f in c.folders)
_by_name((name, name) for name in (*EXPERIMENTS, *SUITES, *CHECKS))


def experiment(name: str) -> Experiment:
    """The experiment of that name; ValueError names the nearest for an unknown one."""
    if name not in EXPERIMENTS:
        raise unknown("experiment", name, EXPERIMENTS)
    return EXPERIMENTS[name]
