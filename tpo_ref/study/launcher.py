"""What a launcher of several processes, such as `accelerate launch`, writes into the environment of each."""

from __future__ import annotations

import os

COUNT, RANK = "WORLD_SIZE", "RANK"


def process_count() -> int:
    """How many processes were launched together; 1 without a launcher."""
    return int(os.environ.get(COUNT, "1"))


def process_number() -> int:
    """Which of the processes launched together this is, from 0; 0 without a launcher."""
    return int(os.environ.get(RANK, "0"))


def is_first_process() -> bool:
    """Whether this process speaks for all that were launched together; True without a launcher."""
    return process_number() == 0
