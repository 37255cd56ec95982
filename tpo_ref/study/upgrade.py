"""Seals records and reports of format 1, which had no digest: `python -m tpo_ref.study.upgrade FILE ...`."""

from __future__ import annotations

import sys
from pathlib import Path

from tpo_ref.study import files

# The format before, and that in which a record or report carries a digest of all its entries.
BEFORE, SEALED = 1, 2
REMEDY = f"`python -m {__name__} FILE` gives a file of format {BEFORE} its digest, as it is"


def remedy(content: dict[str, object], otherwise: str) -> str:
    """What to do about a file of another format."""
    return REMEDY if content.get("format") == BEFORE else otherwise


def upgrade(path: Path) -> bool:
    """Give a stored json file its digest; every entry remains. False where it has one.

    Raises: ValueError for what is no record or report of either format, or where the arrays beside it are others.
    """
    content = files.read_json(path)
    if content.get("format") == SEALED:
        files.unsealed(content, path)
        return False
    if content.get("format") != BEFORE or files.SEAL in content:
        raise ValueError(f"{path}: got format {content.get('format')}, expected a record or report of format {BEFORE}")
    arrays = path.with_suffix(".npz")
    if "arrays_sha256" in content and (not arrays.is_file() or files.sha256(arrays) != content["arrays_sha256"]):
        raise ValueError(f"{arrays}: missing, or altered since it was written; delete {path}")
    files.write_sealed(path, {**content, "format": SEALED})
    return True


def main() -> int:
    """Upgrade the files named on the command line; 2 where one of them is refused."""
    code = 0
    for name in sys.argv[1:]:
        try:
            print(f"{name}: {'sealed' if upgrade(Path(name)) else 'has its digest'}")
        except (OSError, ValueError) as error:
            print(f"tpo: {error}", file=sys.stderr)
            code = 2
    return code


if __name__ == "__main__":
    sys.exit(main())
