"""What the fields of a settings class mean: the line of text that stands under each in its source."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from itertools import pairwise
from typing import Any


def field_lines(kind: type[Any]) -> dict[str, str]:
    """The line under each field of a dataclass, in the order of the fields; one without a line is left out.

    Args: kind, a dataclass whose source can be read; lines of the classes it extends count too.
    Returns: a line for each field name.

    >>> from tpo_ref.study.choices import Choices
    >>> field_lines(Choices)["out"]
    'Folder of results.'
    """
    lines: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if dataclasses.is_dataclass(base):
            lines |= _own_lines(base)
    return {field.name: lines[field.name] for field in dataclasses.fields(kind) if field.name in lines}


def _own_lines(kind: type[Any]) -> dict[str, str]:
    """The lines in the source of one class."""
    try:
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    except (OSError, TypeError):
        # A class made without a file, as in a notebook that is gone.
        return {}
    lines = {}
    for field, text in pairwise(getattr(definition, "body", [])):
        match field, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(line))):
                lines[name] = line
    return lines
