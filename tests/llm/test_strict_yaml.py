"""What a configuration says in YAML: every plain value comes back, and nothing is made of what is not plain."""

from __future__ import annotations

import math
import re
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tpo_torch.llm.program.settings import reading
from tpo_torch.llm.program.settings.strict_yaml import parse

WORDS = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=12)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False) | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=12,
)
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9)
)
REFUSED = {
    "bomb": (BOMB, "mine.yaml:1: aliases (&name, *name) are not read; write the value out"),
    "itself": ("a: 1\nb: &b [*b]", "mine.yaml:2: aliases"),
    "brackets": ("[" * 60_000, "mine.yaml:1: lists and mappings lie more than 32 deep"),
    "braces": ("{a: " * 10_000, "mine.yaml:1: lists and mappings lie more than 32 deep"),
    "dashes": ("- " * 30_000, "mine.yaml:1: lists and mappings lie more than 32 deep"),
    "twice": ("a: 1\nb: 2\na: 3", "mine.yaml:3: a is written twice, first in line 1; keep one"),
    "a section twice": ("trainer: {beta: 0}\ntrainer: {eta: 1}", "mine.yaml:2: trainer is written twice"),
    "twice, inside": ("a:\n  b: 1\n  'b': 2", "mine.yaml:3: b is written twice"),
    "merged": ("a: 1\n<<: {a: 2}", "mine.yaml:2: << merges mappings"),
    "a tag": ("a: !!python/object/apply:os.getcwd []", "mine.yaml:1: tags (tag:yaml.org,2002:python/object/apply"),
    "a number as key": ("a: {1: 2}", "mine.yaml:1: the key 1 is no word"),
    "a truth as key": ("on: 2", "mine.yaml:1: the key on is no word"),
    "a list as key": ("? [a]\n: 1", "mine.yaml:1: the key with parts is no word"),
    "two documents": ("a: 1\n---\na: 2", "mine.yaml:2: a second document"),
    "a bell": ("a: 1\nb: \a", "mine.yaml:2: the character U+0007"),
    "half a character": ('a: "\\ud800"', "mine.yaml:1: half of a surrogate pair"),
    "digits": ("a: " + "9" * 5_000, "mine.yaml: got a number of too many digits"),
    "much": ("a: " + "x" * 70_000, "mine.yaml: got 70003 characters"),
    "half a list": ("a: [1", "mine.yaml:1: is not YAML:"),
} | {
    number: (f"a: 1\nb: {number}", f"mine.yaml:2: {number} is a number in another form")
    for number in ("010", "00", "08", "0x1F", "0b1", "0o7", "1_000", "1:30", "1_0.5", "-010", "+0x1", "190:20:30.15")
}


@given(value=PLAIN, flow=st.booleans())
def test_plain_values_come_back_as_they_were(value: Any, flow: bool) -> None:
    text = yaml.safe_dump(value, default_flow_style=flow, allow_unicode=True)
    assert parse(text, "here") == value


@given(number=st.floats(allow_nan=False), form=st.sampled_from(("{!r}", "{:e}", "{:.12g}")))
def test_numbers_are_read_as_python_reads_them(number: float, form: str) -> None:
    text = form.format(number)
    wanted = float(text) if not math.isinf(number) else None
    if wanted is not None:
        assert parse(text, "here") == wanted


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_plain_is_refused_at_once_in_one_line(name: str, tmp_path: Path) -> None:
    text, says = REFUSED[name]
    start = time.process_time()
    with pytest.raises(ValueError, match=re.escape(says)) as refusal:
        parse(text, "mine.yaml")
    assert time.process_time() - start < 1.0
    assert str(refusal.value).startswith(says)
    assert "\n" not in str(refusal.value)
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    with pytest.raises(ValueError, match=r"mine\.yaml"):
        reading.load(str(path))


def test_a_value_on_the_command_line_is_read_by_the_same_rules() -> None:
    with pytest.raises(ValueError, match=r"^seed: got '010': 010 is a number in another form"):
        reading.load("tiny", ["seed=010"])
    with pytest.raises(ValueError, match=r"^trainer: got '\{beta: 0, beta: 1\}': beta is written twice"):
        reading.load("tiny", ["trainer={beta: 0, beta: 1}"])
