"""What `tpo train` refuses without a model: before a library is loaded, and by both doors in the same words."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import MISSING, replace
from pathlib import Path
from typing import Any

import pytest
from helpers import tiny_llm

from tpo_ref.study import files
from tpo_ref.study.cli import commands as cli
from tpo_ref.study.cli.main import INTERRUPTED
from tpo_torch.llm.fields import COMPUTED, class_fields
from tpo_torch.llm.program import plan
from tpo_torch.llm.program.record import FORMAT
from tpo_torch.llm.program.settings import reading, upstream
from tpo_torch.llm.program.settings.sections import RunSettings
from tpo_torch.llm.program.settings.upstream import GRPO_CONFIG, LORA_CONFIG, TPO_CONFIG, Configuration

pytestmark = tiny_llm.FILTERS

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "trl", "accelerate", "peft", "datasets", "reasoning_gym")

# Each case goes through both doors of one process; after each door the libraries loaded so far are noted.
PROGRAM = """
import contextlib, io, json, os, runpy, sys
from tpo_ref.study.cli.main import main

def door(enter):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            enter()
            code = 0
        except SystemExit as stop:
            code = stop.code
    return [code, out.getvalue(), err.getvalue(), [name for name in HEAVY if name in sys.modules]]

def launched(arguments):
    sys.argv = ["train.py", *arguments]
    runpy.run_module("tpo_torch.llm.train", run_name="__main__", alter_sys=True)

results = []
for environment, arguments in CASES:
    os.environ.update(environment)
    results.append([door(lambda: main(["train", *arguments])), door(lambda: launched(arguments))])
    for name in environment:
        del os.environ[name]
