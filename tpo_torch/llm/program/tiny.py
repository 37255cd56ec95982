"""A small Qwen3-architecture model and its tokenizer, built on the spot and warmed up on worked examples."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn

from tpo_ref.study import files, locks
from tpo_torch.llm import manifest
from tpo_torch.llm.program.display import Display, Silent
from tpo_torch.llm.program.settings.sections import RunSettings, TinySettings, WarmupSettings
from tpo_torch.llm.tasks import Task

PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Worked examples the tokenizer is made from, and positions the model knows.
TOKENIZER_EXAMPLES, POSITIONS = 2_000, 1_024
# Width of the feed-forward layer over that of the residual stream.
EXPANSION = 3
# Share of the warm-up in which the learning rate rises; the gradient's largest norm.
RISE, LARGEST_NORM = 0.1, 1.0
# What cross-entropy leaves out: the prompt, and padding.
IGNORED = -100
# A prompt as chat messages, and a right answer.
Example = tuple[list[dict[str, str]], str]
# The losses of the warm-up, beside the model.
RECORD = "warmup.json"


def ensure(settings: RunSettings, task: Task, out: Path, display: Display | None = None) -> Path:
    """The folder of the warmed-up model and tokenizer, made unless one from the same ingredients is there.

    Args: task, whose `solution` gives the worked examples; out, the folder of results: models are in out/warmups;
        display, of how far it is.
    Raises: ValueError for a task without worked examples; OSError for a folder that cannot be written.
    """
    display = Silent() if display is None else display
    texts = examples(task)
    folder = out / "warmups" / digest(settings, texts)
    if _is_whole(folder, display):
        return folder
    # Another run with the same ingredients may be making it: then it is waited for, and used.
    with locks.held(folder, "the warm-up", waiting=display.say):
        if not _is_whole(folder, display):
            _make(folder, settings, texts, display)
    return folder


def _is_whole(folder: Path, display: Display) -> bool:
    """Whether a warmed-up model is there; a damaged one is announced."""
    if not folder.exists():
        return False
    what = manifest.fault(folder)
    display.say(f"warm-up: {folder} (cached)" if what is None else f"warm-up: {folder} is made again, {what}")
    return what is None


def _make(folder: Path, settings: RunSettings, texts: Sequence[Example], display: Display) -> None:
    """Build, warm up and save a model."""
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        tokenizer = build_tokenizer(texts[:TOKENIZER_EXAMPLES], settings.tiny.vocabulary)
        model = build_model(settings.tiny, tokenizer)
        losses = []
        if settings.warmup is not None:
            steps = settings.warmup.steps
            display.say(f"warm-up: training a small model for {steps} steps on worked examples")
            losses = warm_up(model, tokenizer, texts, settings.warmup, display)
            display.say(f"warm-up: {steps} steps on worked examples, loss {losses[0]:.2f} to {losses[-1]:.2f}")
    _save(folder, model, tokenizer, losses)


def examples(task: Task) -> list[Example]:
    """A prompt as chat messages and a right answer in full, for every training entry; ValueError without answers."""
    if task.solution is None:
        raise ValueError(
            f"task: got {task.name}, which has no worked examples (solution is None); the tiny model warms up on them. "
            "Choose another task, or a model of your own"
        )
    return [(row["prompt"], task.solution(row)) for row in task.train]


def digest(settings: RunSettings, texts: Sequence[Example]) -> str:
    """A name for what a warmed-up model depends on: shape, seed, warm-up, examples, versions; not on the method."""
    warmup = None if settings.warmup is None else asdict(settings.warmup)
    versions = [torch.__version__, transformers.__version__]
    parts = {"tiny": asdict(settings.tiny), "warmup": warmup, "seed": settings.seed, "versions": versions}
    content = json.dumps([parts, CHAT_TEMPLATE, texts], sort_keys=True).encode()
    return hashlib.sha256(content).hexdigest()[:16]


def build_tokenizer(texts: Sequence[Example], vocabulary: int) -> Any:
    """A byte-level tokenizer in which every text can be written: digits stand alone, what repeats becomes one token.

    Merges may cross words, so that the sentences every prompt shares cost a token or two: half of a short run's time.
    """
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words = ["system", "user", "assistant", "\n"]
    raw.train_from_iterator((*words, *(m["content"] for p, _ in texts for m in p), *(a for _, a in texts)), trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[START],
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
        model_max_length=POSITIONS,
    )


def build_model(shape: TinySettings, tokenizer: Any) -> Any:
    """An untrained Qwen3 model in float32; weights from torch's own random stream."""
    config = transformers.Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=shape.width,
        intermediate_size=EXPANSION * shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        head_dim=shape.width // shape.heads,
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        use_cache=True,
    )
    return transformers.Qwen3ForCausalLM(config)


