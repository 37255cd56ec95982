"""Every update rule by name, as one object: options, and the gradient that a scored group gives. Last axis = group.

A rule maps a scored group to a gradient on its log-probabilities. No scale of the project needs more: a bandit, MNIST,
a transformer and a language model differ in what makes a group and in what stands behind ℓ.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from tpo_ref import checks
from tpo_ref.checks import Floats
from tpo_ref.families import base
from tpo_ref.families.base import CANDIDATES, GROUP, MOVED, POLICY, SCORES, Rule, ScoredGroup, checked, option
from tpo_ref.families.clipped import Dapo, DrGrpo, Grpo, GrpoMasked, GrpoNoKl, Gspo, Ppo
from tpo_ref.families.regression import Awr, Mpo, Pmpo, Rebel
from tpo_ref.families.tilted import (
    Ce,
    GroupPg,
    Tpo,
    TpoLengthNormalised,
    TpoNoAnchor,
    TpoRatio,
    TpoRatioReverse,
    TpoReverseKl,
    TpoTempered,
)
from tpo_ref.families.weighted import Dg, MaxRl, Pg, ReinforcePp, ReinforcePpBaseline, Rloo
from tpo_ref.study import styles, user_files
from tpo_ref.study.styles import Style

__all__ = [
    "ALIASES",
    "CANDIDATES",
    "GROUP",
    "MOVED",
    "POLICY",
    "RULES",
    "SCORES",
    "OwnRule",
    "Rule",
    "ScoredGroup",
    "checked",
    "named",
]

RULES: dict[str, type[Rule]] = {
    kind.name: kind
    for kind in (
        *(Tpo, TpoRatio, TpoRatioReverse, TpoNoAnchor, TpoTempered, TpoLengthNormalised, TpoReverseKl, GroupPg, Ce),
        *(Pg, Rloo, MaxRl, ReinforcePp, ReinforcePpBaseline, Dg),
        *(Ppo, DrGrpo, Grpo, GrpoNoKl, GrpoMasked, Dapo, Gspo),
        *(Rebel, Awr, Mpo, Pmpo),
    )
}
ALIASES: dict[str, str] = {alias: kind.name for kind in RULES.values() for alias in kind.aliases}


def named(rule: str, **options: Any) -> Rule:
    """The rule of that name or alias, with these options.

    Paper: ours; the rules that it compares are among them

    Args: rule, a name of `RULES` or `ALIASES`; options, the rule's fields.
    Returns: a `Rule`. Raises: ValueError for an unknown name or option, with the nearest; TypeError, ValueError for an
        option out of range.

    >>> named("ppo", epsilon=0.1)
    Ppo(baseline=None, epsilon=0.1)
    """
    if not isinstance(rule, str):
        raise TypeError(f"rule: got {type(rule).__name__}, expected the name of one, such as 'tpo'")
    own = ALIASES.get(rule, rule)
    if own not in RULES:
        raise checks.unknown("rule", rule, (*RULES, *ALIASES))
    known = [each.name for each in fields(RULES[own])]
    for given in options:
        if given not in known:
            raise (
                checks.unknown(f"option of rule {own}", given, known)
                if known
                else ValueError(f"option of rule {own}: got {given!r}, expected none; it has no options")
            )
    return RULES[own](**options)


@dataclass(frozen=True)
class OwnRule(Rule):
    """A user's rule: a function (logp, logp_old, scores, mask, lengths, **options) to the gradient, in NumPy.

    Its arrays are (…, K), float64 and bool; at a masked candidate numbers are 0 and lengths 1. What it returns is the
    gradient of the loss of each group, used as it is: a rule that means the average over candidates divides by K.

    Args: title, its name; function, one of the above; options, passed on by name; batch, whether a group's gradient
        depends on the other groups of the batch; digest, SHA-256 of its source.
    Raises (gradient): TypeError, ValueError for a result that is no array of that shape, or not finite.
    """

    name, source, reduction = "own", "yours", GROUP
    title: str = field(metadata={"check": base.text, "meaning": "its name"})
    function: Callable[..., Any] = field(metadata={"check": base.function, "meaning": "what gives the gradient"})
    options: Mapping[str, Any] = field(
        default_factory=dict, hash=False, metadata={"check": base.options, "meaning": "passed on by name"}
    )
    batch: bool = option(False, checks.truth, "whether it sees the whole batch")
    digest: str = option("", base.text, "SHA-256 of its source")

    @property
    def style(self) -> Style:
        return styles.style(self.title)

    @property
    def whole_batch(self) -> bool:
        return self.batch

    @property
    def uses_lengths(self) -> bool:
        return True

    @functools.cached_property
    def _where(self) -> str:
        """How a message about its results begins; found once, since it takes reading the source."""
        return f"{user_files.place(self.title, self.function)}: its gradient"

    def _gradient(self, group: ScoredGroup) -> Floats:
        copies = (
            group.logp.copy(),
            group.logp_old.copy(),
            group.float_scores.copy(),
            group.mask.copy(),
            group.lengths.copy(),
        )
        given = user_files.run(self.title, self.function, *copies, **self.options)
        where = self._where
        if given is None:
            raise TypeError(f"{where}: got None, expected an array; does the function return it?")
        g = checks.array(where, given)
        if g.dtype == np.bool_:
            raise TypeError(f"{where}: got booleans, expected real numbers; convert them if you mean 0 and 1")
        checks.same_shape(where, g, group.mask.shape)
        bad = ~np.isfinite(g) & group.mask
        if bad.any():
            raise ValueError(f"{where} has {int(bad.sum())} NaN or infinite of {g.size}")
        return checks.float64(np.where(group.mask, g, 0.0))
