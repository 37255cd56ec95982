"""TPO on TRL's GRPOTrainer: whole groups make coefficients, coefficients take the place of advantages.

TRL's loss with advantages A, no old log-probabilities and its aggregation "luspo" has the gradient −A ∂ℓ of each row,
averaged over rows. With A = K·c that is the gradient of the cross-entropy, averaged over groups (spec/llm.md). So what
else TRL adds to a loss (KL to a reference, entropy bonus, router loss) stays TRL's own; by what each is divided is ours
(deviation D84).
"""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import torch
from torch import Tensor
from trl import GRPOTrainer
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.utils import split_pixel_values_by_grid, split_tensor_dict, unsplit_pixel_values_by_grid

from tpo_torch.llm import metrics
from tpo_torch.llm.advantages import Given, check_advantages, kept_rewards
from tpo_torch.llm.completions import CompletionTable
from tpo_torch.llm.config import TargetPOConfig
from tpo_torch.llm.groups import Coefficients, group_coefficients
from tpo_torch.llm.noise import NoiseProbe
from tpo_torch.llm.resume import ExactResume
from tpo_torch.llm.rewards import SafeRewards
from tpo_torch.llm.rollouts import Round, digest, ended, permuted, shuffled_in_blocks, summed, trained_tokens
from tpo_torch.llm.rule_groups import rule_of
from tpo_torch.llm.sampling import NamedSampling
from tpo_torch.llm.selection import RewardSelection
from tpo_torch.llm.step_plan import Need, StepWork, need, reads_of
from tpo_torch.llm.watch import AnchorWatch
from tpo_torch.rules import SCORES

# What TRL's forward pass takes beside tokens, for models that see images.
EXTRA_INPUTS = (
    "pixel_values",
    "image_grid_thw",
    "num_images",
    "pixel_attention_mask",
    "spatial_shapes",
    "num_tiles",
    "image_sizes",
    "token_type_ids",
    "mm_token_type_ids",
    "image_position_ids",
)
# The tensor that travels with the rows, through every cut and shuffle: their numbers in the round.
ROWS = "tpo_rows"


