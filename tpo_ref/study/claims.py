"""Claims: builders for the kinds of published numbers there are, and the verdict on each."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tpo_ref.study import estimates
from tpo_ref.study.estimates import Estimate, Statistic
from tpo_ref.study.protocol import Claim, Experiment, Results, Suite

HOLDS, UNCLEAR, FAILS = "holds", "unclear", "FAILS"
# A value this many of its standard errors outside the accepted interval, or less, decides nothing.
NOISE_ERRORS = 2.0


@dataclass(frozen=True)
class Verdict:
    """A claim beside our estimate of it at one scale."""

    claim: Claim
    low: float
    high: float
    ours: Estimate

    @property
    def word(self) -> str:
        """HOLDS inside the accepted interval; UNCLEAR outside it by less than our own noise; else FAILS, as for a NaN.

        An interval that is open to one side has no tolerance built in: there, as far inside counts as unclear too. A
        claim that is unclear is neither confirmed nor refuted by this many seeds (deviation D41).
        """
        noise = NOISE_ERRORS * self.ours.error
        margin = noise if noise > 0 and math.isinf(self.high - self.low) else 0.0
        if self.low + margin <= self.ours.value <= self.high - margin:
            return HOLDS
        return UNCLEAR if self.low - noise <= self.ours.value <= self.high + noise else FAILS


def judge(subject: Experiment | Suite, scale: str, results: Results) -> list[Verdict]:
    """Every claim of an experiment or suite that this scale judges and whose methods are all in the results."""
    return [
        Verdict(claim, *claim.accept[scale], claim.statistic(results))
        for claim in subject.claims()
        if scale in claim.accept and all(m in results for m in claim.methods)
    ]


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
    method: str, array: str, step: int, published: float, accept: tuple[float, float], source: str, panel: str = ""
) -> Claim:
    """The seed-mean of a curve at one step."""
    return Claim(
        text=f"{method}: {array} at step {step}",
        source=source,
        methods=(method,),
        statistic=lambda r: estimates.mean(estimates.to_budget(r[method][array])[:, step]),
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
    from scipy import stats

    chance = stats.binomtest(count, total).proportion_ci(estimates.LEVEL)

    def value(r: Results) -> Estimate:
        solved = estimates.solved(r[method][array])
        # The error uses our seeds and the published ones together: with all or none of ours solved it would be 0.
        pooled = (solved.sum() + count) / (len(solved) + total)
        return Estimate(float(solved.mean()), math.sqrt(pooled * (1 - pooled) / len(solved)), len(solved))

    accept = {"paper": (float(chance.low), float(chance.high))}
    return Claim(f"{method}: share of solved seeds", source, (method,), value, accept, count / total)


def better(winner: str, loser: str, array: str, source: str, scales: tuple[str, ...]) -> Claim:
    """The winner's curve lies lower: the difference of areas under the curves is positive, seed by seed on average."""

    def difference(r: Results) -> NDArray[np.float64]:
        # Paired: a seed means the same initial state for both methods.
        return estimates.auc(r[loser][array]) - estimates.auc(r[winner][array])

    accept = dict.fromkeys(scales, (0.0, math.inf))
    return per_seed(f"AUC({loser}) − AUC({winner}) of {array}", (winner, loser), difference, accept, source)
