"""Rows of a task file reach its functions as they were returned, value by value and type by type, or are refused."""

from __future__ import annotations

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import tiny_llm as tiny
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tpo_torch.llm import TargetPOTrainer, tasks
from tpo_torch.llm.checkpoints import latest
from tpo_torch.llm.program import run
from tpo_torch.llm.program.evaluation.evaluate import Generation, Sampling, _scored
from tpo_torch.llm.tasks.task import Task, digest

pytestmark = tiny.FILTERS

# A reward that writes down what it is given, then spoils it; types and order show in a repr.
FILE = """
import datetime, pathlib
from collections import OrderedDict, defaultdict
from decimal import Decimal
from fractions import Fraction
import numpy as np
inf, nan = float("inf"), float("nan")
ROWS = {rows}
SEEN = pathlib.Path({seen!r})

def dataset(split, size, seed):
    return ROWS[split]

def reward(
    completions, prompts=None, completion_ids=None, trainer_state=None, log_extra=None, log_metric=None, **columns
):
    rows = [{{name: values[i] for name, values in columns.items()}} for i in range(len(completions))]
    step = "" if trainer_state is None else trainer_state.global_step
    with SEEN.open("a") as file:
        file.writelines(f"{{step}}|{{repr(row)}}\\n" for row in rows)
    for row in rows:
        for value in row.values():
            if hasattr(value, "clear"):
                value.clear()
    return [len(text) % 7 for text in completions]

def solution(row):
    return repr(row)
"""
# What a table changes, or cannot hold at all.
AWKWARD = """[
    {"prompt": "a b", "x": 7, "y": {"b": 1}, "z": [1, "a"], "row": 10**30, "path": (1, 2), "image": np.float32(1.5)},
    {"prompt": "c", "x": 2.5, "y": {1: None}, "z": None, "row": b"x", "path": {3}, "image": datetime.date(2020, 1, 1)},
    {"prompt": [{"role": "user", "content": "d e"}], "x": "7", "y": {}, "z": [[1], 2], "row": nan, "path": -0.0,
     "image": None},
    {"prompt": [{"role": "user", "content": "f", "name": "x"}], "x": True, "y": OrderedDict(a=1), "z": [],
     "row": Decimal("1.50"), "path": Fraction(1, 3), "image": defaultdict(list, a=[1])},
]"""
PLAIN = '[{"prompt": "g", "x": 1}, {"prompt": "h", "x": None}]'
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats()
    | st.text(max_size=3)
    | st.binary(max_size=2)
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=2).map(tuple)
        | st.dictionaries(st.text(max_size=2) | st.integers(0, 3), inner, max_size=3)
    ),
    max_leaves=6,
)
NAMES = st.sampled_from(["x", "row", "path", "function", "image", "images", "completion", "names", "a b", "seed"])


@st.composite
def tables(draw: st.DrawFn, first: int = 0) -> list[dict[str, Any]]:
    names = draw(st.lists(NAMES, unique=True, max_size=3))
    count = draw(st.integers(1, 4))
    return [{"prompt": f"p{first + i}"} | {name: draw(VALUES) for name in names} for i in range(count)]


def write(folder: Path, train: str, evaluation: str = PLAIN) -> Task:
    (folder / "seen").unlink(missing_ok=True)
    rows = f"{{'train': {train}, 'evaluation': {evaluation}}}"
    (folder / "own.py").write_text(FILE.format(rows=rows, seen=str(folder / "seen")), encoding="utf-8")
    return tasks.load(folder / "own.py")


def seen(folder: Path) -> list[str]:
    return [line.split("|", 1)[1] for line in (folder / "seen").read_text(encoding="utf-8").splitlines()]


def columns(row: dict[str, Any]) -> str:
    return repr({name: value for name, value in row.items() if name != "prompt"})


@given(tables(), tables(first=10))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rows_arrive_as_they_were_returned(
    tmp_path: Path, train: list[dict[str, Any]], evaluation: list[dict[str, Any]]
) -> None:
    task = write(tmp_path, repr(train), repr(evaluation))
    for data, rows in ((task.train, train), (task.evaluation, evaluation)):
        # Repeated and shuffled, as a sampler draws them, and sent to another process, as a loader with workers does.
        order = [*reversed(range(len(rows))), 0, 0]
        drawn = pickle.loads(pickle.dumps(data)).__getitems__(order)
        assert [row["prompt"] for row in drawn] == [[{"role": "user", "content": rows[i]["prompt"]}] for i in order]
        for _ in range(2):
            (tmp_path / "seen").unlink(missing_ok=True)
            _scored(task, drawn, [Generation("1", [1], False)] * len(order), Sampling(4))
            # By the reward and by `correct`, which the reward stands in for.
            assert seen(tmp_path) == [columns(rows[i]) for i in order] * 2
        assert task.solution is not None
        assert [task.solution(row) for row in data] == [repr(row) for row in rows]


