"""`tpo train`, `tpo eval` and `tpo figure` of language-model runs, end to end on a model built on the spot."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from helpers import tiny_llm
from helpers.processes import without
from hypothesis import given
from hypothesis import strategies as st

from tpo_ref.study import files
from tpo_ref.study.cli import commands as cli
from tpo_ref.study.styles import STYLES
from tpo_torch.llm import tasks
from tpo_torch.llm.program import callbacks, catalogue, curves, figures, pretrained, tiny
from tpo_torch.llm.program.figures import smoothed
from tpo_torch.llm.program.record import FORMAT, Folder
from tpo_torch.llm.program.settings import reading
from tpo_torch.llm.program.settings.sections import TinySettings

pytestmark = tiny_llm.FILTERS

MICRO = tiny_llm.MICRO
# Not the same from run to run: the time.
TIMES = ("time", "runtime", "per_second", "tokens_per")


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = cli.run(list(arguments))
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def micro(capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, str, str]:
    return call(capsys, "train", "tiny", *MICRO, *more)


def lasting(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The log without times."""
    return [{k: v for k, v in entry.items() if not any(word in k for word in TIMES)} for entry in history]


def test_both_methods_train_from_one_model_and_are_drawn_and_evaluated(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for method in ("tpo", "grpo"):
        code, out, err = micro(capsys, "--method", method)
        assert (code, err) == (0, "")
        assert "finished; `tpo figure" in out
        folder = Folder(tmp_path / "runs" / "llm" / f"micro-{method}")
        record = folder.read()
        assert record["state"] == "finished"
        assert record["settings"]["method"] == method
        assert {"trl", "transformers", "torch"} <= set(record["parts"][-1]["versions"])
        history = folder.history()
        at = {entry["step"] for entry in history if "eval/accuracy" in entry}
        assert at == {0, 2, 3}
        # Each step has one line of training, and an evaluation does not take its figures.
        assert [entry["step"] for entry in history if "reward" in entry] == [1, 2, 3]
        assert not any("reward" in entry for entry in history if "eval/accuracy" in entry)
        assert ("anchor/tv" in history[1]) == (method == "tpo")
        assert (folder.model / "model.safetensors").exists()
        assert [p.name for p in sorted(folder.samples.iterdir())] == [f"step-00000{i}.json" for i in (0, 2, 3)]
    assert len([p for p in (tmp_path / "runs" / "warmups").iterdir() if not p.name.startswith(".")]) == 1

    runs = [f"runs/llm/micro-{method}" for method in ("tpo", "grpo")]
    code, out, _ = call(capsys, "figure", *runs)
    assert code == 0
    assert "TPO: micro" in out
    assert Path(out.splitlines()[-1]).read_bytes().startswith(b"\x89PNG")
    code, _, err = call(capsys, "figure", runs[0], "mnist")
    assert code == cli.USAGE_ERROR
    assert "'mnist' beside folders of runs" in err

    code, out, _ = call(capsys, "eval", runs[0], "--json")
    assert code == 0
    found = json.loads(out)["estimates"]
    last = Folder(Path(runs[0])).read()["outcome"]
    # The weights that were saved are those of the last evaluation.
    assert found["accuracy"]["value"] == last["eval/accuracy"]
    assert found["pass@2"]["value"] == last["eval/pass@2"]
    code, out, _ = call(capsys, "eval", f"{runs[0]}/model", "--task", "gym:chain_sum", "task_options.eval_size=3")
    assert code == 0
    assert "accuracy" in out

    code, out, _ = micro(capsys)
    assert code == 0
    assert "finished already; --fresh runs it again" in out
    code, _, err = micro(capsys, "trainer.learning_rate=1e-2")
    assert code == cli.USAGE_ERROR
    assert "learning_rate = 0.0" in err
    assert "--fresh" in err


def test_a_killed_run_resumes_to_the_log_of_a_whole_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert micro(capsys, "--out", "whole")[0] == 0
    real = callbacks.Evaluation.on_step_end

    def stopped(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 3:
            raise KeyboardInterrupt
        real(self, args, state, control, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(callbacks.Evaluation, "on_step_end", stopped)
        code, _, err = micro(capsys)
    assert code == cli.INTERRUPTED
    assert "--resume goes on from the last checkpoint" in err
    code, _, err = micro(capsys)
    assert code == cli.USAGE_ERROR
    assert "unfinished run; --resume" in err
    code, out, _ = micro(capsys, "--resume")
    assert code == 0
    assert "resumed from" in out
    logs = [lasting(Folder(tmp_path / out / "llm" / "micro-tpo").history()) for out in ("whole", "runs")]
    assert logs[0][:-1] == logs[1][:-1]


def test_evaluation_does_not_touch_training(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert micro(capsys, "--out", "often", "evaluation.every=1")[0] == 0
    assert micro(capsys, "--out", "seldom", "evaluation.every=50", "evaluation.samples=0", "evaluation.k=[]")[0] == 0
    trained = [
        [entry for entry in lasting(Folder(tmp_path / out / "llm" / "micro-tpo").history()) if "reward" in entry]
        for out in ("often", "seldom")
    ]
    assert len(trained[0]) == 3
    assert trained[0] == trained[1]


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("Qwen/Qwen3-1.7B", "is not in the local cache, and HF_HUB_OFFLINE is set; download it"),
        ("/nowhere/at/all", "is no folder"),
        (".", "expected a config.json"),
        ("a/b/c/d", "neither a folder nor a hub name"),
    ],
)
def test_a_missing_model_costs_one_line(
    model: str, says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    code, out, err = micro(capsys, f"model={model}")
    assert code == cli.USAGE_ERROR
    assert says in err
    assert err.count("\n") == 1
    assert out == ""
    assert not (tmp_path / "runs").exists()


def test_a_hub_that_cannot_be_reached_is_said_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unreachable(*args: Any, **kwargs: Any) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *args, **kwargs: None)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unreachable)
    with pytest.raises(pretrained.Unavailable, match=r"cannot be reached \(no route\); download it.*model=FOLDER"):
        pretrained.locate("Qwen/Qwen3-1.7B")


def test_without_the_extra_one_line_says_so() -> None:
    main = "from tpo_ref.study.cli.main import main\nsys.argv = ['tpo', *{}]\nmain()\n"
    done = without("trl", main.format(["train", "tiny"]))
    assert done.returncode == cli.USAGE_ERROR
    assert "need trl" in done.stderr
    assert "pip install '.[llm]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["train", "tny"], "did you mean 'tiny'"),
        (["train", "tiny", "trainer.max_stepz=3"], "did you mean 'max_steps'"),
        (["eval", "some/model"], "is no folder of a run"),
        (["eval", "some/model"], "for a model --task is needed"),
        (["train", "tiny", *MICRO, "--resume", "--fresh"], "expected one of them"),
        (["train", "tiny", *MICRO, "trainer.report_to=comet_ml"], "Run `pip install comet-ml"),
        (["train", "tiny", *MICRO, "trainer.use_vllm=true"], "vLLM"),
        (["train", "tiny", *MICRO, "task=gsm9k"], "task: got 'gsm9k'"),
        (["train", "tiny", *MICRO, "--out", "/proc/nowhere"], "choose a writable folder"),
    ],
)
def test_mistakes_cost_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], says: str) -> None:
    code, _, err = call(capsys, *arguments)
    assert code == cli.USAGE_ERROR
    assert says in err
    assert "Traceback" not in err


