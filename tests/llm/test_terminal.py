"""What a run shows while it goes on: a line for each step, on terminals a bar, and never an error of encoding."""

from __future__ import annotations

import io
import re
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import tiny_llm
from hypothesis import given
from hypothesis import strategies as st

from tpo_ref.study.cli import commands as cli
from tpo_ref.study.cli import main, show
from tpo_torch.llm.program import callbacks, plan, run
from tpo_torch.llm.program.callbacks import Progress
from tpo_torch.llm.program.display import PAUSE, Lines, Silent
from tpo_torch.llm.program.settings import reading

pytestmark = tiny_llm.FILTERS

# Completions of an optimizer step in the runs below.
ROWS = 8


@dataclass
class Recorder:
    """A display that keeps what it is shown."""

    lines: list[str] = field(default_factory=list)
    steps: list[tuple[str, int, int]] = field(default_factory=list)
    parts: list[tuple[str, int, int]] = field(default_factory=list)

    def say(self, line: str) -> None:
        self.lines.append(line)

    def step(self, text: str, done: int, total: int) -> None:
        self.steps.append((text, done, total))

    def part(self, name: str, done: int, total: int) -> None:
        self.parts.append((name, done, total))


def figure(name: str, text: str) -> float:
    found = re.search(rf"{name} ([\d.]+)", text) or re.search(rf"([\d.]+)%? {name}", text)
    assert found is not None, text
    return float(found[1])


@given(
    rewards=st.lists(st.lists(st.floats(0, 1), max_size=3), min_size=2, max_size=8).filter(lambda x: bool(x[0])),
    resumed=st.integers(0, 50),
    seconds=st.integers(1, 9000),
    left=st.integers(0, 30),
    every=st.integers(1, 5),
)
def test_each_step_shows_its_own_figures_however_often_the_trainer_logs(
    rewards: list[list[float]], resumed: int, seconds: int, left: int, every: int
) -> None:
    """`rewards` holds, for each step, those of the rounds of generation that it began."""
    now = 0.0
    metrics: dict[str, list[float]] = defaultdict(list)
    # What a checkpoint kept of steps that had not been logged.
    metrics["reward"], metrics["completions/mean_length"] = [99.0], [99.0]
    recorder = Recorder()
    progress = Progress(SimpleNamespace(_metrics={"train": metrics}), recorder, lambda: now)
    arguments = SimpleNamespace(
        world_size=2,
        per_device_train_batch_size=ROWS // 4,
        gradient_accumulation_steps=2,
        generation_batch_size=ROWS,
        max_completion_length=7,
    )
    state = SimpleNamespace(global_step=resumed, max_steps=resumed + len(rewards) + left)
    last: list[float] = []
    for number, begun in enumerate(rewards):
        progress.on_step_begin(arguments, state, None)
        metrics["reward"] += begun
        metrics["completions/mean_length"] += [3.0] * len(begun)
        metrics["group/zero_variance"] += [0.25]
        now += seconds
        state.global_step += 1
        progress.on_step_end(arguments, state, None)
        last = begun or last
        text, done, total = recorder.steps[-1]
        assert (done, total) == (state.global_step, state.max_steps)
        assert figure("reward", text) == pytest.approx(sum(last) / len(last), abs=6e-4)
        assert figure("groups with signal", text) == 75
        assert figure("tokens/s", text) == pytest.approx(ROWS * 3 / seconds, abs=0.51)
        assert text.endswith(f"{callbacks.duration((total - done) * seconds)} left")
        if number % every == 0:
            metrics.clear()
    assert recorder.lines == [
        f"step {resumed + 1} of {state.max_steps}: generating {ROWS} completions of at most 7 tokens, "
        "then training on them"
    ]


def test_speed_is_that_of_the_last_steps() -> None:
    now = 0.0
    recorder = Recorder()
    progress = Progress(SimpleNamespace(_metrics={"train": {}}), recorder, lambda: now)
    arguments = SimpleNamespace(
        world_size=1,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=1,
        generation_batch_size=1,
        max_completion_length=1,
    )
    state = SimpleNamespace(global_step=0, max_steps=1000)
    for seconds in [100] * callbacks.WINDOW + [2] * callbacks.WINDOW:
        progress.on_step_begin(arguments, state, None)
        now += seconds
        state.global_step += 1
        progress.on_step_end(arguments, state, None)
    assert figure("steps/s", recorder.steps[-1][0]) == 0.5


