"""The command line of language-model runs: train, eval, and the figure of run folders. Needs torch only when used."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from tpo_ref.study import show
from tpo_ref.study.errors import MissingExtra, Unavailable
from tpo_ref.study.main import INTERRUPTED

PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "reasoning_gym", "yaml", "safetensors")
# Reached by name, on use: this package runs without torch.
TRAIN, EVALUATE, FIGURE, SUMMARY, SETTINGS = (
    "tpo_torch.llm.train:train",
    "tpo_torch.llm.evaluations:evaluate_place",
    "tpo_torch.llm.curves:figure",
    "tpo_torch.llm.curves:summary",
    "tpo_torch.llm.reading:load",
)
REWARD_ERROR = "tpo_torch.llm.rewards:RewardError"
RECORD = "run.json"
SEED_SUFFIX = r"-seed\d+$"

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
Method = Annotated[Literal["tpo", "grpo"] | None, tyro.conf.arg(help="the configuration's own when left out")]
Seed = Annotated[int | None, tyro.conf.arg(metavar="N", help="the configuration's own when left out")]
Resume = Annotated[bool, tyro.conf.arg(help="go on with an unfinished run from its last checkpoint")]
Fresh = Annotated[bool, tyro.conf.arg(help="run again what is there")]
Out = Annotated[Path, tyro.conf.arg(help="folder of results")]
Place = Annotated[
    str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|MODEL", help="folder of a run, of a model, or a hub name")
]
TaskName = Annotated[
    str | None, tyro.conf.arg(metavar="TASK", help="needed for a model; the run's own when left out for a run")
]
Json = Annotated[bool, tyro.conf.arg(name="json", help="print json instead of tables")]


def train(
    config: Config,
    overrides: Overrides = (),
    method: Method = None,
    seed: Seed = None,
    resume: Resume = False,
    fresh: Fresh = False,
    out: Out = Path("runs"),
) -> int:
    """Train a language model with TPO, or GRPO beside it, into OUT/llm/NAME-METHOD."""
    settings = _reach(SETTINGS)(config, overrides, method, seed)
    try:
        _reach(TRAIN)(settings, out, resume, fresh)
    except KeyboardInterrupt:
        print("tpo: interrupted; the same command with --resume goes on from the last checkpoint", file=sys.stderr)
        return INTERRUPTED
    except RuntimeError as error:
        if isinstance(error, _reach(REWARD_ERROR)):  # type: ignore[arg-type]
            raise Unavailable(str(error)) from error
        raise
    return 0


def eval_(place: Place, overrides: Overrides = (), task: TaskName = None, as_json: Json = False) -> int:
    """Greedy accuracy and unbiased pass@k on the held-out set, of a run's newest weights or of any model."""
    report = _reach(EVALUATE)(place, task, overrides)
    if as_json:
        show.print_json(report)
        return 0
    rows = [["", "value", "standard error", "prompts"]]
    for name, found in report["estimates"].items():
        rows.append([name, _number(found["value"]), _number(found["error"]), str(found["n"])])
    show.print_table(rows, f"{report['model']} on {report['task']}")
    return 0


def arranged(arguments: list[str]) -> list[str]:
    """The arguments with every key=value of these commands last, since the parser wants them together.

    >>> arranged(["train", "tiny", "prompts=2", "--resume", "seed=1"])
    ['train', 'tiny', '--resume', 'prompts=2', 'seed=1']
    """
    if not arguments or arguments[0] not in COMMANDS:
        return arguments
    pairs = [word for word in arguments if "=" in word and not word.startswith("-")]
    return [word for word in arguments if word not in pairs] + pairs


def are_runs(names: tuple[str, ...]) -> bool:
    """Whether the arguments of `tpo figure` are folders of runs; ValueError for some of both."""
    folders = [name for name in names if (Path(name) / RECORD).is_file()]
    if folders and len(folders) < len(names):
        other = next(name for name in names if name not in folders)
        raise ValueError(f"figure: got {other!r} beside folders of runs, which it is not; draw them apart")
    return bool(folders)


def figure(names: tuple[str, ...], out: Path, suffix: str, as_json: bool) -> int:
    """Draw the curves of run folders together into OUT/figures."""
    # Seeds of one run share a curve, and the name of the file.
    named = dict.fromkeys(re.sub(SEED_SUFFIX, "", Path(name).resolve().name) for name in names)
    path = out / "figures" / f"{'-'.join(named)}.{suffix}"
    folders = [Path(name) for name in names]
    found = _reach(SUMMARY)(folders)
    drawn = str(_reach(FIGURE)(folders, path))
    if as_json:
        show.print_json([drawn])
        return 0
    header = ["", "seeds", "training reward, all steps", "last tenth of the steps", "accuracy at the end"]
    rows = [[f["name"], str(f["seeds"]), *(_estimate(f[key]) for key in ("reward", "last", "accuracy"))] for f in found]
    show.print_table([header, *rows], "means over seeds ± standard errors")
    show.print_lines([drawn])
    return 0


COMMANDS: dict[str, Callable[..., Any]] = {"train": train, "eval": eval_}


def _reach(place: str) -> Callable[..., Any]:
    """A function of the other package; MissingExtra when what it needs is not installed."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtra(f"language-model runs need {', '.join(missing)}; run: pip install '.[llm]'")
    module, _, function = place.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return found


def _estimate(found: Any) -> str:
    if found is None:
        return "—"
    return f"{found.value:.3f}" + (f" ± {found.error:.3f}" if found.n > 1 else "")


def _number(value: float | None) -> str:
    return "—" if value is None else f"{value:.4f}"
