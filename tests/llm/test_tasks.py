"""Tasks for language models: splits that do not meet, rewards as upstream's, answers that no text can break."""

from __future__ import annotations

import builtins
import functools
import inspect
import json
import random
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import reasoning_gym
from hypothesis import given, settings
from hypothesis import strategies as st
from reasoning_gym.factory import DATASETS
from reasoning_gym.utils import extract_answer

from tpo_torch.llm import tasks
from tpo_torch.llm.tasks import answers, gsm8k, guard, gym
from tpo_torch.llm.tasks.task import Task, held_out, key
from tpo_torch.shared import data
from tpo_torch.shared.data import Gsm8k

PROBLEMS = Gsm8k(
    tuple({"question": f"{i} + {i}?", "answer": f"<<{i}+{i}={2 * i}>>\n#### {2 * i:,}"} for i in range(600, 640)),
    tuple({"question": f"{i} + 1?", "answer": f"#### {i + 1}"} for i in range(20)),
)
SMALL = {"train_size": 40, "eval_size": 10}
NAMES = ("gsm8k", "graph_color", "knights_knaves", "gym:spell_backward", "gym:chain_sum")
# Every reader is linear in the text; machines are shared, so that the bound only tells seconds from hours.
SECONDS = 5.0
HOSTILE = {
    "empty": "",
    "a million letters": "a" * 1_000_000,
    "a million digits": f"<answer>{'9' * 1_000_000}</answer>#### {'9' * 1_000_000}",
    "nines within the limit": f"<answer>{'9' * 9_000}</answer>",
    "unclosed tags": "<answer>" * 100_000,
    "unopened tags": "</answer>" * 100_000,
    "tags turned round": "</answer><answer>" * 100_000,
    "many answers": "<answer>1</answer>" * 100_000,
    "tags without end": "<answer>" * 100_000 + "</answer>",
    "brackets": f"<answer>{'[' * 9_000}</answer>",
    "nested maps": "<answer>" + '{"0":' * 1_800 + "</answer>",
    "a million brackets": "<answer>" + "[" * 1_000_000 + "</answer>",
    "closed brackets": f"<answer>{'[' * 4_000}{']' * 4_000}</answer>",
    "unicode digits": "#### ٣٤ <answer>٣٤</answer> #### ５",
    "NUL": "<answer>\0</answer>#### 5\0",
    "lone surrogate": "<answer>\ud800</answer>#### \udfff5",
    "code": "<answer>__import__('os').abort()</answer>#### __import__('os').abort()",
    "power": "<answer>9**9**9**9</answer>#### 9**9**9**9",
    "exponent": "<answer>1e999999999</answer>#### 1e999999999",
    "not a number": "<answer>nan</answer>#### nan",
    "infinite": "<answer>Infinity</answer>#### inf",
    "commas": "#### " + "," * 1_000_000,
    "dots": "#### " + "1." * 1_000,
    "hashes": "#### " * 200_000,
    "null": "<answer>null</answer>",
    "lists": "<answer>[[1, 2], [3]]</answer>",
    "wrong keys": '<answer>{"a": {"b": []}, "": null}</answer>',
    "spaces": "<answer>" + " " * 1_000_000 + "</answer>",
}
PIECES = [
    "<answer>",
    "</answer>",
    "<answer",
    ">",
    "#### ",
    "12",
    "٣",
    "-",
    ",",
    ".",
    " ",
    "\n",
    "\x1c",
    "x",
    "{",
    '"0": 1',
    "}",
]
TEXT = st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=30).map("".join)


@pytest.fixture(autouse=True)
def _problems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gsm8k, "load_gsm8k", lambda folder: PROBLEMS)


def load(name: str, **options: Any) -> Task:
    return tasks.load(name, **{**SMALL, **options})


@functools.cache
def tiny(name: str) -> Task:
    return load(name, train_size=2, eval_size=1)


def columns(rows: Any) -> dict[str, list[Any]]:
    return {name: list(rows[name]) for name in rows.column_names if name != "prompt"}


def scores(task: Task, completions: list[Any], row: int = 0) -> list[float | None]:
    """The reward of completions to one evaluation prompt, called as TRL calls it."""
    rows = task.evaluation.select([row] * len(completions))
    extra = {"trainer_state": None, "log_metric": print}
    ids: list[list[int]] = [[] for _ in completions]
    return task.rewards[0](
        prompts=list(rows["prompt"]), completions=completions, completion_ids=ids, **columns(rows), **extra
    )