print(json.dumps(results))
"""

FOUR: dict[str, str] = {"WORLD_SIZE": "4"}
# Environment, arguments, and what the message says.
CASES: list[tuple[dict[str, str], list[str], str]] = [
    ({}, ["tny"], "did you mean 'tiny'"),
    ({}, ["broken.yaml"], "is not YAML"),
    ({}, ["absent.yaml"], "is not there"),
    ({}, ["tiny", "trainr.max_steps=3"], "did you mean 'trainer'"),
    ({}, ["tiny", "trainer.lerning_rate=1"], "did you mean 'learning_rate'"),
    ({}, ["tiny", "tpo.anker=ratio"], "did you mean 'anchor'"),
    ({}, ["tiny", "lora.rank=3"], "lora: got 'rank'"),
    ({}, ["tiny", "trainer.max_steps=1.5"], "expected an int"),
    ({}, ["tiny", "learning_rate"], "expected key=value"),
    ({}, ["tiny", "trainer.seed=1"], "it is the run's"),
    ({}, ["tiny", "tpo.loss_type=grpo"], "which TPO does not take"),
    ({}, ["tiny", "trainer.epsilon=0.3"], "TPO clips nothing"),
    ({}, ["tiny", "tpo.eta=-1"], "tpo: tpo.eta: got -1"),
    ({}, ["tiny", "tpo.anchor=rato"], "tpo: tpo.anchor: got 'rato'"),
    ({}, ["tiny", "trainer.eta=-1"], "tpo: trainer.eta: got -1"),
    ({}, ["tiny", "tpo.loss_type=grop"], "tpo: tpo.loss_type: got 'grop', which TPO does not take"),
    ({}, ["tiny", "trainer.vespo_k_pos=1.0"], "trainer.vespo_k_pos: got 1.0, which TPO does not take"),
    ({}, ["tiny", "prompts=3"], "cannot be cut into micro-batches"),
    (FOUR, ["tiny", "prompts=3", "trainer.per_device_train_batch_size=8"], "on 4 processes"),
    ({}, ["tiny", "trainer.steps_per_generation=3"], "Leave out trainer.steps_per_generation"),
    ({}, ["tiny", "trainer.generation_batch_size=3"], "expected a multiple of 64"),
    (FOUR, ["tiny", "processes=2"], "is made for 2, got 4"),
    ({}, ["tiny", "--resume", "--fresh"], "expected one of them"),
    ({}, ["tiny", "name=other"], "holds a run with other settings"),
    ({}, ["tiny", "name=half"], "holds an unfinished run"),
    ({}, ["tiny", "name=strange"], "got no settings of a run"),
    ({}, ["tiny", "task=gsm9k"], "did you mean 'gsm8k'"),
    ({}, ["tiny", "task=gsm8k", "task_options.train_sise=3"], "did you mean 'train_size'"),
    ({}, ["tiny", "task=gym:chain_summ"], "did you mean 'chain_sum'"),
    ({}, ["tiny", "task_options.num_colours=3"], "did you mean 'num_colors'"),
    ({}, ["tiny", "task=knights_knaves", "task_options.n_peopel=3"], "did you mean 'n_people'"),
    ({}, ["tiny", "task=gym:chain_sum", "task_options.size=3"], "or 'train_size'"),
    ({}, ["tiny", "task=gym:countdown"], "executes the answer"),
    ({}, ["tiny", "task=absent.py"], "no such file"),
    ({}, ["tiny", "method=ppo"], "method: got 'ppo'"),
    ({}, ["tiny", "accelerate=fsdp3"], "did you mean 'fsdp2'"),
    ({}, ["tiny", "model=/nowhere/at/all"], "which is no folder"),
    ({}, ["tiny", "model=."], "expected a config.json"),
    ({}, ["tiny", "--out", "/proc/nowhere"], "choose a writable folder"),
    ({}, ["tiny", "--resume", "name=typo"], "typo-tpo: got --resume, but holds no run; leave --resume out"),
    ({}, ["tiny", "--dry-run", "trainer.max_stepz=3"], "did you mean 'max_steps'"),
]
# The parser's own messages, which it prints in a frame.
PARSED = [(["--help"], "CONFIG", 0), (["tiny", "--method", "ppo"], "ppo", 2), ([], "CONFIG", 2)]


def folder_of_run(path: Path, settings: dict[str, Any]) -> None:
    path.mkdir(parents=True)
    files.write_sealed(path / "run.json", {"format": FORMAT, "state": "running", "settings": settings})
    (path / "metrics.jsonl").write_text("", encoding="utf-8")


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> list[list[tuple[int, str, str, list[str]]]]:
    """Exit code, output, error and libraries loaded so far, of each door, for each of CASES and PARSED."""
    place = tmp_path_factory.mktemp("refusals")
    (place / "broken.yaml").write_text("a: [1", encoding="utf-8")
    runs = place / "runs" / "llm"
    folder_of_run(runs / "other-tpo", reading.load("tiny", ["name=other", "prompts=64"]).plain())
    folder_of_run(runs / "half-tpo", reading.load("tiny", ["name=half"]).plain())
    folder_of_run(runs / "strange-tpo", {})
    cases = [(environment, arguments) for environment, arguments, _ in CASES]
    cases += [({}, arguments) for arguments, _, _ in PARSED]
    source = f"HEAVY, CASES = {HEAVY!r}, {cases!r}\n{PROGRAM}"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{source}"],
        capture_output=True,
        text=True,
        check=False,
        cwd=place,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    return [[tuple(door) for door in doors] for doors in json.loads(done.stdout)]


@pytest.mark.parametrize("number", range(len(CASES)), ids=[" ".join(arguments) for _, arguments, _ in CASES])
def test_refused_in_one_line_before_a_library_is_loaded(number: int, refusals: list[Any]) -> None:
    says = CASES[number][2]
    for code, out, err, loaded in refusals[number]:
        assert (code, out) == (2, "")
        assert says in err
        assert err.startswith("tpo: ")
        assert loaded == []


@pytest.mark.parametrize("number", range(len(CASES) + len(PARSED)))
def test_both_doors_say_the_same(number: int, refusals: list[Any]) -> None:
    command, launched = refusals[number]
    assert command == launched


@pytest.mark.parametrize("number", range(len(PARSED)))
def test_the_parser_answers_at_both_doors_without_torch(number: int, refusals: list[Any]) -> None:
    _, says, expected = PARSED[number]
    for code, out, err, loaded in refusals[len(CASES) + number]:
        assert code == expected
        assert says in out + err
        assert loaded == []


# -- fields read from sources ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("configuration", [GRPO_CONFIG, TPO_CONFIG, LORA_CONFIG], ids=lambda c: str(c.name))
def test_fields_read_from_the_source_are_those_of_the_class(configuration: Configuration) -> None:
    read, true = upstream.source_fields(configuration), class_fields(upstream.imported(configuration))
    assert set(read) == set(true)
    for name, field in read.items():
        assert field.type == true[name].type, name
        assert field.default in (true[name].default, COMPUTED), name
        assert type(field.default) is type(true[name].default) or field.default is COMPUTED, name
    computed = [name for name, field in read.items() if field.default is COMPUTED]
    # Few defaults are no literals: an enumeration, a factory, a name of ours.
    assert len(computed) < len(read) / 10


@pytest.mark.parametrize(
    "change",
    [
        {"package": "no_such_package"},
        {"file": "trainer/no_such_file.py"},
        {"name": "NoSuchClass"},
        {"base": "AnotherBase"},
    ],
)
def test_a_source_that_is_not_as_expected_leads_to_the_class(change: dict[str, str]) -> None:
    *bases, last = GRPO_CONFIG.sources
    strange = replace(GRPO_CONFIG, sources=(*bases, replace(last, **change)))
    with pytest.raises(upstream.UnexpectedSource):
        upstream.source_fields(strange)
    assert upstream.fields_of(strange) == class_fields(upstream.imported(GRPO_CONFIG))


def test_a_default_that_the_source_computes_is_that_of_the_class() -> None:
    assert upstream.default_of(TPO_CONFIG, "loss_type") == upstream.imported(TPO_CONFIG).loss_type
    assert upstream.default_of(GRPO_CONFIG, "num_generations") == upstream.imported(GRPO_CONFIG).num_generations


SOURCE = """
@dataclass
class Base:
    a: int = 1
    gone: int = 2

