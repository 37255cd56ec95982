"""No telemetry, no bars, and no lines of libraries below an error, while a run is on."""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import datasets
import huggingface_hub.constants
import transformers
from huggingface_hub.utils.tqdm import disable_progress_bars

# Said at every start, about what neither a user nor this project can change.
HARMLESS = (".*gradient_checkpointing.*", ".*pin_memory.*")
LOGGERS = ("accelerate", "trl", "torch.distributed")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """While inside: libraries report to nobody, and speak of errors alone; warnings of this project are shown."""
    huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY = True
    disable_progress_bars()
    datasets.disable_progress_bars()
    level = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    levels = {name: logging.getLogger(name).level for name in LOGGERS}
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for message in HARMLESS:
                warnings.filterwarnings("ignore", message=message)
            warnings.showwarning = _one_line
            yield
    finally:
        transformers.utils.logging.set_verbosity(level)
        for name, before in levels.items():
            logging.getLogger(name).setLevel(before)


def _one_line(message: Any, *where: Any, **more: Any) -> None:
    """A warning as the rest of a run's messages look, without the line of code it came from."""
    print(f"tpo: {message}", file=sys.stderr)
