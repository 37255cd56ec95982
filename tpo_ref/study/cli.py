"""The command line: list, run, figure, table, verify, demo."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from tpo_ref.study import claims, demo, experiments, figures, show, tables
from tpo_ref.study.errors import Unavailable
from tpo_ref.study.files import write_json
from tpo_ref.study.protocol import Experiment
from tpo_ref.study.results import Result
from tpo_ref.study.runner import Request, ensure

USAGE_ERROR, CLAIM_FAILED, INTERRUPTED = 2, 1, 130

Ids = tyro.conf.Positional[tuple[str, ...]]
Id = tyro.conf.Positional[str]
ScaleName = Literal["smoke", "cpu", "paper"]
Methods = Annotated[tuple[str, ...] | None, tyro.conf.arg(metavar="METHOD ...", help="default: all of them")]
Seeds = Annotated[int | None, tyro.conf.arg(metavar="N", help="run seeds 0 … N−1; default: the scale's")]
Out = Annotated[Path, tyro.conf.arg(help="folder of results; finished units there are not run again")]
Json = Annotated[bool, tyro.conf.arg(name="json", help="print json instead of tables")]
Flag: Any = tyro.conf.FlagCreatePairsOff
Format = Literal["png", "pdf", "svg"]


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


def run_(
    ids: Ids,
    methods: Methods = None,
    seeds: Seeds = None,
    scale: ScaleName = "cpu",
    device: str = "cpu",
    out: Out = Path("runs"),
    fresh: bool = False,
    as_json: Json = False,
) -> int:
    """Run experiments and store one result per method; `--fresh` ignores what is stored."""
    done = {}
    for name in _at_least_one(ids):
        request = Request(experiments.experiment(name), scale, methods, seeds, device, out, fresh)
        found = _ensure(request)
        done[name] = tables.report(request.experiment, scale, found, [])
        if not as_json:
            show.show_methods(done[name])
    if as_json:
        show.print_json(done)
    return 0


def figure(
    ids: Ids,
    methods: Methods = None,
    seeds: Seeds = None,
    scale: ScaleName = "cpu",
    device: str = "cpu",
    out: Out = Path("runs"),
    format: Format = "png",
    as_json: Json = False,
) -> int:
    """Draw the figure of experiments, running first what is not stored."""
    paths = []
    for name in _at_least_one(ids):
        request = Request(experiments.experiment(name), scale, methods, seeds, device, out)
        paths.append(_draw(request, _ensure(request), out / "figures", format))
    if as_json:
        show.print_json([str(p) for p in paths])
    else:
        show.print_lines(paths)
    return 0


def table(
    ids: Ids,
    methods: Methods = None,
    seeds: Seeds = None,
    scale: ScaleName = "cpu",
    device: str = "cpu",
    out: Out = Path("runs"),
    as_json: Json = False,
) -> int:
    """Print methods and published numbers side by side, running first what is not stored."""
    reports = []
    for name in _at_least_one(ids):
        request = Request(experiments.experiment(name), scale, methods, seeds, device, out)
        reports.append(_report(request, _ensure(request)))
    if as_json:
        show.print_json(reports)
    else:
        for report in reports:
            show.show_methods(report)
            show.show_claims(report)
    return 0


def verify(
    ids: Ids = (),
    scale: ScaleName = "cpu",
    device: str = "cpu",
    out: Out = Path("runs"),
    save: Annotated[Path | None, tyro.conf.arg(help="also write the summary and the figure of each here")] = None,
    as_json: Json = False,
) -> int:
    """Judge every claim; exit code 1 when one fails. Without ids: all experiments."""
    chosen = [experiments.experiment(name) for name in ids] or list(experiments.EXPERIMENTS.values())
    reports = []
    for experiment in chosen:
        request = Request(experiment, scale, device=device, out=out)
        found = _ensure(request)
        report = _report(request, found)
        reports.append(report)
        if save is not None:
            write_json(save / f"{experiment.id}.json", report)
            _draw(request, found, save, "png")
        if not as_json:
            show.show_claims(report)
    if as_json:
        show.print_json(reports)
    failed = sum(not claim["holds"] for report in reports for claim in report["claims"])
    total = sum(len(report["claims"]) for report in reports)
    print(f"{total - failed} of {total} claims hold at scale {scale}.", file=sys.stderr if as_json else sys.stdout)
    return CLAIM_FAILED if failed else 0


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
    except (ValueError, TypeError, OSError, Unavailable) as error:
        print(f"tpo: {error}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        print("tpo: interrupted; finished units are kept, run the same command to go on", file=sys.stderr)
        return INTERRUPTED


def _at_least_one(ids: tuple[str, ...]) -> tuple[str, ...]:
    if not ids:
        raise ValueError(f"ids: got none, expected at least one of {', '.join(experiments.EXPERIMENTS)}")
    return ids


def _ensure(request: Request) -> dict[str, Result]:
    with show.progress(request.experiment.id) as advance:
        return ensure(request, advance)


def _draw(request: Request, found: dict[str, Result], folder: Path, suffix: str) -> Path:
    arrays = {method: result.arrays for method, result in found.items()}
    path = folder / f"{request.experiment.id}-{request.scale}.{suffix}"
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
