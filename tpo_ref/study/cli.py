"""The command line: list, run, figure, table, compare, verify, demo."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from tpo_ref.study import claims, compare, demo, experiments, figures, results, show, tables
from tpo_ref.study.errors import Unavailable
from tpo_ref.study.files import write_json
from tpo_ref.study.main import INTERRUPTED, USAGE_ERROR
from tpo_ref.study.protocol import Experiment
from tpo_ref.study.results import Result
from tpo_ref.study.runner import Request, ensure

CLAIM_FAILED = 1

Ids = Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="ID ...", help="see `tpo list`")]
ScaleName = Literal["smoke", "cpu", "paper"]
Methods = Annotated[tuple[str, ...] | None, tyro.conf.arg(metavar="METHOD ...", help="all of them when left out")]
Seeds = Annotated[int | None, tyro.conf.arg(metavar="N", help="run seeds 0 to N − 1; the scale's own when left out")]
Device = Annotated[str, tyro.conf.arg(metavar="DEVICE", help="as torch names it; the tabular runs know only cpu")]
Out = Annotated[Path, tyro.conf.arg(help="folder of results; finished units there are not run again")]
Save = Annotated[Path | None, tyro.conf.arg(help="also write the summary and the figure of each experiment here")]
Json = Annotated[bool, tyro.conf.arg(name="json", help="print json instead of tables")]
Fresh = Annotated[bool, tyro.conf.arg(help="run again what is stored")]
Compared = Annotated[
    str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN", help="EXPERIMENT/METHOD, or the path of a stored result")
]
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

    def requests(self, ids: tuple[str, ...], fresh: bool = False) -> list[Request]:
        """One request per experiment; ValueError for none, or for one that does not exist."""
        if not ids:
            raise ValueError(f"ids: got none, expected at least one of {', '.join(experiments.EXPERIMENTS)}")
        own = (self.scale, self.methods, self.seeds, self.device, self.out, fresh)
        return [Request(experiments.experiment(name), *own) for name in ids]


Chosen = Annotated[Choices, tyro.conf.arg(name="")]
DEFAULTS = Choices()


def list_(as_json: Json = False) -> int:
    """Every experiment: what it reproduces, its methods, its cost at each scale."""
    known = experiments.EXPERIMENTS.values()
    if as_json:
        show.print_json([_described(e) for e in known])
        return 0
    rows = [["id", "paper", "title", "smoke", "cpu", "paper scale", "needs"]]
    rows += [[e.id, e.paper, e.title, *(_cost(e, s) for s in ("smoke", "cpu", "paper")), e.extra or ""] for e in known]
    show.print_table(rows)
    return 0


def run_(ids: Ids, choices: Chosen = DEFAULTS, fresh: Fresh = False) -> int:
    """Run experiments and store one result per method."""
    done = {}
    for request in choices.requests(ids, fresh):
        done[request.experiment.id] = tables.report(request.experiment, request.scale, _ensure(request), [])
        if not choices.as_json:
            show.show_methods(done[request.experiment.id])
    if choices.as_json:
        show.print_json(done)
    return 0


def figure(ids: Ids, choices: Chosen = DEFAULTS, format: Format = "png") -> int:
    """Draw the figure of experiments, running first what is not stored."""
    requests = choices.requests(ids)
    paths = [_draw(request, _ensure(request), choices.out / "figures", format) for request in requests]
    if choices.as_json:
        show.print_json([str(p) for p in paths])
    else:
        show.print_lines(paths)
    return 0


def table(ids: Ids, choices: Chosen = DEFAULTS) -> int:
    """Print methods and published numbers side by side, running first what is not stored."""
    reports = [_report(request, _ensure(request)) for request in choices.requests(ids)]
    if choices.as_json:
        show.print_json(reports)
    else:
        for report in reports:
            show.show_methods(report)
            show.show_claims(report)
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
    report = compare.between((run_a, run_b), (scale, seeds, device, out), _ensure)
    if as_json:
        show.print_json(report)
    else:
        show.print_table(compare.table(report))
        print(report["sentence"])
    return 0


def verify(
    ids: Ids = (),
    scale: ScaleName = "cpu",
    device: Device = "cpu",
    out: Out = Path("runs"),
    save: Save = None,
    as_json: Json = False,
) -> int:
    """Judge every claim; exit code 1 when one fails. Without ids: all experiments."""
    chosen = [experiments.experiment(name) for name in ids] or list(experiments.EXPERIMENTS.values())
    reports = []
    for experiment in chosen:
        request = Request(experiment, scale, device=device, out=out)
        try:
            found = _ensure(request)
        except Unavailable as error:
            if ids:
                raise
            print(f"{experiment.id} left out: {error}", file=sys.stderr)
            continue
        report = _report(request, found)
        reports.append(report)
        if save is not None:
            write_json(save / f"{experiment.id}.json", report)
            _draw(request, found, save, "png")
        if not as_json:
            show.show_claims(report)
    if as_json:
        show.print_json(reports)
    words = [claim["verdict"] for report in reports for claim in report["claims"]]
    counts = ", ".join(f"{words.count(word)} {word}" for word in (claims.HOLDS, claims.UNCLEAR, claims.FAILS))
    print(f"{len(words)} claims at scale {scale}: {counts}.", file=sys.stderr if as_json else sys.stdout)
    return CLAIM_FAILED if claims.FAILS in words else 0


def demo_(out: Out = Path("runs"), as_json: Json = False) -> int:
    """Bandits, then MNIST: which method won, beside the paper; pictures in OUT/figures."""
    finished = []
    for step in demo.STEPS:
        request = Request(experiments.experiment(step.experiment), step.scale, out=out)
        try:
            found = _ensure(request)
        except Unavailable as error:
            print(f"{step.experiment} left out: {error}", file=sys.stderr)
            continue
        report = _report(request, found)
        picture = _draw(request, found, out / "figures", "png")
        finished.append({**report, "figure": str(picture)})
        if not as_json:
            show.show_methods(report)
    if as_json:
        show.print_json(finished)
    else:
        show.print_table(demo.closing(finished))
        show.print_lines([entry["figure"] for entry in finished])
    return 0


COMMANDS: dict[str, Callable[..., Any]] = {
    "list": list_,
    "run": run_,
    "figure": figure,
    "table": table,
    "compare": compare_,
    "verify": verify,
    "demo": demo_,
}


def run(arguments: list[str]) -> int:
    """Parse and execute; bad input is one line on standard error and exit code 2."""
    try:
        return int(
            tyro.extras.subcommand_cli_from_dict(
                COMMANDS,
                prog="tpo",
                args=arguments,
                description="Target Policy Optimization: run, draw and check the paper's experiments.",
                config=(Flag,),
            )
        )
    except BrokenPipeError:
        # The reader of our output, `head` say, has seen enough; nothing may be flushed into the closed pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, TypeError, OSError, Unavailable) as error:
        print(f"tpo: {error}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        print(
            "tpo: interrupted; finished units are kept, run the same command without --fresh to go on", file=sys.stderr
        )
        return INTERRUPTED


def _ensure(request: Request) -> dict[str, Result]:
    with show.progress(request.experiment.id) as advance:
        found = ensure(request, advance)
    now = results.provenance()
    older = sorted(method for method, result in found.items() if results.made_by_other_code(result.record, now))
    if older:
        print(
            f"tpo: {request.experiment.id}: stored results of {', '.join(older)} come from another commit or other "
            "versions; `tpo run --fresh` makes them again",
            file=sys.stderr,
        )
    return found


def _draw(request: Request, found: dict[str, Result], folder: Path, suffix: str) -> Path:
    arrays = {method: result.arrays for method, result in found.items()}
    # A figure of some methods or other seeds does not replace the whole one.
    own = [*(request.methods or ()), *([f"{request.seeds}seeds"] if request.seeds else [])]
    path = folder / f"{'-'.join([request.experiment.id, request.scale, *own])}.{suffix}"
    return figures.draw(request.experiment, request.scale, arrays, path)


def _report(request: Request, found: dict[str, Result]) -> Any:
    arrays = {method: result.arrays for method, result in found.items()}
    return tables.report(
        request.experiment, request.scale, found, claims.judge(request.experiment, request.scale, arrays)
    )


def _described(e: Experiment) -> dict[str, Any]:
    cost = {name: {"seeds": scale.seeds, "cost": scale.cost} for name, scale in e.scales.items()}
    return {"id": e.id, "title": e.title, "paper": e.paper, "methods": e.methods, "scales": cost, "needs": e.extra}


def _cost(e: Experiment, scale: str) -> str:
    return f"{e.scales[scale].cost} ({e.scales[scale].seeds} seeds)" if scale in e.scales else ""