def test_rows_arrive_in_training_in_evaluation_and_after_resume(tmp_path: Path) -> None:
    held_out = AWKWARD.replace('"prompt": "', '"prompt": "h ').replace('"content": "', '"content": "h ')
    task = write(tmp_path, AWKWARD, held_out)
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    options = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2, "max_steps": 4}

    def trainer(name: str) -> Any:
        arguments = tiny.arguments(tmp_path / name, **options)
        rewards = list(task.rewards)
        return tiny.build(
            TargetPOTrainer, tiny.model(), rewards, arguments, task.train, tokenizer, eval_dataset=task.evaluation
        )

    trainer("run").train()
    lines = (tmp_path / "seen").read_text(encoding="utf-8").splitlines()
    returned = {repr({k: v for k, v in row.items() if k != "prompt"}) for row in _rows(AWKWARD)}
    assert set(seen(tmp_path)) == returned
    # Each row once per completion of its group, in every round and every evaluation.
    assert all(seen(tmp_path).count(row) % 4 == 0 for row in returned)

    (tmp_path / "seen").unlink()
    first = latest(tmp_path / "run")
    assert first is not None
    trainer("run").train(resume_from_checkpoint=str(first.with_name("checkpoint-2")))
    again = (tmp_path / "seen").read_text(encoding="utf-8").splitlines()
    assert again == lines[-len(again) :]
    assert 0 < len(again) < len(lines)


def _rows(text: str) -> list[dict[str, Any]]:
    names: dict[str, Any] = {}
    exec(FILE.split("ROWS")[0], names)
    rows: list[dict[str, Any]] = eval(text, names)
    return rows


@pytest.mark.parametrize(
    ("rows", "kind", "message"),
    [
        ("[{'prompt': 'a', 'x': 1}, {'prompt': 'b'}]", ValueError, "row 1: got no column 'x', but row 0 has it; give"),
        ("[{'prompt': 'a'}, {'prompt': 'b', 'x': 1}]", ValueError, "row 1: got the column 'x', but row 0 has none"),
        ("[{'prompt': 'a', 3: 1}]", TypeError, "row 0: got the column 3, expected a name"),
        (
            "[{'prompt': 'a', 'prompts': 1}]",
            ValueError,
            "row 0: got the column 'prompts', which is an argument that TRL",
        ),
        ("[{'prompt': 'a', 'trainer_state': 1}]", ValueError, "got the column 'trainer_state'"),
        ("[{'prompt': 'a'}, 7]", TypeError, "row 1: got int, expected a dict"),
        ("({'prompt': p} for p in 'ab')", TypeError, "returned generator, expected a list"),
        ("'ab'", TypeError, "returned 2 items, expected a list"),
        (
            "[{'prompt': 'a', 'x': 1, 'y': iter(x for x in [])}]",
            TypeError,
            "row 0, column 'y': got generator, which cannot",
        ),
        ("[{'prompt': 'a'}, {'prompt': None}]", TypeError, "row 1: got the prompt None, expected a string or messages"),
        ("[{'prompt': b'a'}]", TypeError, "row 0: got the prompt b'a'"),
        (r"[{'prompt': '\ud800'}]", TypeError, r"row 0: got the prompt '.*expected text that UTF-8 can hold"),
        ("[{'prompt': [{'role': 'user', 'content': 3}]}]", TypeError, "row 0: got the prompt"),
        ("[{'prompt': [{'role': 'user', 'content': 'a', 'x': {1}}]}]", TypeError, "row 0: got the prompt"),
    ],
)
def test_a_row_that_cannot_arrive_is_named(tmp_path: Path, rows: str, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=rf"own\.py: dataset\('train', …\).*{message}") as caught:
        write(tmp_path, rows)
    assert "\n" not in str(caught.value)


def test_prompts_that_differ_between_processes_or_from_those_a_run_began_with_are_refused(tmp_path: Path) -> None:
    task = write(tmp_path, AWKWARD)
    options: Any = SimpleNamespace(task="own.py")
    digests = [digest(task), digest(write(tmp_path, AWKWARD)), digest(write(tmp_path, AWKWARD.replace('"c"', '"b"')))]
    assert digests[0] == digests[1] != digests[2]
    record: dict[str, Any] = {}
    folder = SimpleNamespace(path=tmp_path, read=lambda: record)
    whole, resumed = (_plan(folder, place) for place in (None, tmp_path))
    with pytest.raises(ValueError, match=r"task: own\.py makes different prompts in each process"):
        run.check_same(options, digests, whole)
    # A run of before there was a digest goes on.
    run.check_same(options, digests[:2], resumed)
    record["prompts_sha256"] = digests[2]
    run.check_same(options, digests[:2], whole)
    with pytest.raises(ValueError, match=r"makes other prompts than those that .* began with; restore the task"):
        run.check_same(options, digests[:2], resumed)


def test_a_column_that_a_function_needs_and_no_row_has_is_named(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    source = (
        "def dataset(split, size, seed):\n    return [{'prompt': split, 'length': 1}]\n"
        "def reward(texts, LENGTH, trainer_state, other=1, **columns):\n    return [1.0 for _ in texts]\n"
    )
    path.write_text(source.replace("LENGTH", "length"), encoding="utf-8")
    assert tasks.load(path).rewards[0](completions=["a"], row=[0], trainer_state=None) == [1.0]
    path.write_text(source.replace("LENGTH", "lenght"), encoding="utf-8")
    message = (
        r"own\.py: reward takes a column which dataset\('train', …\) does not give: got 'lenght', did you mean 'length'"
    )
    with pytest.raises(ValueError, match=message):
        tasks.load(path)


def _plan(folder: Any, checkpoint: Path | None) -> Any:
    return SimpleNamespace(folder=folder, checkpoint=checkpoint)


def test_a_data_set_without_the_rows_numbers_is_an_error_not_a_wrong_answer(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match=r"row: got the columns .*remove_unused_columns off"):
        write(tmp_path, AWKWARD).rewards[0](completions=["a"], prompts=[[]])
