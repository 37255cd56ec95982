"""The options of GRPO that TPO does not take, and its batch arithmetic, checked without TRL and without torch."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version

from tpo_torch.llm.layout import BatchLayout

# TRL's own aggregation of exactly this form: the sum over a completion's tokens, the mean over rows. The level only
# says that the (absent) ratio is one per sequence, which is what TRL expects with it.
LOSS_TYPE, LEVEL = "luspo", "sequence"
# Stands for: as given.
SAME = object()


@dataclass(frozen=True)
class RefusedOption:
    """An option of GRPO that TPO cannot follow, and so takes only where it asks for nothing.

    Args: accepted, the values that ask for nothing: GRPO's default first, which a test compares with TRL's; reason,
        why another one is refused; ours, what the trainer needs in its place, accepted too.
    """

    accepted: tuple[object, ...]
    reason: str
    ours: object = SAME

    def asks_nothing(self, value: object) -> bool:
        """Whether a value is GRPO's default, or means the same."""
        # An array does not compare as numbers and words do.
        return (value is None or isinstance(value, str | int | float)) and value in self.accepted

    def allows(self, value: object) -> bool:
        """Whether a value asks for nothing, or is what the trainer sets."""
        return self.asks_nothing(value) or (isinstance(value, str | int | float) and value == self.ours)


def _all(names: str, reason: str, **defaults: object) -> dict[str, RefusedOption]:
    """Options which one reason refuses: all of them begin with `names`."""
    return {f"{names}{name}": RefusedOption((default,), reason) for name, default in defaults.items()}


NO_CLIP = "TPO clips nothing"
NO_RATIO = "TPO has no importance ratio"
NO_SAMPLER = (
    "TPO weighs the completions it was given and needs no ratio to the sampler; p_old is recomputed by the trainer"
)
OTHER_LOSS = "it shapes another loss of GRPO's; TPO has one"
SCALE = "scale_rewards"
LIGER = "use_liger_kernel"

REFUSED_OPTIONS = {
    "loss_type": RefusedOption(("dapo",), "it chooses among GRPO's losses; TPO has one", LOSS_TYPE),
    "importance_sampling_level": RefusedOption(("token",), NO_RATIO, LEVEL),
    SCALE: RefusedOption(
        ("group", True),
        "TPO's word for it is score_scale: group_std, batch_std or none; `tau` is the noise it adds to the deviation",
    ),
    "multi_objective_aggregation": RefusedOption(
        ("sum_then_normalize",), "TPO standardises the weighted sum of the rewards"
    ),
    **_all("", NO_CLIP, epsilon=0.2, epsilon_high=None, delta=None),
    "top_entropy_quantile": RefusedOption((1.0,), "it drops tokens from the log-probability of a completion"),
    "off_policy_mask_threshold": RefusedOption((None,), "it drops rows from the loss but not from the softmax"),
    "neftune_noise_alpha": RefusedOption((None,), "under its noise two passes see different policies"),
    # True is GRPO's default, False what TPO does.
    "use_bias_correction_kl": RefusedOption((True, False), "it needs importance ratios, which TPO has not", False),
    "vllm_importance_sampling_correction": RefusedOption((True, False), NO_SAMPLER, False),
    **_all("vllm_importance_sampling_", NO_SAMPLER, mode="sequence_mask", clip_max=3.0, clip_min=None, cap=None),
    **_all("sapo_temperature_", OTHER_LOSS, neg=1.05, pos=1.0),
    **_all("vespo_", OTHER_LOSS, k_pos=2.0, lambda_pos=3.0, k_neg=3.0, lambda_neg=2.0),
}
LIGER_LOSS = RefusedOption((False,), "under TRL before 1.14 it puts a loss of GRPO's in the place of TPO's")


def refused_options() -> dict[str, RefusedOption]:
    """The options that TPO does not take under the installed TRL, by name."""
    installed = tuple(int(part) for part in version("trl").split(".")[:2])
    return REFUSED_OPTIONS | ({LIGER: LIGER_LOSS} if installed < (1, 14) else {})


def check_option(name: str, value: object, section: str = "") -> None:
    """ValueError for an option of GRPO that TPO does not take; nothing for every other option.

    Args: name and value of the option; section of a configuration that it stands in, for the message.

    >>> check_option("delta", 1.0)
    Traceback (most recent call last):
    ...
    ValueError: delta: got 1.0, which TPO does not take: TPO clips nothing. Leave it out
    """
    option = refused_options().get(name)
    if option is not None and not option.allows(value):
        place = f"{section}.{name}" if section else name
        raise ValueError(f"{place}: got {value!r}, which TPO does not take: {option.reason}. Leave it out")


def batch_layout(
    num_generations: int,
    per_device: int,
    accumulation: int,
    *,
    processes: int,
    steps_per_generation: int | None,
    generation_batch_size: int | None,
    num_iterations: int,
) -> BatchLayout:
    """The layout that TRL's options ask for; a round of generation is given in micro-batches or in rows.

    Args: as `BatchLayout`; generation_batch_size, rows of a round over all processes, used where steps_per_generation
        is None.
    Raises: TypeError, ValueError as `BatchLayout`, and for rows that are no whole number of micro-batches.
    """
    micro = per_device * processes
    slices = steps_per_generation
    if slices is None and generation_batch_size is not None:
        slices, rest = divmod(generation_batch_size, micro)
        if rest or not slices:
            raise ValueError(
                f"generation_batch_size: got {generation_batch_size}, expected a multiple of {micro}, the "
                f"rows of one micro-batch over {processes} processes"
            )
    return BatchLayout(
        num_generations=num_generations,
        per_device=per_device,
        accumulation=accumulation,
        processes=processes,
        steps_per_generation=slices,
        num_iterations=num_iterations,
    )
