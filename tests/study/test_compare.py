"""`tpo compare`: what it concludes from two runs, in both orders, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import toy
from hypothesis import given
from hypothesis import strategies as st

from tpo_ref.bandits import experiments
from tpo_ref.study import compare, estimates, files, formats, registry, reports, results
from tpo_ref.study.cli import commands
from tpo_ref.study.protocol import Experiment, Scale

STEPS = 120
SETTINGS = toy.ToySettings(steps=STEPS)
OTHERS = {
    "toy": toy.TOY,
    "other": dataclasses.replace(toy.TOY, id="other"),
    "timed": dataclasses.replace(toy.TOY, id="timed", x="at"),
    "regret": dataclasses.replace(toy.TOY, id="regret", score="regret"),
    "scoreless": dataclasses.replace(toy.TOY, id="scoreless", score=None),
    "reader": dataclasses.replace(toy.TOY, id="reader", results_of="toy", score=None),
    "long": dataclasses.replace(toy.TOY, id="long", scales={"smoke": Scale(SETTINGS, 3, "none")}),
}
NAMES = ("A", "B")


@pytest.fixture(autouse=True)
def _only_toys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(registry, "EXPERIMENTS", OTHERS)
    monkeypatch.chdir(tmp_path)


def stored(method: str, seed: int, n: int = 12, out: Path = Path("stored"), **changes: Any) -> results.Result:
    """A result of random curves, whose key and arrays can be changed by name."""
    changes = {"experiment": "toy", "settings": SETTINGS, "seeds": tuple(range(n)), "device": "cpu", **changes}
    arrays = {"error": np.random.default_rng(seed).uniform(size=(n, STEPS)), **changes.pop("arrays", {})}
    return results.save(out, results.Key(method=method, **changes), arrays, 0.0)


def by_commit(commit: str, record: results.Record) -> results.Record:
    return dataclasses.replace(record, provenance=dataclasses.replace(record.provenance, commit=commit))


def path_of(method: str, suffix: str = ".json", out: Path = Path("stored/toy")) -> str:
    (found,) = out.glob(f"{method}-*{suffix}")
    return str(found)


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = commands.run(["compare", *arguments])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


@given(
    seed=st.integers(0, 1000),
    n=st.integers(1, 12),
    stop=st.integers(1, STEPS),
    other=st.sampled_from([{}, {"device": "cuda"}, {"experiment": "other"}, {"settings": toy.ToySettings(7)}]),
)
def test_swapping_the_runs_swaps_the_sign(seed: int, n: int, stop: int, other: dict[str, Any]) -> None:
    curves = np.random.default_rng(seed).uniform(size=(n, STEPS))
    curves[:, stop:] = np.nan
    runs = (stored("tpo", seed + 1, n), stored("pg", seed, n, arrays={"error": curves}, **other))
    one, two = compare.compare(NAMES, runs), compare.compare(NAMES[::-1], runs[::-1])
    assert one.paired == two.paired == (not other)
    for name in compare.STATISTICS:
        ab, ba = (r.statistics[name].difference for r in (one, two))
        assert files.plain(one.statistics[name].a) == files.plain(two.statistics[name].b)
        assert ab.value == pytest.approx(-ba.value, abs=1e-12)
        if n == 1:
            assert np.isnan([ab.low, ab.high, ba.low, ba.high]).all()
        else:
            assert (ab.low, ab.high) == pytest.approx((-ba.high, -ba.low), abs=1e-9)
            assert ab.low <= ab.high


@given(seed=st.integers(0, 1000), shift=st.sampled_from([-0.3, 0.0, 0.3]), paired=st.booleans())
def test_the_sentence_says_what_the_interval_says(seed: int, shift: float, paired: bool) -> None:
    rng = np.random.default_rng(seed)
    curves = rng.uniform(0.4, 0.6, size=(12, STEPS))
    a = stored("tpo", 0, arrays={"error": curves + shift})
    b = stored("pg", 0, arrays={"error": curves[rng.permutation(12)]}, **({} if paired else {"experiment": "other"}))
    report = compare.compare(NAMES, (a, b))
    difference, said = report.statistics["auc"].difference, report.sentence
    low, high = difference.low, difference.high
    assert ("cannot be told apart" in said) == (low <= 0 <= high) == (shift == 0)
    assert ("A's area under the error curve is lower than B's by 0.3 (95 % interval 0." in said) == (shift < 0)
    assert ("A's area under the error curve is higher than B's by 0.3 (95 % interval 0." in said) == (shift > 0)
    assert ("12 seeds paired" in said) == paired
    assert ("12 and 12 seeds, not paired since the runs differ in experiment" in said) == (not paired)


def test_a_worked_example() -> None:
    # Two seeds, errors 0.01 and 0.4 throughout for A, the first of them solved; 0.11 and 0.7 for B.
    a = stored("tpo", 0, 2, arrays={"error": np.array([[0.01], [0.4]]) * np.ones(STEPS)})
    b = stored("pg", 0, 2, arrays={"error": np.array([[0.11], [0.7]]) * np.ones(STEPS)})
    report = compare.compare(NAMES, (a, b))
    for name in ("auc", "last", "final"):
        row = report.statistics[name]
        assert row.a.value == pytest.approx(0.205)
        assert row.b.value == pytest.approx(0.405)
        # Differences −0.1 and −0.3: their mean, and the interval of two seeds is from one to the other.
        assert vars(row.difference) == pytest.approx({"value": -0.2, "low": -0.3, "high": -0.1})
    assert compare.table(report)[3] == ["solved: last 50 below 5 %", "1 of 2", "0 of 2", "0.5", "-0.273 to 0.905"]
    assert report.sentence == (
        "A's area under the error curve is lower than B's by 0.2 (95 % interval 0.1 to 0.3, 2 seeds paired). "
        "With fewer than 10 seeds such an interval is too narrow."
    )


def test_one_seed_decides_nothing() -> None:
    said = compare.compare(NAMES, (stored("tpo", 0, 1), stored("pg", 1, 1))).sentence
    assert said.endswith("but 1 seed decides nothing (1 seed paired).")
    said = compare.compare(NAMES, (stored("tpo", 0, 1), stored("pg", 1, 20))).sentence
    assert said.endswith("but 1 seed decides nothing (1 and 20 seeds, not paired since the runs differ in seeds).")


@pytest.mark.parametrize(
    ("changes", "differ"),
    [
        ({}, ()),
        ({"device": "cuda"}, ("device",)),
        ({"seeds": tuple(range(1, 13))}, ("seeds",)),
        ({"settings": toy.ToySettings(9)}, ("settings",)),
        ({"experiment": "other", "device": "cuda"}, ("experiment", "device")),
    ],
)
def test_only_runs_that_drew_the_same_are_paired(changes: dict[str, Any], differ: tuple[str, ...]) -> None:
    # The task is what varies; a method adds the same 0.1 to each seed, which pairing sees at once.
    task = np.linspace(0.1, 0.8, 12)[:, None] * np.ones(STEPS)
    a = stored("tpo", 0, arrays={"error": task})
    b = stored("pg", 0, arrays={"error": task + 0.1}, **changes)
    report = compare.compare(NAMES, (a, b))
    assert report.differ_in == differ
    difference = report.statistics["auc"].difference
    assert difference.value == pytest.approx(-0.1)
    assert (difference.high < 0) == (not differ)


def test_runs_of_other_code_are_said_to_be() -> None:
    a, b = stored("tpo", 0), stored("pg", 1)
    other = results.Result(b.arrays, by_commit("0" * 40, b.record))
    assert compare.compare(NAMES, (a, other)).sentence.endswith("come from different commits or versions.")


def test_one_key_twice_is_two_runs_when_the_arrays_differ() -> None:
    # The same command before and after a change of the code.
    a, b = stored("tpo", 0), stored("tpo", 1, out=Path("elsewhere"))
    assert compare.compare(NAMES, (a, b)).paired


def test_the_command_runs_what_is_not_stored_and_prints_both_ways(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(capsys, "toy/tpo", "toy/pg", "--scale", "smoke", "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert [report[run]["method"] for run in "ab"] == ["tpo", "pg"]
    assert report["paired"]
    assert report["a"]["seeds"] == [0, 1, 2]
    assert "toy/tpo's area under the error curve is lower than toy/pg's by" in report["sentence"]
    # What the table shows is what the json holds; an alias and a path name the same runs. Over all 40 steps no seed has
    # a mean below 5 %.
    code, out, _ = call(capsys, "toy/tpo", path_of("pg", ".npz", Path("runs/toy")), "--scale", "smoke")
    assert code == 0
    for words in ("AUC", "last 40", "solved: last 40 below 5 %", "0 of 3", "final", "A − B", "95 % interval"):
        assert words in out
    assert f"{report['statistics']['auc']['difference']['value']:.3g}" in out
    again = json.loads(call(capsys, "toy/tpo", "toy/reinforce", "--scale", "smoke", "--json")[1])
    assert again["statistics"] == report["statistics"]
    swapped = json.loads(call(capsys, "toy/pg", "toy/tpo", "--scale", "smoke", "--json")[1])
    assert "toy/pg's area under the error curve is higher than toy/tpo's by" in swapped["sentence"]


def test_a_tabular_run_compared(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:

    known: dict[str, Experiment] = {e.id: e for e in experiments.EXPERIMENTS}
    monkeypatch.setattr(registry, "EXPERIMENTS", known)
    code, out, _ = call(capsys, "tabular-single/tpo", "tabular-single/pg", "--scale", "smoke", "--json")
    assert code == 0
    # Fig. 2: PG leaves its plateau some 27 of 150 steps later.
    report = json.loads(out)
    assert report["statistics"]["auc"]["difference"]["value"] == pytest.approx(-27 / 150, rel=0.2)
    assert "tabular-single/tpo's area under the error curve is lower" in report["sentence"]


def test_an_experiment_that_reads_anothers_results_is_scored_by_that(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "reader/tpo", "toy/pg", "--scale", "smoke", "--json")
    assert code == 0
    assert json.loads(out)["paired"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["toy/tpo", "toy/tpo"], "the same run"),
        (["toy/pg", "toy/reinforce"], "the same run"),
        (["toy/pg", "reader/pg"], "the same run"),
        (["toy/tpo", "tpy/pg"], "did you mean 'toy'"),
        (["toy/tpo", "toy/gp"], "did you mean 'pg'"),
        (["toy/tpo", "toy"], "expected EXPERIMENT/METHOD"),
        (["toy/tpo", "toy/"], "expected EXPERIMENT/METHOD"),
        (["toy/tpo", "runs/toy/pg"], "expected EXPERIMENT/METHOD"),
        (["toy/tpo", "toy/pg", "--seeds", "0"], "seeds: got 0, expected 1"),
        (["toy/tpo", "toy/pg", "--device", "cuda"], "device: got 'cuda'"),
        (["toy/tpo", "toy/pg", "--out", "/proc/nowhere"], "choose a writable folder"),
        (["toy/tpo", "regret/pg"], "scored by error, and regret/pg, scored by regret"),
        (["toy/tpo", "scoreless/pg"], "scoreless/pg: has no curve that scores it"),
        (["toy/tpo", "long/pg"], "curves of 40 steps (toy/tpo) and 120 (long/pg)"),
        (["toy/tpo", "missing.json"], "missing.json: no such file"),
        (["toy/tpo", "missing.npz"], "missing.json: no such file"),
    ],
)
def test_mistakes_cost_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], says: str) -> None:
    code, out, err = call(capsys, *arguments, "--scale", "smoke")
    assert (code, out) == (commands.USAGE_ERROR, "")
    assert says in err
    assert err.count("\n") == 1


def test_nothing_runs_before_both_names_are_known(capsys: pytest.CaptureFixture[str]) -> None:
    for other in ("toy/gp", "missing.json", "regret/pg", "toy/tpo"):
        call(capsys, "toy/tpo", other, "--scale", "smoke")
    assert not Path("runs").exists()


def test_files_that_cannot_be_trusted_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    stored("tpo", 0)
    stored("pg", 1)
    a, b = path_of("tpo"), path_of("pg")
    record, arrays = Path(b), Path(path_of("pg", ".npz"))
    text, whole = record.read_text(encoding="utf-8"), arrays.read_bytes()

    def refused(says: str, *more: str) -> None:
        for path in (b, str(arrays)):
            code, out, err = call(capsys, a, path, *more)
            assert (code, out) == (commands.USAGE_ERROR, "")
            assert says in err
            assert err.count("\n") == 1

    assert call(capsys, a, b)[0] == call(capsys, a, str(arrays))[0] == 0
    refused("seeds: got 0, but stored results have their own", "--seeds", "0")
    for damaged in (whole[:-7], b"", whole.replace(b"error", b"eRror")):
        arrays.write_bytes(damaged)
        refused("truncated or altered")
    arrays.unlink()
    refused("missing, truncated or altered")
    arrays.write_bytes(whole)
    record.write_text(text[:30], encoding="utf-8")
    refused("not json")
    record.write_text("[1]", encoding="utf-8")
    refused("got list, expected an object")
    for name, value, says in (
        ("format", formats.RECORD + 1, "format 3, expected 2"),
        ("experiment", "tpy", "did you mean 'toy'"),
        ("experiment", "scoreless", "has no curve"),
        ("experiment", "regret", "expected one score"),
        ("seeds", [0, 1], "expected numbers, 2 rows"),
        ("seeds", 5, "'int'"),
    ):
        # Whole, so that only what it says stands against it.
        files.write_sealed(record, {**json.loads(text), name: value})
        refused(says)
    for name in ("method", "arrays_sha256", "versions"):
        files.write_sealed(record, {n: v for n, v in json.loads(text).items() if n != name})
        refused(f"lacks {name}")


def test_a_pickle_is_never_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    import hashlib

    class Trap:
        def __reduce__(self) -> tuple[Any, tuple[str, str]]:
            return Path.write_text, (Path("sprung"), "")  # type: ignore[return-value]

    stored("tpo", 0)
    stored("pg", 1)
    record, arrays = Path(path_of("pg")), Path(path_of("pg", ".npz"))
    np.savez(arrays, error=np.array([Trap()], dtype=object))
    # With the right checksum: only the reader itself stands between the file and its code.
    checksum = hashlib.sha256(arrays.read_bytes()).hexdigest()
    files.write_sealed(record, {**json.loads(record.read_text(encoding="utf-8")), "arrays_sha256": checksum})
    code, _, err = call(capsys, path_of("tpo"), str(arrays))
    assert code == commands.USAGE_ERROR
    assert "plain arrays" in err
    assert not Path("sprung").exists()


@pytest.mark.parametrize(
    ("curves", "says"),
    [
        (np.ones((12, 7)), "curves of 120 steps (A) and 7 (B)"),
        (np.ones(STEPS), "shape (120,)"),
        (np.ones((11, STEPS)), "12 rows"),
        (np.ones((12, STEPS), dtype=complex), "complex128"),
        (np.where(np.arange(12)[:, None] == 3, np.nan, np.ones(STEPS)), "NaN or infinite in seeds 3,"),
        (np.where(np.arange(12)[:, None] > 9, np.inf, np.ones(STEPS)), "NaN or infinite in seeds 10, 11,"),
        (np.full((12, STEPS), np.nan), "without a number"),
    ],
)
def test_damaged_curves_are_refused(curves: np.ndarray, says: str) -> None:
    runs = (stored("tpo", 0), stored("pg", 1, arrays={"error": curves}))
    with pytest.raises(ValueError, match=re.escape(says)):
        compare.compare(NAMES, runs)


def test_curves_that_are_lacking_or_measured_elsewhere_are_refused() -> None:
    at = np.arange(STEPS)
    a, b = (stored(m, i, experiment="timed", arrays={"at": at}) for i, m in enumerate(("tpo", "pg")))
    assert compare.compare(NAMES, (a, b)).paired
    b = stored("pg", 1, experiment="timed", arrays={"at": 2 * at})
    with pytest.raises(ValueError, match="measured at different steps"):
        compare.compare(NAMES, (a, b))
    lacking = results.Result({"loss": np.ones((12, 3))}, b.record)
    with pytest.raises(ValueError, match=r"B: lacks the curve error, has loss"):
        compare.compare(NAMES, (a, lacking))


def test_the_statistics_are_those_of_the_curves() -> None:
    a, b = stored("tpo", 0), stored("pg", 1)
    rows = compare.compare(NAMES, (a, b)).statistics
    areas = estimates.auc(a.arrays["error"]) - estimates.auc(b.arrays["error"])
    assert (rows["auc"].difference.low, rows["auc"].difference.high) == estimates.interval(areas)
    assert rows["last"].a.value == pytest.approx(a.arrays["error"][:, -100:].mean())
    assert rows["final"].b.value == pytest.approx(b.arrays["error"][:, -1].mean())
    assert rows["auc"].a.error == pytest.approx(estimates.auc(a.arrays["error"]).std(ddof=1) / np.sqrt(12))


def test_a_written_comparison_is_read_back(tmp_path: Path) -> None:
    for n in (1, 12):
        report = compare.compare(NAMES, (stored("tpo", 0, n), stored("pg", 1, n)))
        files.write_sealed(tmp_path / "x.json", report)
        again = reports.load_comparison(tmp_path / "x.json")
        assert files.plain(again) == files.plain(report)
        # One seed has no interval: json has null for its bounds, and the sentence survives that.
        assert compare.sentence(again) == again.sentence == report.sentence