def right(task: Task, completions: list[Any], row: int = 0) -> list[bool]:
    return task.correct(completions, **columns(task.evaluation.select([row] * len(completions))))


# Splits


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", [0, 3])
def test_the_splits_have_the_sizes_asked_and_do_not_meet(name: str, seed: int) -> None:
    task = load(name, seed=seed)
    train, evaluation = (list(map(key, split["prompt"])) for split in (task.train, task.evaluation))
    assert (len(train), len(evaluation)) == (40, 10)
    assert not set(train) & set(evaluation)
    assert len(set(evaluation)) == 10


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_gives_the_same_task_and_another_seed_another(name: str) -> None:
    first, again, other = (load(name, seed=seed, train_size=20) for seed in (1, 1, 2))
    assert first.train.to_list() == again.train.to_list()
    assert first.evaluation.to_list() == again.evaluation.to_list()
    assert first.train.to_list() != other.train.to_list()


def test_generated_evaluation_lies_behind_training_and_does_not_move_with_its_size() -> None:
    small, large = (load("knights_knaves", train_size=size) for size in (5, 60))
    assert small.evaluation.to_list() == large.evaluation.to_list()
    last = [row["seed"] + row["index"] for row in large.train][-1]
    assert min(row["seed"] + row["index"] for row in large.evaluation) > last
    with pytest.raises(ValueError, match="train_size: got 1000001"):
        load("knights_knaves", train_size=1_000_001)


def test_what_training_holds_already_is_dropped_counted_and_replaced() -> None:
    # Upstream knows few words of three letters.
    few = {"min_word_len": 3, "max_word_len": 3}
    task = tasks.load("gym:spell_backward", train_size=30, eval_size=40, **few)
    assert len(task.evaluation) == 40
    assert task.dropped > 0
    with pytest.raises(ValueError, match=r"expected 5000; lower train_size or eval_size"):
        tasks.load("gym:spell_backward", train_size=30, eval_size=5_000, **few)


def test_a_prompt_in_both_splits_is_refused_wherever_it_comes_from() -> None:
    task = load("gsm8k")
    with pytest.raises(ValueError, match="10 prompts that are in both splits"):
        replace(task, train=task.evaluation)
    with pytest.raises(ValueError, match="expected rows with a column 'prompt'"):
        replace(task, train=task.train.remove_columns("prompt"))


@given(st.lists(st.integers(0, 9), max_size=20), st.lists(st.integers(0, 9), max_size=20), st.integers(1, 12))
def test_held_out_rows_are_the_first_new_ones(train: list[int], candidates: list[int], size: int) -> None:
    def rows(prompts: list[int]) -> list[dict[str, Any]]:
        return [{"prompt": [{"role": "user", "content": str(p)}]} for p in prompts]

    new = [p for p in dict.fromkeys(candidates) if p not in train]
    if len(new) < size:
        with pytest.raises(ValueError, match=f"got {len(new)} evaluation prompts"):
            held_out("task", rows(train), rows(candidates), size)
    else:
        kept, dropped = held_out("task", rows(train), rows(candidates), size)
        assert kept == rows(new[:size])
        assert dropped == candidates.index(new[size - 1]) + 1 - size


# Prompts, rewards, worked answers


