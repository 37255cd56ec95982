"""Whatever a terminal, a notebook or a system hands down, commands do what they do elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tpo_ref.study import drawing
from tpo_ref.study.cli import commands, words

ROOT = Path(__file__).parents[2]


def tpo(*arguments: str, **variables: str | None) -> subprocess.CompletedProcess[str]:
    """Run the command line as a shell does, with variables set, or unset where None."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | variables
    return subprocess.run(
        [sys.executable, "-m", "tpo_ref.study.cli.main", *arguments],
        capture_output=True,
        env={name: value for name, value in environment.items() if value is not None},
        encoding="latin-1",
        check=False,
    )


FIGURE = ("figure", "needle", "--scale", "smoke")


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the results of an experiment, computed once."""
    out = tmp_path_factory.mktemp("stored")
    done = tpo("run", "needle", "--scale", "smoke", "--out", str(out))
    assert done.returncode == 0, done.stderr
    return out


def test_a_notebooks_backend_and_a_users_style_change_no_picture(stored: Path, tmp_path: Path) -> None:
    style = tmp_path / "matplotlibrc"
    style.write_text("text.usetex: True\nfont.size: 30\nsavefig.dpi: 20\naxes.facecolor: red\n", encoding="utf-8")
    unreadable = tmp_path / "unreadable"
    unreadable.write_bytes(b"font.family: \xff\n")
    plain = tpo(*FIGURE, "--out", str(stored), MPLBACKEND=None)
    assert plain.returncode == 0, plain.stderr
    picture = stored / "figures" / "needle-smoke.png"
    before = picture.read_bytes()
    for backend, own in (("module://matplotlib_inline.backend_inline", style), ("nonsense", unreadable)):
        done = tpo(*FIGURE, "--out", str(stored), MPLBACKEND=backend, MATPLOTLIBRC=str(own))
        assert done.returncode == 0, done.stderr
        assert picture.read_bytes() == before


def test_a_style_that_is_set_already_is_put_back() -> None:
    drawing.mpl.rcParams["font.size"] = 31
    try:
        with drawing.look():
            assert drawing.mpl.rcParams["font.size"] == drawing.LOOK["font.size"]
        assert drawing.mpl.rcParams["font.size"] == 31
    finally:
        drawing.mpl.rcdefaults()


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_letters_that_cannot_be_written_are_replaced(encoding: str, tmp_path: Path) -> None:
    done = tpo("run", "needle", "--scale", "smoke", "--out", str(tmp_path / "ρ"), PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    assert tpo("run", "ηη", PYTHONIOENCODING=encoding).returncode == 2


def test_a_user_without_a_home_runs_and_is_told_where_one_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tpo("list", HOME=None).returncode == 0
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(ValueError, match="found no home folder for ~/x; write the whole path"):
        words.at_home(["--out=~/x"])


@pytest.mark.parametrize(
    ("word", "expanded"),
    [
        ("~/x", "HOME/x"),
        ("--out=~/x", "--out=HOME/x"),
        ("model=~/x", "model=HOME/x"),
        ("~", "HOME"),
        # Null, to YAML.
        ("warmup=~", "warmup=~"),
        ("a~/b", "a~/b"),
        ("--out=/x/lr=~", "--out=/x/lr=~"),
        ("x={a: ~/b}", "x={a: ~/b}"),
    ],
)
def test_home_is_found_where_a_shell_leaves_it(word: str, expanded: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/h")
    assert words.at_home([word]) == [expanded.replace("HOME", "/h")]


def test_an_equals_sign_in_an_options_own_word_makes_no_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = SimpleNamespace()

    def train(out: str = "", overrides: tuple[str, ...] = ()) -> int:
        seen.out, seen.overrides = out, overrides
        return 0

    given = ["train", "--out", "/x/lr=1e-3", "a=1", "--out2=b=2"]
    assert commands.arrange(given, {"train": train}) == ["train", "--out", "/x/lr=1e-3", "--out2=b=2", "a=1"]
    assert commands.run(["train", "tiny", "trainer.max_steps=0", "--out", str(tmp_path / "lr=1e-3")]) == 2
    assert "max_steps: got 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    "variables",
    [
        {"TERM": "dumb", "COLUMNS": "0", "NO_COLOR": "1", "TZ": "nonsense"},
        {"COLUMNS": "1", "LANG": "tr_TR.UTF-8", "OMP_NUM_THREADS": "many", "PYTHONOPTIMIZE": "2"},
        {"PYTHONWARNINGS": "error", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
)
def test_odd_surroundings_end_no_command(variables: dict[str, str], stored: Path) -> None:
    done = tpo("table", "needle", "--scale", "smoke", "--out", str(stored), **variables)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


# A run that says what it does, and then leaves its result.
RUN = """
import sys
from pathlib import Path
from tpo_ref.study.cli import main
def run(arguments):
    for step in range(3):
        print(f"step {step}", flush=True)
        print("ρ", file=sys.stderr)
    Path(arguments[0]).write_text("done", encoding="utf-8")
    return 0
main._run = run
main.main()
"""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize(
    ("redirections", "code", "says"),
    [
        ("> /dev/full", 2, ["tpo: standard output: No space left on device; the rest of it is lost"]),
        ("| true", 0, []),
        (">&-", 0, []),
        ("<&- >&- 2>&-", 0, []),
        ("2> /dev/full", 0, []),
    ],
)
def test_output_that_goes_nowhere_ends_no_run(redirections: str, code: int, says: list[str], tmp_path: Path) -> None:
    place = tmp_path / "result"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f'"$@" {redirections}', "bash", sys.executable, "-c", RUN, place],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert (done.returncode, place.read_text(encoding="utf-8")) == (code, "done")
    assert [line for line in done.stderr.splitlines() if line != "?"] == says


def test_a_table_for_nobody_is_no_error() -> None:
    script = ["bash", "-c", '"$@" >&-', "bash", sys.executable, "-m", "tpo_ref.study.cli.main", "list"]
    done = subprocess.run(script, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_folder_that_is_gone_and_code_without_docstrings_are_named(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    start = f'cd {gone}; rmdir {gone}; "$@" train tiny; "$@" list > /dev/null; PYTHONOPTIMIZE=2 "$@" eval m'
    script = ["bash", "-c", start, "bash", sys.executable, "-m", "tpo_ref.study.cli.main"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(script, env=environment, capture_output=True, encoding="utf-8", check=False)
    first, second = done.stderr.splitlines()
    assert first == "tpo: the current folder has been deleted; change to another (cd)"
    assert second.startswith("tpo: python -OO: got code without docstrings")


def test_warnings_of_libraries_end_no_command() -> None:
    code = "import warnings; from tpo_ref.study.cli import main; main._run(['list']); warnings.warn('w', SyntaxWarning)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False)
    assert done.returncode == 0
