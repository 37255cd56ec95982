"""`tpo figure`, and the pictures that other commands draw."""

from __future__ import annotations

from pathlib import Path

from tpo_ref.study import choices, figures, registry
from tpo_ref.study.cli import show
from tpo_ref.study.cli.options import Options
from tpo_ref.study.cli.selection import MemberUnits, Selection, arrays, select_some
from tpo_ref.study.protocol import FolderKind, Suite
from tpo_ref.study.results import StoredResults
from tpo_ref.study.runner import Request


def figure(ids: tuple[str, ...], options: Options, suffix: str, health: bool) -> int:
    """Draw experiments and suites, or folders of runs, and print where the pictures lie."""
    kind = _kind_of_folders(ids)
    if kind is not None:
        return _figure_of_folders(kind, ids, options, suffix)
    for name in ids:
        if name not in (*registry.EXPERIMENTS, *registry.SUITES) and Path(name).is_dir():
            raise ValueError(f"figure: got the folder {name!r}, which holds no run; name a run in it, or an experiment")
    selection = select_some(ids, options)
    units = selection.units()
    folder = options.out / "figures"
    paths = _health(ids, selection, units, folder, suffix) if health else _all(selection, units, folder, suffix)
    if options.as_json:
        show.print_json(paths)
    else:
        show.print_lines(paths)
    return 0


def draw(request: Request, units: StoredResults, folder: Path, suffix: str = "png") -> Path:
    """The figure of an experiment in a folder."""
    path = folder / f"{file_name(request.experiment.id, request.scale, *limits(request))}.{suffix}"
    return figures.draw(request.experiment, request.scale, arrays(units), path)


def draw_health(request: Request, units: StoredResults, folder: Path, suffix: str = "png") -> Path:
    """The figure of the anchor's health in a folder; ValueError when no method has an anchor."""
    path = folder / f"{file_name(request.experiment.id, request.scale, *limits(request), 'health')}.{suffix}"
    return figures.draw_health(request.experiment, request.scale, arrays(units), path)


def has_health(request: Request, units: StoredResults) -> bool:
    """Whether any method has arrays of the anchor's health."""
    return figures.has_health(request.experiment, arrays(units))


def draw_suite(suite: Suite, selection: Selection, units: MemberUnits, folder: Path, suffix: str = "png") -> Path:
    """The figure of a suite in a folder."""
    experiments = {request.experiment.id: request.experiment for request in selection.requests}
    members = {name: (experiments[name], arrays(units[name])) for name in suite.members if name in units}
    chosen = selection.choices
    path = folder / f"{file_name(suite.id, chosen.scale, *chosen.limits)}.{suffix}"
    return figures.draw_suite(suite, members, chosen.scale, path)


def limits(request: Request) -> tuple[str, ...]:
    """The methods, rules and number of seeds of a request, as parts of a file name."""
    return choices.limits(request.methods, request.rules, request.grouping, request.seeds)


def file_name(*words: str) -> str:
    """A file name without suffix: a figure of some methods, or of other seeds, does not replace the whole one."""
    return "-".join(words)


def _all(selection: Selection, units: MemberUnits, folder: Path, suffix: str) -> list[Path]:
    experiments = [draw(request, units[request.experiment.id], folder, suffix) for request in selection.requests]
    return experiments + [draw_suite(suite, selection, units, folder, suffix) for suite in selection.suites]


def _health(ids: tuple[str, ...], selection: Selection, units: MemberUnits, folder: Path, suffix: str) -> list[Path]:
    """The health of the anchor, of experiments by themselves, and of those members of suites that have one."""
    paths = [
        draw_health(request, units[request.experiment.id], folder, suffix)
        for request in selection.requests
        if request.experiment.id in ids or has_health(request, units[request.experiment.id])
    ]
    if not paths:
        raise ValueError(
            f"--health: got {', '.join(ids)}, expected an experiment that has arrays of the anchor's health"
        )
    return paths


def _kind_of_folders(names: tuple[str, ...]) -> FolderKind | None:
    """The kind of run whose folders the arguments of `tpo figure` are; ValueError for some of both."""
    for kind in registry.FOLDERS:
        folders = [name for name in names if kind.holds(Path(name))]
        if folders and len(folders) < len(names):
            other = next(name for name in names if name not in folders)
            raise ValueError(f"figure: got {other!r} beside folders of runs, which it is not; draw them apart")
        if folders:
            return kind
    return None


def _figure_of_folders(kind: FolderKind, names: tuple[str, ...], options: Options, suffix: str) -> int:
    drawing = kind.draw(names, options.out, suffix)
    if options.as_json:
        show.print_json([drawing.path])
        return 0
    show.print_table(drawing.rows, drawing.title)
    show.print_lines([drawing.path])
    return 0
