"""The README's python blocks run, its commands exist, and the files it names are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tpo_torch.llm.program import exactness_task

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
def test_each_block_runs(
    block: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if "MODEL" in block:
        # A folder in place of the hub; the rest is as printed.
        exactness_task.tiny_model().float().save_pretrained(tmp_path / "model")
        exactness_task.tiny_tokenizer().save_pretrained(tmp_path / "model")
        monkeypatch.setenv("MODEL", str(tmp_path / "model"))
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {})


def test_grpo_becomes_tpo_in_twenty_lines() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert [len(block.splitlines()) <= 20 for block in blocks if "TargetPOTrainer" in block] == [True]


def test_each_make_target_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert f"\n{target}:" in makefile


def test_each_linked_file_exists() -> None:
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / link).exists(), link
    for folder in re.findall(r"^\| `([\w/]+/)`", README, re.MULTILINE):
        assert (ROOT / folder).is_dir(), folder
