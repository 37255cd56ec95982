"""Programs run in a fresh interpreter in which a package is as good as not installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

HIDE = """
import importlib.util, sys
hidden = {module!r}
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] == hidden:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hide())
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == hidden else find(name, *rest)
"""


def without(module: str, program: str) -> subprocess.CompletedProcess[str]:
    """Run a program in the repository's root where importing `module` fails."""
    source = HIDE.format(module=module) + program
    return subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=False, cwd=ROOT, encoding="utf-8"
    )
