"""Runs the missing units of an experiment and stores each as it finishes; a killed run picks up at the next one."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tpo_ref import checks
from tpo_ref.study import files, locks, partial
from tpo_ref.study import results as storage
from tpo_ref.study.choices import Choices
from tpo_ref.study.chosen_rules import ChosenRule
from tpo_ref.study.context import CPU, Context, MethodProgress
from tpo_ref.study.errors import DISTRIBUTION, MissingExtra
from tpo_ref.study.origins import Part, change, joined, provenance
from tpo_ref.study.protocol import Arrays, Experiment, resolve_methods
from tpo_ref.study.results import Key, Result

# More than any study needs, and few enough to be listed in a record.
MOST_SEEDS = 100_000


@dataclass(frozen=True)
class Request:
    """What to run: an experiment at a scale, with the user's choices; None means the scale's own."""

    experiment: Experiment
    scale: str = Choices.scale
    methods: tuple[str, ...] | None = None
    seeds: int | None = None
    device: str = CPU
    out: Path = Choices.out
    fresh: bool = False
    rules: tuple[ChosenRule, ...] = ()
    grouping: str | None = None

    def keys(self) -> list[Key]:
        """One key per method; ValueError for a scale, method, device, number of seeds or grouping that it has not."""
        if self.scale not in self.experiment.scales:
            raise checks.unknown(f"scale of {self.experiment.id}", self.scale, self.experiment.scales)
        scale = self.experiment.scales[self.scale]
        count = scale.seeds if self.seeds is None else self.seeds
        if not 1 <= count <= MOST_SEEDS:
            raise ValueError(f"seeds: got {count}, expected 1 to {MOST_SEEDS:,}; leave it out for the scale's own")
        if not self.experiment.devices and self.device != CPU:
            raise ValueError(f"device: got {self.device!r}, but {self.experiment.id} runs on the CPU alone; drop it")
        grouping = self._grouping()
        # Rules without methods beside them are run alone.
        methods = () if self.rules and self.methods is None else self.methods
        own = resolve_methods(self.experiment, methods, self.scale) if methods != () or not self.rules else ()
        for rule in self.rules:
            if rule.method in own:
                raise ValueError(
                    f"rule: got {rule.text!r} beside the method {rule.method} of {self.experiment.id}, whose results "
                    "would lie in one place; leave one out"
                )
        seeds = tuple(range(count))
        return [
            *(Key(self.experiment.store, method, scale.settings, seeds, self.device) for method in own),
            *(
                Key(self.experiment.store, rule.method, scale.settings, seeds, self.device, rule, grouping)
                for rule in self.rules
            ),
        ]

    def _grouping(self) -> str:
        """What makes a group for the rules; ValueError where the experiment takes none, or not that one."""
        groupings = self.experiment.groupings
        if self.rules and not groupings:
            raise ValueError(f"rule: {self.experiment.id} takes none; `tpo list --rules` says what does")
        if self.grouping is not None and not self.rules:
            raise ValueError(f"grouping: got {self.grouping!r}, but no rule; it says what makes a group for --rule")
        if self.grouping is not None and self.grouping not in groupings:
            raise checks.unknown(f"grouping of {self.experiment.id}", self.grouping, groupings)
        return self.grouping or (groupings[0] if groupings else "")


def ensure(
    request: Request,
    progress: MethodProgress = lambda method, count, total: None,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Result]:
    """Every requested unit, loaded where it is stored and computed where it is not.

    Args: progress and say, called with how far a unit is, and with what a user should know.
    Raises: MissingExtra without the extra the experiment needs; InUse where another process computes one of the units;
        ValueError for a stored file that cannot be trusted.
    """
    keys = request.keys()
    units = {key.method: None if request.fresh else _load(request, key) for key in keys}
    missing = [key for key in keys if units[key.method] is None]
    if missing:
        _check_runnable(request)
        # Check that the folder is writable before the computation starts.
        files.check_writable(request.out)
    results: dict[str, Result] = {}
    with ExitStack() as stack:
        # All of them now, so that no unit is found in use after hours of work on another; given back one by one.
        own = {key.method: stack.enter_context(ExitStack()) for key in missing}
        for key in missing:
            own[key.method].enter_context(locks.held(key.path(request.out), f"{request.experiment.id}/{key.method}"))
        for key in missing:
            if request.fresh:
                storage.forget(request.out, key)
                files.remove(_checkpoint(request.out, key))
            # Another process may have finished it before the lock was ours.
            units[key.method] = _load(request, key)
            # Found now, and not when hours of work are to be stored.
            storage.check_place(request.out, key)
        for key in keys:
            results[key.method] = units[key.method] or _compute(request, key, progress, say)
            if key.method in own:
                own[key.method].close()
            progress(key.method, 1, 1)
    return results


def _compute(request: Request, key: Key, progress: MethodProgress, say: Callable[[str], None]) -> Result:
    checkpoint = _checkpoint(request.out, key) if request.experiment.resumes else None
    # A link that leads nowhere is no checkpoint, and whatever else is there the run judges.
    resumed = checkpoint is not None and checkpoint.exists()
    before = () if checkpoint is None else partial.parts(checkpoint)
    origin, start = provenance(request.experiment.libraries), time.perf_counter()
    changed = change(before[-1].provenance, origin) if before else ""
    if changed:
        say(f"{request.experiment.id}/{key.method}: begun by other code ({changed}); its record will name both")
    context = Context(
        request.device,
        checkpoint,
        lambda count, total: progress(key.method, count, total),
        key.rule,
        key.grouping,
        lambda: joined([*before, Part(origin, time.perf_counter() - start)]),
    )
    # What a rule of the user's prints is no part of what a command prints.
    with contextlib.redirect_stdout(sys.stderr) if key.rule is not None else contextlib.nullcontext():
        arrays = request.experiment.run(key.method, key.settings, key.seeds, context)
    _check_arrays(request.experiment, key, arrays)
    result = storage.save(request.out, key, arrays, time.perf_counter() - start, resumed, origin, before)
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    return result


def _check_arrays(experiment: Experiment, key: Key, arrays: Arrays) -> None:
    """TypeError, ValueError unless a run returned numbers, a row per seed, for all that is drawn."""
    unit = f"{experiment.id}/{key.method}"
    if not isinstance(arrays, Mapping):
        raise TypeError(f"{unit}: run returned {type(arrays).__name__}, expected a mapping of names to arrays")
    for name in _needed_arrays(experiment):
        if name not in arrays:
            raise ValueError(f"{unit}: run returned {', '.join(arrays) or 'nothing'}, expected {name} among them")
        array = np.asarray(arrays[name])
        if array.dtype.kind not in "biuf" or array.ndim < 2 or len(array) != len(key.seeds):
            raise ValueError(
                f"{unit}: {name}: got {array.dtype} of shape {array.shape}, expected real numbers, a row for each of "
                f"{len(key.seeds)} seeds"
            )


def _check_runnable(request: Request) -> None:
    """MissingExtra without the extra the experiment needs."""
    experiment = request.experiment
    if experiment.extra and importlib.util.find_spec(experiment.extra) is None:
        own = experiment.extra in (importlib.metadata.metadata(DISTRIBUTION).get_all("Provides-Extra") or ())
        package = f"'{DISTRIBUTION}[{experiment.extra}]'" if own else experiment.extra
        raise MissingExtra(
            f"{experiment.id} needs {experiment.extra}, which is not installed; run: pip install {package}"
        )


def _load(request: Request, key: Key) -> Result | None:
    """The stored unit, after a check that it has every array it needs."""
    result = storage.load(request.out, key)
    absent = set(_needed_arrays(request.experiment)) - set(result.arrays if result else ())
    if result is not None and absent:
        what = f"{key.path(request.out)}.npz: lacks {', '.join(sorted(absent))}"
        raise ValueError(f"{what}; delete {key.path(request.out)}.json and run again")
    return result


def _needed_arrays(experiment: Experiment) -> tuple[str, ...]:
    """The names of the arrays that its panels draw and its score reads."""
    drawn = (panel.array for panel in experiment.panels)
    return tuple(dict.fromkeys(name for name in (*drawn, experiment.score) if name is not None))


def _checkpoint(out: Path, key: Key) -> Path:
    return key.path(out).with_suffix(".partial.npz")
