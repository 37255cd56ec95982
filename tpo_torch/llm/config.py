"""TRL's GRPOConfig with the settings of the target added, and what would break its exactness refused by name."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trl import GRPOConfig

from tpo_ref.checks import unknown
from tpo_ref.study.chosen_rules import text_of
from tpo_ref.study.launcher import is_first_process, process_count
from tpo_torch.llm import ranges
from tpo_torch.llm.conversion import Conversion, convert, listing
from tpo_torch.llm.fields import check_number, class_fields, default_of, unknown_field
from tpo_torch.llm.layout import BatchLayout
from tpo_torch.llm.options import LEVEL, LOSS_TYPE, SAME, batch_layout, check_option, refused_options
from tpo_torch.llm.rule_groups import rule_of
from tpo_torch.llm.selection import check_metric
from tpo_torch.llm.target import ANCHORS, DIVERGENCES, SCALES, ZERO_VARIANCE, TargetSettings

RENAMED = {
    "gradient_checkpointing": "activation_checkpointing",
    "gradient_checkpointing_kwargs": "activation_checkpointing_kwargs",
}
# A field that TPO alone has.
ANCHOR = "anchor"


@dataclass
class TargetPOConfig(GRPOConfig):  # type: ignore[misc]
    """Arguments of `TargetPOTrainer`: all of `trl.GRPOConfig`, and those of the target.

    Paper: Eqs 1-4 (anchor "policy"), App. A

    `beta` weighs the KL to the reference model, summed over a completion's tokens, against the cross-entropy of its
    group (deviation D77). `divide_by_length` divides cross-entropy and KL, and so the gradient that `max_grad_norm`
    clips, by the mean length of the completions (deviation D79); `entropy_coef` and `router_aux_loss_coef` weigh terms
    that are not divided, as in GRPO (deviation D84). Evaluation has no loss: `metric_for_best_model` names what it logs
    (deviation D83). What GRPO alone knows (clipping, loss types, ratios) is refused by name, unless it has GRPO's own
    default, which the trainer replaces by what it needs; `from_grpo` drops it.

    Raises: TypeError, ValueError for settings out of range, refused options, and batches that tear groups apart.
    """

    eta: float = field(default=1.0, metadata={"help": "Temperature of the target, above 0; smaller tilts more."})
    tau: float = field(default=0.0, metadata={"help": "Noise of the reward, in its unit; added to the deviation."})
    anchor: str = field(
        default=TargetSettings.anchor,
        metadata={"help": f"What the scores tilt: {', '.join(ANCHORS)}; the paper's is policy."},
    )
    anchor_temperature: float = field(default=1.0, metadata={"help": "T of anchor 'tempered', above 0."})
    zero_variance: str = field(
        default="anchor",
        metadata={"help": f"What groups of equal rewards ask for in later epochs: {', '.join(ZERO_VARIANCE)}."},
    )
    zero_variance_weight: float = field(default=1.0, metadata={"help": "Their weight under zero_variance='weight'."})
    score_scale: str = field(
        default="group_std",
        metadata={"help": f"What the scores are measured in: {', '.join(SCALES)}; the paper's is group_std."},
    )
    divergence: str = field(
        default="forward",
        metadata={"help": f"By what the policy is fitted: {', '.join(DIVERGENCES)}; the paper's is forward."},
    )
    rule: str = field(
        default="",
        metadata={
            "help": "Another update rule than TPO's: NAME[,OPTION=VALUE] of `tpo list --rules`, or FILE.py:FUNCTION of "
            "yours, which is imported. Empty: TPO, by the fields above."
        },
    )
    shuffle_rows: bool = field(
        default=False,
        metadata={
            "help": "Shuffle the rows of a round of generation as GRPO does; costs a forward pass, changes nothing."
        },
    )
    divide_by_length: bool = field(
        default=True,
        metadata={
            "help": "Divide the loss by the mean length of the completions, so that the gradient's norm, like GRPO's, "
            "does not grow with it, for max_grad_norm; False: the paper's sum over tokens. The direction is the same."
        },
    )
    loss_type: str = field(default=LOSS_TYPE, metadata={"help": "Fixed; see `anchor`."})
    importance_sampling_level: str = field(default=LEVEL, metadata={"help": "Fixed."})
    vllm_importance_sampling_correction: bool = field(default=False, metadata={"help": "Fixed."})
    use_bias_correction_kl: bool = field(default=False, metadata={"help": "Fixed."})

    def __post_init__(self) -> None:
        self._settle()
        super().__post_init__()

    @classmethod
    def from_grpo(cls, config: GRPOConfig | Mapping[str, Any], **target: Any) -> TargetPOConfig:
        """The arguments of TPO that carry over those of a GRPO script; a warning lists what cannot be, and why.

        Clipping, ratios and the shapes of GRPO's losses are dropped, `scale_rewards` becomes `score_scale`
        (`tpo_torch.llm.conversion`); all else is as it was, the batch included.

        Args: config, the script's, which stays as it is, or a dict of its fields; target, fields that TPO adds, such as
            eta=0.5 or anchor="policy".
        Raises: TypeError for another config; ValueError for another field, naming the nearest; as the class.
        """
        own = {f.name for f in dataclasses.fields(cls)} - {f.name for f in dataclasses.fields(GRPOConfig)}
        for name in target:
            if name not in own:
                raise unknown("field of the target", name, sorted(own))
        if isinstance(config, Mapping):
            made = convert(cls._fields_in(config), target)
            arguments = cls(**{**made.values, **target})
        elif isinstance(config, GRPOConfig):
            # One of ours holds what the trainer has set in place of GRPO's options.
            given = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
            made = Conversion(given, ()) if isinstance(config, cls) else convert(given, target)
            arguments = cls._copied(config, {**made.values, **target})
        else:
            raise TypeError(f"config: got {type(config).__name__}, expected trl.GRPOConfig, or a dict of its fields")
        if made.changes and is_first_process():
            warnings.warn(f"from GRPO to TPO:\n{listing(made.changes)}", stacklevel=2)
        return arguments

    @classmethod
    def _fields_in(cls, given: Mapping[Any, Any]) -> dict[str, Any]:
        """The fields that a dict gives; TypeError, ValueError for what is none."""
        known = {f.name for f in dataclasses.fields(cls) if f.init}
        ours = {name: option.ours for name, option in refused_options().items() if option.ours is not SAME}
        for name in given:
            if not isinstance(name, str):
                raise TypeError(f"config: got the name {name!r}, expected names of fields, which are strings")
            if name not in known:
                raise unknown_field("config", name, sorted(known), cls.__name__)
        values = dict(given)
        if ANCHOR in given:
            # Written by one of ours, which holds what the trainer has set in place of GRPO's options.
            values = {name: x for name, x in given.items() if name not in ours or x != ours[name]}
        rows, steps = (values.get(name) for name in ("generation_batch_size", "steps_per_generation"))
        micro = values.get("per_device_train_batch_size", GRPOConfig.per_device_train_batch_size) * process_count()
        if rows is not None and steps is not None and rows == steps * micro:
            # TRL takes one of them, and writes both into a dict that it makes.
            del values["generation_batch_size"]
        return values

    @classmethod
    def _copied(cls, config: GRPOConfig, values: Mapping[str, Any]) -> TargetPOConfig:
        """The arguments with these values, and the defaults where there are none, and all that TRL has worked out."""
        # Not made anew from its fields: TRL refuses what it has itself filled in (both sizes of a round), and what
        # transformers has worked out (devices, DeepSpeed's and FSDP's plugins) would be worked out twice.
        made: TargetPOConfig = object.__new__(cls)
        made.__dict__.update(vars(config))
        for each in dataclasses.fields(cls):
            if each.name in values:
                value = values[each.name]
                setattr(made, each.name, copy.deepcopy(value) if isinstance(value, dict | list) else value)
            else:
                setattr(made, each.name, default_of(each))
        made._settle()
        return made

    def _settle(self) -> None:
        """Check every number, what TPO adds and cannot follow, and set what its trainer needs."""
        # So that a rule may be given as an object; what is stored and recorded is its text.
        self.rule = text_of(self.rule)
        for name, each in class_fields(TargetPOConfig).items():
            check_number(name, getattr(self, name), each.type)
            ranges.check(name, getattr(self, name), ranges.TRAINER, vars(self))
        for name, option in refused_options().items():
            check_option(name, getattr(self, name))
            if option.ours is not SAME:
                setattr(self, name, option.ours)
        # A file that names a rule is read here: what is wrong with it is found before a model is loaded.
        rule_of(self.target)
        self._check_layout()
        check_metric(self)
        for old, new in RENAMED.items():
            # TRL still sets the old name by default, at which transformers warns everybody.
            if getattr(self, new, "absent") is None:
                setattr(self, new, getattr(self, old))

    @property
    def target(self) -> TargetSettings:
        """The settings of the target alone."""
        return TargetSettings(
            self.anchor,
            self.eta,
            self.tau,
            self.anchor_temperature,
            self.zero_variance,
            self.zero_variance_weight,
            self.score_scale,
            self.divergence,
            self.rule,
        )

    @property
    def layout(self) -> BatchLayout:
        """The batch arithmetic of this run; ValueError as `BatchLayout`."""
        return self._layout(self.world_size)

    def _layout(self, processes: int) -> BatchLayout:
        return batch_layout(
            self.num_generations,
            self.per_device_train_batch_size,
            self.gradient_accumulation_steps,
            processes=processes,
            steps_per_generation=self.steps_per_generation,
            generation_batch_size=self.generation_batch_size,
            num_iterations=self.num_iterations,
        )

    def _check_layout(self) -> None:
        if isinstance(self.gradient_accumulation_steps, int) and isinstance(self.num_generations, int):
            # Counted by the launcher's variable, so that a wrong sum is found before any process group is made.
            self._layout(process_count())
