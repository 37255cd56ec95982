"""Entry point of the `tpo` command: reports a missing extra in one line instead of a traceback."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
import warnings

from tpo_ref.study.cli import output
from tpo_ref.study.cli.exits import INTERRUPTED, USAGE_ERROR
from tpo_ref.study.errors import DISTRIBUTION

# Spin count of OpenMP threads: covers short waits, but does not occupy a core that other work needs.
SPINS = "4000"
# GNU's allocator: its names for two of its parameters, and how many bytes it may keep instead of giving them back.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT_BYTES, LARGEST_BYTES = 2**29, 2**25
CLI_PACKAGES = ("tyro", "rich", "matplotlib", "filelock")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line, the process's own when None; exits 2 with the remedy where an extra is not installed."""
    try:
        sys.exit(_main(sys.argv[1:] if arguments is None else arguments))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _main(arguments: list[str]) -> int:
    with output.lasting() as streams:
        code = _run(arguments)
    return code or (USAGE_ERROR if streams.lost else 0)


def _run(arguments: list[str]) -> int:
    missing = [name for name in CLI_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        remedy = f"run: pip install '{DISTRIBUTION}[cli]'"
        print(f"tpo: the command line needs {', '.join(missing)}; {remedy}", file=sys.stderr)
        return USAGE_ERROR
    # GNU OpenMP's threads spin while they wait. Where other work shares the cores, that starves the very thread waited
    # for, and a step takes many times as long. The setting is read when the library that computes is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    # Pictures are files in a style of ours. The window or notebook that a caller draws in may not even be installed
    # here, and a style of the caller's that cannot be read would end whatever imports matplotlib, as libraries do.
    os.environ.pop("MPLBACKEND", None)
    os.environ["MATPLOTLIBRC"] = os.devnull
    if any(option.startswith("error") for option in sys.warnoptions):
        # What a library warns of, down to its syntax, is shown and ends no run.
        warnings.simplefilter("default")
    _keep_freed_memory()
    try:
        # `commands` imports tyro, whose presence was checked above.
        from tpo_ref.study.cli import commands
    except (ImportError, ValueError) as error:
        # Raised where the entry point of another package cannot be loaded.
        print(f"tpo: {error}", file=sys.stderr)
        return USAGE_ERROR

    return commands.run(arguments)


def _keep_freed_memory() -> None:
    """Let the buffers of one training step be reused by the next: paging them in anew costs time.

    Only where the C library is GNU's; elsewhere nothing happens.
    """
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    set_option(M_MMAP_THRESHOLD, LARGEST_BYTES)
    set_option(M_TRIM_THRESHOLD, KEPT_BYTES)


if __name__ == "__main__":
    main()