@pytest.mark.parametrize("name", NAMES)
def test_prompts_are_chats_and_say_how_to_answer(name: str) -> None:
    for prompt in load(name).train["prompt"]:
        assert [message["role"] for message in prompt] == ["user"]
        assert ("####" if name == "gsm8k" else "<answer>") in prompt[0]["content"].splitlines()[-1]
    briefed = load(name, system="Be brief.", instruction="").train["prompt"][0]
    assert [message["role"] for message in briefed] == ["system", "user"]
    assert "####" not in briefed[1]["content"]
    assert "<answer>" not in briefed[1]["content"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("split", ["train", "evaluation"])
def test_worked_answers_are_right_and_paid_in_full(name: str, split: str) -> None:
    task = load(name)
    rows = getattr(task, split)
    assert task.solution is not None
    worked = [task.solution(row) for row in rows]
    chats = [[{"role": "assistant", "content": text}] for text in worked]
    for completions in (worked, chats):
        assert task.correct(completions, **columns(rows)) == [True] * len(rows)
        assert task.rewards[0](completions=completions, **columns(rows)) == [1.0] * len(rows)
    others = worked[1:] + worked[:1]
    assert not all(task.correct(others, **columns(rows)))


@pytest.mark.parametrize(
    "completion", [None, "", [], [{"role": "assistant", "content": None}], [{"role": "assistant"}]]
)
@pytest.mark.parametrize("name", NAMES)
def test_saying_nothing_pays_nothing(name: str, completion: Any) -> None:
    task = load(name)
    assert scores(task, [completion]) == [0.0]
    assert right(task, [completion]) == [False]


@pytest.mark.parametrize("name", NAMES)
def test_a_reward_without_its_columns_is_an_error_not_a_wrong_answer(name: str) -> None:
    task = load(name)
    with pytest.raises(KeyError, match="expected the task's own"):
        task.rewards[0](completions=["1"], prompts=[[]], completion_ids=[[]])
    if name != "gsm8k":
        with pytest.raises(KeyError, match="77"):
            task.rewards[0](completions=["1"], seed=[77], index=[0])
    with pytest.raises(ValueError, match="zip"):
        task.correct(["1", "2"], **columns(task.evaluation.select([0])))


@pytest.mark.parametrize(
    ("text", "strict", "loose"),
    [
        ("#### 1,201", True, True),
        ("#### 3\nno:\n#### 1201", True, True),
        ("#### 1201\nno:\n#### 3", False, False),
        ("#### 1201.", False, True),
        ("#### 1201.0", False, True),
        ("it is 1,201.", False, True),
        ("####1201", False, True),
        ("#### $1201", False, True),
        ("#### 1201" + " " * 298, False, False),
        ("#### 1201" + " " * 200, True, True),
        ("1201 apples, then 7", False, False),
        ("#### 01201", False, True),
        ("#### ,", False, False),
        ("#### １２０１", False, False),
    ],
)
def test_gsm8k_pays_the_last_marked_number_only(text: str, strict: bool, loose: bool) -> None:
    row = {"answer": ["1201"]}
    for name, value in ((True, strict), (False, loose)):
        task = load("gsm8k", strict=name)
        assert task.rewards[0](completions=[text], **row) == [float(value)]
        assert task.correct([text], **row) == [value]


def test_only_ascii_digits_are_digits() -> None:
    for text in ("#### ٣٤", "#### １２"):
        assert answers.hashed(text) is None
        assert answers.last_number(text) is None


def test_the_number_of_every_gsm8k_problem_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gsm8k, "load_gsm8k", data.load_gsm8k)
    try:
        task = tasks.load("gsm8k")
    except data.DataError:
        pytest.skip("GSM8K is not here")
    assert (len(task.train), len(task.evaluation), task.dropped) == (7_473, 1_319, 0)
    for split in (task.train, task.evaluation):
        assert all(each.lstrip("-").replace(".", "", 1).isdigit() for each in split["answer"])


def test_partial_credit_is_upstreams_and_exact_pays_only_a_full_score() -> None:
    task, exact = (load("knights_knaves", n_people=3, partial=p) for p in (True, False))
    source = reasoning_gym.create_dataset("knights_knaves", n_people=3, seed=gym.EVALUATION_OFFSET, size=200)
    for row in range(10):
        answer = source[task.evaluation[row]["index"]]["answer"]
        flipped = " ".join(reversed(answer.split()))
        said = [answer, answer.split(",")[0], flipped, "nobody", answer.upper()]
        expected = [source.score_answer(text, source[task.evaluation[row]["index"]]) for text in said]
        completions = [f"so <answer>{text}</answer>" for text in said]
        assert scores(task, completions, row) == expected
        assert scores(exact, completions, row) == [float(each == 1) for each in expected]
        assert right(task, completions, row) == [each == 1 for each in expected]


def test_a_graph_is_paid_one_or_a_hundredth_or_nothing() -> None:
    task, exact = load("graph_color"), load("graph_color", partial=False)
    one = json.dumps(dict.fromkeys(map(str, range(10)), 1))
    said = [f"<answer>{text}</answer>" for text in (one, "{}", "not json")]
    assert scores(task, said) == [0.01, 0.01, 0.0]
    assert scores(exact, said) == [0.0, 0.0, 0.0]


