"""What a model's text says: read in one pass, in time that grows with its length, and never executed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

OPEN, CLOSE = "<answer>", "</answer>"
# Scorers parse the answer, some in time that grows faster than its length: nobody's right answer is longer than this.
ANSWER_LIMIT = 10_000
# GSM8K's answer stands at the end; only so many last characters are searched (deviation D65).
TAIL = 300
STRICT = re.compile(r"#### (-?[0-9.,]+)")
# A number as people write it; each quantifier ends where the next begins, so that no text makes it search twice.
NUMBER = re.compile(r"-?[0-9][0-9,]*(?:\.[0-9]+)?")


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
    """The number after the last #### in the final 300 characters, commas stripped; None without one.

    Other stacks take the first one, or the last number of any kind (deviation D65).

    >>> hashed("#### 7, or rather\\n#### 1,200")
    '1200'
    """
    numbers = STRICT.findall(text[-TAIL:])
    return numbers[-1].replace(",", "") if numbers else None


def last_number(text: str) -> Decimal | None:
    """The last number in the final 300 characters, ASCII digits only; None without one.

    >>> last_number("so she pays $1,200.00 in all")
    Decimal('1200.00')
    """
    numbers = NUMBER.findall(text[-TAIL:])
    return number(numbers[-1]) if numbers else None


def number(text: str) -> Decimal | None:
    """A written number without its commas; None where it is none.

    >>> number("1,200") == number("1200.00")
    True
    """
    try:
        return Decimal(text.replace(",", ""))
    except InvalidOperation:
        return None


def _content(content: Any) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, Sequence):
        parts = (part.get("text") for part in content if isinstance(part, dict))
        return "".join(part for part in parts if isinstance(part, str))
    raise TypeError(f"content: got {type(content).__name__}, expected a string, a list of parts, or None")
