"""Runs the missing units of an experiment and stores each as it finishes; a killed run picks up at the next one."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tpo_ref import checks
from tpo_ref.study import files, results
from tpo_ref.study.errors import MissingExtra
from tpo_ref.study.protocol import Experiment, resolve_methods
from tpo_ref.study.results import Key, Result

# More than any study needs, and few enough to be listed in a record.
MOST_SEEDS = 100_000

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Request:
    """What to run: an experiment at a scale, with the user's choices; None means the scale's own."""

    experiment: Experiment
    scale: str = "cpu"
    methods: tuple[str, ...] | None = None
    seeds: int | None = None
    device: str = "cpu"
    out: Path = Path("runs")
    fresh: bool = False

    def keys(self) -> list[Key]:
        """One key per method; ValueError for an unknown scale or method, or fewer than one seed."""
        if self.scale not in self.experiment.scales:
            raise checks.unknown(f"scale of {self.experiment.id}", self.scale, self.experiment.scales)
        scale = self.experiment.scales[self.scale]
        count = scale.seeds if self.seeds is None else self.seeds
        if not 1 <= count <= MOST_SEEDS:
            raise ValueError(f"seeds: got {count}, expected 1 to {MOST_SEEDS:,}")
        return [
            Key(self.experiment.store, method, scale.settings, tuple(range(count)), self.device)
            for method in resolve_methods(self.experiment, self.methods, self.scale)
        ]


def ensure(request: Request, progress: Progress = lambda method, done, total: None) -> dict[str, Result]:
    """Every requested unit, loaded where it is stored and computed where it is not.

    Raises: MissingExtra without the extra the experiment needs; ValueError for a stored file that cannot be trusted.
    """
    keys = request.keys()
    if request.fresh:
        for key in keys:
            results.forget(request.out, key)
            files.remove(_checkpoint(request.out, key))
    found = {key.method: _stored(request, key) for key in keys}
    run = None if all(found.values()) else _runner(request)
    if run is not None:
        # A folder that cannot be written is better known before the work than after it.
        files.check_writable(request.out)
    done: dict[str, Result] = {}
    for key in keys:
        stored = found[key.method]
        if stored is None:
            assert run is not None
            resumed = _checkpoint(request.out, key).exists()
            made, start = results.provenance(), time.perf_counter()
            arrays = run(key, lambda i, n, method=key.method: progress(method, i, n))
            stored = results.save(request.out, key, arrays, time.perf_counter() - start, resumed, made)
            _checkpoint(request.out, key).unlink(missing_ok=True)
        progress(key.method, 1, 1)
        done[key.method] = stored
    return done


def _runner(request: Request) -> Callable[[Key, Any], Any]:
    """The experiment's function, called with what it takes: data, device, progress and checkpoint are optional."""
    experiment = request.experiment
    if experiment.extra and importlib.util.find_spec(experiment.extra) is None:
        raise MissingExtra(
            f"{experiment.id} needs {experiment.extra}, which is not installed; "
            f"run: pip install 'target-policy-optimization[{experiment.extra}]'"
        )
    module_name, function_name = experiment.runner.split(":")
    module = importlib.import_module(module_name)
    function = getattr(module, function_name)
    takes = inspect.signature(function).parameters
    if "device" not in takes and request.device != "cpu":
        raise ValueError(f"device: got {request.device!r}, but {experiment.id} is NumPy and Numba on the CPU; drop it")
    shared: dict[str, Any] = {"data": module.load_data()} if "data" in takes else {}
    if "device" in takes:
        shared["device"] = request.device

    def run(key: Key, progress: Any) -> Any:
        own: dict[str, Any] = {"progress": progress} if "progress" in takes else {}
        if "checkpoint" in takes:
            own["checkpoint"] = _checkpoint(request.out, key)
        return function(key.method, key.settings, key.seeds, **shared, **own)

    return run


def _stored(request: Request, key: Key) -> Result | None:
    """The stored unit, once it is known to hold what the experiment draws."""
    found = results.load(request.out, key)
    lacking = {panel.array for panel in request.experiment.panels} - set(found.arrays if found else ())
    if found is not None and lacking:
        what = f"{key.path(request.out)}.npz: lacks {', '.join(sorted(lacking))}"
        raise ValueError(f"{what}; delete {key.path(request.out)}.json and run again")
    return found


def _checkpoint(out: Path, key: Key) -> Path:
    return key.path(out).with_suffix(".partial.npz")
