"""Every experiment, suite, check and kind of run folder that installed packages bring, found by their entry points.

Raises on import: ValueError for an entry point that is no catalogue, or a name that two packages use; ImportError for
one that cannot be loaded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.metadata import EntryPoint
from typing import TypeVar

from tpo_ref.checks import unknown
from tpo_ref.study import styles
from tpo_ref.study.entries import EXPERIMENTS_GROUP, REMEDY, load, points
from tpo_ref.study.protocol import Catalogue, Check, Experiment, FolderKind, Suite

T = TypeVar("T")

# What a package that brings experiments writes into its pyproject.toml.
WRITE_EXPERIMENTS = f'[project.entry-points."{EXPERIMENTS_GROUP}"] name = "module:CATALOGUE"'


def _catalogue(point: EntryPoint) -> Catalogue:
    content = load(point)
    if not isinstance(content, Catalogue):
        raise ValueError(
            f"{point.group}: {point.name} = {point.value} is {type(content).__name__}, expected a "
            f"{Catalogue.__module__}.{Catalogue.__name__}; write {WRITE_EXPERIMENTS}"
        )
    return content


def _by_name(pairs: Iterable[tuple[str, T]]) -> dict[str, T]:
    """The things under their names; ValueError for a name that two packages use."""
    things: dict[str, T] = {}
    for name, thing in pairs:
        if not re.fullmatch(r"[\w.+-]+", name) or not name.strip("."):
            raise ValueError(
                f"{EXPERIMENTS_GROUP}: got {name!r}, expected letters, digits, '.', '+', '-', '_': it names a folder"
            )
        if name in things:
            raise ValueError(f"{EXPERIMENTS_GROUP}: two packages bring {name!r}; {REMEDY}")
        things[name] = thing
    return things


def _check_members() -> None:
    """ValueError for a member of a suite that no package brings."""
    for suite in SUITES.values():
        for member in suite.members:
            if member not in EXPERIMENTS:
                raise unknown(f"member of suite {suite.id}", member, EXPERIMENTS)


_CATALOGUES = [_catalogue(point) for point in points(EXPERIMENTS_GROUP)]

for _content in _CATALOGUES:
    styles.add(_content.styles)
# What there is to run, each under its name, in the order in which packages bring it.
EXPERIMENTS: dict[str, Experiment] = _by_name((e.id, e) for c in _CATALOGUES for e in c.experiments)
SUITES: dict[str, Suite] = _by_name((s.id, s) for c in _CATALOGUES for s in c.suites)
CHECKS: dict[str, Check] = _by_name((k.name, k) for c in _CATALOGUES for k in c.checks)
FOLDERS: tuple[FolderKind, ...] = tuple(f for c in _CATALOGUES for f in c.folders)
_by_name((name, name) for name in (*EXPERIMENTS, *SUITES, *CHECKS))
_check_members()


def experiment(name: str) -> Experiment:
    """The experiment of that name; ValueError names the nearest for an unknown one."""
    if name not in EXPERIMENTS:
        raise unknown("experiment", name, EXPERIMENTS)
    return EXPERIMENTS[name]
