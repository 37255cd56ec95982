"""`make trl-range`: gradients and resume under the latest patch of each minor TRL version that pyproject.toml allows.

Each is installed without its dependencies into a folder of its own, which stands before the installed one in the path.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from importlib.metadata import distributions
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".venv" / "trl"
TESTS = [f"tests/llm/test_{name}.py" for name in ("trainer", "distributed", "resume", "conversion")]
# Imported by 1.13 and 1.14, which leave it to others to require.
UNDECLARED = "requests"
MOST = 100


def minors() -> list[str]:
    """The minor versions of the range, "1.13" and so on."""
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"][
        "llm"
    ]
    allowed = next(found for line in extra if (found := Requirement(line)).name == "trl").specifier
    return [version for i in range(MOST) if allowed.contains(version := f"1.{i}")]


def install(version: str) -> Path:
    """The folder of one version, filled the first time."""
    folder = FOLDER / version
    if not folder.exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target"]
        partial = FOLDER / f"{version}.partial"
        subprocess.run([*pip, str(partial), "--no-deps", f"trl=={version}.*"], check=True)
        subprocess.run([*pip, str(partial), "--upgrade", UNDECLARED], check=True)
        partial.rename(folder)
    return folder


def passes(version: str) -> bool:
    folder = install(version)
    print(f"trl {next(d.version for d in distributions(path=[str(folder)]) if d.name == 'trl')}", flush=True)
    # Warnings of an old version are not ours to mend.
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "-W", "ignore", *TESTS]
    return subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(folder)}, check=False).returncode == 0


if __name__ == "__main__":
    failed = [version for version in minors() if not passes(version)]
    sys.exit(f"fails under trl {', '.join(failed)}" if failed else 0)