def test_an_answer_longer_than_anyones_reaches_no_scorer() -> None:
    task = load("graph_color")
    assert task.solution is not None
    answer = task.solution(task.evaluation[0])
    for spaces, paid in ((answers.ANSWER_LIMIT // 2, 1.0), (answers.ANSWER_LIMIT, 0.0)):
        assert scores(task, [answer.replace(" ", " " * spaces, 1)]) == [paid]


def test_options_reach_the_generator() -> None:
    task = load("graph_color", min_num_vertices=4, max_num_vertices=4, num_colors=2, edge_probability=0.5)
    assert "Vertices: [0, 1, 2, 3]" in task.train[0]["prompt"][0]["content"]
    assert "Possible colors: [1, 2]" in task.train[0]["prompt"][0]["content"]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("gsm9k", {}, "task: got 'gsm9k', did you mean 'gsm8k'"),
        ("gym:graph_colour", {}, "gym: got 'graph_colour', did you mean 'graph_color'"),
        ("gsm8k", {"evalsize": 3}, "did you mean 'eval_size'"),
        ("graph_color", {"vertices": 3}, "did you mean '(min|max)_num_vertices'"),
        ("gym:chain_sum", {"size": 3}, "got 'size'"),
        ("gym:chain_sum", {"min_terms": 9, "max_terms": 2}, "Reasoning Gym refuses the options"),
        ("gym:chain_sum", {"train_size": 0}, "train_size: got 0, expected a whole number, 1"),
        ("graph_color", {"eval_size": 2.0}, "eval_size: got 2.0"),
        ("gsm8k", {"seed": -1}, "seed: got -1"),
        ("gym:chain_sum", {"seed": 10**30}, r"seed: got 10+, expected at most 4294967295"),
        ("gsm8k", {"strict": "no"}, "strict: got 'no', expected true or false"),
        ("gym:chain_sum", {"partial": "no"}, "partial: got 'no', expected true or false"),
        ("gsm8k", {"train_size": 41}, "train_size: got 41, expected at most the 40 problems"),
    ],
)
def test_what_is_misspelt_or_out_of_range_is_named(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        tasks.load(name, **options)


# Hostile text


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("name", [*NAMES, "gym:game_of_life", "gym:jugs", "gym:number_format"])
def test_hostile_text_pays_nothing_in_bounded_time(name: str, hostile: str) -> None:
    task = tiny(name)
    begin = time.perf_counter()
    (paid,) = scores(task, [HOSTILE[hostile]])
    assert right(task, [HOSTILE[hostile]]) == [False]
    assert time.perf_counter() - begin < SECONDS
    # Upstream gives small change for a well-formed wrong answer.
    assert paid is not None
    assert 0 <= paid <= 0.25


@given(TEXT)
@settings(max_examples=300)
def test_the_tagged_answer_is_upstreams(text: str) -> None:
    assert answers.tagged(text) == extract_answer(text)


@given(TEXT)
def test_every_reader_returns_and_every_score_is_a_number(text: str) -> None:
    assert answers.text_of([{"role": "assistant", "content": [{"type": "text", "text": text}]}]) == text
    found = answers.hashed(text)
    assert found is None or set(found) <= set("-.0123456789")
    answers.last_number(text)
    for name in ("gsm8k", "graph_color", "knights_knaves"):
        (paid,) = scores(tiny(name), [f"<answer>{text}</answer>"])
        assert paid is not None
        assert 0 <= paid <= 1


@pytest.mark.parametrize("completion", [3, b"4", {"role": "assistant", "content": 4}, [4], ["4"]])
def test_what_is_no_completion_is_an_error(completion: Any) -> None:
    with pytest.raises(TypeError, match="expected a string"):
        answers.text_of(completion)


def test_the_assistants_last_message_counts() -> None:
    chat = [{"role": "assistant", "content": "1"}, {"role": "tool", "content": "2"}]
    assert answers.text_of(chat) == "1"
    assert answers.text_of([*chat, {"role": "assistant", "content": "3"}]) == "3"
    assert answers.text_of(chat[1:]) == ""


@pytest.mark.parametrize("name", NAMES)
def test_no_answer_is_evaluated(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    task = load(name)

    def caught(*_: Any, **__: Any) -> None:
        pytest.fail("an answer was executed")

    # Under pytest.fail's own exception, which is no Exception, nothing can swallow it.
    with monkeypatch.context() as patch:
        for function in ("eval", "exec"):
            patch.setattr(builtins, function, caught)
        scores(task, ["<answer>[1, 2]</answer>#### 1+1", "<answer>(lambda: 1)()</answer>"])


def test_a_scorer_that_executes_its_answer_is_known_and_refused() -> None:
    executing = {
        name
        for name, (dataset, _) in DATASETS.items()
        if guard.executing_calls(inspect.getsource(sys.modules[dataset.__module__]))
    }
    by_hand = {name for name, reason in guard.FORBIDDEN_DATASETS.items() if reason == guard.EXECUTES}
    # propositional_logic calls a parser of its own that shares its name with sympy's.
    assert executing == by_hand | guard.HARMLESS | {"propositional_logic"}
    assert set(guard.FORBIDDEN_DATASETS) | guard.HARMLESS | guard.HASHED <= set(DATASETS)
    for name in guard.FORBIDDEN_DATASETS:
        with pytest.raises(ValueError, match=f"gym:{name}: .*; choose another dataset"):
            tasks.load(f"gym:{name}")


def test_a_dataset_of_a_later_version_that_executes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "FORBIDDEN_DATASETS", {})
    with pytest.raises(ValueError, match="gym:countdown: its module calls parse_expr"):
        tasks.load("gym:countdown")


def test_problems_that_depend_on_string_hashing_need_a_hash_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    with pytest.raises(ValueError, match="PYTHONHASHSEED"):
        load("gym:ransom_note")
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    assert len(load("gym:ransom_note").train) == 40


# A task of one's own

OWN = '''
"""Say a word again."""
import random

def dataset(split, size, seed, letters=3):
    draw = random.Random(f"{split} {seed}")
    words = ["".join(draw.choices("abcdefgh" if split == "train" else "ijklmnop", k=letters)) for _ in range(size or 5)]
    return [{"prompt": f"Say {word}.", "word": word} for word in dict.fromkeys(words)]

def reward(completions, word, **columns):
    return [float(text == w) for text, w in zip(completions, word, strict=True)]
'''


@pytest.fixture
def own(tmp_path: Path) -> Callable[..., Task]:
    def write(source: str = OWN, name: str = "say.py", **options: Any) -> Task:
        (tmp_path / name).write_text(source, encoding="utf-8")
        return tasks.load(tmp_path / name, **options)

    return write


def test_a_task_of_ones_own_is_one_file(own: Callable[..., Task]) -> None:
    task = own(train_size=4, letters=6)
    assert (task.name, len(task.train), len(task.evaluation), task.solution) == ("say", 4, 5, None)
    (message,) = task.train[0]["prompt"]
    assert message["role"] == "user"
    word = task.evaluation[0]["prompt"][0]["content"][4:-1]
    assert len(word) == 6
    said = [word, [{"role": "assistant", "content": word}], None]
    assert scores(task, said) == [1.0, 1.0, 0.0]
    assert right(task, said) == [True, True, False]


def test_ones_own_accuracy_and_worked_answers_are_used(own: Callable[..., Task]) -> None:
    extra = "def correct(completions, word, **columns):\n    return [w in t for t, w in zip(completions, word)]\n"
    task = own(OWN + extra + "def solution(row):\n    return row['word']\n")
    assert task.solution is not None
    word = task.solution(task.evaluation[0])
    assert task.evaluation[0]["prompt"][0]["content"] == f"Say {word}."
    assert right(task, [f"I say {word}"]) == [True]
    assert scores(task, [f"I say {word}"]) == [0.0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("def reward", "def other"), r"found no function 'reward'; define reward\(completions"),
        (("def dataset", "def other"), "found no function 'dataset'"),
        (("def reward(completions, word, **columns)", "def reward(completions, word)"), r"takes no \*\*columns"),
        (("def reward", "reward = 3\ndef other"), "reward is of type int, expected a function"),
        (("    return [{", "    return []\n    return [{"), "returned 0 items, expected a list of at least one dict"),
        (("    return [{", "    return 7\n    return [{"), "returned int, expected a list"),
        (('"prompt": f"Say {word}."', '"prompt": 3'), "got the prompt 3, expected a string or messages"),
        (('"prompt": f"Say {word}."', '"text": word'), "got the prompt None"),
        (('"prompt": f"Say {word}."', '"prompt": [{"role": "boss", "content": "x"}]'), "with a role of system"),
        (('"prompt": f"Say {word}."', '"prompt": "Say it."'), "1 prompts that are in both splits"),
    ],
)
def test_a_wrong_file_is_told_what_is_wrong(own: Callable[..., Task], change: tuple[str, str], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        own(OWN.replace(*change))


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("None", "returned NoneType, expected a list of 1"),
        ("[1.0, 2.0]", "returned 2 values, expected a list of 1"),
        ("'1'", "returned str, expected a list of 1"),
        ("{0: 1.0}", "returned dict, expected a list of 1"),
        ("['1']", "returned '1' for a completion, expected a number or None"),
    ],
)
def test_a_wrong_reward_is_told_what_is_wrong(own: Callable[..., Task], returned: str, message: str) -> None:
    task = own(OWN.replace("    return [float(text", f"    return {returned}\n    return [float(text"))
    with pytest.raises(TypeError, match=message):
        scores(task, ["x"])


