"""Finding a model before anything is loaded: a local folder, or a name on the hub; else one line with the remedy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import huggingface_hub
import huggingface_hub.constants
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from tpo_ref.study.errors import Unavailable

if TYPE_CHECKING:
    # Imported where a model is loaded: that one is missing is said before, and needs neither.
    import torch

CONFIG, ADAPTER = "config.json", "adapter_config.json"
# Seconds to wait for the hub before saying that it cannot be reached.
PATIENCE = 10.0


def locate(model: str) -> str:
    """The model as transformers takes it: the folder, or the hub name once it is known to be there.

    Raises: Unavailable for a folder without a model, a hub name that does not exist, is gated, or cannot be reached.
    """
    huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY = True
    path = Path(model).expanduser()
    if path.is_dir():
        if not any((path / name).exists() for name in (CONFIG, ADAPTER)):
            raise Unavailable(f"model: got the folder {path}, expected a {CONFIG} and safetensors weights in it")
        return str(path)
    if path.is_absolute() or model.startswith((".", "~")) or path.exists():
        raise Unavailable(f"model: got {model}, which is no folder; give the folder of a model, or its hub name")
    remedy = (
        f"download it where there is a network (hf download {model} --local-dir FOLDER) and give the folder: "
        "model=FOLDER"
    )
    try:
        if isinstance(huggingface_hub.try_to_load_from_cache(model, CONFIG), str):
            return model
    except HFValidationError as error:
        raise Unavailable(
            f"model: got {model!r}, which is neither a folder nor a hub name such as Qwen/Qwen3-1.7B"
        ) from error
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        raise Unavailable(f"model: {model} is not in the local cache, and HF_HUB_OFFLINE is set; {remedy}")
    try:
        huggingface_hub.HfApi().model_info(model, timeout=PATIENCE)
    except HfHubHTTPError as error:
        status = error.response.status_code
        what = f"the hub does not give {model} (HTTP {status}: no such name, or gated)"
        raise Unavailable(f"model: {what}; {remedy}") from error
    except Exception as error:
        # Which library's errors a failed connection raises depends on the version of the hub's client.
        what = f"{model} is not in the local cache, and the hub cannot be reached ({error})"
        raise Unavailable(f"model: {what}; {remedy}") from error
    return model


def load(model: str, device: torch.device) -> tuple[Any, Any]:
    """A model with its adapter, if it has one, and its tokenizer, for generation; Unavailable as `locate`."""
    import transformers

    place = locate(model)
    if (Path(place) / ADAPTER).exists():
        from peft import AutoPeftModelForCausalLM

        loaded = AutoPeftModelForCausalLM.from_pretrained(place, torch_dtype="auto")
    else:
        loaded = transformers.AutoModelForCausalLM.from_pretrained(place, dtype="auto", use_safetensors=True)
    tokenizer = transformers.AutoTokenizer.from_pretrained(place, padding_side="left")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return loaded.to(device).eval(), tokenizer
