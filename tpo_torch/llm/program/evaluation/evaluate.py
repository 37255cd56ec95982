"""Greedy accuracy and unbiased pass@k on the held-out set, while training and after it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from accelerate import PartialState
from accelerate.utils import gather_object
from numpy.typing import ArrayLike, NDArray
from trl import GRPOConfig

from tpo_ref.study import estimates
from tpo_ref.study.estimates import Estimate
from tpo_torch.llm.program.settings.sections import EvaluationSettings
from tpo_torch.llm.sampling import as_named
from tpo_torch.llm.tasks import Task

# Takes what is going on, how many answers there are by now, and how many there will be.
Advance = Callable[[str, int, int], None]
# The columns of a data set that belong to the trainer; reward functions get the others.
OWN_COLUMNS = ("prompt", "completion", "completion_ids")


@dataclass(frozen=True)
class Sampling:
    """How answers are generated, in the words of TRL's configuration; greedy answers use the length alone.

    Nothing else is used: not what the model's own `generation_config` says of penalties, beams or forced tokens.

    Args: max_completion_length, tokens at most; temperature, top_p, top_k, min_p, repetition_penalty, of the sampled
        answers; generation_kwargs, more of `transformers.GenerationConfig` for these; reward_weights, one per reward
        function (None: 1 each); chat_template_kwargs, handed to the model's chat template.
    """

    max_completion_length: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float | None = None
    repetition_penalty: float = 1.0
    generation_kwargs: Mapping[str, Any] = field(default_factory=dict)
    reward_weights: Sequence[float] | None = None
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_arguments(cls, arguments: GRPOConfig) -> Sampling:
        """Return the sampling of a trainer's arguments; words for vLLM are left out, since it does not evaluate."""
        given = {name: getattr(arguments, name) for name in (f.name for f in fields(cls))}
        if arguments.use_vllm:
            given["generation_kwargs"] = None
        return cls(**given | {name: given[name] or {} for name in ("generation_kwargs", "chat_template_kwargs")})

    def distribution(self) -> dict[str, Any]:
        """Return what shapes the sampled answers, in the words of `transformers.GenerationConfig`."""
        names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
        return {name: getattr(self, name) for name in names} | dict(self.generation_kwargs)


@dataclass(frozen=True)
class Answer:
    """A greedy answer to a prompt of the held-out set, and what it is worth."""

    # The place of the prompt in the held-out set.
    index: int
    prompt: str
    answer: str
    correct: bool
    # Weighted over the reward functions; NaN for an answer that none could score.
    reward: float
    # Tokens, the end included.
    length: int
    # Whether the answer has no end.
    truncated: bool
    # How many of the sampled answers to this prompt are right.
    sampled_right: int


@dataclass(frozen=True)
class EvaluationReport:
    """The outcome of an evaluation; estimates are means over prompts with their standard errors.

    Args: accuracy, of greedy answers; reward, their mean weighted reward; pass_at, by k; length, tokens of a greedy
        answer; truncated, share of greedy answers without an end; answers, the greedy ones.
    """

    accuracy: Estimate
    reward: Estimate
    pass_at: Mapping[int, Estimate]
    length: Estimate
    truncated: Estimate
    answers: Sequence[Answer]

    def estimates(self) -> dict[str, Estimate]:
        """Return every estimate by the name it has in the log."""
        pass_at = {f"pass@{k}": value for k, value in self.pass_at.items()}
        return {
            "accuracy": self.accuracy,
            **pass_at,
            "reward": self.reward,
            "length": self.length,
            "truncated": self.truncated,
        }

    def logged(self) -> dict[str, float]:
        """Return values and standard errors by the names of the trainer's log, without those that are no number."""
        values = {f"eval/{name}": e.value for name, e in self.estimates().items()}
        errors = {f"eval/{name}_se": e.error for name, e in self.estimates().items()}
        return {name: value for name, value in (values | errors).items() if math.isfinite(value)}


