"""Claims: builders for the kinds of published numbers there are, and the verdict on each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tpo_ref.checks import unknown
from tpo_ref.study import estimates, judging, shares
from tpo_ref.study.estimates import Estimate, Statistic
from tpo_ref.study.judging import FAILS as FAILS
from tpo_ref.study.judging import HOLDS as HOLDS
from tpo_ref.study.judging import UNCLEAR as UNCLEAR
from tpo_ref.study.judging import Judgement
from tpo_ref.study.protocol import SCALES, Arrays, Claim, Experiment, Results, Suite

T = TypeVar("T")
# What the claim about a share says of its method.
SOLVED_SHARE = "share of solved seeds"


@dataclass(frozen=True)
class Verdict:
    """A claim beside our estimate of it at one scale: the region it must lie in, and what was decided."""

    claim: Claim
    low: float
    high: float
    ours: Estimate
    judgement: Judgement

    @property
    def word(self) -> str:
        """HOLDS, UNCLEAR or FAILS, as `judging.word` says."""
        return self.judgement.word


def judge(subject: Experiment | Suite, scale: str, results: Results) -> list[Verdict]:
    """Every claim of an experiment or suite that this scale judges and whose methods are all in the results.

    They are judged together (`judging.judge`): the more claims, the wider the interval that decides each.

    Raises: ValueError for a method, scale or array that a claim names and that does not exist, with the nearest.
    """
    known = _methods(subject)
    if scale not in SCALES:
        raise unknown("scale", scale, SCALES)
    judged = []
    for claim in subject.claims():
        _check(subject, claim, known)
        if scale in claim.accept and set(claim.methods) <= set(results):
            judged.append(claim)
    ours = [claim.statistic(_named(subject, claim, results)) for claim in judged]
    regions = [claim.accept[scale] for claim in judged]
    judgements = judging.judge(ours, regions)
    return [Verdict(c, *region, o, j) for c, region, o, j in zip(judged, regions, ours, judgements, strict=True)]


def count_unjudged(subject: Experiment | Suite, scale: str, results: Results) -> int:
    """How many claims this scale would judge, were all of their methods in the results."""
    return sum(scale in claim.accept and not set(claim.methods) <= set(results) for claim in subject.claims())


def around(published: float, relative: float = 0.0, absolute: float = 0.0, digit: float = 0.0) -> tuple[float, float]:
    """The interval around a published number: the widest of a relative, an absolute tolerance, and half its last digit.

    >>> around(100.0, relative=0.5)
    (50.0, 150.0)
    """
    width = max(abs(published) * relative, absolute, digit / 2)
    return (published - width, published + width)


def within_factor(published: float, factor: float) -> tuple[float, float]:
    """The interval from a published number divided by a factor to the number times it.

    >>> within_factor(6.0, factor=3.0)
    (2.0, 18.0)
    """
    return (published / factor, published * factor)


def at_step(
    method: str,
    array: str,
    step: int,
    published: float,
    accept: tuple[float, float],
    source: str,
    panel: str = "",
    floor: Callable[[Arrays], NDArray[Any]] | None = None,
) -> Claim:
    """The seed-mean of a curve at one step; of a seed below the floor, which cannot be told from 0, the floor."""

    def value(r: Results) -> Estimate:
        curves = estimates.to_budget(r[method][array])
        return estimates.mean((curves if floor is None else np.maximum(curves, floor(r[method])))[:, step])

    return Claim(
        text=f"{method}: {array} at step {step}",
        source=source,
        methods=(method,),
        statistic=value,
        accept={"paper": accept},
        published=published,
        mark=(panel or array, step, published),
    )


def first_step(
    method: str,
    array: str,
    level: float,
    published: float,
    accept: tuple[float, float],
    source: str,
    x: str | None = None,
    text: str | None = None,
    centre: Statistic = np.mean,
    scales: tuple[str, ...] = ("paper",),
) -> Claim:
    """The first step, or value of `x`, at which the mean curve over seeds, or another centre, is below a level."""
    return Claim(
        text=text or f"{method}: first step with {array} below {level:g}",
        source=source,
        methods=(method,),
        statistic=lambda r: estimates.first_below(r[method][array], level, None if x is None else r[method][x], centre),
        accept=dict.fromkeys(scales, accept),
        published=published,
        mark=(array, published, level),
    )


def final(
    method: str,
    array: str,
    published: float | None,
    accept: tuple[float, float],
    source: str,
    mark: tuple[str, float, float] | None = None,
) -> Claim:
    """The seed-mean of the last point of a curve."""
    return Claim(
        text=f"{method}: final {array}",
        source=source,
        methods=(method,),
        statistic=lambda r: estimates.mean(estimates.final(r[method][array])),
        accept={"paper": accept},
        published=published,
        mark=mark,
    )


def per_seed(
    text: str,
    methods: tuple[str, ...],
    value: Callable[[Results], NDArray[Any]],
    accept: Mapping[str, tuple[float, float]],
    source: str,
    published: float | None = None,
    mark: tuple[str, float, float] | None = None,
) -> Claim:
    """The mean over seeds of any number computed per seed."""
    return Claim(text, source, methods, lambda r: estimates.mean(value(r)), accept, published, mark)


def stays_above(method: str, array: str, level: float, source: str, scales: tuple[str, ...]) -> Claim:
    """The paper's mean curve never gets below a level: nor does the lowest point of ours."""

    text = f"{method}: lowest mean {array}, which in the paper never gets below {level:g}"
    return Claim(
        text,
        source,
        (method,),
        lambda r: estimates.lowest(r[method][array]),
        dict.fromkeys(scales, (level, math.inf)),
    )


