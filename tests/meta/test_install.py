"""What an installation gives to others: modules on the path, where type checkers look for them, and their types."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
from importlib.util import find_spec
from pathlib import Path
package = Path(find_spec({name!r}).origin).parent
assert str(package.parent) in sys.path, "found by a hook, which type checkers do not run"
assert (package / "py.typed").is_file()
"""


@pytest.mark.parametrize("name", ["tpo_ref", "tpo_torch"])
def test_type_checkers_of_other_projects_find_the_types(name: str, tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-c", PROGRAM.format(name=name)]
    answer = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment, encoding="utf-8"
    )
    assert answer.returncode == 0, answer.stderr