# Rewards that are no numbers, on the first answers of each call.
OWN = """
def dataset(split, size, seed):
    return [{"prompt": f"Say {split} {i}."} for i in range(size or 8)]

def reward(completions, **columns):
    first = FIRST
    return [*first, *[0.5] * len(completions)][: len(completions)]

def solution(row):
    return "<answer>1</answer>"
"""


def own_task(first: str) -> tuple[str, str, str]:
    Path("mine.py").write_text(OWN.replace("FIRST", first), encoding="utf-8")
    return "task=mine.py", "task_options={train_size: 8, eval_size: 5}", "trainer.max_steps=1"


def test_held_out_answers_that_nobody_can_score_do_not_end_a_run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, err = micro(capsys, *own_task('[None, float("nan"), float("inf")]'))
    assert (code, err) == (0, "")
    folder = Folder(tmp_path / "runs" / "llm" / "micro-tpo")
    answers = json.loads((folder.samples / "step-000000.json").read_text(encoding="utf-8"))["answers"]
    assert [answer["reward"] for answer in answers] == [None, None, None, 0.5, 0.5]
    assert not any(answer["correct"] for answer in answers)
    # The record names the file by its whole path: the run can be evaluated from elsewhere.
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    code, _, err = call(capsys, "eval", str(folder.path))
    assert code == 2
    assert f"asks to run the Python file {tmp_path}" in err
    code, _, err = call(capsys, "eval", str(folder.path), "--trust-code")
    assert code == 0
    assert f"running {tmp_path}" in err


