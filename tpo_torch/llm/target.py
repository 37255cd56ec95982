"""The settings of the target. Needs no torch, so that a wrong one is refused before torch is loaded."""

from __future__ import annotations

from dataclasses import dataclass, fields

from tpo_ref import checks

ANCHORS = ("policy", "ratio", "length", "tempered")
ZERO_VARIANCE = ("anchor", "mask", "weight")
# As in tpo_ref.scale and tpo_ref.lpo, which a test compares.
SCALES = ("group_std", "none", "group_mean", "batch_std")
WITH_NOISE = ("group_std", "batch_std")
DIVERGENCES = ("forward", "reverse")


@dataclass(frozen=True)
class TargetSettings:
    """What makes a target out of scores and old log-probabilities.

    Args: anchor, what the scores tilt: "ratio" (deviation D79), "policy" (the paper), "length", "tempered"; eta > 0,
        the temperature; tau ≥ 0, the scorer's noise in the unit of the rewards; anchor_temperature > 0, T of
        "tempered";
        zero_variance, what a group of equal scores asks for: "anchor" (the paper: stay at p_old), "mask" (nothing),
        "weight" (zero_variance_weight of the paper's pull, a number ≥ 0);
        score_scale, what scores are measured in before they tilt: "group_std" (the paper), "none", "group_mean",
        "batch_std" (deviation D80); divergence, by what the policy is fitted: "forward" (the paper's cross-entropy),
        "reverse" (KL from the policy to the target, deviation D81); rule, another update rule than TPO's family, as
        `tpo_ref.study.chosen_rules` reads it, with options of its own: then all the others keep their defaults.
    Raises: TypeError, ValueError for an unknown name or a number out of range, and for tau under a scale without it. A
        file that the rule names is not read here.

    >>> TargetSettings(anchor="rato")
    Traceback (most recent call last):
    ...
    ValueError: anchor: got 'rato', expected one of 'policy', 'ratio', 'length', 'tempered'
    """

    anchor: str = "ratio"
    eta: float = 1.0
    tau: float = 0.0
    anchor_temperature: float = 1.0
    zero_variance: str = "anchor"
    zero_variance_weight: float = 1.0
    score_scale: str = "group_std"
    divergence: str = "forward"
    rule: str = ""

    def __post_init__(self) -> None:
        if self.rule:
            self._check_rule()
        checks.choice("anchor", self.anchor, ANCHORS)
        checks.choice("zero_variance", self.zero_variance, ZERO_VARIANCE)
        checks.positive("eta", self.eta)
        checks.non_negative("tau", self.tau)
        checks.positive("anchor_temperature", self.anchor_temperature)
        checks.non_negative("zero_variance_weight", self.zero_variance_weight)
        checks.choice("score_scale", self.score_scale, SCALES)
        checks.choice("divergence", self.divergence, DIVERGENCES)
        if self.tau and self.score_scale not in WITH_NOISE:
            raise ValueError(
                f"tau: got {self.tau:g}, expected 0 under score_scale {self.score_scale!r}, which has none"
            )

    def _check_rule(self) -> None:
        """The rule's name and options as far as they can be judged without its file, and nothing beside it."""
        # Imported where needed: it takes NumPy along.
        from tpo_ref.study import chosen_rules

        place, _ = chosen_rules.parsed(self.rule)
        if chosen_rules.FILE not in place:
            chosen_rules.choose(self.rule)
        for other in fields(self):
            value = getattr(self, other.name)
            if other.name != "rule" and value != other.default:
                raise ValueError(
                    f"{other.name}: got {value!r} beside rule {self.rule!r}, which has options of its own; leave it "
                    f"out, or write it into the rule, as in rule={place},OPTION=VALUE"
                )

    @property
    def idle_weight(self) -> float:
        """What the coefficients of a zero-variance group are multiplied by."""
        return {"anchor": 1.0, "mask": 0.0, "weight": self.zero_variance_weight}[self.zero_variance]
