"""Which numbers the fields of a trainer's and an adapter's configuration may hold: one table, without TRL."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# What a count may be at most: more of anything ends in no lifetime, and overflows where a library counts in 32 bits.
MOST = 2**31 - 1
# NumPy's generators, which transformers seeds too, take no more.
MOST_SEED = 2**32 - 1
# Integers from here on are not written out.
LONG = 10**30


@dataclass(frozen=True)
class Range:
    """The numbers that a field may hold, besides those that its type leaves out.

    Args: least and most, both allowed unless open_least, open_most; also, one more number, which switches something
        off; remedy, a hint for messages; unless, a field and its value beside which this one means nothing.
    """

    least: float = -math.inf
    most: float = math.inf
    open_least: bool = False
    open_most: bool = False
    also: float | None = None
    remedy: str = ""
    unless: tuple[str, str] | None = None

    def holds(self, value: float) -> bool:
        """Whether it is one of them; NaN and infinities never are."""
        if value == self.also:
            return True
        above = value > self.least if self.open_least else value >= self.least
        below = value < self.most if self.open_most else value <= self.most
        return math.isfinite(value) and above and below

    def words(self, value: float) -> str:
        """What was expected instead of a value; the bound of all counts goes without saying where it is kept."""
        above, below = "above" if self.open_least else "at least", "below" if self.open_most else "at most"
        least = "" if self.least == -math.inf else f"{above} {self.least:.15g}"
        most = "" if self.most == math.inf or value <= self.most == MOST else f"{below} {self.most:.15g}"
        also = "" if self.also is None else f", or {self.also:g}"
        bounds = " and ".join(part for part in (least, most) if part)
        return (
            ", ".join(part for part in ("" if math.isfinite(value) and bounds else "a finite number", bounds) if part)
            + also
        )


def _all(names: str, bounds: Range) -> dict[str, Range]:
    return dict.fromkeys(names.split(), bounds)


def _every(strategy: str) -> Range:
    """Steps between two of something: at least one, or a share of all steps."""
    return Range(0, MOST, open_least=True, unless=(strategy, "no"), remedy=f'{strategy}="no" switches it off')


COUNT, FROM_ZERO = Range(1, MOST), Range(0, MOST)
POSITIVE, NON_NEGATIVE, FINITE = Range(0, open_least=True), Range(0), Range()
SHARE, SHARE_ABOVE_0, SHARE_BELOW_1 = Range(0, 1), Range(0, 1, open_least=True), Range(0, 1, open_most=True)
SEED = Range(0, MOST_SEED)
PORT = Range(1, 65535)
TRAINER: dict[str, Range] = {
    **_all(
        "per_device_train_batch_size per_device_eval_batch_size gradient_accumulation_steps steps_per_generation "
        "generation_batch_size num_iterations num_generations_eval max_completion_length pad_to_multiple_of "
        "eval_accumulation_steps ref_model_sync_steps torch_empty_cache_steps dataloader_prefetch_factor "
        "ddp_bucket_cap_mb ddp_timeout vllm_max_model_length vllm_tensor_parallel_size",
        COUNT,
    ),
    **_all(
        "save_total_limit dataloader_num_workers max_tool_calling_iterations num_completions_to_print top_k", FROM_ZERO
    ),
    "num_generations": Range(
        2, MOST, remedy="completions of one prompt are judged against each other, and one alone teaches nothing"
    ),
    "max_steps": Range(1, MOST, also=-1, remedy="-1 leaves it to num_train_epochs"),
    "num_train_epochs": POSITIVE,
    **{f"{what}_steps": _every(f"{what}_strategy") for what in ("logging", "save", "eval")},
    **_all("learning_rate weight_decay adam_epsilon warmup_steps eval_delay router_aux_loss_coef beta", NON_NEGATIVE),
    "max_grad_norm": Range(0, remedy="0 switches clipping off"),
    **_all("adam_beta1 adam_beta2 label_smoothing_factor", SHARE_BELOW_1),
    **_all("temperature repetition_penalty vllm_server_timeout", POSITIVE),
    **_all("top_p vllm_gpu_memory_utilization", SHARE_ABOVE_0),
    **_all("min_p ref_model_mixup_alpha top_entropy_quantile warmup_ratio", SHARE),
    **_all("seed data_seed", SEED),
    **_all("vllm_server_port vllm_group_port", PORT),
}
ADAPTER: dict[str, Range] = {
    "r": COUNT,
    "lora_alpha": POSITIVE,
    "lora_dropout": SHARE_BELOW_1,
    "qalora_group_size": COUNT,
}
# Words that TRL knows, and looks at only when it makes a step.
WORDS = {
    "loss_type": ("grpo", "dapo", "dr_grpo", "bnpo", "cispo", "sapo", "luspo", "vespo"),
    "importance_sampling_level": ("token", "sequence"),
    "multi_objective_aggregation": ("sum_then_normalize", "normalize_then_sum"),
    "vllm_mode": ("server", "colocate"),
}
# Of a run itself, and of the sections that it reads.
RUN = {"seed": SEED, "prompts": COUNT, "processes": COUNT}
EVALUATION = {**_all("every size batch_size k", COUNT), "samples": FROM_ZERO, "seed": SEED}
TINY = _all("layers width heads vocabulary", COUNT)
TASK = {"train_size": COUNT, "eval_size": COUNT, "seed": SEED}
WARMUP = {**_all("steps batch_size", COUNT), "learning_rate": POSITIVE}


def check(name: str, value: object, bounds: Mapping[str, Range], beside: Mapping[str, Any], prefix: str = "") -> None:
    """ValueError for a number outside the range of its field, also inside a list; nothing for what is no number.

    Args: name of the field; value; bounds, a table of ranges by field, where a field that is not named may hold any
        finite number; beside, the other fields; prefix of the name in messages, such as "trainer.".

    >>> check("top_p", 2, TRAINER, {}, "trainer.")
    Traceback (most recent call last):
    ...
    ValueError: trainer.top_p: got 2, expected above 0 and at most 1
    """
    if isinstance(value, list | tuple):
        for part in value:
            check(name, part, bounds, beside, prefix)
    given: Any = value
    if isinstance(given, bool) or not isinstance(given, numbers.Real):
        return
    allowed = bounds.get(name, FINITE)
    if allowed.unless is not None and str(getattr(x := beside.get(allowed.unless[0]), "value", x)) == allowed.unless[1]:
        return
    try:
        number = float(given)
    except OverflowError:
        number = math.inf
    if not allowed.holds(number):
        remedy = f"; {allowed.remedy}" if allowed.remedy else ""
        raise ValueError(f"{prefix}{name}: got {_shown(given)}, expected {allowed.words(number)}{remedy}")


def _shown(value: Any) -> str:
    """A number as it was given, or how long it is."""
    if isinstance(value, int) and abs(value) >= LONG:
        return f"an integer of about {int(value.bit_length() * math.log10(2)) + 1} digits"
    return repr(value)
