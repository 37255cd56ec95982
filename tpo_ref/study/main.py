"""Entry point of the `tpo` command: reports a missing extra in one line instead of a traceback."""

from __future__ import annotations

import importlib.util
import os
import sys

# Exit codes, as a shell knows them.
USAGE_ERROR, INTERRUPTED = 2, 130
# Long enough to meet a thread that is about to finish, too short to starve one that is not running.
SPINS = "4000"
CLI_PACKAGES = ("tyro", "rich", "matplotlib")


def main() -> None:
    """Run the command line; exits 2 with the remedy when the extra it needs is not installed."""
    try:
        sys.exit(_main())
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _main() -> int:
    missing = [name for name in CLI_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        remedy = "run: pip install 'target-policy-optimization[cli]' (add ,torch for MNIST)"
        print(f"tpo: the command line needs {', '.join(missing)}; {remedy}", file=sys.stderr)
        return USAGE_ERROR
    # GNU OpenMP's threads spin while they wait. Where other work shares the cores, that starves the very thread waited
    # for, and a step takes many times as long. The setting is read when torch is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    from tpo_ref.study import cli

    return cli.run(sys.argv[1:])


if __name__ == "__main__":
    main()
