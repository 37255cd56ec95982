"""The model, the tokenizer, the prompts and the reward of the exactness check: a few thousand parameters, ten words."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

WORDS = ("<pad>", "<eos>", *"abcdefgh")
PROMPTS = ("a b", "c", "d e f", "g h a b", "b", "c a", "f f", "h e d")
RIGHT, LENGTH_COST = ("a", "c"), 0.1
WIDTH, HEADS, INITIALIZER_RANGE = 16, 2, 0.3


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of one token per word; the token that pads is not the one that ends."""
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token=WORDS[0]))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token=WORDS[0], eos_token=WORDS[1], padding_side="left")


def tiny_model(seed: int = 0) -> Qwen3ForCausalLM:
    """Return two layers in double precision, weights wide enough that completions differ in length and probability."""
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
        pad_token_id=WORDS.index("<pad>"),
        eos_token_id=WORDS.index("<eos>"),
        bos_token_id=None,
        tie_word_embeddings=False,
    )
    return Qwen3ForCausalLM(config).double()


def reward(completions: list[str], **_: object) -> list[float]:
    """Count the right letters, less a little for length: ties are rare, but there are some."""
    return [sum(w in RIGHT for w in c.split()) - LENGTH_COST * len(c.split()) for c in completions]