class TargetPOTrainer(RewardSelection, ExactResume, SafeRewards, NamedSampling, GRPOTrainer):  # type: ignore[misc]
    """`trl.GRPOTrainer` that trains by Target Policy Optimization; same arguments, with `TargetPOConfig` as `args`.

    Paper: Alg. 1, Eqs 1-4

    The gradient is that of the mean over groups of −Σ q log p, whatever the micro-batches, accumulation and processes;
    that of the KL to a reference and of the entropy bonus likewise. The load-balancing loss of a mixture of experts is
    TRL's: no sum over rows, it is the mean of those of the micro-batches, and depends on how they are cut.
    It takes no forward pass beyond GRPO's where micro-batches hold whole groups, nor for anchor "ratio" while the
    policy has not moved since it generated; otherwise one without gradient per optimizer step (`step_plan.need`).
    Before the first step, two passes over a micro-batch look for noise. With `rule` in its arguments the coefficients
    are those of that update rule, everything else being the same.

    What it overrides of TRL's and transformers' trainers, beside what its other bases do, and why:
    - `train`: what an earlier call has not finished is dropped; the watch over the anchor sums up.
    - `_generate_and_score_completions`: the table of completions gets columns of ours.
    - `_prepare_inputs`: a round is cut by groups, and the rows of an optimizer step get their coefficients.
    - `_compute_loss`: coefficients take the place of advantages, and the value that is logged is ours.
    - `_get_per_token_logps_and_entropies`: hands TRL's loss the forward pass that `_compute_loss` has made already.
    - `_get_grad_norm`: the share of clipped steps is logged.

    Raises: TypeError for other arguments; ValueError for dropout and other noise, under which two passes disagree, and
        as the config.
    """

    _tag_names = ["trl", "target-policy-optimization"]  # noqa: RUF012
    _name = "Target Policy Optimization"
    _paper = {  # noqa: RUF012
        "title": "Target Policy Optimization",
        "id": "2604.06159",
        "citation": "@article{kaddour2026target,\n"
        "    title  = {{Target Policy Optimization}},\n"
        "    author = {Jean Kaddour},\n"
        "    year   = 2026,\n"
        "    eprint = {arXiv:2604.06159},\n"
        "}",
    }

    def __init__(
        self, model: Any, reward_funcs: Any = None, args: TargetPOConfig | None = None, *more: Any, **others: Any
    ) -> None:
        if args is None:
            name = model if isinstance(model, str) else model.config.name_or_path
            args = TargetPOConfig(f"{str(name).split('/')[-1]}-TPO")
        if not isinstance(args, TargetPOConfig):
            raise TypeError(f"args: got {type(args).__name__}, expected TargetPOConfig; it takes the same arguments")
        if args.device.type == "mps":
            raise ValueError("device: got mps, expected one with float64, which coefficients need; set use_cpu=True")
        self.layout = args.layout
        super().__init__(model, reward_funcs, args, *more, **others)
        if self.train_dataset is not None and hasattr(self.train_dataset, "__len__"):
            self.layout.check_prompts(len(self.train_dataset))
        # After TRL has made the adapter, if any.
        self._noise = NoiseProbe(self.model, args.disable_dropout)
        self._round: Round | None = None
        self._rounds = 0
        self._work = StepWork()
        self._raw_rewards: Any = None
        self._window = metrics.Window()
        self._watch = AnchorWatch()
        self._table = CompletionTable(self._logs) if args.log_completions else None

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As `ExactResume.train`; first drop what an earlier call has not finished."""
        self._work, self._window = StepWork(), metrics.Window()
        self._noise.renew()
        outcome = super().train(*args, **kwargs)
        summary = self._watch.summary(self.args.target)
        if summary is not None:
            self._warn(summary)
        return outcome

    # -- a round of generation ------------------------------------------------------------------------------------

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        batch: dict[str, Any] = super()._generate_and_score_completions(inputs)
        if self._table is not None:
            count = len(batch["completion_ids"]) * self.accelerator.num_processes
            self._table.begin(count, self.model.training)
        return batch

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        if not self.model.training:
            return super()._prepare_inputs(generation_batch)
        if self._step % (self.layout.slices * self.num_iterations) == 0 or self._buffered_inputs is None:
            with kept_rewards(self):
                batch = self._generate_and_score_completions(generation_batch)
            self._start_round(batch)
        place = self._step % self.layout.slices
        if self._work.ready_for != (self._rounds, self.state.global_step):
            part = self._buffered_inputs[place]
            step, mask = self.state.global_step, trained_tokens(part)
            self._noise.check(step, self.model, lambda: self._logps(part), mask, self.accelerator)
            self._make_ready(self._buffered_inputs[place : place + self.layout.accumulation])
            self._work.ready_for = (self._rounds, self.state.global_step)
        self._work.given = Given.now(self._buffered_inputs[place]["advantages"])
        return self._buffered_inputs[place]

    def _start_round(self, batch: dict[str, Any]) -> None:
        """Keep what whole groups need, and cut the rest into micro-batches, groups together unless shuffled."""
        tokens, mask = batch["completion_ids"], trained_tokens(batch)
        count = len(mask)
        batch[ROWS] = torch.arange(count) + self.accelerator.process_index * count
        # One end token before TRL 1.15, several since.
        eos = getattr(self, "eos_token_ids", [self._tokenizer.eos_token_id])
        columns = (mask.sum(-1), digest(tokens, mask), ended(tokens, batch["completion_mask"], eos))
        rewards, weights = self._raw_rewards.cpu(), self.reward_weights.cpu()
        check_advantages(self._everywhere(batch["advantages"]), rewards, weights, self.num_generations)
        scores = (rewards * weights).nansum(1)
        self._rounds += 1
        self._round = round_ = Round.start(
            torch.where(rewards.isnan().all(1), torch.nan, scores),
            self._everywhere(torch.stack([x.double() for x in columns], -1)),
            self.num_generations,
            self._rounds,
            self.state.global_step,
        )
        if self.args.score_scale == "group_mean" and bool((round_.scores < 0).any()):
            lowest = float(round_.scores.min())
            raise ValueError(
                f"reward: got {lowest:g}, expected none below 0 under score_scale 'group_mean', which divides by the "
                "mean of a group; shift the rewards, or take 'none' or 'group_std'"
            )
        old = batch.pop("old_per_token_logps", None)
        if old is not None:
            round_.logp_old[batch[ROWS]] = summed(old, mask).cpu()
        batch = split_pixel_values_by_grid(batch)
        if self.args.shuffle_rows:
            block = self.layout.per_device * min(self.layout.slices, self.layout.accumulation)
            batch = permuted(batch, shuffled_in_blocks(count, block))
        self._buffered_inputs = [unsplit_pixel_values_by_grid(x) for x in split_tensor_dict(batch, self.layout.slices)]
        if self.args.shuffle_rows and old is not None:
            # ℓ_old is computed again in the micro-batches of training: in another cut it differs in the last bit, and a
            # group without signal would move the policy.
            for part in self._buffered_inputs:
                round_.logp_old[part[ROWS]] = self._without_gradient(part).cpu()

    # -- coefficients ---------------------------------------------------------------------------------------------

    def _make_ready(self, window: list[dict[str, Any]]) -> None:
        """Coefficients for the rows of the optimizer step that begins: the policy may have moved since the last."""
        assert self._round is not None
        round_, rows = self._round, torch.cat([part[ROWS].cpu() for part in window])
        if self._entropy_bonus_enabled:
            tokens = torch.stack([round_.lengths[part[ROWS].cpu()].sum() for part in window])
            self._work.mean_tokens = float(self._everywhere(tokens).mean().clamp(min=1))
        self._work.need = self._need(rows)
        if self._work.need is Need.TRAINING_PASS:
            for part in window:
                # Those of GRPO would be trained on where nothing replaces them.
                part["advantages"] = torch.full_like(part["advantages"], torch.nan)
            return
        if self._work.need is Need.NOTHING:
            numbers = self._everywhere(rows)
            self._spread(window, numbers, self._coefficients(numbers, None, None))
            return
        old = round_.logp_old[rows]
        logp = old
        if self._work.need is Need.OWN_PASS:
            logp = torch.cat([self._without_gradient(part) for part in window]).cpu()
        if not round_.moved(self.state.global_step):
            round_.logp_old[rows] = old = logp
        gathered = self._everywhere(torch.stack([rows.double(), logp, old], -1))
        numbers = gathered[:, 0].long()
        self._spread(window, numbers, self._coefficients(numbers, gathered[:, 1], gathered[:, 2]))

    def _need(self, rows: Tensor) -> Need:
        """What the coefficients of these rows wait for."""
        assert self._round is not None
        reads, whole_batch = reads_of(self.args.target, rule_of(self.args.target))
        return need(
            reads,
            whole_batch,
            whole=self.layout.whole,
            shuffled=self.args.shuffle_rows,
            moved=self._round.moved(self.state.global_step),
            old_known=not bool(self._round.logp_old[rows].isnan().any()),
        )

    def _coefficients(self, rows: Tensor, logp: Tensor | None, logp_old: Tensor | None) -> Coefficients:
        """Return the coefficients of these rows of a round, which must be whole groups."""
        assert self._round is not None
        round_ = self._round
        groups, valid = round_.groups[rows], round_.valid[rows]
        coefficients = group_coefficients(
            logp,
            logp_old,
            round_.scores[rows],
            groups,
            self.args.target,
            round_.lengths[rows],
            valid,
            round_.deviation[rows],
        )
        if len(rows) != len(coefficients.ids) * self.num_generations:
            raise RuntimeError(
                f"got {len(rows)} completions of {len(coefficients.ids)} prompts, expected {self.num_generations} of "
                "each: the data loader has torn groups apart; was its sampler replaced?"
            )
        return coefficients

    def _spread(self, parts: list[dict[str, Any]], rows: Tensor, coefficients: Coefficients) -> None:
        """Give each micro-batch its advantages K·c, and keep the loss to report."""
        assert self._round is not None
        c = torch.zeros_like(self._round.scores)
        c[rows] = coefficients.c.to(c.dtype)
        for part in parts:
            part["advantages"] = (c[part[ROWS].cpu()] * self.num_generations).to(self.accelerator.device)
        self._work.loss_value = float(coefficients.loss.mean())

    def _everywhere(self, table: Tensor) -> Tensor:
        """Return the rows of all processes on the host: what is done with groups is small, and waits for no device."""
        gathered: Tensor = self.accelerator.gather(table.to(self.accelerator.device)).cpu()
        return gathered

    def _without_gradient(self, part: dict[str, Any]) -> Tensor:
        """Return ℓ of the rows of a micro-batch under the present policy, (B,)."""
        return summed(self._logps(part), trained_tokens(part))

    def _logps(self, part: dict[str, Any]) -> Tensor:
        """Return the log-probabilities of its tokens, (B, T), without gradient."""
        with torch.no_grad(), disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs):
            logps: Tensor = self._forward(self.model, part)[0]
        return logps

    def _forward(self, model: Any, part: dict[str, Any], **options: Any) -> Any:
        """TRL's forward pass over a micro-batch: log-probabilities and entropies of tokens, and the routers' loss."""
        extra = {name: part[name] for name in EXTRA_INPUTS if part.get(name) is not None}
        return self._get_per_token_logps_and_entropies(
            model,
            torch.cat([part["prompt_ids"], part["completion_ids"]], 1),
            torch.cat([part["prompt_mask"], part["completion_mask"]], 1),
            part["completion_ids"].size(1),
            **options,
            **extra,
        )

    # -- the loss -------------------------------------------------------------------------------------------------

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        inputs = {name: value for name, value in inputs.items() if name != "old_per_token_logps"}
        if not self.model.training:
            # Nothing is fitted in evaluation, which runs this for the log.
            inputs["advantages"] = torch.zeros_like(inputs["advantages"])
            with metrics.without_trls(self._metrics, "eval", metrics.NOT_OURS):
                return super()._compute_loss(model, inputs)  # type: ignore[no-any-return]
        assert self._work.given is not None
        self._work.given.check(inputs["advantages"])
        outputs = self._forward(model, inputs, **self._training_options())
        tokens, entropy, inputs["advantages"] = self._weigh(inputs, outputs[0].detach(), outputs[1].detach())
        share = tokens / self._work.mean_tokens
        scale_gradient(outputs[0], 1 / self._length())
        scale_gradient(outputs[1], share)
        bonus_excess = self._entropy_coefficient() * (1 - share) * entropy / max(tokens, 1.0)
        self._work.outputs = outputs
        try:
            with metrics.without_trls(self._metrics, "train", metrics.NOT_OURS | metrics.BY_STEP):
                loss: Tensor = super()._compute_loss(model, inputs)
        finally:
            self._work.outputs = None
        if self.accelerator.sync_gradients:
            self._close_window()
        # TRL's value is that of −A, and a bonus by micro-batch; what is logged instead is the loss of whole groups, and
        # the bonus by token. The gradient stays.
        surrogate = -(inputs["advantages"] * trained_tokens(inputs).sum(-1)).mean()
        assert self._work.loss_value is not None
        correction: Tensor = (
            self._work.loss_value - surrogate + bonus_excess
        ) / self.current_gradient_accumulation_steps
        return loss + correction.to(loss.dtype)

    def _training_options(self) -> dict[str, Any]:
        """What TRL's loss asks of the forward pass beside log-probabilities."""
        # Before TRL 1.15 the routers' loss was not asked for by name.
        known = inspect.signature(GRPOTrainer._get_per_token_logps_and_entropies).parameters
        asked = {"compute_entropy": True, "compute_aux_loss": getattr(self, "aux_loss_enabled", False)}
        return {name: value for name, value in asked.items() if name in known}

    def _get_per_token_logps_and_entropies(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        # That of `_compute_loss` itself, whose log-probabilities have weighed the rows before TRL's loss reads them.
        if self._work.outputs is not None:
            return self._work.outputs
        return super()._get_per_token_logps_and_entropies(model, *args, **kwargs)

    def _weigh(self, inputs: dict[str, Any], logps: Tensor, entropies: Tensor) -> tuple[float, float, Tensor]:
        """Keep log-probabilities and, where groups are whole in a micro-batch, make its coefficients.

        Returns: how many tokens of the micro-batch are trained on, the sum of their entropies, and the advantages.
        """
        assert self._round is not None
        round_, rows, mask = self._round, inputs[ROWS].cpu(), trained_tokens(inputs)
        # The only wait for the device.
        sums = torch.stack([summed(logps, mask), *metrics.token_sums(inputs, logps, entropies, mask)]).cpu()
        logp, old = sums[0], round_.logp_old[rows]
        if not round_.moved(self.state.global_step):
            # One number for p and p_old, so that a group without signal is neutral to the last bit.
            old = logp if self._work.need is Need.TRAINING_PASS else torch.where(old.isnan(), logp, old)
            round_.logp_old[rows] = old
        if self._work.need is Need.TRAINING_PASS:
            self._spread([inputs], rows, self._coefficients(rows, logp, old))
        rule = rule_of(self.args.target)
        if rule is not None and rule.reads == SCORES:
            # Its coefficients were made without ℓ, in which its loss is linear.
            self._work.loss_value = -float((inputs["advantages"].cpu().double() * logp).mean())
        self._work.dtype = logps.dtype
        self._window.add(round_, rows, logp, old, metrics.TokenSums(*sums[1:]))
        return float(round_.lengths[rows].sum()), float(sums[1].sum()), inputs["advantages"].to(logps.dtype)

    def _close_window(self) -> None:
        """Log the figures of one optimizer step, over all processes."""
        assert self._round is not None
        rows = self._window.close(self._everywhere)
        fit = metrics.fit_of(rows, self.args.target)
        for name, value in metrics.figures(rows, fit, self.args.target, self.beta).items():
            self._metrics["train"][name].append(value)
        if self._entropy_bonus_enabled:
            # What is minimised beside the bonus, as in TRL.
            policy_loss = fit.loss.mean() + self.beta * rows.kl.mean()
            self._metrics["train"]["policy_loss"].append(float(policy_loss))
        for text in self._watch.warnings(rows, fit, self.args.target, self._work.dtype):
            self._warn(text)
        if self._table is not None:
            first = int(self._round.groups[0])
            self._table.fill(rows, fit, len(self._round.scores), first)

    def _length(self) -> float:
        """By what the gradient through log-probabilities is divided.

        Returns: the mean length of the round's completions that take part, at least 1.
        """
        assert self._round is not None
        if not self.args.divide_by_length:
            return 1.0
        return max(1.0, float((self._round.lengths * self._round.valid).sum() / self._round.valid.sum().clamp(min=1)))

    def _entropy_coefficient(self) -> float:
        """The weight of TRL's entropy bonus in this optimizer step."""
        if not self._entropy_bonus_enabled:
            return 0.0
        rests = self.use_adaptive_entropy and self._last_world_entropy > self.args.entropy_target
        return 0.0 if rests else float(self.entropy_coef)

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if self.args.max_grad_norm > 0 and norm is not None:
            self._metrics["train"]["clipped"].append(float(norm > self.args.max_grad_norm))
        return norm

    def _warn(self, text: str) -> None:
        if self.accelerator.is_main_process:
            warnings.warn(text, stacklevel=3)

    # -- checkpoints ----------------------------------------------------------------------------------------------

    def extra_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the round in flight, and the state of the watch over the anchor."""
        tensors, numbers = ({}, None) if self._round is None else self._round.state()
        return tensors, {"round": numbers, "rounds": self._rounds, "watch": self._watch.state()}

    def load_extra_state(self, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
        """Put the state back; the next step computes its coefficients again, from the same numbers."""
        self._rounds, self._watch = plain["rounds"], AnchorWatch.restore(plain["watch"])
        self._round = None if plain["round"] is None else Round.restore(tensors, plain["round"])


def scale_gradient(x: Tensor, factor: float) -> None:
    """Multiply the gradient that will arrive at x; its values stay.

    >>> x = torch.ones(2, requires_grad=True)
    >>> y = 3 * x
    >>> scale_gradient(y, 0.5)
    >>> y.sum().backward()
    >>> x.grad
    tensor([1.5000, 1.5000])
    """
    if x.requires_grad and factor != 1:
        x.register_hook(lambda gradient: gradient * factor)  # type: ignore[no-untyped-call]
