"""The dense side of the comparison, and the model it runs on: textbook formulas, no line shared with the trainer."""

from __future__ import annotations

from typing import Any

import torch
from accelerate.utils import gather_object
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM, TrainerCallback
from trl import GRPOTrainer

from tpo_torch.llm.groups import TargetSettings
from tpo_torch.llm.rollouts import trained_tokens
from tpo_torch.llm.trainer import ROWS, TargetPOTrainer

WORDS = ("<pad>", "<eos>", *"abcdefgh")
PROMPTS = ("a b", "c", "d e f", "g h a b", "b", "c a", "f f", "h e d")
RIGHT, LENGTH_COST = ("a", "c"), 0.1
WIDTH, HEADS, INITIALIZER_RANGE = 16, 2, 0.3


class TextbookHead(GRPOTrainer):  # type: ignore[misc]
    """Log-probabilities by `log_softmax` of whole logits, in the model's own precision."""

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int, *args: Any, **kwargs: Any
    ) -> Any:
        logits = model(input_ids=input_ids, attention_mask=attention_mask).logits[:, :-1] / self.temperature
        logs = torch.log_softmax(logits, -1)
        entropy = -(logs.exp() * logs).sum(-1)
        picked = logs.gather(-1, input_ids[:, 1:].unsqueeze(-1)).squeeze(-1)
        return picked[:, -logits_to_keep:], entropy[:, -logits_to_keep:], None


class DoubleTrainer(TargetPOTrainer, TextbookHead):
    """The trainer as shipped, over that head; it notes which micro-batches an optimizer step was made of."""

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        self.visited = [*getattr(self, "visited", ()), (self._rounds, inputs, self._raw_rewards.sum(1))]
        return super()._compute_loss(model, inputs)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word; what pads is not what ends."""
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token=WORDS[0]))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token=WORDS[0], eos_token=WORDS[1], padding_side="left")


def tiny_model(seed: int = 0) -> Any:
    """Two layers in double precision, weights wide enough that completions differ in length and probability."""
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=len(WORDS),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=1,
        head_dim=WIDTH // HEADS,
        initializer_range=INITIALIZER_RANGE,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
        tie_word_embeddings=False,
    )
    return Qwen3ForCausalLM(config).double()


def reward(completions: list[str], **_: Any) -> list[float]:
    """Right letters, less a little for length: ties are rare, but there are some."""
    return [sum(w in RIGHT for w in c.split()) - LENGTH_COST * len(c.split()) for c in completions]


class Recorder(TrainerCallback):  # type: ignore[misc]
    """Compares at every optimizer step, before it is taken."""

    def __init__(self, dense: Any, settings: TargetSettings) -> None:
        self.dense, self.settings = dense, settings
        self.trainer: Any = None
        self.steps, self.largest, self.apart = 0, 0.0, 0.0
        # Per round, ℓ_old by row.
        self.old: dict[int, dict[int, Tensor]] = {}

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        trainer = self.trainer
        self.dense.load_state_dict(trainer.model.state_dict())
        self._note_old()
        self.dense.zero_grad()
        rounds: dict[int, list[Any]] = {}
        for number, inputs, rewards in gather_object(trainer.visited):
            rounds.setdefault(number, []).append((inputs, rewards))
        losses = [loss for number, parts in rounds.items() for loss in self._losses(number, parts)]
        torch.autograd.backward(torch.stack(losses).mean())
        trainer.visited = []
        given = {name: p.grad for name, p in trainer.model.named_parameters() if p.grad is not None}
        wanted = {name: p.grad for name, p in self.dense.named_parameters() if p.grad is not None}
        if given.keys() != wanted.keys():
            raise RuntimeError(f"got gradients of {sorted(given)}, expected of {sorted(wanted)}")
        largest = max(float(g.abs().max()) for g in wanted.values())
        apart = max(float((given[name] - g).abs().max()) for name, g in wanted.items())
        self.steps, self.largest = self.steps + 1, max(self.largest, largest)
        self.apart = max(self.apart, apart)

    def _note_old(self) -> None:
        """ℓ_old of rounds seen for the first time: of what was visited, and of what later steps will visit."""
        trainer = self.trainer
        parts = [(number, inputs) for number, inputs, _ in trainer.visited]
        parts += [(trainer._rounds, inputs) for inputs in trainer._buffered_inputs]
        new = [(number, inputs) for number, inputs in gather_object(parts) if number not in self.old]
        for number, inputs in new:
            with torch.no_grad():
                logp = self._logp(inputs)
            self.old.setdefault(number, {}).update(zip(inputs[ROWS].tolist(), logp, strict=True))

    def _logp(self, inputs: dict[str, Tensor]) -> Tensor:
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
        attention = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
        logs = torch.log_softmax(self.dense(input_ids=ids, attention_mask=attention).logits[:, :-1], -1)
        picked = logs.gather(-1, ids[:, 1:].unsqueeze(-1)).squeeze(-1)
        mask = trained_tokens(inputs)
        return (picked[:, -mask.shape[1] :] * mask).sum(-1)

    def _losses(self, number: int, parts: list[Any]) -> list[Tensor]:
        """The cross-entropy of each group of a round, all its completions at hand."""
        rows = torch.cat([inputs[ROWS] for inputs, _ in parts])
        logp = torch.cat([self._logp(inputs) for inputs, _ in parts])
        lengths = torch.cat([trained_tokens(inputs).sum(-1) for inputs, _ in parts])
        old = torch.stack([self.old[number][row] for row in rows.tolist()])
        scores = parts[0][1].double()[rows]
        groups = rows // self.trainer.num_generations
        picked = [(groups == group) & (lengths > 0) for group in groups.unique()]
        return [whole_group(logp[at], old[at], scores[at], lengths[at], self.settings) for at in picked]


def whole_group(logp: Tensor, old: Tensor, scores: Tensor, lengths: Tensor, settings: TargetSettings) -> Tensor:
    """The loss of one group as the paper writes it, or as its variants do; (K,) each, no masks, no row ids."""
    if not len(logp):
        return logp.sum()
    centred = scores - scores.mean()
    spread = (centred.square().mean() + settings.tau**2).sqrt()
    u = centred / spread if scores.max() > scores.min() else torch.zeros_like(scores)
    if settings.anchor == "ratio":
        logp, old = logp - old, torch.zeros_like(old)
    if settings.anchor == "length":
        logp, old = logp / lengths, old / lengths
    if settings.anchor == "tempered":
        logp, old = logp / settings.anchor_temperature, old / settings.anchor_temperature
    q = torch.softmax(torch.log_softmax(old, -1) + u / settings.eta, -1)
    return -(q * torch.log_softmax(logp, -1)).sum()
