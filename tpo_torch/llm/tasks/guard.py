"""Which Reasoning Gym datasets may judge a model's text: none whose scorer executes it, hangs on it or is fooled.

Deviation D66. A table names those looked at by hand; the module of any other is searched for what executes text, so
that a dataset which a later version brings, or changes, is refused too.
"""

from __future__ import annotations

import ast
import os

EXECUTES = "its scorer executes the answer as code"
SLOW = "a short answer can keep its scorer busy for hours"
FORBIDDEN_DATASETS = {
    "binary_matrix": EXECUTES,
    "countdown": EXECUTES,
    "intermediate_integration": EXECUTES,
    "n_queens": EXECUTES,
    "polynomial_multiplication": EXECUTES,
    "puzzle24": EXECUTES,
    "simple_integration": EXECUTES,
    "spiral_matrix": EXECUTES,
    "string_insertion": EXECUTES,
    "coin_flip": SLOW,
    "propositional_logic": SLOW,
    "complex_arithmetic": "its scorer pays the answer 'nan' in full",
    "game_of_life_halting": "its scorer pays any answer in full where the right one is True",
    "composite": "it mixes datasets, which are judged one by one; load each as a task of its own",
}
# Their modules execute text while they make problems; what reaches the scorer is parsed, or compared, only.
HARMLESS = frozenset({"basic_arithmetic", "bitwise_arithmetic", "codeio", "number_sorting"})
# They draw from sets of strings, whose order Python changes from process to process: the ranks of one run, and a run
# that is resumed, would see different problems under the same seed and index.
HASHED = frozenset({"isomorphic_strings", "knight_swap", "ransom_note", "word_ladder"})
HASH_VARIABLE = "PYTHONHASHSEED"
EXECUTING = frozenset({"eval", "exec", "compile", "parse_expr", "sympify", "S", "system", "Popen", "__import__"})


def refusal(name: str, source: str) -> str | None:
    """Why the dataset of that name must not score a model's text; None where it may.

    Args: name; source, of the module which defines the dataset.

    >>> refusal("countdown", "")
    'its scorer executes the answer as code'
    >>> refusal("another", "x = 1") is None
    True
    """
    if name in FORBIDDEN_DATASETS:
        return FORBIDDEN_DATASETS[name]
    if name in HASHED and not os.environ.get(HASH_VARIABLE, "").isdigit():
        return f"its problems differ from process to process unless {HASH_VARIABLE} is set; set it to 0 and run again"
    if name in HARMLESS:
        return None
    calls = executing_calls(source)
    return f"its module calls {', '.join(sorted(calls))}, so its scorer may execute the answer" if calls else None


def executing_calls(source: str) -> set[str]:
    """The functions called in a source, by whatever path, which execute text.

    >>> sorted(executing_calls("import sympy as s\\nx = s.parse_expr(answer)\\nre.compile('a')\\neval(answer)"))
    ['eval', 'parse_expr']
    """
    calls = [node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    names = {node.id for node in calls if isinstance(node, ast.Name)}
    # re.compile executes nothing; the built-in of that name is called without a path.
    paths = {node.attr for node in calls if isinstance(node, ast.Attribute)} - {"compile"}
    return (names | paths) & EXECUTING