def micro(out: Path, *overrides: str, **options: Any) -> Recorder:
    recorder = Recorder()
    settings = reading.load("tiny", (*tiny_llm.MICRO, *overrides))
    run.train(plan.prepare(settings, out, **options), recorder)
    return recorder


def test_a_run_shows_every_step_and_goes_on_at_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    every = micro(tmp_path / "every")
    real = callbacks.Evaluation.on_step_end

    def stopped(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 2:
            raise KeyboardInterrupt
        real(self, args, state, control, **kwargs)

    seldom = ("trainer.logging_steps=2", "evaluation.every=50")
    with monkeypatch.context() as patch:
        patch.setattr(callbacks.Evaluation, "on_step_end", stopped)
        with pytest.raises(KeyboardInterrupt):
            micro(tmp_path / "seldom", *seldom)
    resumed = micro(tmp_path / "seldom", *seldom, resume=True)
    assert [step[1:] for step in every.steps] == [(1, 3), (2, 3), (3, 3)]
    assert [step[1:] for step in resumed.steps] == [(2, 3), (3, 3)]
    assert any(line.startswith("step 2 of 3: generating 8 completions") for line in resumed.lines)
    # Nothing of a step depends on how often it is logged, or on a resume.
    assert [figure("reward", text) for text, *_ in every.steps[1:]] == [
        figure("reward", text) for text, *_ in resumed.steps
    ]
    # What takes long is said before it begins.
    said = [line.split()[0] for line in every.lines]
    assert said.index("warm-up:") < said.index("loading") < said.index("step")
    # Five prompts, answered once greedily and twice by sampling.
    evaluations = [part[1:] for part in every.parts if part[0].startswith("evaluation")]
    assert evaluations == [(5, 15), (10, 15), (15, 15)] * 3


def test_a_resume_before_the_first_checkpoint_says_that_it_begins_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = reading.load("tiny", tiny_llm.MICRO)
    plan.prepare(settings, Path("runs")).folder.begin(settings, "", fresh=False)
    monkeypatch.setattr(run, "train", lambda plan, display: None)
    assert cli.run(["train", "tiny", *tiny_llm.MICRO, "--resume"]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first == "runs/llm/micro-tpo: holds no whole checkpoint yet; the run begins again"


@pytest.mark.parametrize(("rank", "kind"), [("0", Lines), ("1", Silent)])
def test_only_the_first_process_shows_anything(
    rank: str, kind: type, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[Any] = []
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr(run, "train", lambda plan, display: seen.append(display))
    assert cli.run(["train", "tiny", *tiny_llm.MICRO, "--out", str(tmp_path)]) == 0
    assert [type(display) for display in seen] == [kind]
    assert bool(capsys.readouterr().out) == (rank == "0")


def test_a_pipe_gets_a_line_for_each_step_and_few_for_parts() -> None:
    now, lines = 0.0, []
    display = Lines(lines.append, lambda: now)
    display.step("reward 1", 1, 9)
    for done in range(1, 101):
        now += PAUSE / 10
        display.part("evaluation", done, 100)
    assert lines[0] == "step 1/9  reward 1"
    assert lines[1:] == [f"evaluation: {done}/100" for done in range(10, 100, 10)]


class Terminal(io.TextIOWrapper):
    """A terminal of an encoding that knows few letters."""

    def __init__(self, errors: str) -> None:
        self.bytes = io.BytesIO()
        super().__init__(self.bytes, encoding="latin-1", errors=errors)

    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_in_whatever_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    terminal = Terminal("replace")
    with show.bar(terminal) as bar:
        assert bar is not None
        bar.say("loading [b]η[/b]")
        bar.part("evaluation", 1, 2)
        bar.part("evaluation", 2, 2)
        bar.step("reward 0.500", 3, 9)
    terminal.flush()
    shown = terminal.bytes.getvalue().decode("latin-1")
    assert "loading [b]?[/b]" in shown
    assert re.search(r"step .*3/9.*reward 0.500", shown)
    with show.bar(io.StringIO()) as nothing:
        assert nothing is None


def test_letters_that_the_output_lacks_end_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    output = Terminal("strict")
    monkeypatch.setenv("GOMP_SPINCOUNT", main.SPINS)
    monkeypatch.setattr(sys, "stdout", output)
    assert main._main(["train", "no-such-configuration"]) == cli.USAGE_ERROR
    print("τ ≥ 0", file=output, flush=True)
    assert output.bytes.getvalue() == b"? ? 0\n"
