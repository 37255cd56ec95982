"""The commands on language models, `tpo train` and `tpo eval`; what does their work is imported when they run."""

from __future__ import annotations

import contextlib
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from tpo_ref.study.cli.exits import INTERRUPTED
from tpo_ref.study.cli.options import DEFAULTS, Json
from tpo_ref.study.errors import Unavailable
from tpo_ref.study.launcher import is_first_process
from tpo_torch.llm import check_installed
from tpo_torch.llm.program.display import Display, Lines, Silent

if TYPE_CHECKING:
    from tpo_torch.llm.program.plan import Plan

Config = Annotated[
    str,
    tyro.conf.Positional,
    tyro.conf.arg(metavar="CONFIG", help="a shipped one, or a path ending in .yaml"),
]
Overrides = Annotated[
    tuple[str, ...],
    tyro.conf.Positional,
    tyro.conf.arg(metavar="KEY=VALUE ...", help="settings, such as trainer.learning_rate=1e-6 or model=FOLDER"),
]
Method = Annotated[
    Literal["tpo", "grpo", "lpo"] | None,
    tyro.conf.arg(help="the configuration's own when left out; lpo is tpo with anchor ratio"),
]
Seed = Annotated[int | None, tyro.conf.arg(metavar="N", help="the configuration's own when left out")]
Resume = Annotated[bool, tyro.conf.arg(help="go on with an unfinished run from its last checkpoint")]
Fresh = Annotated[bool, tyro.conf.arg(help="run again what is there")]
OtherCode = Annotated[bool, tyro.conf.arg(help="go on from a checkpoint of other code, or other library versions")]
TrustCode = Annotated[
    bool,
    tyro.conf.arg(
        help="run the Python file of a task, or of a rule, that only the configuration, or the run's record, names"
    ),
]
DryRun = Annotated[bool, tyro.conf.arg(help="say what the run would do, train nothing and write nothing")]
Out = Annotated[Path, tyro.conf.arg(help="folder of results")]
Place = Annotated[
    str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|MODEL", help="folder of a run, of a model, or a hub name")
]
TaskName = Annotated[
    str | None, tyro.conf.arg(metavar="TASK", help="needed for a model; the run's own when left out for a run")
]


def train(
    config: Config,
    overrides: Overrides = (),
    *,
    method: Method = None,
    seed: Seed = None,
    resume: Resume = False,
    fresh: Fresh = False,
    other_code: OtherCode = False,
    trust_code: TrustCode = False,
    dry_run: DryRun = False,
    out: Out = DEFAULTS.out,
) -> int:
    """Train a language model with TPO, or GRPO beside it, into OUT/llm/NAME-METHOD."""
    check_installed()
    from tpo_torch.llm.program.plan import check
    from tpo_torch.llm.program.settings.reading import load

    try:
        settings = load(config, overrides, method, seed, trust_code)
        plan = check(settings, out, resume, fresh)
        if settings.changes and is_first_process():
            print(f"{config}, for {settings.method}:", *settings.changes, sep="\n  ")
        if not plan.finished:
            _train(plan, other_code, dry_run)
        else:
            _say_finished(plan)
    except KeyboardInterrupt:
        if is_first_process():
            print("tpo: interrupted; the same command with --resume goes on from the last checkpoint", file=sys.stderr)
        return INTERRUPTED
    return 0


def evaluate(
    place: Place,
    overrides: Overrides = (),
    task: TaskName = None,
    trust_code: TrustCode = False,
    as_json: Json = False,
) -> int:
    """Greedy accuracy and unbiased pass@k on the held-out set, of a run's newest weights or of any model."""
    check_installed()
    from tpo_ref.study.cli import show
    from tpo_torch.llm.program.evaluation.request import requested

    request = requested(place, task, overrides, trust_code)
    from tpo_torch.llm.program.evaluation.place import evaluate_place

    # On standard error: the table, or json, is what standard output is for.
    with show.bar(sys.stderr) as display:
        report = evaluate_place(request, display or Lines(_to_standard_error))
    if as_json:
        show.print_json(report)
        return 0
    rows = [["", "value", "standard error", "prompts"]]
    for name, estimate in report.estimates.items():
        rows.append([name, _number(estimate.value), _number(estimate.error), str(estimate.n)])
    drawn = ", ".join(f"{name}={value}" for name, value in report.sampling.items() if value is not None)
    show.print_table(rows, f"{report.model} on {report.task}; sampled with {drawn}")
    return 0


def _train(plan: Plan, other_code: bool, dry_run: bool) -> None:
    """Run a plan, or say what it would do. What it can refuse has been refused; torch and TRL are loaded here."""
    from tpo_ref.study import files, locks
    from tpo_ref.study.cli import show
    from tpo_torch.llm.program import trackers

    with contextlib.ExitStack() as stack:
        if is_first_process() and not dry_run:
            files.check_writable(plan.out)
            # One lock for all processes of a launch.
            remedy = "choose another name=…, seed=… or --out"
            stack.enter_context(locks.held(plan.folder.path, "the run's folder", remedy))
        plan = plan.going_on(other_code)
        if plan.finished:
            _say_finished(plan)
            return
        bar = stack.enter_context(show.bar(sys.stdout))
        stack.enter_context(trackers.local(plan.settings, plan.folder.path))
        display: Display = (bar or Lines()) if is_first_process() else Silent()
        for line in plan.said:
            display.say(line)
        display.say("loading torch, transformers and TRL")
        from tpo_torch.llm.program import preview, run
        from tpo_torch.llm.rewards import RewardError

        try:
            (preview.show if dry_run else run.train)(plan, display)
        except RewardError as error:
            raise Unavailable(str(error)) from error


def _say_finished(plan: Plan) -> None:
    if is_first_process():
        print(f"{plan.folder.path}: finished already; --fresh runs it again")


def _to_standard_error(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _number(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else "—"