@dataclass
class Own(Base):
    constant = 3
    shared: ClassVar[int] = 4
    gone: int = field(init=False, default=5)
    a: Optional[float] = field(default=None)
    needed: "str"
    listed: Literal["on", False] | str = dataclasses.field(default_factory=str)
"""


def test_every_way_to_write_a_field_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "written").mkdir()
    (tmp_path / "written" / "__init__.py").write_text("raise AssertionError('imported')", encoding="utf-8")
    (tmp_path / "written" / "own.py").write_text(SOURCE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    sources = tuple(upstream.ClassSource("written", "own.py", *names) for names in (("Base", None), ("Own", "Base")))
    fields = upstream.source_fields(Configuration("written.own", "Own", sources))
    assert list(fields) == ["a", "needed", "listed"]
    assert fields["a"].default is None
    assert fields["needed"].default is MISSING
    assert fields["listed"].default is COMPUTED
    assert fields["listed"].type.truth
    assert fields["listed"].type.more


def test_arguments_left_out_have_the_defaults_of_the_class() -> None:
    settings = RunSettings("x", "tiny", "gsm8k", trainer={"num_generations": 4})
    assert settings.argument("num_generations") == 4
    assert settings.argument("num_iterations") == upstream.imported(TPO_CONFIG).num_iterations


@pytest.mark.parametrize(("rank", "lines"), [(None, 1), ("0", 1), ("1", 0)])
def test_only_the_first_process_reports_an_interruption(
    rank: str | None, lines: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr(plan, "check", interrupted)
    assert cli.run(["train", "tiny"]) == INTERRUPTED
    assert capsys.readouterr().err.count("--resume goes on from the last checkpoint\n") == lines
