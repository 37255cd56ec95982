"""TRL's GRPOConfig with the settings of the target added, and what would break its exactness refused by name."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from trl import GRPOConfig

from tpo_torch.llm.groups import ANCHORS, ZERO_VARIANCE, TargetSettings
from tpo_torch.llm.layout import BatchLayout

# TRL's own aggregation of exactly this form: the sum over a completion's tokens, the mean over rows. The level only
# says that the (absent) ratio is one per sequence, which is what TRL expects with it.
LOSS_TYPE, LEVEL = "luspo", "sequence"

RENAMED = {
    "gradient_checkpointing": "activation_checkpointing",
    "gradient_checkpointing_kwargs": "activation_checkpointing_kwargs",
}

# What each refused option of GRPO must be left at, and why.
REFUSED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "loss_type": (lambda x: x == LOSS_TYPE, "it chooses among GRPO's losses; TPO has one. Leave it out"),
    "importance_sampling_level": (lambda x: x == LEVEL, "TPO has no importance ratio. Leave it out"),
    "scale_rewards": (
        lambda x: x in ("group", True),
        "TPO standardises within each group; `tau` is the noise it adds to the deviation. Leave it out",
    ),
    "multi_objective_aggregation": (
        lambda x: x == "sum_then_normalize",
        "TPO standardises the weighted sum of the rewards. Leave it out",
    ),
    "delta": (lambda x: x is None, "TPO clips nothing. Leave it out"),
    "epsilon": (lambda x: x == GRPOConfig.epsilon, "TPO clips nothing. Leave it out"),
    "epsilon_high": (lambda x: x is None, "TPO clips nothing. Leave it out"),
    "top_entropy_quantile": (lambda x: x == 1, "it drops tokens from the log-probability of a completion"),
    "off_policy_mask_threshold": (lambda x: x is None, "it drops rows from the loss but not from the softmax"),
    "neftune_noise_alpha": (lambda x: x is None, "under its noise two passes see different policies"),
    "use_bias_correction_kl": (lambda x: not x, "it needs importance ratios, which TPO has not"),
    "vllm_importance_sampling_correction": (
        lambda x: not x,
        "TPO weighs the completions it was given and needs no ratio to the sampler; p_old is recomputed by the trainer",
    ),
}


@dataclass
class TargetPOConfig(GRPOConfig):  # type: ignore[misc]
    """Arguments of `TargetPOTrainer`: all of `trl.GRPOConfig`, and those of the target.

    Paper: Eqs 1-4 (anchor "policy"), App. A

    `beta` weighs the KL to the reference model, summed over a completion's tokens, against the cross-entropy of its
    group (deviation D77). What GRPO alone knows (clipping, loss types, ratios) is refused by name.

    Raises: TypeError, ValueError for settings out of range, refused options, and batches that tear groups apart.
    """

    eta: float = field(default=1.0, metadata={"help": "Temperature of the target, above 0; smaller tilts more."})
    tau: float = field(default=0.0, metadata={"help": "Noise of the reward, in its unit; added to the deviation."})
    anchor: str = field(default="policy", metadata={"help": f"What the scores tilt: {', '.join(ANCHORS)}."})
    anchor_temperature: float = field(default=1.0, metadata={"help": "T of anchor 'tempered', above 0."})
    zero_variance: str = field(
        default="anchor",
        metadata={"help": f"What groups of equal rewards ask for in later epochs: {', '.join(ZERO_VARIANCE)}."},
    )
    zero_variance_weight: float = field(default=1.0, metadata={"help": "Their weight under zero_variance='weight'."})
    shuffle_rows: bool = field(
        default=False,
        metadata={
            "help": "Shuffle the rows of a round of generation as GRPO does; costs a forward pass, changes nothing."
        },
    )
    loss_type: str = field(default=LOSS_TYPE, metadata={"help": "Fixed; see `anchor`."})
    importance_sampling_level: str = field(default=LEVEL, metadata={"help": "Fixed."})
    vllm_importance_sampling_correction: bool = field(default=False, metadata={"help": "Fixed."})
    use_bias_correction_kl: bool = field(default=False, metadata={"help": "Fixed."})

    def __post_init__(self) -> None:
        for name, (fine, why) in REFUSED.items():
            if not fine(getattr(self, name)):
                raise ValueError(f"{name}: got {getattr(self, name)!r}, which TPO does not take: {why}")
        _ = self.target
        self._check_layout()
        for old, new in RENAMED.items():
            # TRL still sets the old name by default, at which transformers warns everybody.
            if getattr(self, new, "absent") is None:
                setattr(self, new, getattr(self, old))
        super().__post_init__()

    @property
    def target(self) -> TargetSettings:
        """The settings of the target alone."""
        return TargetSettings(
            self.anchor, self.eta, self.tau, self.anchor_temperature, self.zero_variance, self.zero_variance_weight
        )

    @property
    def layout(self) -> BatchLayout:
        """The batch arithmetic of this run; ValueError as `BatchLayout`."""
        return self._layout(self.world_size)

    def _layout(self, processes: int) -> BatchLayout:
        micro = self.per_device_train_batch_size * processes
        slices = self.steps_per_generation
        if slices is None and self.generation_batch_size is not None:
            slices, rest = divmod(self.generation_batch_size, micro)
            if rest or not slices:
                raise ValueError(
                    f"generation_batch_size: got {self.generation_batch_size}, expected a multiple of {micro}, the "
                    f"rows of one micro-batch over {processes} processes"
                )
        return BatchLayout(
            num_generations=self.num_generations,
            per_device=self.per_device_train_batch_size,
            accumulation=self.gradient_accumulation_steps,
            processes=processes,
            steps_per_generation=slices,
            num_iterations=self.num_iterations,
        )

    def _check_layout(self) -> None:
        if isinstance(self.gradient_accumulation_steps, int) and isinstance(self.num_generations, int):
            # Read from the launcher's variable, so that a wrong sum is found before any process group is made.
            self._layout(int(os.environ.get("WORLD_SIZE", "1")))