def pass_at_k(samples: int, right: ArrayLike, k: int) -> NDArray[np.float64]:
    """Unbiased estimate of the chance that one of k answers is right, 1 − C(n−c, k)/C(n, k), for each prompt.

    Args: samples, n answers drawn per prompt; right, c of them right, whole numbers (N,), 0 ≤ c ≤ n; k ≤ n.
    Raises: ValueError for k or a count out of range.

    >>> pass_at_k(4, [0, 1, 4], 2)
    array([0. , 0.5, 1. ])
    """
    count = np.asarray(right)
    if not 1 <= k <= samples:
        raise ValueError(f"k: got {k}, expected 1 to {samples}, the number of samples")
    if (count < 0).any() or (count > samples).any():
        raise ValueError(f"right: got counts in [{count.min()}, {count.max()}], expected 0 to {samples}")
    # All wrong: the i-th of k draws without replacement is wrong with (n − c − i)/(n − i). No large binomials.
    draws = np.arange(k)
    wrong = np.maximum(samples - count[..., None] - draws, 0) / (samples - draws)
    return np.asarray(1 - wrong.prod(-1), dtype=np.float64)


def evaluate(
    model: Any,
    tokenizer: Any,
    task: Task,
    settings: EvaluationSettings,
    sampling: Sampling,
    advance: Advance = lambda name, done, total: None,
) -> EvaluationReport:
    """Answer the held-out prompts greedily, and `samples` times each by sampling; prompts are split over processes.

    Args: model, with `generate`, unwrapped, on its device; tokenizer, with a chat template; task; advance, is told of
        every batch of answers, with the counts of this process.
    Returns: the same report on every process. The random state of training is left as it was.
    Raises: ValueError for an empty held-out set.
    """
    size = len(task.evaluation) if settings.size is None else min(settings.size, len(task.evaluation))
    if not size:
        raise ValueError(f"evaluation: got an empty held-out set of {task.name}, expected at least one prompt")
    state = PartialState()
    answers: list[Answer] = []
    # Padded with repetitions, so that all processes generate equally often: FSDP waits for each other's layers.
    share = state.split_between_processes(list(range(size)), apply_padding=True)
    with _forked(model, settings.seed + state.process_index), _evaluating(model), share as mine:
        for start in range(0, len(mine), settings.batch_size):
            places = mine[start : start + settings.batch_size]
            counted = _counting(advance, start, len(places), len(mine), 1 + settings.samples)
            answers += _answers(model, tokenizer, task, places, settings.samples, sampling, counted)
    everywhere = gather_object(answers) if state.num_processes > 1 else answers
    by_index = {answer.index: answer for answer in everywhere}
    return _report([by_index[i] for i in range(size)], settings)


class Generation(NamedTuple):
    """One generated answer: its text, its token ids up to the end, and whether it has no end."""

    text: str
    tokens: list[int]
    truncated: bool


def _counting(advance: Advance, start: int, batch: int, prompts: int, each: int) -> Callable[[int], None]:
    """Return what takes how often each prompt of a batch has been answered, and tells how many answers there are."""
    return lambda times: advance("evaluation, answers", start * each + times * batch, prompts * each)


def _answers(
    model: Any,
    tokenizer: Any,
    task: Task,
    places: Sequence[int],
    samples: int,
    sampling: Sampling,
    counted: Callable[[int], None],
) -> list[Answer]:
    rows = [task.evaluation[i] for i in places]
    prompts = [row["prompt"] for row in rows]
    greedy = _generate(model, tokenizer, prompts, sampling, sample=False)
    counted(1)
    right, rewards = _scored(task, rows, greedy, sampling)
    sampled = [0] * len(rows)
    for number in range(samples):
        texts = _generate(model, tokenizer, prompts, sampling, sample=True)
        counted(2 + number)
        sampled = [n + int(r) for n, r in zip(sampled, _right(task, rows, texts), strict=True)]
    return [
        Answer(
            index=places[i],
            prompt=prompts[i][-1]["content"],
            answer=greedy[i].text,
            correct=bool(right[i]),
            reward=rewards[i],
            length=len(greedy[i].tokens),
            truncated=greedy[i].truncated,
            sampled_right=sampled[i],
        )
        for i in range(len(rows))
    ]


