"""What every rule is: options that are checked once, and the loss of a scored group, with its gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from tpo_ref.study import styles
from tpo_ref.study.styles import Style
from tpo_torch import checks

# What a coefficient is a function of: of the scores alone; of them and ℓ − ℓ_old; of ℓ and ℓ_old themselves.
SCORES, MOVED, POLICY = "scores", "moved", "policy"
# What a loss is: one number for a group, or a sum over its candidates, of which a user of K candidates takes the mean.
GROUP, CANDIDATES = "group", "candidates"


class ScoredGroup(NamedTuple):
    """One checked batch of groups, (…, K) each; at a masked candidate logp, logp_old and scores are 0, lengths 1.

    Scores keep their dtype, which says what is rounding; `float_scores` are in that of log-probabilities. `logits` and
    `logits_old` are the log-probabilities once more, −inf where masked, as a softmax takes them.
    """

    logp: Tensor
    logp_old: Tensor
    scores: Tensor
    mask: Tensor
    lengths: Tensor

    @property
    def float_scores(self) -> Tensor:
        return self.scores.to(self.logp.dtype)

    @property
    def logits(self) -> Tensor:
        return torch.where(self.mask, self.logp, -math.inf)

    @property
    def logits_old(self) -> Tensor:
        return torch.where(self.mask, self.logp_old, -math.inf)


def option(default: Any, check: Callable[[str, Any], Any], meaning: str) -> Any:
    """A field of a rule: its default, the check that its values pass, and what it means, in one line."""
    return field(default=default, metadata={"check": check, "meaning": meaning})


def text(name: str, x: Any) -> Any:
    """A word."""
    if not isinstance(x, str):
        raise TypeError(f"{name}: got {x!r}, expected a word")
    return x


def function(name: str, x: Any) -> Any:
    """What can be called."""
    if not callable(x):
        raise TypeError(f"{name}: got {type(x).__name__}, expected a function")
    return x


def options(name: str, x: Any) -> Any:
    """Values by their names."""
    if not isinstance(x, Mapping):
        raise TypeError(f"{name}: got {type(x).__name__}, expected a dict of values by name")
    return x


def optional(check: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    """The check of a field that may be None."""
    return lambda name, x: None if x is None else check(name, x)


@dataclass(frozen=True)
class Rule:
    """An update rule with its options. A subclass gives `_loss`, and `_gradient` where
    a closed form keeps more digits.

    Paper: Prop. 1 (∂L/∂ℓ is all that a policy's parameters need of a rule)

    Class attributes: name; source, where it comes from; aliases, other names; reads, of what its coefficients are a
    function: "scores", "moved" (scores and ℓ − ℓ_old) or "policy"; reduction, "group" where the loss is one number for
    a group whatever K, "candidates" where it is a sum over candidates (deviation D33);
    impossible, whether a candidate may have probability 0, −inf in logp and logp_old.
    Raises: TypeError, ValueError for an option out of range.
    """

    name: ClassVar[str] = ""
    source: ClassVar[str] = ""
    aliases: ClassVar[tuple[str, ...]] = ()
    reads: ClassVar[str] = POLICY
    reduction: ClassVar[str] = CANDIDATES
    impossible: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for each in fields(self):
            each.metadata["check"](each.name, getattr(self, each.name))

    @property
    def style(self) -> Style:
        """How it is drawn, its label among the rest."""
        return styles.style(self.name)

    @property
    def label(self) -> str:
        """How it is called in tables and figures."""
        return self.style.label

    @property
    def whole_batch(self) -> bool:
        """Whether the gradient of one group depends on the other groups of the batch."""
        return False

    @property
    def uses_lengths(self) -> bool:
        """Whether the gradient depends on how many tokens a candidate has."""
        return False

    @property
    def counts_successes(self) -> bool:
        """Whether scores must not be negative, since the rule divides by their mean."""
        return False

    def loss(
        self,
        logp: Tensor,
        logp_old: Tensor,
        scores: Tensor,
        mask: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> Tensor:
        """Loss of each group, whose gradient in logp autograd gives; all else is frozen.

        Paper: Eq. 3 (TPO's)

        Args: logp, logp_old (…, K) in nats, current and at the snapshot; scores (…, K) raw; mask (…, K) bool, False =
            no candidate here; lengths (…, K) tokens, ≥ 1, by default 1.
        Returns: (…), in the unit of the rule.
        Raises: TypeError, ValueError for a bad dtype, shape or mask, NaN, or scores that the rule does not take.

        >>> from tpo_torch.rules import named
        >>> named("tpo").loss(torch.zeros(2), torch.zeros(2), torch.tensor([1.0, 0.0]))
        tensor(0.6931)
        """
        return self._loss(checked(self, logp, logp_old, scores, mask, lengths))

    def gradient(
        self,
        logp: Tensor,
        logp_old: Tensor,
        scores: Tensor,
        mask: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> Tensor:
        """Gradient of `loss` in logp.

        Paper: Prop. 1 (for TPO: p − q)

        Exactly 0 in the rules that tilt where logp is logp_old and the scores of a group are equal (deviation D57).

        Args, Raises: as `loss`. Returns: (…, K), detached, 0 at a masked candidate; a step against it raises the
            log-probabilities where it is negative.

        >>> from tpo_torch.rules import named
        >>> named("tpo").gradient(torch.zeros(2), torch.zeros(2), torch.tensor([1.0, 0.0]))
        tensor([-0.3808,  0.3808])
        """
        group = checked(self, logp, logp_old, scores, mask, lengths)
        group = group._replace(logp=group.logp.detach())
        # Plus zero, so that nothing is −0.
        return torch.where(group.mask, self._gradient(group), 0.0) + 0.0

    def _loss(self, group: ScoredGroup) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} has no loss of its own; define _loss(self, group)")

    def _gradient(self, group: ScoredGroup) -> Tensor:
        with torch.enable_grad():
            leaf = group.logp.detach().requires_grad_()
            (g,) = torch.autograd.grad(self._loss(group._replace(logp=leaf)).sum(), leaf)
        return g


def checked(
    rule: Rule,
    logp: Tensor,
    logp_old: Tensor,
    scores: Tensor,
    mask: Tensor | None = None,
    lengths: Tensor | None = None,
) -> ScoredGroup:
    """The arguments of a rule's `loss`, checked once and made neutral at masked candidates; only logp keeps its graph.

    Args, Raises: as `Rule.loss`. Returns: `ScoredGroup`; scores keep their dtype, which says what is rounding.

    >>> from tpo_torch.rules import named
    >>> checked(named("tpo"), *[torch.tensor([0.0, -9.0])] * 3, torch.tensor([True, False])).scores
    tensor([0., 0.])
    """
    weights = checks.log_weights if rule.impossible else checks.finite_log_weights
    now, keep = checks.group("logp", logp, mask, weights)
    shape = tuple(now.shape)
    keep = torch.ones_like(now, dtype=torch.bool) if keep is None else keep
    old = weights("logp_old", logp_old, keep, shape).to(now.dtype)
    given = (checks.successes if rule.counts_successes else checks.scores)("scores", scores, keep)
    checks.same_shape("scores", given, shape)
    n = torch.ones_like(now) if lengths is None else checks.lengths("lengths", lengths, keep).to(now.dtype)
    now = torch.where(keep, now, 0.0)
    return ScoredGroup(now, torch.where(keep, old, 0.0).detach(), given.detach(), keep, n.detach())
