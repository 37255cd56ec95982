"""The command line: list, run, figure, table, compare, verify, demo, and train, eval of language models.

Each command imports what does its work when it runs: help and lists shall not wait for what draws or computes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from itertools import pairwise

import tyro

from tpo_ref.study import entries
from tpo_ref.study.choices import Choices
from tpo_ref.study.cli import words
from tpo_ref.study.cli.exits import CLAIM_FAILED, INTERRUPTED, UNDECIDED, USAGE_ERROR
from tpo_ref.study.cli.options import (
    DEFAULTS,
    All,
    CommonOptions,
    Device,
    Format,
    Fresh,
    Health,
    Ids,
    Json,
    Out,
    RuleList,
    RunName,
    Save,
    ScaleOption,
    Seeds,
)
from tpo_ref.study.errors import Unavailable
from tpo_ref.study.launcher import is_first_process, process_number

# How many threads the library behind NumPy's products starts when it is loaded.
BLAS_THREADS = "OPENBLAS_NUM_THREADS"

__all__ = ["CLAIM_FAILED", "COMMANDS", "INTERRUPTED", "UNDECIDED", "USAGE_ERROR", "arrange", "run"]


def list_(as_json: Json = False, all_: All = False, rules: RuleList = False) -> int:
    """Every experiment: what it reproduces, its methods, its cost at each scale; and every suite of them."""
    # A list computes nothing, and starting a thread for each core takes a fifth of its time. The setting is read when
    # NumPy is first loaded.
    if "numpy" not in sys.modules:
        os.environ.setdefault(BLAS_THREADS, "1")
    from tpo_ref.study.cli import listing

    return listing.show_rules(as_json) if rules else listing.show_all(as_json, all_)


def run_(ids: Ids, choices: CommonOptions = DEFAULTS, fresh: Fresh = False) -> int:
    """Run experiments and store one result per method."""
    from tpo_ref.study.cli import summaries

    return summaries.run(ids, choices, fresh)


def figure(ids: Ids, choices: CommonOptions = DEFAULTS, format: Format = "png", health: Health = False) -> int:
    """Draw the figure of experiments, running first what is not stored; or of folders of language-model runs."""
    from tpo_ref.study.cli import pictures

    return pictures.figure(ids, choices, format, health)


def table(ids: Ids, choices: CommonOptions = DEFAULTS) -> int:
    """Print methods and published numbers side by side, running first what is not stored."""
    from tpo_ref.study.cli import summaries

    return summaries.table(ids, choices)


def compare_(
    run_a: RunName,
    run_b: RunName,
    scale: ScaleOption = DEFAULTS.scale,
    seeds: Seeds = DEFAULTS.seeds,
    device: Device = DEFAULTS.device,
    out: Out = DEFAULTS.out,
    as_json: Json = DEFAULTS.as_json,
) -> int:
    """Say whether two runs differ, with an interval, running first what is not stored."""
    from tpo_ref.study.cli import comparison

    return comparison.compare((run_a, run_b), Choices(None, seeds, scale, device, out), as_json)


def verify(ids: Ids = (), choices: CommonOptions = DEFAULTS, save: Save = None) -> int:
    """Judge every claim; exit code 1 when one fails, 2 when none is decided. Without ids: all, which takes hours.

    llm-exactness, alone: the gradient of the language-model trainer against the dense one, over layouts of the batch.
    """
    from tpo_ref.study.cli import verification

    return verification.verify(ids, choices, save)


def demo_(out: Out = DEFAULTS.out, as_json: Json = DEFAULTS.as_json) -> int:
    """Bandits, then MNIST: which method won, beside the paper; pictures in OUT/figures."""
    from tpo_ref.study.cli import demo

    return demo.run(out, as_json)


OWN: dict[str, Callable[..., int]] = {
    "list": list_,
    "run": run_,
    "figure": figure,
    "table": table,
    "compare": compare_,
    "verify": verify,
    "demo": demo_,
}
# What other packages, and the language models of this one, bring.
PACKAGE_COMMANDS = entries.commands(OWN)
COMMANDS = {**OWN, **PACKAGE_COMMANDS}


def run(arguments: list[str]) -> int:
    """Parse and execute; bad input is one line on standard error and exit code 2."""
    try:
        arguments = words.at_home(arguments)
        words.check(arguments, OWN, list(COMMANDS))
        return int(
            tyro.extras.subcommand_cli_from_dict(
                COMMANDS,
                prog="tpo",
                args=arrange(arguments, PACKAGE_COMMANDS),
                description="Target Policy Optimization: the paper's experiments, and language models trained with it.",
                config=(tyro.conf.FlagCreatePairsOff,),
            )
        )
    except (ValueError, TypeError, OSError, ImportError, Unavailable) as error:
        print(f"{_speaker()}: {error}", file=sys.stderr)
        return USAGE_ERROR
    except SystemExit:
        # The parser ends so once it has shown its help.
        if any(word in words.HELP for word in arguments):
            from tpo_ref.study.cli import settings_help

            settings_help.show_settings(arguments)
        raise
    except KeyboardInterrupt:
        # Ctrl-C reaches every launched process; only the first prints.
        if is_first_process():
            print(
                "tpo: interrupted; finished units are kept, run the same command without --fresh to go on",
                file=sys.stderr,
            )
        return INTERRUPTED


def arrange(arguments: list[str], commands: Mapping[str, Callable[..., int]]) -> list[str]:
    """The arguments of a package's command with every key=value last, since the parser wants them together.

    >>> def train(config: str, out: str = "runs", resume: bool = False) -> int: ...
    >>> arrange(["train", "tiny", "prompts=2", "--resume", "seed=1", "--out", "lr=1"], {"train": train})
    ['train', 'tiny', '--resume', '--out', 'lr=1', 'prompts=2', 'seed=1']
    """
    if not arguments or arguments[0] not in commands:
        return arguments
    options = words.grammar_of(commands[arguments[0]]).options
    rest = [arguments[0]]
    pairs: list[str] = []
    for before, word in pairwise(arguments):
        # The word after an option that takes one is its own, whatever is in it.
        owned = before.startswith("--") and "=" not in before and words.takes_value(before, options)
        (pairs if "=" in word and not word.startswith("-") and not owned else rest).append(word)
    return rest + pairs


def _speaker() -> str:
    """The prefix of an error message: with the process number, unless this is the first process."""
    return "tpo" if is_first_process() else f"tpo, process {process_number()}"
