"""The options of GRPO that TPO does not take, and its batch arithmetic, checked without TRL and without torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tpo_torch.llm.layout import BatchLayout

# TRL's own aggregation of exactly this form: the sum over a completion's tokens, the mean over rows. The level only
# says that the (absent) ratio is one per sequence, which is what TRL expects with it.
LOSS_TYPE, LEVEL = "luspo", "sequence"
# TRL's default, which TPO ignores; a test compares it with TRL's.
EPSILON = 0.2


@dataclass(frozen=True)
class RefusedOption:
    """An option of GRPO which must be left alone.

    Args: allows, whether a value is that of an option left alone; reason, why another one is refused.
    """

    allows: Callable[[object], bool]
    reason: str


REFUSED_OPTIONS = {
    "loss_type": RefusedOption(lambda x: x == LOSS_TYPE, "it chooses among GRPO's losses; TPO has one. Leave it out"),
    "importance_sampling_level": RefusedOption(lambda x: x == LEVEL, "TPO has no importance ratio. Leave it out"),
    "scale_rewards": RefusedOption(
        lambda x: x in ("group", True),
        "TPO standardises within each group; `tau` is the noise it adds to the deviation. Leave it out",
    ),
    "multi_objective_aggregation": RefusedOption(
        lambda x: x == "sum_then_normalize", "TPO standardises the weighted sum of the rewards. Leave it out"
    ),
    "delta": RefusedOption(lambda x: x is None, "TPO clips nothing. Leave it out"),
    "epsilon": RefusedOption(lambda x: x == EPSILON, "TPO clips nothing. Leave it out"),
    "epsilon_high": RefusedOption(lambda x: x is None, "TPO clips nothing. Leave it out"),
    "top_entropy_quantile": RefusedOption(lambda x: x == 1, "it drops tokens from the log-probability of a completion"),
    "off_policy_mask_threshold": RefusedOption(
        lambda x: x is None, "it drops rows from the loss but not from the softmax"
    ),
    "neftune_noise_alpha": RefusedOption(lambda x: x is None, "under its noise two passes see different policies"),
    "use_bias_correction_kl": RefusedOption(lambda x: not x, "it needs importance ratios, which TPO has not"),
    "vllm_importance_sampling_correction": RefusedOption(
        lambda x: not x,
        "TPO weighs the completions it was given and needs no ratio to the sampler; p_old is recomputed by the trainer",
    ),
}


def check_option(name: str, value: object) -> None:
    """ValueError for an option of GRPO that TPO does not take; nothing for every other option.

    >>> check_option("delta", 1.0)
    Traceback (most recent call last):
    ...
    ValueError: delta: got 1.0, which TPO does not take: TPO clips nothing. Leave it out
    """
    option = REFUSED_OPTIONS.get(name)
    if option is not None and not option.allows(value):
        raise ValueError(f"{name}: got {value!r}, which TPO does not take: {option.reason}")


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
