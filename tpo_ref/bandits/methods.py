"""The methods of the bandits: which update rule, and what makes its group. One table for each environment."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tpo_ref import rules
from tpo_ref.bandits.environments import ManyContexts, Needle, SampledCandidates, Settings, SingleContext
from tpo_ref.checks import Floats, unknown
from tpo_ref.rules import CANDIDATES, Rule
from tpo_ref.study.chosen_rules import ChosenRule

# GRPO's guard inside the root over the batch of the single context, and beside 1 − p in many contexts.
GRPO_FLOOR = 1e-8

# What makes a group: the K candidates of a group; all actions of a step; all arms, as an enumeration; all arms, each
# counting as often as the policy draws it; and GRPO's own expectation, standardised under the policy (App. B).
GROUP, BATCH, ARMS, EXPECTED, STANDARDISED = "group", "batch", "arms", "expected", "standardised"
# What may make one for a rule that is not in the tables, the usual one first.
GROUPINGS: Mapping[type, tuple[str, ...]] = {
    SingleContext: (BATCH, ARMS),
    ManyContexts: (ARMS, EXPECTED),
    SampledCandidates: (GROUP,),
    Needle: (GROUP,),
}


@dataclass(frozen=True)
class Method:
    """A rule and what makes its group, in one of the environments."""

    rule: Rule
    grouping: str

    def gradient(self, logp: Floats, scores: Floats) -> Floats:
        """The rule's gradient at the snapshot, of the mean over candidates where its loss is a sum (deviation D12).

        Args: logp, scores (S, …, K) of S seeds, each of which is a batch of its own. Returns: (S, …, K).
        """
        if self.rule.whole_batch:
            each = [self.rule.gradient(x, x, s) for x, s in zip(logp, scores, strict=True)]
            g = np.stack(each)
        else:
            g = self.rule.gradient(logp, logp, scores)
        return g / logp.shape[-1] if self.rule.reduction == CANDIDATES else g


def table(settings: Settings) -> dict[str, Method]:
    """The methods that the environment of these settings has by name.

    Paper: Fig. 2, Fig. 3, Fig. 8 (what is compared there)

    Raises: TypeError for settings of no environment.

    >>> sorted(table(Needle())) == sorted(Needle.METHODS)
    True
    """
    _check_environment(settings)
    if isinstance(settings, SingleContext):
        baseline = settings.baseline
        return {
            "pg": Method(rules.named("pg", baseline=baseline), BATCH),
            "dg": Method(rules.named("dg", baseline=baseline, dg_eta=settings.dg_eta), BATCH),
            # Standardised over the batch, √(σ² + floor).
            "grpo": Method(rules.named("group_pg", tau=math.sqrt(GRPO_FLOOR)), BATCH),
            "tpo": Method(rules.named("tpo", eta=settings.eta), ARMS),
        }
    if isinstance(settings, ManyContexts):
        return {
            "ce": Method(rules.named("ce"), ARMS),
            "pg": Method(rules.named("pg", baseline=0.0), EXPECTED),
            "dg": Method(rules.named("dg", baseline=0.0, dg_eta=settings.dg_eta), EXPECTED),
            "grpo": Method(rules.named("group_pg"), STANDARDISED),
            "tpo": Method(rules.named("tpo", eta=settings.eta), ARMS),
        }
    return {
        "tpo_sampled": Method(rules.named("tpo", eta=settings.eta), GROUP),
        "tpo_ratio": Method(rules.named("tpo_ratio", eta=settings.eta), GROUP),
        "tpo_no_anchor": Method(rules.named("tpo_no_anchor", eta=settings.eta), GROUP),
        # At the first epoch neither clip nor penalty acts yet.
        "grpo": Method(rules.named("grpo", epsilon_std=0.0), GROUP),
    }


def resolve(method: str | Rule | ChosenRule, settings: Settings, grouping: str = "") -> Method:
    """The method of that name, or of a rule, on that grouping, the usual one of the environment where none is said.

    Args: method, a name of the table, a rule, or the text of one as `choose` reads it; grouping, for a rule alone.
    Raises: TypeError for something else; ValueError for an unknown name or grouping, with the nearest, and
        for a grouping on which a rule cannot be.

    >>> resolve("grpo", Needle()).grouping, resolve(rules.named("tpo"), ManyContexts()).grouping
    ('group', 'arms')
    """
    if isinstance(method, str):
        return _by_name(method, table(settings), grouping)
    if not isinstance(method, Rule | ChosenRule):
        raise TypeError(f"method: got {type(method).__name__}, expected a name such as 'grpo', or a rule")
    rule: Rule = method if isinstance(method, Rule) else method.build(rules)
    _check_environment(settings)
    options = GROUPINGS[type(settings)]
    if grouping and grouping not in options:
        raise unknown("grouping", grouping, options)
    chosen = grouping or options[0]
    if chosen == EXPECTED and rule.reduction != CANDIDATES:
        raise ValueError(
            f"grouping: got {EXPECTED!r} for {rule.label}, whose loss is one number for a group and no sum over draws; "
            f"use {ARMS!r}"
        )
    if chosen == ARMS and isinstance(settings, SingleContext) and settings.baseline > 0 and rule.counts_successes:
        raise ValueError(
            f"grouping: got {ARMS!r}, where scores are less a baseline of {settings.baseline:g}, for {rule.name}, "
            f"which divides by their mean; use {BATCH!r}"
        )
    return Method(rule, chosen)


def _by_name(name: str, methods: Mapping[str, Method], grouping: str) -> Method:
    if name not in methods:
        raise unknown("method", name, methods)
    if grouping:
        raise ValueError(f"grouping: got {grouping!r} for the method {name}, which has its own; it is for rules")
    return methods[name]


def _check_environment(settings: Settings) -> None:
    if type(settings) not in GROUPINGS:
        names = ", ".join(kind.__name__ for kind in GROUPINGS)
        raise TypeError(f"settings: got {type(settings).__name__}, expected one of {names}")
