"""Small models that chat, call tools, see images or have experts, with their tokenizer; all built on the spot."""

from __future__ import annotations

import json
from typing import Any

import torch
from datasets import Dataset
from helpers.tiny_llm import FILTERS
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen3Config

from tpo_torch.llm.program.exactness.task import HEADS, INITIALIZER_RANGE, PROMPTS, WIDTH

__all__ = ["FILTERS", "SIZES", "call", "chats", "language_model", "talker"]

ROLES = ("user", "assistant", "tool", "system", "terse")


def call(name: str, argument: str) -> str:
    """A whole call of a tool in one word, so that a policy with random weights makes some."""
    return f"<call>{json.dumps({'name': name, 'arguments': {'letter': argument}}, separators=(',', ':'))}</call>"


CALLS = (call("double", "a"), call("later", "b"), call("broken", "c"), call("absent", "d"))
# Beside the place of an image, what some processors put around it.
IMAGE = {"image_token": "<image>", "boi_token": "<begin>", "eoi_token": "<end>"}
WORDS = ("<pad>", "<eos>", "<unk>", "<image>", *"abcdefgh", *ROLES, *CALLS, "<begin>", "<end>")
TEMPLATE = (
    "{% for m in messages %}{{ m.role + ' ' }}"
    "{% if m.content is string %}{{ m.content }}"
    "{% else %}{% for part in m.content %}"
    "{{ ' system <image>' if part.type == 'image' else ' ' + part.text }}{% endfor %}{% endif %}"
    "{% for c in m.tool_calls or [] %} {{ c.function.name }} {{ c.function.arguments | tojson }}{% endfor %}"
    " <eos> {% endfor %}{% if terse %}terse {% endif %}{% if add_generation_prompt %}assistant {% endif %}"
)
# How calls are found in what the model wrote.
RESPONSE = {
    "defaults": {"role": "assistant"},
    "start_anchor": "assistant ",
    "fields": {
        "tool_calls": {
            "open": "<call>",
            "close_pattern": r"</call>\s*",
            "repeats": True,
            "content": "json",
            "transform": {"type": "function", "function": "{content}"},
        },
        "content": {"close_pattern": r"<eos>\s*", "content": "text"},
    },
}
# What each architecture's configuration is given.
SIZES: dict[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": 2 * WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": HEADS,
    "num_key_value_heads": 1,
    "head_dim": WIDTH // HEADS,
    "initializer_range": INITIALIZER_RANGE,
    "vocab_size": len(WORDS),
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": None,
    "tie_word_embeddings": False,
}


def talker() -> PreTrainedTokenizerFast:
    """A tokenizer of one token per word that knows roles, calls of tools and images."""
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        padding_side="left",
        extra_special_tokens=IMAGE,
    )
    made.chat_template = TEMPLATE
    return made


def language_model(config: Any = Qwen3Config, dtype: torch.dtype = torch.float64, **changes: Any) -> Any:
    """A causal model of two narrow layers; `config` is the class of its configuration."""
    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(config(**SIZES | changes)).to(dtype)
    # The fast ways of running experts know no double precision.
    made.set_experts_implementation("eager")
    made.config.name_or_path = "tiny"
    return made


def chats(count: int = 4 * len(PROMPTS)) -> Dataset:
    """Prompts as messages of a user."""
    return Dataset.from_dict(
        {"prompt": [[{"role": "user", "content": PROMPTS[i % len(PROMPTS)]}] for i in range(count)]}
    )
