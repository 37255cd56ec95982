"""The rule that a user names: read, imported, tried on random groups; every mistake told with file and line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tpo_ref import rules
from tpo_ref.bandits.environments import Needle
from tpo_ref.study import chosen_rules
from tpo_ref.study.choices import Choices
from tpo_ref.study.chosen_rules import ChosenRule, choose, parsed
from tpo_ref.study.results import Key
from tpo_torch import rules as mirror

ROOT = Path(__file__).parents[2]
MINE = """
import numpy as np


def mine(logp, logp_old, scores, mask, lengths, strength=1.0):
    mean = (scores * mask).sum(-1, keepdims=True) / mask.sum(-1, keepdims=True)
    return -strength * (scores - mean) * mask
"""
HEAD = "import numpy as np\n\ndef mine(logp, logp_old, scores, mask, lengths):\n    "


def written(folder: Path, text: str, name: str = "my.py") -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return f"{folder / name}:mine"


@pytest.mark.parametrize("name", sorted(rules.RULES))
def test_every_rule_of_the_list_is_chosen_by_name_in_both_packages(name: str) -> None:
    chosen = choose(name)
    assert chosen.method == name
    assert chosen.build(rules) == rules.named(name)
    assert chosen.build(mirror) == mirror.named(name)


def test_options_are_read_and_checked() -> None:
    assert choose("grpo,epsilon=0.1,drop_idle=True").build(rules) == rules.named("grpo", epsilon=0.1, drop_idle=True)
    assert choose("tpo,scale=none").build(mirror) == mirror.named("tpo", scale="none")
    assert choose("lpo").method == "tpo_ratio"
    assert choose("ppo,baseline=None,epsilon=0.1").method == "ppo-baseline=None-epsilon=0.1"
    for text, words in (
        ("grop", "did you mean 'grpo'.*FILE.py:FUNCTION"),
        ("ppo,epsilom=1", "did you mean 'epsilon'"),
        ("ppo,epsilon=-1", "epsilon: got -1"),
        ("ppo,epsilon", "expected OPTION=VALUE"),
        ("ppo,epsilon=1,epsilon=2", "twice"),
        ("", "expected NAME"),
        ("my.txt:mine", "FILE.py:FUNCTION before the colon"),
    ):
        with pytest.raises(ValueError, match=words):
            choose(text)
    with pytest.raises(TypeError, match="expected NAME"):
        parsed(3)  # type: ignore[arg-type]


def test_a_function_of_a_file_is_a_rule(tmp_path: Path) -> None:
    chosen = choose(written(tmp_path, MINE) + ",strength=2.0")
    rng = np.random.default_rng(0)
    logp, old, scores = rng.normal(size=(3, 2, 4))
    expected = 2 * rules.named("pg").gradient(logp, old, scores)
    np.testing.assert_allclose(chosen.build(rules).gradient(logp, old, scores), expected, atol=1e-12)
    assert (chosen.name, chosen.method) == ("mine", "mine-strength=2.0")
    assert chosen.record()["name"] == "my.py:mine"


def test_the_place_of_a_result_follows_source_options_and_grouping(tmp_path: Path) -> None:
    one = choose(written(tmp_path, MINE))

    def path(rule: ChosenRule | None, grouping: str = "group") -> Path:
        return Key("needle", "mine", Needle(), (0,), "cpu", rule, grouping).path(tmp_path)

    paths = {path(one), path(one, "batch"), path(None), path(choose(f"{written(tmp_path, MINE)},strength=2"))}
    paths.add(path(choose(written(tmp_path, MINE + "# changed"))))
    assert len(paths) == 5
    (tmp_path / "other").mkdir()
    assert path(choose(written(tmp_path / "other", MINE))) == path(one)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return logp[..., :1]", r"my.py, line 3: mine: .*shape"),
        ("return scores / 0", r"my.py, line 3: mine: .*NaN or infinite"),
        ("return None", r"my.py, line 3: mine: "),
        ("return missing", r"my.py, line 4: mine raised NameError"),
        ("return np.random.random(logp.shape)", "another gradient for the same group"),
        ("return np.arange(logp.shape[-1]) + 0 * logp", "order of the candidates"),
        ("return scores - scores.mean()", "groups change each other"),
        ("return (scores - scores.mean(-1, keepdims=True)) * mask", "masked candidate count"),
        ("return 0 * logp if logp.shape[-1] > 1 else logp / 0", "NaN or infinite"),
    ],
)
def test_what_no_rule_may_do_is_found_before_anything_runs(tmp_path: Path, body: str, words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        choose(written(tmp_path, HEAD + body + "\n"))


def test_a_function_that_says_so_may_see_the_batch(tmp_path: Path) -> None:
    text = HEAD + "return (scores - (scores * mask).sum() / mask.sum()) * mask\nmine.whole_batch = True\n"
    assert choose(written(tmp_path, text)).build(mirror).whole_batch


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def mine(:", "line 1: importing it raised SyntaxError"),
        ("\nimport nothing_of_that_name", "line 2: importing it raised ModuleNotFoundError"),
        ("def mien(*a): return a[0]", "did you mean 'mien'"),
        ("", "found no function 'mine'; define mine"),
        ("mine = 3", "expected a function"),
        ("def mine(logp): return logp", "line 1: mine: too many positional arguments; define mine"),
        ("def mine(logp, logp_old, scores, mask, lengths, more): return logp", "missing a required argument: 'more'"),
    ],
)
def test_a_file_that_is_wrong_is_named_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        choose(written(tmp_path, text))


def test_an_option_that_a_function_does_not_take_is_answered_with_its_own(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="did you mean 'strength'"):
        choose(written(tmp_path, MINE) + ",strenght=2")
    with pytest.raises(FileNotFoundError, match="no such file"):
        choose(f"{tmp_path}/none.py:mine")


def test_two_rules_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    with pytest.raises(ValueError, match="two called 'mine'"):
        _ = Choices(rule=(written(tmp_path, MINE), written(tmp_path / "b", MINE))).rules


def test_the_list_names_every_option_with_its_meaning() -> None:
    entries = {entry.name: entry for entry in chosen_rules.listed()}
    assert set(rules.RULES) <= set(entries)
    for entry in entries.values():
        assert set(entry.options) == set(entry.meanings)
        assert entry.source


def test_results_of_decimal_options_do_not_overwrite_each_other(tmp_path: Path) -> None:
    paths = {
        Key("needle", choose(text).method, Needle(), (0,), "cpu", choose(text), "group")
        .path(tmp_path)
        .with_suffix(".npz")
        for text in ("grpo,epsilon=0.1", "grpo,epsilon=0.2", "grpo,epsilon=0.25", "tpo,eta=1e-3")
    }
    assert len(paths) == 4
    assert all(path.parent == tmp_path / "needle" for path in paths)


def test_a_function_with_the_name_of_a_rule_of_ours_is_not_shown_as_that(tmp_path: Path) -> None:
    (tmp_path / "my.py").write_text(MINE.replace("def mine", "def tpo"), encoding="utf-8")
    chosen = choose(f"{tmp_path / 'my.py'}:tpo")
    assert chosen.method == chosen.build(rules).label == chosen.build(mirror).label == "my.tpo"
    assert len(Choices(rule=("tpo", f"{tmp_path / 'my.py'}:tpo")).rules) == 2


def test_options_hold_lists_and_words_and_fit_into_a_file_name(tmp_path: Path) -> None:
    text = MINE.replace("strength=1.0", "weights=(1, 2), kind='a'")
    text = text.replace("-strength *", "-weights[0] * (1 if kind else 0) *")
    chosen = choose(written(tmp_path, text) + ",weights=[3,4],kind=a/b")
    assert chosen.options == {"weights": [3, 4], "kind": "a/b"}
    assert chosen.method == "mine-weights=_3__4_-kind=a_b"


def test_neighbours_are_found_and_count_in_the_digest(tmp_path: Path) -> None:
    """Each in a process of its own: a module that is imported stays as it was."""
    (tmp_path / "my.py").write_text(
        HEAD.replace("import numpy as np", "import sign_of_mine") + "return sign_of_mine.SIGN * 0 * scores\n",
        encoding="utf-8",
    )
    digests = []
    for sign in ("1", "-1"):
        (tmp_path / "sign_of_mine.py").write_text(f"SIGN = {sign}\n", encoding="utf-8")
        place = f"{tmp_path / 'my.py'}:mine"
        code = f"from tpo_ref.study.chosen_rules import choose; print(choose({place!r}).sha256)"
        done = subprocess.run(
            [sys.executable, "-B", "-c", code],
            capture_output=True,
            encoding="utf-8",
            check=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        digests.append(done.stdout.strip())
    assert len(set(digests)) == 2
    assert all(len(digest) == 64 for digest in digests)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return None", "got None, expected an array; does the function return it"),
        ("return scores > 0", "got booleans, expected real numbers"),
        ("raise SystemExit(3)", "mine raised SystemExit: 3"),
    ],
)
def test_slips_are_named(tmp_path: Path, body: str, words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        choose(written(tmp_path, HEAD + body + "\n"))


def test_a_class_or_a_file_alone_is_answered_with_what_to_give(tmp_path: Path) -> None:
    text = "class mine:\n    def __call__(self, logp, logp_old, scores, mask, lengths):\n        return 0 * logp\n"
    with pytest.raises(TypeError, match="give an instance of the class"):
        choose(written(tmp_path, text))
    with pytest.raises(ValueError, match="say which function of the file"):
        choose(str(tmp_path / "my.py"))


def test_what_a_rule_prints_goes_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    choose(written(tmp_path, HEAD + "print('hello'); return 0 * logp\n"))
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "hello" in shown.err
