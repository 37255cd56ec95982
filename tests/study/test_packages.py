"""A package of somebody else adds an experiment and a command to `tpo`, from a distribution made for the test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

METADATA = "Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
# The module of the chapter on studies, section "An experiment of your own".
CHAPTER = (Path(__file__).parents[2] / "spec" / "study.md").read_text(encoding="utf-8")
MODULE = CHAPTER.split("```python\n# walks.py\n")[1].split("```")[0]
COMMAND = """

def greet(name: str = "world") -> int:
    '''Greet somebody.'''
    print(f"hello {name}")
    return 0
"""


def install(folder: Path, name: str, module: str, points: str) -> None:
    """A distribution as an installer leaves it: a module, and a folder of metadata with entry points."""
    (folder / f"{name}.py").write_text(module, encoding="utf-8")
    metadata = folder / f"{name}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(METADATA.format(name=name), encoding="utf-8")
    (metadata / "entry_points.txt").write_text(points, encoding="utf-8")


def tpo(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`tpo` in a process of its own that finds the distributions of a folder beside those installed."""
    path = os.pathsep.join([str(folder), *sys.path])
    program = "import sys; from tpo_ref.study.cli.main import main; main(sys.argv[1:])"
    return subprocess.run(
        [sys.executable, "-c", program, *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        encoding="utf-8",
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    own = tmp_path_factory.mktemp("package")
    points = "[tpo.experiments]\nwalks = walks:CATALOGUE\n\n[tpo.commands]\ngreet = walks:greet\n"
    install(own, "walks", MODULE + COMMAND, points)
    return own


def test_its_experiment_is_listed_behind_ours(folder: Path) -> None:
    answer = tpo(folder, "list", "--json")
    assert answer.returncode == 0, answer.stderr
    names = [entry["id"] for entry in json.loads(answer.stdout)]
    assert names.index("tabular-single") < names.index("walks")


def test_its_experiment_runs_and_is_tabled_drawn_compared_and_judged(folder: Path) -> None:
    table = tpo(folder, "table", "walks", "--scale", "smoke")
    assert table.returncode == 0, table.stderr
    assert "steady" in table.stdout
    assert "Hesitant walk" in table.stdout
    figure = tpo(folder, "figure", "walks", "--scale", "smoke", "--json")
    assert figure.returncode == 0, figure.stderr
    assert (folder / json.loads(figure.stdout)[0]).stat().st_size > 0
    compared = tpo(folder, "compare", "walks/steady", "walks/hesitant", "--scale", "smoke")
    assert compared.returncode == 0, compared.stderr
    judged = tpo(folder, "verify", "walks", "--scale", "smoke")
    assert judged.returncode == 0, judged.stderr
    assert "1 holds" in judged.stdout


def test_its_command_runs_and_shows_in_the_help(folder: Path) -> None:
    answer = tpo(folder, "greet", "--name", "you")
    assert (answer.returncode, answer.stdout) == (0, "hello you\n"), answer.stderr
    assert "Greet somebody." in tpo(folder, "--help").stdout


@pytest.mark.parametrize(
    ("module", "points", "words"),
    [
        ("CATALOGUE = 3", "[tpo.experiments]\nodd = odd:CATALOGUE\n", ("odd:CATALOGUE", "int", "Catalogue")),
        ("", "[tpo.experiments]\nodd = odd:CATALOGUE\n", ("odd:CATALOGUE", "cannot be loaded", "uninstall")),
        ("import nowhere", "[tpo.experiments]\nodd = odd:CATALOGUE\n", ("nowhere", "cannot be loaded", "uninstall")),
        ("import nowhere", "[tpo.commands]\nodd = odd:main\n", ("nowhere", "cannot be loaded", "uninstall")),
        (MODULE.replace('id="walks"', 'id="needle"'), "[tpo.experiments]\nodd = odd:CATALOGUE\n", ("needle", "rename")),
        ("def list_(): ...", "[tpo.commands]\nlist = odd:list_\n", ("list", "rename")),
    ],
    ids=["no catalogue", "no such name", "a failing import", "a failing command", "an id of ours", "a command of ours"],
)
def test_a_broken_package_is_named_with_the_remedy(tmp_path: Path, module: str, points: str, words: list[str]) -> None:
    install(tmp_path, "odd", module, points)
    answer = tpo(tmp_path, "list")
    assert answer.returncode == 2
    assert answer.stderr.startswith("tpo: ")
    assert "Traceback" not in answer.stderr
    assert all(word in answer.stderr for word in words), answer.stderr


def test_a_suite_whose_member_nobody_brings_is_named(tmp_path: Path) -> None:
    module = MODULE + '\nfrom tpo_ref.study.protocol import Suite\nLOST = Suite("lost", "Lost", "ours", ("wlaks",))\n'
    module += "CATALOGUE = Catalogue(experiments=(WALKS,), suites=(LOST,))\n"
    install(tmp_path, "odd", module, "[tpo.experiments]\nodd = odd:CATALOGUE\n")
    answer = tpo(tmp_path, "list")
    assert answer.returncode == 2
    assert "member of suite lost: got 'wlaks'" in answer.stderr
    assert "walks" in answer.stderr


def test_a_library_that_is_missing_is_installed_by_its_own_name(tmp_path: Path) -> None:
    module = MODULE.replace('score="error",', 'score="error", extra="nolibrary",')
    install(tmp_path, "odd", module, "[tpo.experiments]\nodd = odd:CATALOGUE\n")
    answer = tpo(tmp_path, "run", "walks", "--scale", "smoke")
    assert answer.returncode == 2
    assert "run: pip install nolibrary\n" in answer.stderr


def test_results_of_a_library_are_not_said_to_be_of_other_code(tmp_path: Path) -> None:
    module = MODULE.replace('score="error",', 'score="error", extra="hypothesis",')
    install(tmp_path, "odd", module, "[tpo.experiments]\nodd = odd:CATALOGUE\n")
    answer = tpo(tmp_path, "table", "walks", "--scale", "smoke", "--json")
    assert (answer.returncode, answer.stderr) == (0, "")
    assert "hypothesis" in json.loads(answer.stdout)[0]["judged_by"]["versions"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (('{"error": np.stack(walks)}', "None"), ("walks/steady", "NoneType", "mapping")),
        (('{"error": np.stack(walks)}', '{"eror": np.stack(walks)}'), ("walks/steady", "eror", "expected error")),
        (("np.stack(walks)}", "np.stack(walks)[1:]}"), ("walks/steady: error", "(19, 100)", "20 seeds")),
        (("np.stack(walks)}", "np.stack(walks) + 1j}"), ("walks/steady: error", "complex128", "real numbers")),
        (('id="walks"', 'id="../walks"'), ("'../walks'", "names a folder")),
        (("import numpy as np\n", "import numpy as np\n\n1 / 0\n"), ("ZeroDivisionError", "mend or uninstall")),
    ],
    ids=["nothing", "another name", "a seed too few", "complex", "an id outside", "a module that fails"],
)
def test_what_a_package_does_wrong_is_refused_before_anything_is_stored(
    tmp_path: Path, change: tuple[str, str], words: tuple[str, ...]
) -> None:
    assert change[0] in MODULE
    install(tmp_path, "odd", MODULE.replace(*change), "[tpo.experiments]\nodd = odd:CATALOGUE\n")
    answer = tpo(tmp_path, "run", "walks", "--scale", "smoke", "--methods", "steady")
    assert answer.returncode == 2
    assert all(word in answer.stderr for word in words), answer.stderr
    assert "Traceback" not in answer.stderr
    assert not list(tmp_path.rglob("*.npz"))