def shape_of(settings: RunSettings, task: Task) -> tuple[Any, Any]:
    """The tokenizer, and the model on torch's meta device: shapes and names, no numbers."""
    tokenizer = build_tokenizer(examples(task)[:TOKENIZER_EXAMPLES], settings.tiny.vocabulary)
    with torch.device("meta"):
        return tokenizer, build_model(settings.tiny, tokenizer)


def warm_up(
    model: Any, tokenizer: Any, texts: Sequence[Any], settings: WarmupSettings, display: Display | None = None
) -> list[float]:
    """Train on worked examples, next token by next token of the answers; the loss of every step, in nats.

    Raises: ValueError when an example is longer than the positions the model knows.
    """
    rows = _encode(tokenizer, texts)
    longest = max(len(ids) for ids, _ in rows)
    if longest > POSITIONS:
        raise ValueError(f"warmup: got an example of {longest} tokens, expected at most {POSITIONS}; shorten the task")
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=0.0)
    rise = max(1, round(RISE * settings.steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / rise) * 0.5 * (1 + math.cos(math.pi * step / settings.steps))
    )
    model.train()
    losses = []
    for ids, mask, labels in _batches(rows, settings, tokenizer.pad_token_id):
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), LARGEST_NORM)
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
        if display is not None:
            display.part("warm-up, steps", len(losses), settings.steps)
    return losses


def _encode(tokenizer: Any, texts: Sequence[Any]) -> list[tuple[list[int], int]]:
    """Token ids of prompt, answer and end, and how many of them are the prompt."""
    prompts = tokenizer.apply_chat_template([p for p, _ in texts], add_generation_prompt=True, return_dict=True)
    answers = tokenizer([answer + END for _, answer in texts], add_special_tokens=False)
    pairs = zip(prompts["input_ids"], answers["input_ids"], strict=True)
    return [([*prompt, *answer], len(prompt)) for prompt, answer in pairs]


def _batches(
    rows: Sequence[tuple[list[int], int]], settings: WarmupSettings, pad: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Token ids, mask and labels (B, T), padded on the right; rows drawn without replacement within an epoch."""
    order: list[int] = []
    for _ in range(settings.steps):
        while len(order) < settings.batch_size:
            order += torch.randperm(len(rows)).tolist()
        chosen, order = [rows[i] for i in order[: settings.batch_size]], order[settings.batch_size :]
        length = max(len(ids) for ids, _ in chosen)
        ids = torch.full((len(chosen), length), pad)
        labels = torch.full((len(chosen), length), IGNORED)
        mask = torch.zeros(len(chosen), length, dtype=torch.long)
        for row, (tokens, prompt) in enumerate(chosen):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            labels[row, prompt : len(tokens)] = torch.tensor(tokens[prompt:])
            mask[row, : len(tokens)] = 1
        yield ids, mask, labels


def _save(folder: Path, model: Any, tokenizer: Any, losses: list[float]) -> None:
    """Weights as safetensors in a folder that is whole or absent."""
    files.check_writable(folder.parent)
    half = folder.with_name(f".{folder.name}.half")
    shutil.rmtree(half, ignore_errors=True)
    with manifest.saving(half):
        model.save_pretrained(half)
        tokenizer.save_pretrained(half)
        files.write_json(half / RECORD, {"loss": losses})
        manifest.replace(half, folder)