def test_a_reward_that_raises_is_named_and_its_folder_can_be_used_again(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = micro(capsys, *own_task("[1 / 0]"))
    assert code == cli.USAGE_ERROR
    assert "mine.py, line 6: reward raised ZeroDivisionError" in err
    assert err.count("\n") == 1
    assert micro(capsys, *own_task("[1.0]"), "seed=0", "trainer.learning_rate=1e-4")[0] == 0


def test_a_reward_that_raises_while_training_costs_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    # Five held-out answers at a time, eight while training.
    code, _, err = micro(capsys, *own_task("[1 / (8 - len(completions))]"))
    assert code == cli.USAGE_ERROR
    assert "at optimizer step 0" in err
    assert err.count("\n") == 1


def test_checkpoints_of_another_run_are_not_taken_up(tmp_path: Path) -> None:
    settings = reading.load("tiny")
    folder = Folder(tmp_path / "run")
    folder.begin(settings, "", fresh=False)
    assert folder.check(reading.load("tiny", ["prompts=64"]), resume=False, fresh=False)
    (folder.checkpoints / "checkpoint-1").mkdir(parents=True)
    with pytest.raises(ValueError, match="unfinished run; --resume"):
        folder.check(settings, resume=False, fresh=False)
    folder.record.unlink()
    for resume in (False, True):
        with pytest.raises(ValueError, match=r"record .* is gone; --fresh removes them"):
            folder.check(settings, resume, fresh=False)
    kept = folder.path / "notes.txt"
    kept.write_text("mine", encoding="utf-8")
    assert folder.check(settings, resume=False, fresh=True)
    folder.begin(settings, "", fresh=True)
    assert kept.exists()
    assert not folder.checkpoints.exists()
    folder.begin(settings, "", fresh=True)
    assert [p.name for p in folder.path.iterdir()] == ["run.json"]
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("content", [{}, {"settings": 3, "state": "running"}, {"settings": {"name": "x"}}])
def test_a_record_without_settings_is_refused(content: dict[str, Any], tmp_path: Path) -> None:
    files.write_sealed(tmp_path / "run.json", {"format": FORMAT, **content})
    with pytest.raises(ValueError, match="got no settings of a run"):
        Folder(tmp_path).read()


WORKED = [([{"role": "user", "content": f"What is {i} + 1?"}], f"<answer>{i + 1}</answer>") for i in range(30)]


@given(st.text(max_size=60))
def test_every_text_can_be_written_in_the_tiny_tokenizer(text: str) -> None:
    words = test_every_text_can_be_written_in_the_tiny_tokenizer.words
    assert words.decode(words(text)["input_ids"], clean_up_tokenization_spaces=False) == text


test_every_text_can_be_written_in_the_tiny_tokenizer.words = tiny.build_tokenizer(WORKED, 300)  # type: ignore[attr-defined]


def test_the_tiny_tokenizer_knows_chats() -> None:
    words = tiny.build_tokenizer(WORKED, 300)
    shown = words.apply_chat_template([{"role": "user", "content": "Hi"}], add_generation_prompt=True, tokenize=False)
    assert shown == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert len(words(tiny.START)["input_ids"]) == 1
    assert words.pad_token_id != words.eos_token_id == words.convert_tokens_to_ids(tiny.END)


def test_the_warm_up_learns_and_depends_on_the_seed_but_not_on_the_method(tmp_path: Path) -> None:
    options = ["tiny.layers=1", "tiny.width=16", "tiny.heads=2", "tiny.vocabulary=300", "warmup.steps=30"]
    options += ["task_options={min_terms: 2, max_terms: 2, train_size: 20, eval_size: 5}", "task=gym:chain_sum"]
    made = {}
    for name, more in {"tpo": {}, "grpo": {"method": "grpo"}, "seed": {"seed": 1}}.items():
        settings = reading.load("tiny", options, **more)
        task = tasks.load(settings.task, **settings.task_options)
        made[name] = tiny.ensure(settings, task, tmp_path)
    assert made["tpo"] == made["grpo"] != made["seed"]
    losses = json.loads((made["tpo"] / tiny.RECORD).read_text(encoding="utf-8"))["loss"]
    assert losses[-1] < losses[0] - 1
    # Made again from the same ingredients, to the bit.
    before = (made["tpo"] / "model.safetensors").read_bytes()
    shutil.rmtree(made["tpo"])
    torch.manual_seed(99)
    settings = reading.load("tiny", options)
    assert tiny.ensure(settings, tasks.load(settings.task, **settings.task_options), tmp_path) == made["tpo"]
    assert (made["tpo"] / "model.safetensors").read_bytes() == before


def test_a_prompt_teaches_nothing(tmp_path: Path) -> None:
    words = tiny.build_tokenizer(WORKED, 300)
    settings = reading.load("tiny").warmup
    assert settings is not None
    ids, mask, labels = next(tiny._batches(tiny._encode(words, WORKED), settings, words.pad_token_id))
    for row, kept, taught in zip(ids, mask, labels, strict=True):
        said = words.decode(row[taught != tiny.IGNORED])
        assert said.startswith("<answer>")
        assert said.endswith(tiny.END)
        assert not bool((taught != tiny.IGNORED)[kept == 0].any())


def test_a_task_without_worked_examples_is_refused() -> None:
    found = tasks.load("gym:chain_sum", train_size=3, eval_size=2)
    bare = tasks.Task(found.name, found.train, found.evaluation, found.rewards, found.correct)
    with pytest.raises(ValueError, match="no worked examples"):
        tiny.examples(bare)


def test_the_model_is_of_the_qwen3_architecture() -> None:
    words = tiny.build_tokenizer(WORKED, 300)
    model = tiny.build_model(TinySettings(layers=1, width=16, heads=2), words)
    assert type(model).__name__ == "Qwen3ForCausalLM"
    assert model.config.eos_token_id == words.eos_token_id


def test_a_damaged_log_and_numbers_that_are_none(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.log([{"step": 1, "reward": math.nan}, {"step": 2, "reward": 1.0}])
    assert folder.history() == [{"step": 1, "reward": None}, {"step": 2, "reward": 1.0}]
    folder.metrics.write_text('{"step": 1}\n{"st', encoding="utf-8")
    with pytest.raises(ValueError, match="line 2"):
        folder.history()


def test_runs_of_a_figure_keep_their_methods_look(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []
    for plot in ("_smooth", "_marked"):
        real = getattr(figures, plot)
        monkeypatch.setattr(
            figures, plot, lambda axis, curve, look, real=real: (seen.append(look), real(axis, curve, look))
        )
    for method, anchor in {"tpo": None, "grpo": None, "policy": "policy"}.items():
        settings = reading.load("tiny", method="grpo" if method == "grpo" else "tpo").plain()
        if anchor:
            settings["tpo"] = {"anchor": anchor}
        place = tmp_path / method
        place.mkdir()
        files.write_sealed(place / "run.json", {"format": FORMAT, "state": "running", "settings": settings})
        Folder(place).log(
            [{"step": i, "reward": 0.1 * i, "eval/accuracy": 0.2, "eval/accuracy_se": 0.1} for i in range(4)]
        )
    path = curves.figure([tmp_path / name for name in ("tpo", "grpo", "policy")], tmp_path / "x.svg")
    assert path.read_bytes().startswith(b"<?xml")
    assert [look["color"] for look in seen[:3]] == [STYLES[n].colour for n in ("tpo", "grpo", "tpo_policy")]
    # Two panels: neither method has logged a KL.
    assert len(seen) == 6
    with pytest.raises(ValueError, match="no folder of a run"):
        curves.read(tmp_path)
    assert not catalogue.holds_run(tmp_path)


def run_of(folder: Path, seed: int, rewards: list[float]) -> Path:
    settings = reading.load("tiny", method="tpo", seed=seed).plain()
    folder.mkdir()
    files.write_sealed(folder / "run.json", {"format": FORMAT, "state": "finished", "settings": settings})
    Folder(folder).log([{"step": i, "reward": r, "eval/accuracy": r / 2} for i, r in enumerate(rewards)])
    return folder


def test_seeds_of_one_run_are_pooled(tmp_path: Path) -> None:
    folders = [run_of(tmp_path / str(seed), seed, [0.0, 1.0 + 2 * seed]) for seed in (0, 1)]
    pooled = curves.pooled([curves.read(folder) for folder in folders])
    # Rewards 1 and 3 at the last step: mean 2, standard deviation √2, over two seeds an error of 1.
    assert pooled.seeds == 2
    assert pooled.reward.values.tolist() == [0, 2]
    assert pooled.reward.errors.tolist() == pytest.approx([0, 1])
    (found,) = curves.summary(folders)
    assert (found["seeds"], found["last"].value, found["accuracy"].value) == (2, 2.0, 1.0)
    # Over all steps the seeds have .5 and 1.5.
    assert (found["reward"].value, found["reward"].error) == pytest.approx((1.0, 0.5))
    again = run_of(tmp_path / "again", 0, [0.0, 1.0])
    # The same seed twice is no second seed: the run stands apart, under its folder's name.
    assert [(f["name"], f["seeds"]) for f in curves.summary([*folders, again])] == [
        ("TPO: tiny", 2),
        (f"TPO: {again}", 1),
    ]
    behind = run_of(tmp_path / "behind", 2, [0.0, 1.0, 2.0])
    with pytest.raises(ValueError, match="different steps"):
        curves.figure([*folders, behind], tmp_path / "x.png")
    with pytest.raises(ValueError, match="each folder once"):
        curves.figure([folders[0], folders[0]], tmp_path / "x.png")


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=80))
def test_smoothing_stays_within_and_keeps_constants(values: list[float]) -> None:
    import numpy as np

    x = np.array(values)
    assert (smoothed(x) <= x.max() + 1e-9).all()
    assert (smoothed(x) >= x.min() - 1e-9).all()
    assert len(smoothed(x)) == len(x)
    np.testing.assert_allclose(smoothed(np.full(len(x), 3.0)), 3.0)


def test_an_adapter_finds_the_model_below_it_from_another_folder(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, err = micro(capsys, "lora={r: 2}", "trainer.max_steps=1")
    assert (code, err) == (0, "")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    code, _, err = call(capsys, "eval", "../runs/llm/micro-tpo", "evaluation.samples=0")
    assert code == 0, err