def test_a_missing_file_and_an_unknown_option_are_named(own: Callable[..., Task], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.py: no such file"):
        tasks.load(tmp_path / "none.py")
    with pytest.raises(ValueError, match="got 'leters', did you mean 'letters'"):
        own(leters=2)
    with pytest.raises(ValueError, match="train_size: got 0"):
        own(train_size=0)


def test_what_ones_own_file_raises_is_told_with_its_line(own: Callable[..., Task]) -> None:
    with pytest.raises(ValueError, match=r"broken\.py, line 1: importing it raised ZeroDivisionError: division"):
        own("1 / 0\n", "broken.py")
    assert not [name for name in sys.modules if name.startswith("tpo_own_task_broken")]
    with pytest.raises(ValueError, match=r"say\.py, line 2: importing it raised SyntaxError"):
        own("a = 1\ndef (\n")
    with pytest.raises(ValueError, match=r"say\.py, line 6: dataset raised RuntimeError: mine"):
        own(OWN.replace("    draw =", "    raise RuntimeError('mine')\n    draw ="))
    task = own(OWN.replace("    return [float(text", "    1 / 0\n    return [float(text"))
    with pytest.raises(ValueError, match=r"say\.py, line 11: reward raised ZeroDivisionError"):
        scores(task, ["x"])


@pytest.mark.parametrize(
    "paid",
    [
        "np.array([1, 0], dtype=np.float32)",
        "[np.float32(1), np.int64(0)]",
        "(x for x in (1, 0))",
        "torch.tensor([1.0, 0.0])",
        "[fractions.Fraction(1), True * 0]",
    ],
)
def test_anything_that_is_numbers_is_a_reward(own: Callable[..., Task], paid: str) -> None:
    extra = "def correct(completions, word, **columns):\n    return np.array([True, False])\n"
    head = OWN.replace("import random", "import fractions, random\nimport numpy as np\nimport torch")
    task = own(head.replace("    return [float(text", f"    return {paid}\n    return [float(text") + extra)
    assert task.rewards[0](prompts=[], completions=["a", "b"], completion_ids=[], row=[0, 0]) == [1.0, 0.0]
    found = task.correct(["a", "b"], row=[0, 0])
    assert found == [True, False]
    assert all(type(each) is bool for each in found)


def test_an_infinite_reward_is_not_right(own: Callable[..., Task]) -> None:
    paid = "[float('inf'), float('nan'), None, 2.0]"
    task = own(OWN.replace("    return [float(text", f"    return {paid}\n    return [float(text"))
    assert task.correct(list("abcd"), row=[0, 1, 2, 3]) == [False, False, False, True]


def test_guesses_at_knights_and_knaves_score_high() -> None:
    task, draw = load("knights_knaves", eval_size=40), random.Random(0)
    source = reasoning_gym.create_dataset("knights_knaves", seed=gym.EVALUATION_OFFSET, size=200)
    paid, exact = [], []
    for number, row in enumerate(task.evaluation):
        metadata = source[row["index"]]["metadata"]
        roles = [metadata["knight_knave_terms"][each] for each in ("knight", "knave")]
        guesses = [", and ".join(f"{name} is a {draw.choice(roles)}" for name in metadata["names"]) for _ in range(10)]
        said = [f"<answer>{guess}.</answer>" for guess in guesses]
        paid += scores(task, said, number)
        exact += right(task, said, number)
    # Of two people both are right in a quarter of the guesses, one in half: .25 · 1 + .5 · (.3 + .7 / 2) = .575.
    assert sum(map(float, paid)) / len(paid) == pytest.approx(0.575, abs=0.06)
    assert sum(exact) / len(exact) == pytest.approx(0.25, abs=0.06)
