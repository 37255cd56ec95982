"""Small models that see images, each with the processor that belongs to it; built from their configurations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from datasets import Dataset, Features, Image, List, Value
from helpers.kinds import SIZES, TEMPLATE, WORDS, talker
from PIL import Image as Pillow
from transformers import (
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3Processor,
    Gemma3TextConfig,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3Processor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLProcessor,
    Qwen3Config,
    SiglipVisionConfig,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.idefics3.configuration_idefics3 import Idefics3VisionConfig
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLTextConfig
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from tpo_torch.llm.program.exactness.task import PROMPTS, WIDTH

# Pixels of an image and of a patch; tokens that an image becomes.
EDGE, PATCH = 4, 2
PATCHES = (EDGE // PATCH) ** 2
VISION: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": EDGE,
    "patch_size": PATCH,
}
PLACE, BEGIN, END = (WORDS.index(word) for word in ("<image>", "<begin>", "<end>"))


def llava() -> tuple[Any, Any]:
    """One row of pixel_values per image."""
    square = {"height": EDGE, "width": EDGE}
    processor = LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": EDGE}, crop_size=square),
        talker(),
        PATCH,
        "default",
        TEMPLATE,
        num_additional_image_tokens=1,
    )
    vision = CLIPVisionConfig(**VISION | {"num_hidden_layers": 2}, projection_dim=16)
    config = LlavaConfig(
        vision_config=vision, text_config=Qwen3Config(**SIZES), image_token_id=PLACE, vision_feature_layer=-1
    )
    return processor, LlavaForConditionalGeneration(config)


def gemma() -> tuple[Any, Any]:
    """token_type_ids, which say where in the prompt attention runs both ways."""
    template = TEMPLATE.replace("<image>", "<begin>")
    pictures = Gemma3ImageProcessorPil(size={"height": EDGE, "width": EDGE}, image_seq_length=PATCHES)
    processor = Gemma3Processor(pictures, talker(), template, image_seq_length=PATCHES)
    config = Gemma3Config(
        text_config=Gemma3TextConfig(**SIZES),
        vision_config=SiglipVisionConfig(**VISION),
        mm_tokens_per_image=PATCHES,
        image_token_index=PLACE,
        image_token_id=PLACE,
        boi_token_index=BEGIN,
        eoi_token_index=END,
    )
    return processor, Gemma3ForConditionalGeneration(config)


def idefics() -> tuple[Any, Any]:
    """pixel_values of one row per completion, and a pixel_attention_mask, which its processor makes all ones."""
    longest = {"longest_edge": EDGE}
    pictures = Idefics3ImageProcessorPil(size=longest, max_image_size=longest, do_image_splitting=False)
    # The processor has words of its own.
    processor = Idefics3Processor(pictures, talker(), PATCHES, TEMPLATE)
    text = Qwen3Config(**SIZES | {"vocab_size": len(processor.tokenizer)})
    vision = Idefics3VisionConfig(**VISION)
    config = Idefics3Config(vision_config=vision, text_config=text, image_token_id=PLACE, scale_factor=1)
    return processor, Idefics3ForConditionalGeneration(config)


class ImagesOnly(Qwen2VLProcessor):
    """Without the processor of videos, which needs torchvision."""

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
        return None if argument is None else super().check_argument_for_proper_class(argument_name, argument)


def qwen() -> tuple[Any, Any]:
    """pixel_values of one row per patch, the grid of each image, and mm_token_type_ids."""
    pictures = Qwen2VLImageProcessorPil(patch_size=PATCH, min_pixels=EDGE**2, max_pixels=4 * EDGE**2)
    processor = ImagesOnly(pictures, talker(), None, TEMPLATE)
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
    text = Qwen2VLTextConfig(**SIZES | {"rope_parameters": rope})
    vision = {"embed_dim": 16, "hidden_size": WIDTH, "depth": 1, "num_heads": 2, "mlp_ratio": 1, "patch_size": PATCH}
    config = Qwen2VLConfig(vision_config=vision, text_config=text, image_token_id=PLACE)
    return processor, Qwen2VLForConditionalGeneration(config)


# By what TRL has to cut of them beside tokens.
KINDS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "num_images": llava,
    "token_type_ids": gemma,
    "pixel_attention_mask": idefics,
    "image_grid_thw": qwen,
}


def seeing(kind: str, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """A processor and a model with random weights that sees."""
    torch.manual_seed(0)
    processor, model = KINDS[kind]()
    generator = torch.Generator().manual_seed(1)
    for name, weight in model.named_parameters():
        # Wide enough that the image changes what is said.
        if weight.ndim > 1 and "norm" not in name:
            weight.data.normal_(0, 0.3, generator=generator)
    model.config.name_or_path = "tiny"
    return processor, model.to(dtype)


def pictures(counts: list[int], sizes: list[tuple[int, int]]) -> Dataset:
    """Prompts with images of one colour each: so many for each prompt, of this width and height, in turn."""
    rows, number = [], 0
    for i in range(2 * len(PROMPTS)):
        images = []
        for _ in range(counts[i % len(counts)]):
            images.append(
                Pillow.new("RGB", sizes[number % len(sizes)], (40 * number % 256, 90 * number % 256, 10 * number % 256))
            )
            number += 1
        rows.append({"prompt": [{"role": "user", "content": PROMPTS[i % len(PROMPTS)]}], "images": images})
    message = {"role": Value("string"), "content": Value("string")}
    return Dataset.from_list(rows, features=Features({"prompt": List(message), "images": List(Image())}))
