"""The shipped trainer beside the dense reference: what is taken from the trainer, and the comparison of gradients.

Of the trainer three things are read: its parameters, the gradient it has made, and the tokens of the micro-batches an
optimizer step was made of. Completions and rewards are those that pass through the reward function.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, TrainerCallback
from trl import GRPOTrainer

from tpo_torch.llm.program.exactness import dense, dense_rules
from tpo_torch.llm.program.exactness.dense import Completion, DenseSettings
from tpo_torch.llm.program.exactness.task import reward
from tpo_torch.llm.trainer import TargetPOTrainer

Tokens = tuple[tuple[int, ...], tuple[int, ...]]


class TextbookHead(GRPOTrainer):  # type: ignore[misc]
    """Log-probabilities by `log_softmax` of whole logits, in the model's own precision."""

    def _get_per_token_logps_and_entropies(
        self,
        model: nn.Module,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        *args: object,
        **kwargs: object,
    ) -> tuple[Tensor, Tensor, None]:
        logits = model(input_ids=input_ids, attention_mask=attention_mask).logits[:, :-1] / self.temperature
        logs = torch.log_softmax(logits, -1)
        entropy = -(logs.exp() * logs).sum(-1)
        by_token = logs.gather(-1, input_ids[:, 1:].unsqueeze(-1)).squeeze(-1)
        return by_token[:, -logits_to_keep:], entropy[:, -logits_to_keep:], None


class DoubleTrainer(TargetPOTrainer, TextbookHead):
    """The trainer as shipped, over the textbook head; it tells the comparison the tokens of each micro-batch.

    Args: as `TargetPOTrainer`, the reward function being the comparison's.
    """

    def __init__(self, model: Any, comparison: Comparison, *arguments: Any, **options: Any) -> None:
        self.comparison = comparison
        super().__init__(model, comparison.reward, *arguments, callbacks=[comparison], **options)

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        self.comparison.add_micro_batch(inputs["prompt_ids"], inputs["completion_ids"])
        return super()._compute_loss(model, inputs)


class Comparison(TrainerCallback):  # type: ignore[misc]
    """Compares the two gradients at every optimizer step, before the step is taken.

    Args: model, a copy of the trained one, for the dense side; settings; tokenizer; group_size, completions per prompt.
    """

    def __init__(
        self, model: nn.Module, settings: DenseSettings, tokenizer: PreTrainedTokenizerFast, group_size: int
    ) -> None:
        self.model, self.settings, self.tokenizer, self.group_size = model, settings, tokenizer, group_size
        self.steps = 0
        self.largest_entry, self.largest_difference = torch.zeros(2, dtype=torch.float64)
        # On this process, since the last optimizer step: completions by round of generation, and tokens by round.
        self.generated: list[tuple[int, Completion]] = []
        self.visited: list[tuple[int, Tokens]] = []
        self.round_number = 0
        # The groups of each round over all processes, and ℓ_old of their completions.
        self.groups: dict[int, list[list[Completion]]] = {}
        self.logp_old: dict[int, list[Tensor]] = {}

    def reward(
        self, prompts: list[str], completions: list[str], completion_ids: list[list[int]], **columns: object
    ) -> list[float]:
        """Reward completions, and keep the tokens and rewards of this round of generation."""
        # TRL keeps rewards in single precision: the reference gets the same numbers.
        rewards = torch.tensor(reward(completions)).tolist()
        self.round_number += 1
        rows = zip(self.tokenizer(prompts, padding=True).input_ids, completion_ids, rewards, strict=True)
        for prompt, ids, value in rows:
            completion = Completion(tuple(prompt), dense.completion_tokens(ids, self.settings.eos), value)
            self.generated.append((self.round_number, completion))
        return rewards

    def add_micro_batch(self, prompt_ids: Tensor, completion_ids: Tensor) -> None:
        """Keep the tokens of a micro-batch that the optimizer step is made of."""
        for prompt, completion in zip(prompt_ids.tolist(), completion_ids.tolist(), strict=True):
            tokens = dense.completion_tokens(completion, self.settings.eos)
            self.visited.append((self.round_number, (tuple(prompt), tokens)))

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Compute the dense gradient at the trainer's parameters, and compare."""
        trained: nn.Module = others["model"]
        self.model.load_state_dict(trained.state_dict())
        self._add_rounds(gather_object(self.generated))
        visited: dict[int, Counter[Tokens]] = {}
        for number, tokens in gather_object(self.visited):
            visited.setdefault(number, Counter())[tokens] += 1
        self.generated, self.visited = [], []
        losses = [loss for number, rows in visited.items() for loss in self._losses(number, rows)]
        expected = dense.gradient(self.model, losses)
        gradients = {name: p.grad for name, p in trained.named_parameters() if p.grad is not None}
        if gradients.keys() != expected.keys():
            raise RuntimeError(f"got gradients of {sorted(gradients)}, expected of {sorted(expected)}")
        self.steps += 1
        # By torch's maximum, which keeps a NaN.
        entries = [g.abs().max() for g in expected.values()]
        self.largest_entry = torch.stack([self.largest_entry, *entries]).max()
        differences = [(gradients[name] - g).abs().max() for name, g in expected.items()]
        self.largest_difference = torch.stack([self.largest_difference, *differences]).max()

    def _add_rounds(self, generated: Sequence[tuple[int, Completion]]) -> None:
        """Cut new rounds into groups; no step was taken since their generation, so ℓ_old is that of the parameters now.

        TRL hands consecutive completions, processes in their order, to one prompt.
        """
        for number in dict.fromkeys(number for number, _ in generated):
            rows = [completion for of_round, completion in generated if of_round == number]
            starts = range(0, len(rows), self.group_size)
            self.groups[number] = [rows[start : start + self.group_size] for start in starts]
            with torch.no_grad():
                logp = dense.log_probabilities(self.model, rows, self.settings.pad)
            self.logp_old[number] = list(logp.view(-1, self.group_size))

    def _losses(self, number: int, visited: Counter[Tokens]) -> list[Tensor]:
        """Return the losses of the groups of a round whose completions were all visited.

        Raises: RuntimeError where other completions are left: then a group was torn apart, or visited twice.
        """
        whole, old = [], []
        for group, logp_old in zip(self.groups[number], self.logp_old[number], strict=True):
            rows = Counter((completion.prompt, completion.tokens) for completion in group)
            if rows <= visited:
                visited = visited - rows
                whole.append(group)
                old.append(logp_old)
        if visited:
            raise RuntimeError(f"got {visited.total()} completions of no whole group, expected whole groups in a step")
        deviation = dense.batch_deviation(self.groups[number], self.settings)
        each = dense.group_rows(self.model, whole, old, self.settings)
        if self.settings.rule:
            losses = dense_rules.losses(self.settings.rule, each)
        else:
            losses = [dense.group_loss(*one, self.settings, deviation) for one in each]
        divisor = dense.mean_length(self.groups[number], self.settings) if self.settings.divide_by_length else 1.0
        return [loss / divisor for loss in losses]
