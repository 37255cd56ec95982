"""What a launcher of several processes, such as `accelerate launch`, writes into the environment of each."""

from __future__ import annotations

import os

# By torch's launchers, and by three implementations of MPI.
COUNTS = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")


def process_count() -> int:
    """How many processes were launched together; 1 without a launcher."""
    return _first_of(COUNTS, 1)


def process_number() -> int:
    """Which of the processes launched together this is, from 0; 0 without a launcher."""
    return _first_of(RANKS, 0)


def is_first_process() -> bool:
    """Whether this process speaks for all that were launched together; True without a launcher."""
    return process_number() == 0


def _first_of(names: tuple[str, ...], default: int) -> int:
    """The first of several variables that is set, as a number."""
    return next((int(os.environ[name]) for name in names if os.environ.get(name)), default)
