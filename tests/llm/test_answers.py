"""Parsers read whole words: a number that is part of a longer one is never paid, and no window cuts a word."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import pytest
import reasoning_gym
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tpo_torch.llm.tasks import gsm8k, gym
from tpo_torch.llm.tasks.answers import TAIL, embedded, hashed, last_number

ANSWER = "12"
# What makes a longer word of a number, on its left and on its right.
LEFT = [
    "1",
    "0.",
    ".",
    "1,",
    "3/",
    "3-",
    "-",
    "−",
    "–3",
    "3:",
    "x",
    "x_",
    "2^",
    "10^{",
    "\\frac{3}{",
    "3×",
    "3*",
    "３",
    "٣",
]
LEFT += ["1\u202f", "1\xa0", "½", "€1", "v1.", "Q", "\\sqrt{", "+-", "1e", "1'", "#x", "~-"]
RIGHT = [
    "5",
    ".5",
    ",000",
    ",5",
    "/4",
    "/05",
    "-13",
    "–13",
    ":30",
    "x",
    "_000",
    "th",
    "e5",
    "^2",
    "{,}000",
    ".0.1",
    "²",
    "½",
]
RIGHT += [
    "\u202f000",
    "\xa0000",
    "*3",
    "×3",
    "+3",
    "k",
    "m²",
    "°",
    "٣",
    "３",
    "\\times3",
    "}{5}",
    "(4)",
    "'6",
    "\u200b5",
]
SPACES = st.sampled_from([" ", "\n", "\t", " so "])
FREE = st.text("01239 .,/-:x^%$#(){}\\=\n\u202f−½٣", max_size=4)


@given(st.sampled_from(LEFT) | FREE, st.sampled_from(RIGHT) | FREE, st.sampled_from(["", "so ", "#### 12\n"]))
@settings(max_examples=400)
@example("", "/4", "")
def test_a_number_is_read_out_of_no_longer_word(left: str, right: str, before: str) -> None:
    text = f"{before}#### {left}{ANSWER}{right}"
    words = text.split()
    if hashed(text) == ANSWER:
        # What is read is a whole word between spaces, but for commas that a sentence adds.
        assert any(each.rstrip(",").replace(",", "") == ANSWER for each in words)
    found = last_number(text)
    if found == Decimal(ANSWER):
        rest = re.sub(r"(?<=[0-9])\u202f(?=[0-9])", "x", re.sub("=|(?<=[a-z]):", " ", text)).split()
        assert any(_bare(each) == found for each in rest)


def _bare(word: str) -> Decimal | None:
    """The number in a word without what may stand around one, read in another way than by the reader under test."""
    inner = word.replace("\\boxed{", "").lstrip("#([{:~*$\\").rstrip(")]}.,:;!?%$\\").replace(",", "")
    return Decimal(inner) if inner.isascii() and inner.lstrip("+-").replace(".", "", 1).isdigit() else None


@pytest.mark.parametrize("part", [*((left, "") for left in LEFT), *(("", right) for right in RIGHT)])
@pytest.mark.parametrize("before", ["", "It is 12, or\n"])
def test_part_of_a_longer_word_is_not_paid(part: tuple[str, str], before: str) -> None:
    left, right = part
    for text in (f"{left}{ANSWER}{right}", f"${left}{ANSWER}{right}.", f"**{left}{ANSWER}{right}**"):
        assert last_number(before + text) != Decimal(ANSWER)
        assert hashed(f"#### 12\n{before}#### {text}") != ANSWER
        assert hashed(f"#### 12\n{before}####{text}") != ANSWER


@pytest.mark.parametrize(
    "text",
    [
        "12",
        "$12",
        "$12.00",
        "12%",
        "**12**",
        "\\boxed{12}",
        "$\\boxed{12}$",
        "\\(12\\)",
        "(12)",
        "12.",
        "12!",
        "3*4=12",
        "<<3*4=12>>12",
        "Answer:12",
        '"12"',
        "+12",
        "#12",
        "12,",
        "3/4 of 16 is 12",
        "12\n",
        "~12",
        "12</s>",
        "[12]",
        "$12$",
    ],
)
def test_what_stands_around_a_number_is_no_part_of_it(text: str) -> None:
    assert last_number(text) == Decimal(ANSWER)


@given(st.integers(0, 10**6), SPACES, st.integers(TAIL - 16, TAIL + 2), st.sampled_from(["", "#### ", "It is $"]))
@settings(max_examples=200)
@example(1200, " ", TAIL - 3, "")
@example(123456, " ", TAIL - 4, "#### ")
def test_no_window_cuts_a_word(n: int, space: str, after: int, before: str) -> None:
    text = f"{before}{n:,}{space}{'a' * after}"
    for whole, found in ((str(n), hashed(text)), (Decimal(n), last_number(text))):
        assert found in (None, whole)
    if len(text) <= TAIL:
        assert last_number(text) == n
        assert (hashed(text) is None) == (before != "#### ")


@pytest.mark.parametrize(
    ("text", "strict"),
    [
        ("#### 12", True),
        ("#### 12 apples", True),
        ("#### 12, so", True),
        ("#### 12\n#### Note", True),
        ("##### 12", False),
        ("#### 12\n####13", False),
        ("#### 12\n#### −12", False),
        ("#### 12\n#### 3/4", False),
        ("#### 12%", False),
        ("#### 12</s>", False),
    ],
)
def test_the_last_mark_with_a_digit_counts(text: str, strict: bool) -> None:
    assert (hashed(text) == ANSWER) == strict


@pytest.mark.parametrize("answer", ["", "none", "1,2"])
def test_a_label_that_is_no_number_pays_nothing(answer: str) -> None:
    for strict in (True, False):
        assert gsm8k._right(["none"], {"answer": [answer]}, strict) == [False]


# Reasoning Gym

GYM = ("simple_equations", "letter_counting", "chain_sum", "basic_arithmetic", "gsm_symbolic", "spell_backward", "gcd")
AROUND = [("", "7"), ("7", ""), ("x", ""), ("", "x"), ("", "/4"), ("", "th"), ("7.", ""), ("3/", ""), ("", "^2")]


@pytest.mark.parametrize("name", GYM)
def test_part_of_a_longer_word_pays_nothing_by_upstreams_scorers(name: str) -> None:
    source: Any = reasoning_gym.create_dataset(name, seed=1, size=6)
    for entry in source:
        for left, right in AROUND:
            said = f"{left}{entry['answer']}{right}"
            paid = gym._score(source, f"<answer>{said}</answer>", entry)
            # gsm_symbolic pays a hundredth for any number.
            assert paid == 0 or not embedded(entry["answer"], said), said
        assert gym._score(source, f"<answer>{entry['answer']}</answer>", entry) == 1
    assert embedded("12", "-12")
    assert not embedded("-12", "-12.")


@pytest.mark.parametrize(("said", "paid"), [("19", 1), ("$19", 1), ("19.0", 1), ("19/4", 0), ("-19", 0), ("19.5", 0)])
def test_a_number_with_other_digits_or_sign_is_another(said: str, paid: float) -> None:
    source: Any = reasoning_gym.create_dataset("gsm_symbolic", seed=1, size=1)
    assert gym._score(source, f"<answer>{said}</answer>", {"answer": "19", "metadata": {}}) == paid


def test_a_closer_value_is_paid_as_upstream_pays_it() -> None:
    source: Any = reasoning_gym.create_dataset("decimal_arithmetic", seed=1, size=1)
    entry = source[0]
    said = f"<answer>{entry['answer']}7</answer>"
    assert gym._score(source, said, entry) == source.score_answer(f"{entry['answer']}7", entry) == 1
