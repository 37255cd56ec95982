"""How a result was made: versions, commit and machine, of each of the processes that had a part in it."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import tpo_ref
from tpo_ref.study import files
from tpo_ref.study.errors import DISTRIBUTION

GIT_SECONDS = 10
# What every run computes with; an experiment names the others.
BASE = ("numpy", "scipy", "numba")
# Digits of a commit in messages.
SHORT = 9


@dataclass(frozen=True)
class Machine:
    """The computer that a result was made on."""

    system: str
    machine: str
    cores: int | None


@dataclass(frozen=True)
class Provenance:
    """Versions, commit and machine."""

    # By library.
    versions: Mapping[str, str]
    # With "+changes" where files were edited since; None outside a checkout.
    commit: str | None
    machine: Machine


@dataclass(frozen=True)
class Part:
    """What processes of one provenance did of a run that was stopped and resumed."""

    provenance: Provenance = field(metadata=files.INLINE)
    # Wall time, of stopped ones until the state that the next went on from.
    seconds: float


def provenance(libraries: tuple[str, ...] = ()) -> Provenance:
    """Versions, commit and machine, as every result records them; libraries, those beyond the base install."""
    versions = {"python": platform.python_version(), DISTRIBUTION: tpo_ref.__version__}
    for name in (*BASE, *libraries):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return Provenance(versions, _commit(), Machine(platform.system(), platform.machine(), os.cpu_count()))


def made_by_other_code(origin: Provenance, now: Provenance) -> bool:
    """Whether a result comes from another commit, or other versions, than another one, or the present code."""
    return (origin.commit, origin.versions) != (now.commit, now.versions)


def joined(parts: Iterable[Part]) -> tuple[Part, ...]:
    """The parts of a run in their order, with those of one provenance that follow each other as one.

    >>> here = Provenance({}, "c0", Machine("Linux", "x86_64", 2))
    >>> [part.seconds for part in joined([Part(here, 1.0), Part(here, 2.0)])]
    [3.0]
    """
    found: list[Part] = []
    for part in parts:
        if found and found[-1].provenance == part.provenance:
            found[-1] = dataclasses.replace(part, seconds=round(found[-1].seconds + part.seconds, 3))
        else:
            found.append(part)
    return tuple(found)


def change(before: Provenance, now: Provenance) -> str:
    """What differs in code between two parts of a run, in words; empty where nothing does."""
    names = [
        name for name in {**before.versions, **now.versions} if before.versions.get(name) != now.versions.get(name)
    ]
    commits = [f"commit {short(before.commit)}, now {short(now.commit)}"] if before.commit != now.commit else []
    return "; ".join(
        [*commits, *(f"{name} {before.versions.get(name)}, now {now.versions.get(name)}" for name in names)]
    )


def short(commit: str | None) -> str:
    """A commit as messages name it.

    >>> short("0123456789abcdef+changes"), short(None)
    ('012345678+changes', 'none')
    """
    digits, plus, changes = (commit or "none").partition("+")
    return f"{digits[:SHORT]}{plus}{changes}"


def _packages(root: Path) -> list[str]:
    """The packages of a checkout: its folders that are one, tests and benchmarks aside."""
    return sorted(path.parent.name for path in root.glob("*/py.typed"))


def _commit() -> str | None:
    """Commit of the checkout this package runs from, "+changes" when it was edited; None outside one."""
    root = Path(__file__).parents[2]

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *words],
            capture_output=True,
            text=True,
            check=True,
            timeout=GIT_SECONDS,
            encoding="utf-8",
        ).stdout.strip()

    try:
        if not git("ls-files", "--", str(Path(__file__).relative_to(root))):
            return None
        edited = git("status", "--porcelain", "--", *_packages(root))
        return git("rev-parse", "HEAD") + ("+changes" if edited else "")
    except (OSError, subprocess.SubprocessError):
        return None
