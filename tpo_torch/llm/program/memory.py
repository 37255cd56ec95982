"""An estimate of the accelerator memory that a run takes on one process, from a model without weights.

Exact: weights, gradients, optimizer states, reference model, and, without mixed precision, the keys and values of
completions of full length. The rest is counted from the shapes of a dense decoder. What no shape tells (buffers of
kernels and of communication, what the allocator cannot use) comes on top.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

ALWAYS, GENERATION, TRAINING = "all the time", "while generating", "while training"
FLOAT32, HALF = 4, 2
# States of the optimizer for each trained weight, in the weight's own precision; others are not known here.
STATES = {"adamw_torch": 2, "adamw_torch_fused": 2, "sgd": 0}
# TRL's fused head computes logits in tiles of so many tokens and entries of the vocabulary.
TILE_TOKENS, TILE_ENTRIES = 4096, 32768
# Logits of the next token in float32, after the processors, and as probabilities.
LOGITS_COPIES = 3


@dataclass(frozen=True)
class Term:
    """A part of the memory: its name, bytes, when it is held, and whether the count is exact."""

    name: str
    size: int
    phase: str
    exact: bool


@dataclass(frozen=True)
class Shape:
    """What a process holds at once.

    Args: rows of a micro-batch; generated, completions of a round; prompt, completion, tokens at most; processes;
        sharded, whether each of them holds a share of weights, gradients and states, and not all.
    """

    rows: int
    generated: int
    prompt: int
    completion: int
    processes: int = 1
    sharded: bool = False


def terms(model: Any, arguments: Any, shape: Shape) -> list[Term]:
    """The parts of the memory of one process.

    Args: model, on torch's meta device, with its adapter if it has one; arguments, the trainer's; shape.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    adapted = any(not p.requires_grad for p in model.parameters())
    states = STATES.get(str(getattr(arguments.optim, "value", arguments.optim)))
    share = shape.processes if shape.sharded else 1
    weights, gradients = _bytes(model.parameters()) // share, _bytes(trained) // share
    kept = (STATES["adamw_torch"] if states is None else states) * gradients
    found = [Term("weights", weights, ALWAYS, True), Term("optimizer states", kept, ALWAYS, states is not None)]
    if arguments.beta and not adapted:
        found.append(Term("reference model", weights, ALWAYS, True))
    if shape.processes > share:
        found.append(Term("gradients in transit between processes", gradients, ALWAYS, False))
    if not arguments.use_vllm:
        found += _generation(model, arguments, shape)
    found.append(Term("gradients", gradients, TRAINING, True))
    return found + _training(model, arguments, shape)


def peak(parts: list[Term]) -> int:
    """Bytes at the worst moment: what is always held, and the larger of generation and training."""
    size = {phase: sum(t.size for t in parts if t.phase == phase) for phase in (ALWAYS, GENERATION, TRAINING)}
    return size[ALWAYS] + max(size[GENERATION], size[TRAINING])


def cache(config: Any, tokens: int, element: int) -> int:
    """Bytes of the keys and values of so many tokens; exact for attention over all of them."""
    keys = _heads(config, "num_key_value_heads") * _width(config)
    layers: int = config.num_hidden_layers
    return 2 * layers * keys * tokens * element


def activations(config: Any, tokens: int, element: int, checkpointing: bool) -> int:
    """Bytes which the layers keep for the backward pass, of a decoder with rotary attention and a gated feed-forward.

    Per token and layer: 6 times the residual width (of which 4 in float32: two norms), 6 times the queries, 2 times the
    keys, 4 times the feed-forward width. With checkpointing each layer's input, and one layer in full.
    """
    queries = _heads(config, "num_attention_heads") * _width(config)
    keys = _heads(config, "num_key_value_heads") * _width(config)
    width, layers = int(config.hidden_size), int(config.num_hidden_layers)
    layer = 4 * width * max(FLOAT32, element)
    layer += (2 * width + 6 * queries + 2 * keys + 4 * int(config.intermediate_size)) * element
    return tokens * (layers * width * element + layer if checkpointing else layers * layer)


def _generation(model: Any, arguments: Any, shape: Shape) -> list[Term]:
    config, element = model.config.get_text_config(), _weights_element(model)
    prefill = shape.generated * shape.prompt * (2 * config.hidden_size + 3 * config.intermediate_size) * element
    kept = cache(config, shape.generated * (shape.prompt + shape.completion), element)
    logits = LOGITS_COPIES * shape.generated * config.vocab_size * FLOAT32
    # Under mixed precision some of them are in half precision, which depends on the model.
    mixed = _computing_element(model, arguments) < element
    # The prompt passes through a layer before the cache has grown to its full length.
    return [
        Term("keys and values", kept, GENERATION, not mixed),
        Term("logits and prompts of generation", max(prefill, logits), GENERATION, False),
    ]


def _training(model: Any, arguments: Any, shape: Shape) -> list[Term]:
    config, weights = model.config.get_text_config(), _weights_element(model)
    element = _computing_element(model, arguments)
    tokens = shape.rows * (shape.prompt + shape.completion)
    kept = activations(config, tokens, element, bool(arguments.gradient_checkpointing))
    scored = shape.rows * shape.completion
    # The gradient of what the head takes in, in float32, and that of the head where it is trained.
    head = min(scored, TILE_TOKENS) * TILE_ENTRIES * element + scored * config.hidden_size * FLOAT32
    if model.get_output_embeddings().weight.requires_grad:
        head += config.vocab_size * config.hidden_size * FLOAT32
    found = [Term("activations", kept, TRAINING, False), Term("logits of training", head, TRAINING, False)]
    if element < weights:
        copies = sum(p.numel() for p in model.parameters() if p.ndim > 1) * element
        found.append(Term("half-precision copies of weights", copies, TRAINING, False))
    return found


def _bytes(parameters: Any) -> int:
    return sum(p.numel() * p.element_size() for p in parameters)


def _weights_element(model: Any) -> int:
    """Bytes of an element of the largest weight, which is a frozen one under an adapter."""
    largest: Tensor = max(model.parameters(), key=Tensor.numel)
    return largest.element_size()


def _computing_element(model: Any, arguments: Any) -> int:
    """Bytes of an element of what layers compute."""
    return HALF if arguments.bf16 or arguments.fp16 else _weights_element(model)


def _heads(config: Any, name: str) -> int:
    return int(getattr(config, name, None) or config.num_attention_heads)


def _width(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
