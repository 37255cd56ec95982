"""What a model's text says: read in one pass, in time that grows with its length, and never executed."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

OPEN, CLOSE = "<answer>", "</answer>"
# Scorers parse the answer, some in time that grows faster than its length: nobody's right answer is longer than this.
ANSWER_LIMIT = 10_000
# GSM8K's answer stands at the end; only so many last characters are searched, without the word they cut (D65).
TAIL = 300
# A number as people write it: commas between groups of three digits, ASCII digits only.
DIGITS = r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+)"
NUMBER = re.compile(rf"[$€£¥]?([+-]?)[$€£¥]?({DIGITS})")
# A space between digits may group them, unless it is the plain one.
SPACE = r"(?:[ \t\n\r\f\v]|(?<![0-9])\s|\s(?![0-9]))"
# Words, as far as a number can be one: `=1200`, `Answer:1200`, `<<2*600=1200>>1200` end in one.
BETWEEN = re.compile(rf"{SPACE}|[=<>|→]|(?<=[^\W\d_]):")
MARK = re.compile(rf"(?<!#)####({SPACE}*(?:(?!{SPACE}).)*)", re.DOTALL)
MARKED = re.compile(rf" (-?{DIGITS}),*")
# What may stand around a number without changing it.
BEFORE = re.compile(r"(?:[(\[\"'*_`#~≈:]|\\[(\[$]|\$?\\boxed\{)*")
AFTER = ")]}\"'*_`.,;:!?%$€£¥\\"
# Unicode's decimal digits, and ² and ½.
DIGIT_KINDS = ("Nd", "No")


def text_of(completion: Any) -> str:
    """The model's text, from a string or from chat messages.

    Args: completion, a string, or a list of messages {"role", "content"} of which the assistant's last one counts;
        content, a string, a list of parts of which those with a "text" count, or None.
    Returns: the text, empty where nothing was said.
    Raises: TypeError for anything else: what came is no completion.

    >>> text_of([{"role": "assistant", "content": "4"}])
    '4'
    """
    if completion is None or isinstance(completion, str):
        return completion or ""
    if isinstance(completion, dict):
        completion = [completion]
    if not isinstance(completion, Sequence) or not all(isinstance(message, dict) for message in completion):
        kind = type(completion).__name__
        raise TypeError(f"completion: got {kind}, expected a string or a list of messages {{'role', 'content'}}")
    contents = [message.get("content") for message in completion if message.get("role", "assistant") == "assistant"]
    return _content(contents[-1]) if contents else ""


def tagged(text: str) -> str | None:
    """What stands in the last <answer>…</answer>, without surrounding space; None without one.

    Pairs are formed from the left, each opened by the first tag after the last pair, as Reasoning Gym's own
    `extract_answer` does; that one needs time growing with the square of the number of unclosed tags.

    >>> tagged("first <answer>4</answer>, no: <answer> 5 </answer>")
    '5'
    """
    last, position = None, 0
    while (start := text.find(OPEN, position)) >= 0:
        end = text.find(CLOSE, start + len(OPEN))
        if end < 0:
            break
        last, position = (start + len(OPEN), end), end + len(CLOSE)
    return None if last is None else text[last[0] : last[1]].strip()


def short(answer: str | None, limit: int = ANSWER_LIMIT) -> str | None:
    """The answer where it has at most `limit` characters, else None: as good as none.

    >>> short("9" * 1_000_000) is None
    True
    """
    return answer if answer is not None and len(answer) <= limit else None


def hashed(text: str) -> str | None:
    """The number after the last #### that has a digit, in the final 300 characters, commas stripped; None without one.

    The number must be all that follows up to the next space. Other stacks take the first one, or the last number of any
    kind, and read parts of words (deviation D65).

    >>> hashed("#### 7, or rather\\n#### 1,200")
    '1200'
    >>> hashed("#### 3/4") is None
    True
    """
    marked = [after for after in MARK.findall(_end(text)) if _has_digit(after)]
    match = MARKED.fullmatch(marked[-1]) if marked else None
    return match[1].replace(",", "") if match else None


def last_number(text: str) -> Decimal | None:
    """The last word with a digit in the final 300 characters, where it is a number; else None.

    Brackets, quotes, signs of emphasis, currency or percent around it, and full stops, are not part of the number;
    letters, fractions, ranges, times, dates and powers are: no number is read out of a longer word.

    >>> last_number("so she pays $1,200.00 in all")
    Decimal('1200.00')
    >>> last_number("1200 cut into 3/4") is None
    True
    """
    words = [word for word in BETWEEN.split(_end(text)) if _has_digit(word)]
    if not words:
        return None
    before = BEFORE.match(words[-1])
    return number(words[-1][before.end() if before else 0 :].rstrip(AFTER))


def number(text: str) -> Decimal | None:
    """A written number, without its commas; None where the text is none, or more than one.

    >>> number("1,200") == number("1200.00")
    True
    >>> number("1,2") is None
    True
    """
    match = NUMBER.fullmatch(text)
    return Decimal(match[1] + match[2].replace(",", "")) if match else None


def embedded(answer: str, text: str) -> bool:
    """Whether an answer is in a text, but nowhere as a whole word or number, as 12 is in 1200, -12, 12/5 and 12th.

    >>> embedded("12", "1200"), embedded("12", "$12."), embedded("12", "12:30, no, 12")
    (True, False, False)
    """
    answer, text = answer.strip().casefold(), text.strip().casefold()
    if not answer or answer not in text:
        return False
    left = r"(?<![\w.+−–/^-])(?<![0-9][,:*×])" if answer[0].isdigit() else r"(?<!\w)(?<!\w[-'.])"
    right = r"(?!\w|[/^]|[-.,:*×+][0-9])" if answer[-1].isdigit() else r"(?!\w|[-'.]\w)"
    return re.search(left + re.escape(answer) + right, text) is None


def same_numbers(answer: str, text: str) -> bool:
    """Whether two texts are lists of equally many numbers, of the same signs: the second may be a closer value.

    >>> same_numbers("-0.5, 2", "-0.51, 2.0"), same_numbers("12", "-12"), same_numbers("12", "12 apples")
    (True, False, False)
    """
    pairs = [[number(part) for part in re.split(r",\s+|\s+", each.strip())] for each in (answer, text)]
    return len(pairs[0]) == len(pairs[1]) and all(
        a is not None and b is not None and (a < 0) == (b < 0) for a, b in zip(*pairs, strict=True)
    )


def _end(text: str) -> str:
    """The last characters of a text, without the word that the cut goes through."""
    if len(text) <= TAIL:
        return text
    # With the character before, which shows whether the first word is whole.
    tail = text[-TAIL - 1 :]
    space = re.search(SPACE, tail)
    return tail[space.end() :] if space else ""


def _has_digit(text: str) -> bool:
    return any(unicodedata.category(character) in DIGIT_KINDS for character in text)


def _content(content: Any) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, Sequence):
        parts = (part.get("text") for part in content if isinstance(part, dict))
        return "".join(part for part in parts if isinstance(part, str))
    raise TypeError(f"content: got {type(content).__name__}, expected a string, a list of parts, or None")
