"""The command line, driven as a user would: every command, as tables and as json, and what it says to mistakes."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import toy
from helpers.processes import without

from tpo_ref.study import claims, registry
from tpo_ref.study.cli import commands, demo
from tpo_ref.study.errors import Unavailable
from tpo_ref.study.protocol import Panel, Suite

# Two toys, of which the second has one method less, and an anchor.
OTHER = dataclasses.replace(
    toy.TOY,
    id="toys-other",
    methods=("tpo",),
    claims=lambda: toy.TOY.claims()[:1],
    health=(Panel("error", "health"),),
    statistics=("auc", "steps", "solved"),
    published={"steps": {"tpo": "23"}},
    aliases={},
)
TOYS = Suite(
    id="toys",
    title="Two toys",
    paper="none",
    members=("toy", "toys-other"),
    statistics=("steps", "solved"),
    labels=("first", "second"),
    claims=lambda: (claims.better("toys-other/tpo", "toy/pg", "error", "toy", ("paper",)),),
)


@pytest.fixture(autouse=True)
def _only_the_toy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(registry, "EXPERIMENTS", {"toy": toy.TOY})
    monkeypatch.setattr(registry, "SUITES", {})
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def _two_toys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "EXPERIMENTS", {"toy": toy.TOY, "toys-other": OTHER})
    monkeypatch.setattr(registry, "SUITES", {"toys": TOYS})


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = commands.run(list(arguments))
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_list_names_every_experiment_and_its_cost(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "list", "--json")
    assert code == 0
    assert json.loads(out)[0]["scales"]["paper"] == {"seeds": 5, "cost": "none"}
    assert "toy" in call(capsys, "list")[1]


def test_run_stores_and_reports(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = call(capsys, "run", "toy", "--scale", "smoke", "--seeds", "2", "--methods", "tpo", "--json")
    assert code == 0
    report = json.loads(out)["toy"]
    assert [m["method"] for m in report["methods"]] == ["tpo"]
    assert report["methods"][0]["seeds"] == 2
    assert len(list((tmp_path / "runs" / "toy").glob("tpo-*.npz"))) == 1


@pytest.mark.parametrize("command", ["run", "table", "figure", "verify", "compare"])
def test_a_record_altered_by_hand_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str
) -> None:
    names = ["toy/tpo", "toy/pg"] if command == "compare" else ["toy"]
    assert call(capsys, "run", "toy", "--scale", "smoke")[0] == 0
    (record,) = (tmp_path / "runs" / "toy").glob("tpo-*.json")
    record.write_text(json.dumps({**json.loads(record.read_text(encoding="utf-8")), "seconds": -1.0}), encoding="utf-8")
    code, out, err = call(capsys, command, *names, "--scale", "smoke")
    assert (code, out) == (commands.USAGE_ERROR, "")
    assert f"{record.relative_to(tmp_path)}: altered since it was written" in err
    assert err.count("\n") == 1


def test_table_shows_ours_beside_the_published(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "table", "toy", "--scale", "paper")
    assert code == 0
    assert "TPO has the smallest area" in out
    assert "10 to 14" in out


def test_figure_writes_the_picture_it_names(capsys: pytest.CaptureFixture[str]) -> None:
    for suffix, magic in {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}.items():
        code, out, _ = call(capsys, "figure", "toy", "--scale", "paper", "--format", suffix, "--json")
        assert code == 0
        assert Path(json.loads(out)[0]).read_bytes().startswith(magic)


def test_verify_fails_when_a_claim_fails(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    code, out, _ = call(capsys, "verify", "--scale", "paper", "--save", "saved")
    assert code == 0
    assert "2 holds, 0 unclear, 0 FAILS" in out
    saved = json.loads((tmp_path / "saved" / "toy.json").read_text(encoding="utf-8"))
    assert [c["verdict"] for c in saved["claims"]] == ["holds", "holds"]
    assert (tmp_path / "saved" / "toy-paper.png").exists()
    monkeypatch.setattr(registry, "EXPERIMENTS", {"toy": toy.make(accept=(20.0, 21.0))})
    code, out, err = call(capsys, "verify", "toy", "--scale", "paper", "--json")
    assert code == commands.CLAIM_FAILED
    assert json.loads(out)[0]["claims"][0]["verdict"] == "FAILS"
    assert "1 holds, 0 unclear, 1 FAILS" in err


def test_verify_of_some_methods_and_seeds_says_what_it_leaves_out(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    chosen = ("--scale", "paper", "--methods", "tpo", "--seeds", "2", "--save", "saved")
    code, out, _ = call(capsys, "verify", "toy", *chosen)
    # Two seeds leave it open, and the other claim is about both methods.
    assert code == commands.UNDECIDED
    assert "1 claims at scale paper: 0 holds, 1 unclear, 0 FAILS. 1 more not judged" in out
    assert sorted(p.name for p in (tmp_path / "saved").iterdir()) == ["toy-paper-tpo-2seeds.png", "toy-tpo-2seeds.json"]
    assert (
        json.loads((tmp_path / "saved" / "toy-tpo-2seeds.json").read_text(encoding="utf-8"))["methods"][0]["seeds"] == 2
    )


@pytest.mark.usefixtures("_two_toys")
def test_a_suite_stands_for_its_members_each_once(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "run", "toys-other", "toys", "toy", "--scale", "smoke", "--json")
    assert code == 0
    assert list(json.loads(out)) == ["toys-other", "toy"]


@pytest.mark.usefixtures("_two_toys")
def test_a_suites_members_take_the_methods_they_know(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "run", "toys", "--scale", "smoke", "--methods", "reinforce", "--json")
    assert code == 0
    assert {name: [m["method"] for m in report["methods"]] for name, report in json.loads(out).items()} == {
        "toy": ["pg"]
    }
    code, _, err = call(capsys, "run", "toys", "--scale", "smoke", "--methods", "tpp")
    assert code == commands.USAGE_ERROR
    assert "method of toy, toys-other: got 'tpp', did you mean 'tpo'" in err
    # By itself an experiment must know the method, beside a suite too.
    code, _, err = call(capsys, "run", "toys", "toys-other", "--scale", "smoke", "--methods", "pg")
    assert code == commands.USAGE_ERROR
    assert "method of toys-other: got 'pg'" in err


@pytest.mark.usefixtures("_two_toys")
def test_a_suite_may_want_some_methods_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "SUITES", {"toys": dataclasses.replace(TOYS, methods=("tpo",))})
    for names, methods in {("toys",): {"tpo"}, ("toys", "toy"): {"tpo", "pg"}}.items():
        _, out, _ = call(capsys, "run", *names, "--scale", "smoke", "--json")
        assert {m["method"] for m in json.loads(out)["toy"]["methods"]} == methods


@pytest.mark.usefixtures("_two_toys")
def test_the_table_of_a_suite_has_the_published_beside_ours(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "table", "toys", "--scale", "paper")
    assert code == 0
    # A toy falls below 1 % when its rate of 0.2 has taken it there, log(100)/0.2 = 23.03, within 5 % of a rate.
    assert "(23)" in out
    # Its last 50 steps are all 40, whose mean of about 1/(0.2·40) = .13 is not below 5 %.
    assert "0 of 5" in out
    # PG's rate is a quarter of that, and 40 steps do not do.
    assert "never" in out
    code, out, _ = call(capsys, "table", "toys", "--scale", "paper", "--json")
    report = json.loads(out)[-1]
    assert report["experiment"] == "toys"
    rows = {row["method"]: row["cells"] for row in report["tables"]["steps"]}
    assert rows["tpo"]["toys-other"]["published"] == "23"
    assert rows["tpo"]["toys-other"]["ours"]["value"] == pytest.approx(24, abs=1)
    assert rows["pg"]["toys-other"] == {"ours": None, "published": None}
    assert [claim["verdict"] for claim in report["claims"]] == ["holds"]


@pytest.mark.usefixtures("_two_toys")
def test_verify_of_a_suite_judges_across_members_and_saves_them_all(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, out, _ = call(capsys, "verify", "toys", "--scale", "paper", "--save", "saved")
    assert code == 0
    assert "4 claims at scale paper: 4 holds" in out
    assert sorted(p.name for p in (tmp_path / "saved").iterdir()) == [
        "toy-paper.png",
        "toy.json",
        "toys-other-paper-health.png",
        "toys-other-paper.png",
        "toys-other.json",
        "toys-paper.png",
        "toys.json",
    ]
    assert json.loads((tmp_path / "saved" / "toys.json").read_text(encoding="utf-8"))["members"] == [
        "toy",
        "toys-other",
    ]
    code, out, _ = call(capsys, "verify", "toys", "--scale", "paper", "--methods", "tpo", "--save", "few")
    assert "2 claims at scale paper: 2 holds, 0 unclear, 0 FAILS. 2 more not judged" in out
    assert {"toys-tpo.json", "toys-paper-tpo.png"} <= {p.name for p in (tmp_path / "few").iterdir()}


@pytest.mark.usefixtures("_two_toys")
def test_figures_of_a_suite_and_of_the_anchor(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "figure", "toys", "toy", "--scale", "smoke", "--json")
    assert code == 0
    assert [Path(p).name for p in json.loads(out)] == ["toy-smoke.png", "toys-other-smoke.png", "toys-smoke.png"]
    code, out, _ = call(capsys, "figure", "toys", "--scale", "smoke", "--health", "--json")
    assert code == 0
    assert [Path(p).name for p in json.loads(out)] == ["toys-other-smoke-health.png"]
    code, _, err = call(capsys, "figure", "toy", "--scale", "smoke", "--health")
    assert code == commands.USAGE_ERROR
    assert "expected a method with groups" in err


@pytest.mark.usefixtures("_two_toys")
def test_list_folds_what_a_suite_announces(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "list")
    assert code == 0
    # Once, as a member of the suite; and a row of its own when all are asked for.
    assert out.count("toys-other") == 1
    assert call(capsys, "list", "--all")[1].count("toys-other") == 2
    assert json.loads(call(capsys, "list", "--json")[1])[-1]["members"] == ["toy", "toys-other"]


def test_verify_says_when_nothing_is_judged(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "verify", "toy", "--scale", "smoke")
    assert code == commands.UNDECIDED
    assert "toy: no claim at scale smoke, which confirms nothing" in out
    assert out.splitlines()[-1] == "no claim at scale smoke, which confirms nothing."


def test_demo_ends_with_a_table_and_pictures(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "STEPS", (demo.Step("toy", "paper", "tpo: first step with error below 0.1"),))
    code, out, _ = call(capsys, "demo")
    assert code == 0
    assert "2 of 2" in out
    assert Path(out.strip().splitlines()[-1]).exists()


def test_demo_names_the_claims_that_do_not_hold(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "STEPS", (demo.Step("toy", "paper", ""),))
    monkeypatch.setattr(registry, "EXPERIMENTS", {"toy": toy.make(accept=(20.0, 21.0))})
    _, out, _ = call(capsys, "demo")
    assert "1 of 2" in out
    (line,) = [line for line in out.splitlines() if line.startswith("FAILS: toy, tpo: first step with error below 0.1")]
    assert line.endswith("accepted 20 to 21")


def test_demo_goes_on_without_what_is_unavailable(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_data(*_: object) -> None:
        raise Unavailable("no network; put the files into a folder")

    monkeypatch.setattr(demo, "STEPS", (demo.Step("toy", "smoke", ""),))
    monkeypatch.setattr(toy, "decay", no_data)
    code, _, err = call(capsys, "demo")
    assert code == 0
    assert "toy left out: no network" in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "tpy"], "did you mean 'toy'"),
        (["run", "toy", "--scale", "cpu"], "expected one of smoke, paper"),
        (["run"], "expected at least one of toy"),
        (["run", "toy", "--scale", "smoke", "--methods", "tpp"], "did you mean 'tpo'"),
        (["run", "toy", "--scale", "smoke", "--seeds", "0"], "seeds: got 0"),
        (["run", "toy", "--scale", "smoke", "--device", "cuda"], "device: got 'cuda'"),
        (["run", "toy", "--scale", "smoke", "--out", "/proc/nowhere"], "choose a writable folder"),
    ],
)
def test_mistakes_cost_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], says: str) -> None:
    code, _, err = call(capsys, *arguments)
    assert code == commands.USAGE_ERROR
    assert says in err
    assert "Traceback" not in err


def test_interruption_keeps_what_is_finished(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(toy, "decay", interrupted)
    code, _, err = call(capsys, "run", "toy", "--scale", "smoke")
    assert code == commands.INTERRUPTED
    assert "finished units are kept" in err


def test_of_several_interrupted_processes_the_first_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(toy, "decay", interrupted)
    for rank, says in (("0", "tpo: interrupted"), ("1", "")):
        monkeypatch.setenv("RANK", rank)
        code, _, err = call(capsys, "run", "toy", "--scale", "smoke", "--out", rank)
        assert code == commands.INTERRUPTED
        assert err.startswith(says)
        assert bool(err) == bool(says)


@pytest.mark.parametrize("argument", ["--help", "list"])
def test_help_and_lists_do_not_wait_for_what_draws_or_computes(argument: str) -> None:
    heavy = ("scipy.stats", "matplotlib", "numba", "torch")
    program = (
        "import sys; from tpo_ref.study.cli.main import main\n"
        f"try: main([{argument!r}])\n"
        f"finally: print(*(name for name in {heavy} if name in sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, encoding="utf-8")
    assert "tpo" in done.stdout
    assert done.stderr.strip() == ""


def tpo_without(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return without(
        module, f"from tpo_ref.study.cli.main import main\nsys.argv = ['tpo', *{list(arguments)!r}]\nmain()\n"
    )


def test_without_the_cli_extra_one_line_says_so() -> None:
    done = tpo_without("tyro", "list")
    assert done.returncode == commands.USAGE_ERROR
    assert "pip install 'target-policy-optimization[cli]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_torch_what_needs_none_works_and_the_rest_says_so(tmp_path: Path) -> None:
    assert tpo_without("torch", "run", "tabular-single", "--scale", "smoke", "--out", str(tmp_path)).returncode == 0
    done = tpo_without("torch", "run", "mnist", "--scale", "smoke", "--out", str(tmp_path))
    assert done.returncode == commands.USAGE_ERROR
    assert "pip install 'target-policy-optimization[torch]'" in done.stderr


def test_an_error_of_another_process_says_which(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for rank, speaker in (("0", "tpo: "), ("1", "tpo, process 1: ")):
        monkeypatch.setenv("RANK", rank)
        code, _, err = call(capsys, "run", "nosuch")
        assert code == commands.USAGE_ERROR
        assert err.startswith(speaker)
