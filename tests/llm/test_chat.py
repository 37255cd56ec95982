"""A chat template that does not take a task's prompts is said in one line, before a step is made."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import tiny_llm as tiny

from tpo_ref.study.cli import commands as cli
from tpo_torch.llm.program.record import Folder
from tpo_torch.llm.program.tiny import CHAT_TEMPLATE

pytestmark = tiny.FILTERS
# As models without a system role have it.
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
SYSTEM = "task_options={train_size: 8, eval_size: 2, system: Be brief.}"
PLAIN = "task_options={train_size: 8, eval_size: 2}"
SHORT = ("prompts=2", "trainer.num_generations=2", "trainer.per_device_train_batch_size=4", "trainer.max_steps=1")


def model(folder: Path, template: str | None) -> Path:
    tiny.model().save_pretrained(folder)
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return folder


def words(command: str, place: Path, out: Path, options: str) -> list[str]:
    if command == "eval":
        return ["eval", str(place), "--task", "gym:chain_sum", options, "evaluation.samples=0"]
    dry = ["--dry-run"] if command == "dry" else []
    return ["train", "tiny", f"model={place}", "task=gym:chain_sum", options, *SHORT, "--out", str(out), *dry]


@pytest.mark.parametrize("command", ["train", "dry", "eval"])
@pytest.mark.parametrize(
    ("template", "options", "says"),
    [
        (NO_SYSTEM + CHAT_TEMPLATE, SYSTEM, "refuses messages of the roles system, user (System role not supported)"),
        (None, PLAIN, "has no chat template"),
    ],
)
def test_a_template_that_refuses_the_prompts_is_named(
    command: str, template: str | None, options: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = model(tmp_path / "model", template)
    assert cli.run(words(command, place, tmp_path / "runs", options)) == 2
    said = capsys.readouterr()
    assert says in said.err
    assert "chain_sum asks in chats" in said.err
    assert len([line for line in said.err.splitlines() if line.startswith("tpo: ")]) == 1
    assert "step 1" not in said.out
    assert not Folder(tmp_path / "runs" / "llm" / "tiny-tpo").metrics.exists()


def test_without_that_role_it_is_taken(tmp_path: Path) -> None:
    place = model(tmp_path / "model", NO_SYSTEM + CHAT_TEMPLATE)
    assert cli.run(words("eval", place, tmp_path, PLAIN)) == 0
