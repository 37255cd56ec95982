"""By what the best model is chosen: by what evaluation measures, since TPO has no loss that tells models apart.

The loss compares completions of one prompt with each other. At the policy that wrote them, as in evaluation, it is
log K under the ratio form, whatever they are worth, and much the same under the others (spec/llm.md, deviation D83).
"""

from __future__ import annotations

from typing import Any

from transformers import EarlyStoppingCallback

# What the options fall back on, under both its names.
LOSS = ("loss", "eval_loss")
PREFIX = "eval_"
REMEDY = (
    "name what evaluation logs: metric_for_best_model='eval_reward', the mean reward, of which more is better; with "
    "one that should fall, such as 'eval_kl', greater_is_better=False too"
)
# Options that need a metric, and the values at which they do.
NEEDS = {
    "load_best_model_at_end": (True,),
    "save_strategy": ("best",),
    "lr_scheduler_type": ("reduce_lr_on_plateau", "greedy"),
}


def check_metric(arguments: Any) -> None:
    """ValueError where the arguments of a trainer choose a model by a loss of evaluation, which TPO has not."""
    metric = arguments.metric_for_best_model
    values = {name: getattr(arguments, name) for name in NEEDS}
    needs = [f"{name}={x!r}" for name, x in values.items() if getattr(x, "value", x) in NEEDS[name]]
    if metric in LOSS or (metric is None and needs):
        why = f" with {', '.join(needs)}" if needs else ""
        raise ValueError(
            f"metric_for_best_model: got {metric!r}{why}, but TPO has no eval_loss: its loss at the policy that wrote "
            f"the completions does not say how good they are. Instead {REMEDY}"
        )


class RewardSelection:
    """A part of a `GRPOTrainer` whose evaluation has no loss, and whose best model must be chosen by something else."""

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As `transformers.Trainer.train`; ValueError where early stopping has no metric, or the metric many sets."""
        trainer: Any = self
        if trainer.args.metric_for_best_model is not None and isinstance(trainer.eval_dataset, dict):
            raise ValueError(
                f"eval_dataset: got {len(trainer.eval_dataset)} sets with metric_for_best_model="
                f"{trainer.args.metric_for_best_model!r}, expected one set: TRL logs the rewards of all of them under "
                "the same names, so that the last set alone would choose; join them, or leave the metric out"
            )
        stops = any(isinstance(x, EarlyStoppingCallback) for x in trainer.callback_handler.callbacks)
        if stops and trainer.args.metric_for_best_model is None:
            raise ValueError(f"metric_for_best_model: got None with EarlyStoppingCallback, which needs one: {REMEDY}")
        return super().train(*args, **kwargs)  # type: ignore[misc]

    def prediction_step(self, *args: Any, **kwargs: Any) -> tuple[None, None, None]:
        """Write completions, score and log them; the loss is left out, since it would mean nothing."""
        super().prediction_step(*args, **kwargs)  # type: ignore[misc]
        return None, None, None

    def _evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        trainer: Any = self
        found: dict[str, float] = super()._evaluate(*args, **kwargs)  # type: ignore[misc]
        metric = trainer.args.metric_for_best_model
        name = metric if metric is None or metric.startswith(PREFIX) else f"{PREFIX}{metric}"
        if name is not None and found.get(name) is None:
            known = ", ".join(sorted(key for key, value in found.items() if value is not None))
            raise ValueError(f"metric_for_best_model: got {metric!r}, expected one that evaluation logs: {known}")
        return found
