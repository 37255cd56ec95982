"""TRL's GRPOConfig with the settings of the target added, and what would break its exactness refused by name."""

from __future__ import annotations

from dataclasses import dataclass, field

from trl import GRPOConfig

from tpo_ref.study.launcher import process_count
from tpo_torch.llm.layout import BatchLayout
from tpo_torch.llm.options import LEVEL, LOSS_TYPE, REFUSED_OPTIONS, batch_layout, check_option
from tpo_torch.llm.selection import check_metric
from tpo_torch.llm.target import ANCHORS, DIVERGENCES, SCALES, ZERO_VARIANCE, TargetSettings

RENAMED = {
    "gradient_checkpointing": "activation_checkpointing",
    "gradient_checkpointing_kwargs": "activation_checkpointing_kwargs",
}


@dataclass
class TargetPOConfig(GRPOConfig):  # type: ignore[misc]
    """Arguments of `TargetPOTrainer`: all of `trl.GRPOConfig`, and those of the target.

    Paper: Eqs 1-4 (anchor "policy"), App. A

    `beta` weighs the KL to the reference model, summed over a completion's tokens, against the cross-entropy of its
    group (deviation D77). `divide_by_length` divides cross-entropy and KL, and so the gradient that `max_grad_norm`
    clips, by the mean length of the completions (deviation D79); `entropy_coef` and `router_aux_loss_coef` weigh terms
    that are not divided, as in GRPO (deviation D84). Evaluation has no loss: `metric_for_best_model` names what it logs
    (deviation D83). What GRPO alone knows (clipping, loss types, ratios) is refused by name.

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
        for name in REFUSED_OPTIONS:
            check_option(name, getattr(self, name))
        _ = self.target
        self._check_layout()
        check_metric(self)
        for old, new in RENAMED.items():
            # TRL still sets the old name by default, at which transformers warns everybody.
            if getattr(self, new, "absent") is None:
                setattr(self, new, getattr(self, old))
        super().__post_init__()

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
