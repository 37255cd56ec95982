"""Trainers of one model whose completions are drawn once: what optimizer steps without generation cost."""

from __future__ import annotations

import copy
import gc
import itertools
import math
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from benchmarks.helpers.trainers import METHODS, build

PAD, EOS, FIRST_WORD = 0, 1, 2
# Weights that barely move: a step costs the same wherever it is.
LEARNING_RATE = 1e-6


@dataclass(frozen=True)
class Shape:
    """Of a Qwen3 model, as its configuration names it, and the longest text it sees."""

    layers: int
    width: int
    heads: int
    key_value_heads: int
    head_width: int
    hidden: int
    vocabulary: int
    tied: bool = True
    positions: int = 1024

    def model(self, device: str = "cpu", dtype: torch.dtype = torch.float32, seed: int = 0) -> Any:
        """Random weights, made where they are used."""
        config = Qwen3Config(
            vocab_size=self.vocabulary,
            hidden_size=self.width,
            intermediate_size=self.hidden,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.key_value_heads,
            head_dim=self.head_width,
            max_position_embeddings=self.positions,
            tie_word_embeddings=self.tied,
            pad_token_id=PAD,
            eos_token_id=EOS,
            bos_token_id=None,
            name_or_path="random",
        )
        before = torch.get_default_dtype()
        torch.manual_seed(seed)
        torch.set_default_dtype(dtype)
        try:
            with torch.device(device):
                return Qwen3ForCausalLM(config)
        finally:
            torch.set_default_dtype(before)

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """One token per word, as many as the model has."""
        names = {"<pad>": PAD, "<eos>": EOS} | {f"w{i}": i for i in range(FIRST_WORD, self.vocabulary)}
        words = Tokenizer(models.WordLevel(names, unk_token="<pad>"))
        words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        return PreTrainedTokenizerFast(
            tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", padding_side="left"
        )


@dataclass(frozen=True)
class Batch:
    """`prompts` × `group` completions per round, micro-batches of `rows`; lengths in tokens; `steps` per round."""

    prompts: int
    group: int
    rows: int
    prompt_tokens: int
    completion_tokens: int
    steps: int = 1
    # The shortest completion over the longest: rows are padded, as in a real batch.
    shortest: float = 0.75

    @property
    def slices(self) -> int:
        """Micro-batches per round."""
        return self.prompts * self.group // self.rows

    @property
    def tokens(self) -> int:
        """Of one round, padding included."""
        return self.prompts * self.group * (self.prompt_tokens + self.completion_tokens)

    def completions(self, vocabulary: int, seed: int = 0) -> list[list[int]]:
        """Random words, of lengths that differ, the first of full length; each ends by itself."""
        g = torch.Generator().manual_seed(seed)
        low = max(1, int(self.shortest * self.completion_tokens))
        lengths = torch.randint(low, self.completion_tokens + 1, (self.prompts * self.group,), generator=g).tolist()
        lengths[0] = self.completion_tokens
        return [[*torch.randint(FIRST_WORD, vocabulary, (n - 1,), generator=g).tolist(), EOS] for n in lengths]

    def dataset(self, vocabulary: int, rounds: int, seed: int = 1) -> Dataset:
        """Prompts of random words, enough for so many rounds."""
        g = torch.Generator().manual_seed(seed)
        ids = torch.randint(FIRST_WORD, vocabulary, (self.prompts * rounds, self.prompt_tokens), generator=g)
        return Dataset.from_dict({"prompt": [" ".join(f"w{i}" for i in row) for row in ids.tolist()]})


