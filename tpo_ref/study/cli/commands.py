"""The command line: list, run, figure, table, compare, verify, demo, and train, eval of language models."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from tpo_ref.study import claims, compare, files, registry, tables
from tpo_ref.study.cli import actions, demo, listing, show
from tpo_ref.study.cli.main import INTERRUPTED, USAGE_ERROR
from tpo_ref.study.errors import Unavailable
from tpo_ref.study.protocol import FolderKind
from tpo_ref.study.runner import Request

CLAIM_FAILED = 1
# Where launchers of several processes write which one this is.
RANK, FIRST = "RANK", "0"

Ids = Annotated[
    tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="ID ...", help="experiments or suites, see `tpo list`")
]
ScaleName = Literal["smoke", "cpu", "paper"]
Methods = Annotated[tuple[str, ...] | None, tyro.conf.arg(metavar="METHOD ...", help="the scale's own when left out")]
Seeds = Annotated[int | None, tyro.conf.arg(metavar="N", help="run seeds 0 to N − 1; the scale's own when left out")]
Device = Annotated[str, tyro.conf.arg(metavar="DEVICE", help="cpu, cuda, cuda:1, ...; the bandits know only cpu")]
Out = Annotated[Path, tyro.conf.arg(help="folder of results; finished units there are not run again")]
Save = Annotated[Path | None, tyro.conf.arg(help="also write the summary and the figure of each experiment here")]
Json = Annotated[bool, tyro.conf.arg(name="json", help="print json instead of tables")]
Fresh = Annotated[bool, tyro.conf.arg(help="run again what is stored")]
Compared = Annotated[
    str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN", help="EXPERIMENT/METHOD, or the path of a stored result")
]
All = Annotated[bool, tyro.conf.arg(name="all", help="also those that a suite stands for")]
Health = Annotated[bool, tyro.conf.arg(help="the health of the anchor instead of the learning curves")]
Flag: Any = tyro.conf.FlagCreatePairsOff
Format = Literal["png", "pdf", "svg"]


@dataclass(frozen=True)
class Choices:
    """What run, figure and table have in common."""

    methods: Methods = None
    seeds: Seeds = None
    scale: ScaleName = "cpu"
    device: Device = "cpu"
    out: Out = Path("runs")
    as_json: Json = False

    def wanted(self, ids: tuple[str, ...], fresh: bool = False) -> actions.Wanted:
        """What names stand for; ValueError for none, or for one that does not exist."""
        if not ids:
            known = ", ".join((*registry.EXPERIMENTS, *registry.SUITES))
            raise ValueError(f"ids: got none, expected at least one of {known}")
        return actions.wanted(ids, self.scale, self.methods, self.seeds, self.device, self.out, fresh)


Chosen = Annotated[Choices, tyro.conf.arg(name="")]
DEFAULTS = Choices()


def list_(as_json: Json = False, all_: All = False) -> int:
    """Every experiment: what it reproduces, its methods, its cost at each scale; and every suite of them."""
    if as_json:
        show.print_json(listing.plain())
        return 0
    shown = "experiments" if all_ else "experiments; `tpo list --all` shows those of a suite too"
    show.print_table(listing.experiment_table(all_), shown)
    show.print_table(listing.suite_table(), "suites")
    return 0


def run_(ids: Ids, choices: Chosen = DEFAULTS, fresh: Fresh = False) -> int:
    """Run experiments and store one result per method."""
    done = {}
    for request in choices.wanted(ids, fresh).requests:
        found = actions.ensure_shown(request)
        done[request.experiment.id] = tables.report(request.experiment, request.scale, found, [])
        if not choices.as_json:
            show.show_methods(done[request.experiment.id])
    if choices.as_json:
        show.print_json(done)
    return 0


def figure(ids: Ids, choices: Chosen = DEFAULTS, format: Format = "png", health: Health = False) -> int:
    """Draw the figure of experiments, running first what is not stored; or of folders of language-model runs."""
    kind = _kind_of_folders(ids)
    if kind is not None:
        return _figure_of_folders(kind, ids, choices, format)
    wanted = choices.wanted(ids)
    folder = choices.out / "figures"
    found = {request.experiment.id: actions.ensure_shown(request) for request in wanted.requests}
    paths = []
    for request in wanted.requests:
        own = found[request.experiment.id]
        if not health:
            paths.append(actions.draw(request, own, folder, format))
        elif request.experiment.id in ids or actions.has_health(request, own):
            paths.append(actions.draw_health(request, own, folder, format))
    if not paths:
        raise ValueError(
            f"--health: got {', '.join(ids)}, expected an experiment with grouped methods on token reversal"
        )
    if not health:
        paths += [actions.draw_suite(suite, wanted, found, folder, format) for suite in wanted.suites]
    if choices.as_json:
        show.print_json([str(p) for p in paths])
    else:
        show.print_lines(paths)
    return 0


def table(ids: Ids, choices: Chosen = DEFAULTS) -> int:
    """Print methods and published numbers side by side, running first what is not stored."""
    wanted = choices.wanted(ids)
    found = {request.experiment.id: actions.ensure_shown(request) for request in wanted.requests}
    reports = [actions.report(request, found[request.experiment.id]) for request in wanted.requests]
    suites = [actions.report_suite(suite, choices.scale, found) for suite in wanted.suites]
    if choices.as_json:
        show.print_json([*reports, *suites])
        return 0
    for report in reports:
        show.show_methods(report)
        show.show_claims(report)
    for suite in suites:
        show.show_suite(suite)
    return 0


def compare_(
    run_a: Compared,
    run_b: Compared,
    scale: ScaleName = "cpu",
    seeds: Seeds = None,
    device: Device = "cpu",
    out: Out = Path("runs"),
    as_json: Json = False,
) -> int:
    """Say whether two runs differ, with an interval, running first what is not stored."""
    report = compare.between((run_a, run_b), (scale, seeds, device, out), actions.ensure_shown)
    if as_json:
        show.print_json(report)
    else:
        show.print_table(compare.table(report))
        print(report["sentence"])
    return 0


def verify(ids: Ids = (), choices: Chosen = DEFAULTS, save: Save = None) -> int:
    """Judge every claim; exit code 1 when one fails. Without ids: all experiments, which takes hours.

    llm-exactness, alone: the gradient of the language-model trainer against the dense one, over layouts of the batch.
    """
    if any(name in registry.CHECKS for name in ids):
        return _check(ids, choices.as_json)
    wanted = actions.wanted(ids, choices.scale, choices.methods, choices.seeds, choices.device, choices.out)
    if save is not None:
        files.check_writable(save)
    found, reports, missing = {}, [], 0
    for request in wanted.requests:
        name = request.experiment.id
        try:
            found[name] = actions.ensure_shown(request)
        except Unavailable as error:
            if ids:
                raise
            print(f"{name} left out: {error}", file=sys.stderr)
            continue
        reports.append(actions.report(request, found[name]))
        missing += actions.not_judged(request.experiment, choices.scale, found)
        if save is not None:
            actions.save(request, found[name], reports[-1], save)
        if not choices.as_json:
            show.show_claims(reports[-1])
    for suite in wanted.suites:
        if not any(name in found for name in suite.members):
            continue
        reports.append(actions.report_suite(suite, choices.scale, found))
        missing += actions.not_judged(suite, choices.scale, found)
        if save is not None:
            actions.save_suite(suite, wanted, found, reports[-1], save)
        if not choices.as_json:
            show.show_suite(reports[-1])
    if choices.as_json:
        show.print_json(reports)
    words = [claim["verdict"] for report in reports for claim in report["claims"]]
    print(_counted(words, missing, choices.scale), file=sys.stderr if choices.as_json else sys.stdout)
    return CLAIM_FAILED if claims.FAILS in words else 0


def demo_(out: Out = Path("runs"), as_json: Json = False) -> int:
    """Bandits, then MNIST: which method won, beside the paper; pictures in OUT/figures."""
    finished = []
    for step in demo.STEPS:
        request = Request(registry.experiment(step.experiment), step.scale, out=out)
        try:
            found = actions.ensure_shown(request)
        except Unavailable as error:
            print(f"{step.experiment} left out: {error}", file=sys.stderr)
            continue
        report = actions.report(request, found)
        picture = actions.draw(request, found, out / "figures")
        finished.append({**report, "figure": str(picture)})
        if not as_json:
            show.show_methods(report)
    if as_json:
        show.print_json(finished)
    else:
        show.print_table(demo.closing(finished))
        show.print_lines([entry["figure"] for entry in finished])
    return 0


OWN: dict[str, Callable[..., Any]] = {
    "list": list_,
    "run": run_,
    "figure": figure,
    "table": table,
    "compare": compare_,
    "verify": verify,
    "demo": demo_,
}
# What other packages, and the language models of this one, bring.
ADDED = registry.commands(OWN)
COMMANDS = {**OWN, **ADDED}


def run(arguments: list[str]) -> int:
    """Parse and execute; bad input is one line on standard error and exit code 2."""
    try:
        return int(
            tyro.extras.subcommand_cli_from_dict(
                COMMANDS,
                prog="tpo",
                args=arranged(arguments, ADDED),
                description="Target Policy Optimization: the paper's experiments, and language models trained with it.",
                config=(Flag,),
            )
        )
    except BrokenPipeError:
        # The reader of our output, `head` say, has seen enough; nothing may be flushed into the closed pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, TypeError, OSError, ImportError, Unavailable) as error:
        print(f"{_speaker()}: {error}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        print(
            "tpo: interrupted; finished units are kept, run the same command without --fresh to go on", file=sys.stderr
        )
        return INTERRUPTED


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


def _figure_of_folders(kind: FolderKind, names: tuple[str, ...], choices: Choices, format: Format) -> int:
    drawing = kind.draw(names, choices.out, format)
    if choices.as_json:
        show.print_json([str(drawing.path)])
        return 0
    show.print_table(drawing.rows, drawing.title)
    show.print_lines([drawing.path])
    return 0


def _check(ids: tuple[str, ...], as_json: bool) -> int:
    name = next(name for name in ids if name in registry.CHECKS)
    if len(ids) > 1:
        raise ValueError(f"{name}: got {' '.join(ids)}, expected it alone; it is no experiment")
    check = registry.CHECKS[name]
    cases = check.cases()
    if as_json:
        show.print_json([case.plain() for case in cases])
    else:
        show.print_table([list(check.columns), *(case.cells() for case in cases)], check.title)
    return 0 if all(case.holds for case in cases) else CLAIM_FAILED


def arranged(arguments: list[str], added: Collection[str]) -> list[str]:
    """The arguments of an added command with every key=value last, since the parser wants them together.

    >>> arranged(["train", "tiny", "prompts=2", "--resume", "seed=1"], {"train"})
    ['train', 'tiny', '--resume', 'prompts=2', 'seed=1']
    """
    if not arguments or arguments[0] not in added:
        return arguments
    pairs = [word for word in arguments if "=" in word and not word.startswith("-")]
    return [word for word in arguments if word not in pairs] + pairs


def _speaker() -> str:
    """Who reports an error: of several launched processes, one that is not the first says which it is."""
    rank = os.environ.get(RANK, FIRST)
    return "tpo" if rank == FIRST else f"tpo, process {rank}"


def _counted(words: list[str], missing: int, scale: str) -> str:
    counts = ", ".join(f"{words.count(word)} {word}" for word in (claims.HOLDS, claims.UNCLEAR, claims.FAILS))
    left_out = f" {missing} more not judged, their methods or experiments left out." if missing else ""
    return f"{len(words)} claims at scale {scale}: {counts}.{left_out}"