def _generate(model: Any, tokenizer: Any, prompts: Sequence[Any], sampling: Sampling, sample: bool) -> list[Generation]:
    """Answer each prompt once."""
    ids = tokenizer.apply_chat_template(
        list(prompts), add_generation_prompt=True, tokenize=True, return_dict=True, **sampling.chat_template_kwargs
    )["input_ids"]
    device = next(model.parameters()).device
    padded = tokenizer.pad({"input_ids": ids}, padding_side="left", return_tensors="pt").to(device)
    own = model.generation_config.eos_token_id
    ends = sorted({tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])} - {None})
    named = {
        "max_new_tokens": sampling.max_completion_length,
        "do_sample": sample,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": ends,
        "disable_compile": True,
    }
    config = transformers.GenerationConfig(**named | (sampling.distribution() if sample else {}))
    with torch.no_grad(), as_named(model):
        whole = model.generate(**padded, generation_config=config)
    rows = whole[:, padded["input_ids"].shape[1] :].tolist()
    lengths = [next((i + 1 for i, token in enumerate(row) if token in ends), None) for row in rows]
    tokens = [row[:length] for row, length in zip(rows, lengths, strict=True)]
    texts = tokenizer.batch_decode(tokens, skip_special_tokens=True)
    return [Generation(text, ids, n is None) for text, ids, n in zip(texts, tokens, lengths, strict=True)]


def _right(task: Task, rows: Sequence[Any], answers: Sequence[Generation]) -> list[bool]:
    return list(task.correct([answer.text for answer in answers], **_columns(rows)))


def _scored(
    task: Task, rows: Sequence[Any], answers: Sequence[Generation], sampling: Sampling
) -> tuple[list[bool], list[float]]:
    """Return whether each answer is right, and its weighted reward as in training, NaN where it has none."""
    total = np.zeros(len(rows))
    weights = sampling.reward_weights or [1.0] * len(task.rewards)
    for weight, function in zip(weights, task.rewards, strict=True):
        values = function(
            prompts=[row["prompt"] for row in rows],
            completions=[[{"role": "assistant", "content": answer.text}] for answer in answers],
            completion_ids=[answer.tokens for answer in answers],
            **_columns(rows),
        )
        total += weight * np.array([math.nan if value is None else value for value in values], dtype=float)
    return _right(task, rows, answers), total.tolist()


def _columns(rows: Sequence[Any]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0] if name not in OWN_COLUMNS}


def _report(answers: Sequence[Answer], settings: EvaluationSettings) -> EvaluationReport:
    def mean(name: str) -> Estimate:
        values = np.array([getattr(answer, name) for answer in answers], dtype=float)
        values = values[np.isfinite(values)]
        return estimates.mean(values) if len(values) else Estimate(math.nan, math.nan, 0)

    counts = np.array([answer.sampled_right for answer in answers])
    ks = settings.k if settings.samples else ()
    pass_at = {k: estimates.mean(pass_at_k(settings.samples, counts, k)) for k in ks}
    return EvaluationReport(
        accuracy=mean("correct"),
        reward=mean("reward"),
        pass_at=pass_at,
        length=mean("length"),
        truncated=mean("truncated"),
        answers=answers,
    )


@contextmanager
def _forked(model: Any, seed: int) -> Iterator[None]:
    """Sample what is inside from a random stream of its own."""
    device = next(model.parameters()).device
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices) if device.type in ("cpu", "cuda") else nullcontext():
        torch.manual_seed(seed)
        yield


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