def reward(completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
    """A number that random words settle; ties are rare."""
    return [float(sum(ids) % 101) for ids in completion_ids]


def make_trainer(method: str, model: Any, shape: Shape, batch: Batch, optimizer_steps: int, **options: Any) -> Any:
    """A trainer of a method whose completions are fixed; `peft_config` among the options goes to the trainer.

    Args: method, of METHODS; optimizer_steps, how many `train()` takes; options, of the configuration.
    """
    kind, own = METHODS[method]
    others = {name: options.pop(name) for name in ("peft_config",) if name in options}
    layout = {
        "use_cpu": model.device.type == "cpu",
        "num_generations": batch.group,
        "per_device_train_batch_size": batch.rows,
        "gradient_accumulation_steps": batch.slices // batch.steps,
        "steps_per_generation": batch.slices,
        "max_completion_length": batch.completion_tokens,
        "learning_rate": LEARNING_RATE,
        "max_steps": optimizer_steps,
        "logging_strategy": "no",
    }
    prompts = batch.dataset(shape.vocabulary, -(-optimizer_steps // batch.steps))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = build(kind, model, reward, layout | own | options, prompts, shape.tokenizer(), **others)
    fixed = batch.completions(shape.vocabulary)
    trainer.drawn = trainer._generate_single_turn
    trainer._generate_single_turn = lambda prompt_ids, *args, **kwargs: (fixed[: len(prompt_ids)], None)
    return trainer


class Rounds:
    """Rounds of training in pieces, so that several trainers can take turns; `next` trains on one piece.

    A piece is a micro-batch, with transformers' own `training_step`, or what its loop does once they are through:
    clip, optimizer, gradients to zero. Logging and callbacks are left out, generation as `make_trainer` says.
    """

    def __init__(self, method: str, model: Any, shape: Shape, batch: Batch) -> None:
        self.trainer = make_trainer(method, copy.deepcopy(model), shape, batch, batch.steps)
        self.trainer.create_optimizer_and_scheduler(1)
        self.model, self.optimizer = self.trainer.accelerator.prepare(self.trainer.model, self.trainer.optimizer)
        self.trainer.model_wrapped = self.model
        self.accumulation = self.trainer.current_gradient_accumulation_steps = batch.slices // batch.steps
        self.count = batch.steps * (self.accumulation + 1)
        self.pieces = self._pieces()

    def __next__(self) -> None:
        next(self.pieces)

    def _pieces(self) -> Iterator[None]:
        accelerator = self.trainer.accelerator
        for i, inputs in enumerate(self._inputs(), 1):
            last = i % self.accumulation == 0
            # The trainers of one process share it, and TPO closes an optimizer step by it.
            accelerator.gradient_state._set_sync_gradients(last)
            self.trainer.training_step(self.model, inputs, None)
            yield
            if last:
                accelerator.gradient_state._set_sync_gradients(True)
                accelerator.clip_grad_norm_(self.model.parameters(), self.trainer.args.max_grad_norm)
                self.optimizer.step()
                self.model.zero_grad()
                self.trainer.state.global_step += 1
                yield

    def _inputs(self) -> Iterator[Any]:
        while True:
            yield from self.trainer.get_train_dataloader()


def round_seconds(methods: Sequence[str], shape: Shape, batch: Batch, repeats: int) -> dict[str, float]:
    """Processor seconds of one round of each method, all from one model, taking turns piece by piece.

    Each piece counts with its least time over the repeats after a first: what else runs on the machine only adds.
    """
    model = shape.model()
    rounds = {method: Rounds(method, model, shape, batch) for method in methods}
    count = next(iter(rounds.values())).count
    least = {method: [math.inf] * count for method in methods}
    for turn in range(1 + repeats):
        for piece, (method, train) in itertools.product(range(count), rounds.items()):
            start = time.process_time()
            next(train)
            if turn:
                least[method][piece] = min(least[method][piece], time.process_time() - start)
    return {method: sum(pieces) for method, pieces in least.items()}


def peak_bytes(method: str, shape: Shape, batch: Batch) -> int:
    """The most that tensors took at once on the CPU: weights, gradients, optimizer and what two rounds need.

    Every allocation and release of torch's own allocator, as the profiler sees them.
    """
    model = shape.model()
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    trainer = make_trainer(method, model, shape, batch, 2 * batch.steps)
    gc.collect()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        trainer.train()
    found = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    found.sort(key=lambda e: e.start_ns())
    return weights + max(itertools.accumulate(e.nbytes() for e in found))


def quiet() -> None:
    """Say nothing but errors; that random completions make a degenerate anchor is no news here."""
    transformers.utils.logging.set_verbosity_error()
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", message="anchor .* is degenerate")