def share(method: str, array: str, count: int, total: int, source: str) -> Claim:
    """The share of seeds that solve the task, within the exact 95 % interval that the published count leaves open."""

    accept = {"paper": shares.interval(count, total)}
    return Claim(
        f"{method}: {SOLVED_SHARE}",
        source,
        (method,),
        lambda r: estimates.share(estimates.solved(r[method][array])),
        accept,
        count / total,
    )


def better(winner: str, loser: str, array: str, source: str, scales: tuple[str, ...]) -> Claim:
    """The winner's curve lies lower: the difference of areas under the curves is positive, seed by seed on average."""

    def difference(r: Results) -> NDArray[np.float64]:
        # Paired: a seed means the same initial state for both methods.
        return estimates.auc(r[loser][array]) - estimates.auc(r[winner][array])

    accept = dict.fromkeys(scales, (0.0, math.inf))
    return per_seed(f"AUC({loser}) − AUC({winner}) of {array}", (winner, loser), difference, accept, source)


class _Named(Mapping[str, T]):
    """A mapping that answers a name it lacks with the nearest it has."""

    def __init__(self, what: str, things: Mapping[str, T]) -> None:
        self._what, self._things = what, things

    def __getitem__(self, name: str) -> T:
        if name not in self._things:
            raise unknown(self._what, name, self._things)
        return self._things[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._things)

    def __len__(self) -> int:
        return len(self._things)


def _named(subject: Experiment | Suite, claim: Claim, results: Results) -> Results:
    """The results as a claim's statistic reads them: those of its own methods."""
    where = f"claim {claim.text!r} of {subject.id}"
    arrays: dict[str, Arrays] = {m: _Named(f"{where}: array of {m}", results[m]) for m in claim.methods}
    return _Named(f"{where}: method it reads", arrays)


def _check(subject: Experiment | Suite, claim: Claim, known: tuple[str, ...]) -> None:
    for method in claim.methods:
        if method not in known:
            raise unknown(f"claim {claim.text!r} of {subject.id}: method", method, known)
    for scale in claim.accept:
        if scale not in SCALES:
            raise unknown(f"claim {claim.text!r} of {subject.id}: scale", scale, SCALES)


def _methods(subject: Experiment | Suite) -> tuple[str, ...]:
    """The names that claims may be about."""
    if isinstance(subject, Experiment):
        return subject.methods
    # Imported where needed: the registry loads the experiments, which import this.
    from tpo_ref.study import registry

    return tuple(f"{member}/{m}" for member in subject.members for m in registry.EXPERIMENTS[member].methods)
