"""What every rule is: options that are checked once, and the gradient that a scored group gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from tpo_ref import checks
from tpo_ref.checks import Bools, Floats
from tpo_ref.study import styles
from tpo_ref.study.styles import Style

# What a coefficient is a function of: of the scores alone; of them and ℓ − ℓ_old; of ℓ and ℓ_old themselves.
SCORES, MOVED, POLICY = "scores", "moved", "policy"
# What a loss is: one number for a group, or a sum over its candidates, of which a user of K candidates takes the mean.
GROUP, CANDIDATES = "group", "candidates"


class ScoredGroup(NamedTuple):
    """One checked batch of groups, (…, K) each; at a masked candidate logp, logp_old and scores are 0, lengths 1.

    Scores keep their dtype, which says what is rounding; `float_scores` are in that of log-probabilities. `logits` and
    `logits_old` are the log-probabilities once more, −inf where masked, as a softmax takes them.
    """

    logp: Floats
    logp_old: Floats
    scores: Any
    mask: Bools
    lengths: Floats

    @property
    def float_scores(self) -> Floats:
        return checks.float64(self.scores)

    @property
    def logits(self) -> Floats:
        return np.where(self.mask, self.logp, -np.inf)

    @property
    def logits_old(self) -> Floats:
        return np.where(self.mask, self.logp_old, -np.inf)


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
    """An update rule with its options. A subclass gives `_gradient`.

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

    def gradient(
        self,
        logp: ArrayLike,
        logp_old: ArrayLike,
        scores: ArrayLike,
        mask: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
    ) -> Floats:
        """Gradient of the rule's loss in the log-probabilities of each candidate.

        Paper: Prop. 1 (for TPO: p − q)

        Args: logp, logp_old (…, K) in nats, current and at the snapshot; scores (…, K) raw; mask (…, K) bool, False =
            no candidate here; lengths (…, K) tokens, ≥ 1, by default 1.
        Returns: (…, K), 0 at a masked candidate; a step against it raises the log-probabilities where it is negative.
        Raises: TypeError, ValueError for a bad dtype, shape or mask, NaN, or scores that the rule does not take.

        >>> from tpo_ref.rules import named
        >>> named("tpo").gradient([0.0, 0.0], [0.0, 0.0], [1.0, 0.0]).round(4).tolist()
        [-0.3808, 0.3808]
        """
        group = checked(self, logp, logp_old, scores, mask, lengths)
        # Plus zero, so that nothing is −0.
        return np.asarray(np.where(group.mask, self._gradient(group), 0.0) + 0.0)

    def _gradient(self, group: ScoredGroup) -> Floats:
        raise NotImplementedError(f"{type(self).__name__} has no gradient of its own; define _gradient(self, group)")


def checked(
    rule: Rule,
    logp: ArrayLike,
    logp_old: ArrayLike,
    scores: ArrayLike,
    mask: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
) -> ScoredGroup:
    """The arguments of a rule's `gradient`, checked once and made neutral at masked candidates.

    Args, Raises: as `Rule.gradient`. Returns: `ScoredGroup`; scores keep their dtype, which says what is rounding.

    >>> from tpo_ref.rules import named
    >>> checked(named("tpo"), [0.0, -9.0], [0.0, -9.0], [1.0, float("nan")], [True, False]).scores.tolist()
    [1.0, 0.0]
    """
    weights = checks.log_weights if rule.impossible else checks.finite_log_weights
    now, keep = checks.group("logp", logp, mask, weights)
    old = weights("logp_old", logp_old, keep, now.shape)
    given = (checks.successes if rule.counts_successes else checks.scores)("scores", scores, keep)
    checks.same_shape("scores", given, now.shape)
    n = np.ones(now.shape) if lengths is None else checks.lengths("lengths", lengths, keep)
    return ScoredGroup(np.where(keep, now, 0.0), np.where(keep, old, 0.0), given, keep, n)
