"""The methods of the sequence tasks: which update rule, on what group. `table` says what each samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tpo_ref.study.chosen_rules import ChosenRule
from tpo_ref.study.protocol import unknown
from tpo_torch import rules
from tpo_torch.reversal.settings import ReversalSettings
from tpo_torch.reversal.table import EPOCHS, GROUP, SINGLE, TABLE, TOKEN, Sampling, own_name
from tpo_torch.rules import CANDIDATES, SCORES, Rule

# The authors' GRPO: added to the deviation of a group; and how far a log-ratio may go (deviations D30, D31).
EPSILON_STD = 1e-8
LOG_RATIO_LIMIT = 20.0
# What may make a group for a rule that is not in the table, and what is sampled for it: the answers to a prompt, the
# candidates for a token, or the single answers of all prompts at one position.
GROUPINGS = {"group": GROUP, "token": TOKEN, "batch": SINGLE}


@dataclass(frozen=True)
class Method:
    """A rule, and what is sampled for it."""

    sampling: Sampling
    rule: Rule

    def freeze(self, old: Tensor, scores: Tensor) -> Callable[[Tensor], Tensor]:
        """Check a batch once; of later log-probabilities, what is returned gives the gradient of the mean over prompts.

        The mean is of the rule's losses, each summed over the candidates of its group; each seed is a batch of its own.

        Args: old, scores, as `table.Sampling` says. Returns: a function of log-probabilities of that shape, to the
            same, detached; exactly 0 in a group without a signal where they are old and the rule tilts (deviation D57).
        Raises: TypeError, ValueError as `Rule.gradient`.
        """
        rule, single = self.rule, self.sampling.samples == SINGLE
        by_seed = rule.whole_batch
        # Of single answers, those to all prompts are a group at each position.
        pair = [x.mT if single else x for x in (old, scores)]
        batches = list(zip(*pair, strict=True)) if by_seed else [(pair[0], pair[1])]
        groups = [rules.checked(rule, x, x, s) for x, s in batches]
        # A sum over prompts becomes their mean; one loss of all of them is that already.
        count = (len(old[0]) if rule.reduction == CANDIDATES else 1) if single else old[0, ..., 0].numel()

        def gradient(logp: Tensor) -> Tensor:
            now = logp.detach().mT if single else logp.detach()
            parts = zip(groups, now if by_seed else [now], strict=True)
            each = [rule._gradient(group._replace(logp=x)) for group, x in parts]
            # Plus zero, so that nothing is −0.
            g = (torch.stack(each) if by_seed else each[0]) / count + 0.0
            return g.mT if single else g

        return gradient


def _grpo(name: str, **options: float) -> Callable[[ReversalSettings], Rule]:
    guards = {"epsilon_std": EPSILON_STD, "log_ratio_limit": LOG_RATIO_LIMIT}
    return lambda s: rules.named(name, epsilon=s.epsilon, **{"beta": s.beta, **guards, **options})


def _with_eta(name: str) -> Callable[[ReversalSettings], Rule]:
    return lambda s: rules.named(name, eta=s.eta)


# The rule behind each name of the table. The baseline of the last three is the mean over the batch at one position.
RULES: dict[str, Callable[[ReversalSettings], Rule]] = {
    **dict.fromkeys(("tpo", "tpo_token"), _with_eta("tpo")),
    **dict.fromkeys(("tpo_ratio", "tpo_token_ratio"), _with_eta("tpo_ratio")),
    "tpo_no_anchor": _with_eta("tpo_no_anchor"),
    **dict.fromkeys(("group_pg", "group_pg_once"), _with_eta("group_pg")),
    **dict.fromkeys(("grpo", "grpo_token"), _grpo("grpo")),
    "grpo_no_kl": _grpo("grpo_no_kl", beta=0.0),
    "grpo_masked": _grpo("grpo_masked"),
    **dict.fromkeys(("ppo", "ppo_wide"), lambda s: rules.named("ppo", epsilon=s.epsilon)),
    **dict.fromkeys(("dg", "dg_wide"), lambda s: rules.named("dg", dg_eta=s.dg_eta)),
    **dict.fromkeys(("pg", "pg_wide"), lambda s: rules.named("pg")),
}


def resolve(name: str | ChosenRule, settings: ReversalSettings, grouping: str = "") -> Method:
    """The method of that name or alias; or of a rule that a user has chosen, on the usual grouping where none is said.

    A chosen rule takes as many steps as the method of its name does, one where it reads scores alone, else four.

    Raises: ValueError for an unknown name or grouping, with the nearest.

    >>> resolve("dg", ReversalSettings()).sampling.epochs
    1
    """
    if isinstance(name, str):
        own = own_name(name)
        return Method(TABLE[own], RULES[own](settings))
    if grouping and grouping not in GROUPINGS:
        raise unknown("grouping", grouping, GROUPINGS)
    rule = name.build(rules)
    # A function of the user's that bears a method's name is none of it.
    listed = name.function is None and name.name in TABLE
    epochs = TABLE[name.name].epochs if listed else 1 if rule.reads == SCORES else EPOCHS
    return Method(Sampling(GROUPINGS[grouping or "group"], epochs), rule)
