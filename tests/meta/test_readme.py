"""The README's python blocks run, its commands exist, and the files it names are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tpo_torch.llm.program.exactness import task as exactness_task

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


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
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert f"\n{target}:" in makefile


def test_each_linked_file_exists() -> None:
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / link).exists(), link


PACKAGES = ("tpo_ref", "tpo_torch", "tests", "benchmarks", "spec")
PAGES = [ROOT / "README.md", *sorted((ROOT / "spec").glob("*.md"))]
SOURCES = [p for name in PACKAGES for suffix in ("*.py", "*.yaml") for p in sorted((ROOT / name).rglob(suffix))]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_each_file_that_a_page_names_exists(page: Path) -> None:
    paths = re.findall(rf"`((?:{'|'.join(PACKAGES)})/[\w./-]*)`", page.read_text(encoding="utf-8"))
    assert [path for path in paths if not (ROOT / path).exists()] == []
    prose = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = re.findall(r"\]\((?!http)([^)#]+)", prose)
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_each_module_that_a_command_starts_is_a_program() -> None:
    """Wherever `python -m` or a launcher is written down: pages, messages, configurations."""
    name = rf"-m ((?:{'|'.join(PACKAGES)})(?:\.\w+)+)"
    commands = {
        (path, module) for path in (*PAGES, *SOURCES) for module in re.findall(name, path.read_text(encoding="utf-8"))
    }
    assert len({path for path, _ in commands}) > 1
    assert [(str(path), module) for path, module in sorted(commands) if not is_program(module)] == []


def is_program(module: str) -> bool:
    """Whether a module does something when it is started, not only when it is imported."""
    path = ROOT.joinpath(*module.split("."))
    file = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
    return file.is_file() and 'if __name__ == "__main__":' in file.read_text(encoding="utf-8")


def test_a_module_of_the_library_is_no_program() -> None:
    assert not is_program("tpo_torch.llm.program.run")
    assert not is_program("tpo_torch.llm.nowhere")


def test_the_map_shows_each_folder_of_code() -> None:
    tree = README.split("## Map")[1].split("```")[1]
    names = set(re.findall(r"(\w+)/", tree))
    folders = {p.parent.name for top in ("tpo_ref", "tpo_torch") for p in (ROOT / top).rglob("__init__.py")}
    assert folders - names == set()
