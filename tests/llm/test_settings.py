"""Settings of language-model runs: what is shipped is sound and the paper's, and every mistake is named."""

from __future__ import annotations

import importlib.util
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import tiny_llm
from hypothesis import given
from hypothesis import strategies as st

from tpo_torch.llm import LIBRARIES
from tpo_torch.llm.layout import BatchLayout
from tpo_torch.llm.program.plan import accumulation
from tpo_torch.llm.program.run import build_arguments
from tpo_torch.llm.program.settings import reading
from tpo_torch.llm.program.settings.sections import METHODS, EvaluationSettings, RunSettings, WarmupSettings

pytestmark = tiny_llm.FILTERS

# The paper's pairs of model and task.
MODELS = {"qwen3-1.7b": "Qwen/Qwen3-1.7B", "r1-distill-1.5b": "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"}
TASKS = {"gsm8k": "gsm8k", "graph-color": "graph_color", "knights-knaves": "knights_knaves"}
PAIRS = [f"{model}-{task}" for model in MODELS for task in TASKS]
# What the paper does state; everything else in the shipped files is ours, and says so.
STATED = {"model", "task", "prompts", "num_generations", "learning_rate", "beta", "r", "every", "base", "name", "size"}
STATED |= {"lora", "anchor", "eta", "tau", "logging_steps"}
COUNTS = (1, 2, 4)
ROOT = Path(__file__).parents[2]


def test_the_libraries_of_the_extra_are_named_once() -> None:
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"][
        "llm"
    ]
    assert {re.split(r"[^\w-]", requirement)[0] for requirement in extra} == set(LIBRARIES.values())
    for name in LIBRARIES:
        assert importlib.util.find_spec(name) is not None


def without_gpu(settings: RunSettings) -> RunSettings:
    return reading.changed(settings.plain(), ["trainer.use_cpu=true"])


@pytest.mark.parametrize("name", reading.shipped())
@pytest.mark.parametrize("method", METHODS)
def test_every_shipped_configuration_makes_arguments_and_whole_groups(name: str, method: str, tmp_path: Path) -> None:
    settings = without_gpu(reading.load(name, method=method))
    for processes in (settings.processes,) if settings.processes else COUNTS:
        steps = accumulation(settings, processes)
        micro, group = settings.trainer["per_device_train_batch_size"], settings.trainer["num_generations"]
        assert steps * micro * processes == settings.prompts * group
        layout = BatchLayout(
            num_generations=group,
            per_device=micro,
            accumulation=steps,
            processes=processes,
            steps_per_generation=settings.trainer.get("steps_per_generation"),
        )
        assert layout.one_step
    arguments = build_arguments(settings, tmp_path, accumulation(settings, settings.processes or 1))
    assert arguments.learning_rate == settings.trainer["learning_rate"]
    assert type(arguments).__name__ == "GRPOConfig" if method == "grpo" else "TargetPOConfig"


@pytest.mark.paper("Fig. 9")
@pytest.mark.parametrize("name", PAIRS)
def test_the_papers_pairs_follow_its_protocol(name: str) -> None:
    settings = reading.load(name)
    model, task = next((m, t) for m in MODELS for t in TASKS if name == f"{m}-{t}")
    assert (settings.model, settings.task) == (MODELS[model], TASKS[task])
    assert (settings.prompts, settings.trainer["num_generations"], settings.trainer["learning_rate"]) == (16, 16, 1e-5)
    assert settings.trainer.get("optim", "adamw_torch").startswith("adamw")
    on_gsm8k = task == "gsm8k"
    assert settings.trainer["beta"] == (1e-3 if on_gsm8k else 0)
    assert (settings.lora or {}).get("r") == (32 if on_gsm8k else None)
    if on_gsm8k:
        assert settings.evaluation.every == 5


@pytest.mark.parametrize("name", PAIRS)
def test_what_the_paper_leaves_out_is_marked_as_ours(name: str) -> None:
    for line in (reading.CONFIGS / f"{name}.yaml").read_text(encoding="utf-8").splitlines():
        found = re.match(r"\s*(\w+): *(\S.*)$", line)
        if found and not found[2].startswith("#") and found[1] not in STATED and "samples" not in found[1]:
            assert "# ours" in line or found[1] in {"k", "chat_template_kwargs"}, line


@pytest.mark.parametrize("name", [n for n in reading.shipped() if n.endswith("24gb")])
def test_the_smaller_variants_differ_in_how_not_in_what(name: str) -> None:
    small, large = reading.load(name), reading.load(name.removesuffix("-24gb"))
    for what in ("model", "task", "prompts", "task_options", "tpo", "grpo"):
        assert getattr(small, what) == getattr(large, what)
    for what in ("num_generations", "learning_rate", "beta", "max_completion_length"):
        assert small.trainer[what] == large.trainer[what]
    assert small.lora is not None


@given(st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_numbers_are_numbers_however_they_are_written(x: float) -> None:
    for text in (repr(x), f"{x:e}", f"{x:.12e}"):
        settings = reading.load("tiny", [f"task_options.number={text}"])
        value = settings.task_options["number"]
        assert isinstance(value, float)
        assert value == float(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [("[1e-3, -.5E+2]", [1e-3, -50.0]), ("{a: +1e3}", {"a": 1e3}), ("'1e-3'", "1e-3"), ("1e-3x", "1e-3x"), ("5", 5)],
)
def test_exponents_are_numbers_at_every_depth_and_words_in_quotes(text: str, value: object) -> None:
    assert reading.load("tiny", [f"task_options.x={text}"]).task_options["x"] == value


def test_overrides_reach_every_depth() -> None:
    settings = reading.load(
        "tiny",
        ["trainer.learning_rate=1e-6", "task_options.train_size=100", "model=/some/where", "lora.r=8", "warmup=null"],
        method="grpo",
        seed=3,
    )
    assert settings.trainer["learning_rate"] == 1e-6
    assert settings.trainer["max_steps"] == reading.load("tiny").trainer["max_steps"]
    assert (settings.model, settings.lora, settings.warmup) == ("/some/where", {"r": 8}, None)
    assert settings.task_options["train_size"] == 100
    assert settings.folder == "tiny-grpo-seed3"
    assert reading.from_plain(settings.plain()) == settings


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["trainer.lerning_rate=1"], "did you mean 'learning_rate'"),
        (["trainr.learning_rate=1"], "did you mean 'trainer'"),
        (["tpo.anker=ratio"], "did you mean 'anchor'"),
        (["lora.rank=3", "lora.alpha=8"], "lora: got 'rank'"),
        (["evaluation.evry=1"], "did you mean 'every'"),
        (["learning_rate"], "expected key=value"),
        (["trainer.=3"], "expected key=value"),
        (["method=ppo"], "method: got 'ppo'"),
        (["name=a/b"], "it names a folder"),
        (["seed=-1"], "seed: got -1"),
        (["trainer.learning_rate=fast"], "trainer.learning_rate: got 'fast', expected a float"),
        (["trainer.gradient_accumulation_steps=2"], "it follows from prompts"),
        (["trainer.output_dir=/x"], "choose --out"),
        (["trainer.trust_remote_code=true"], "it stays off"),
        (["lora.lora_dropout=0.1"], "expected 0"),
        (["tpo.learning_rate=1e-3"], "is given in trainer too"),
        (["evaluation.k=[1, 9]"], "expected at most samples"),
        (["evaluation.k=3"], "expected a list"),
        (["tiny.heads=3"], "expected a divisor"),
        (["warmup.steps=0"], "warmup.steps: got 0"),
        (["trainer=3"], "expected settings with names"),
        (["prompts=[1"], "prompts: got '[1': is not YAML"),
        (["model="], "model: got None"),
        (["model=no"], "quote it: 'no'"),
        (["trainer.eval_strategy=no"], "quote it: 'no'"),
        (["trainer.max_steps=1.5"], "trainer.max_steps: got 1.5, expected an int"),
        (["trainer.max_steps=true"], "trainer.max_steps: got True, expected an int"),
        (["trainer.learning_rate=true"], "expected a float"),
        (["trainer.learning_rate=[1]"], "expected a float"),
        (["trainer.learning_rate=null"], "expected a float"),
        (["tpo.eta=true"], "tpo.eta: got True"),
        (["lora.r=1.5"], "lora.r: got 1.5, expected an int"),
        (["trainer.run_name=3"], "expected a str or null"),
        (["trainer.model_init_kwargs={trust_remote_code: true}"], "it stays off"),
        (["trainer.model_init_kwargs='{\"trust_remote_code\": true}'"], "it stays off"),
        (["trainer.save_only_model=true"], "could not resume"),
        (["trainer.hub_token=hf_secret"], "got a value, but"),
        (["evaluation.qqq=1"], "expected every, size, samples, k, batch_size, seed"),
        (["evaluation.k=[1, 9]"], "or lower k"),
        (["name=."], "it names a folder"),
        (["name=.."], "it names a folder"),
        (["accelerate=fsdp3"], "did you mean 'fsdp2'"),
    ],
)
def test_mistakes_are_named(overrides: list[str], says: str) -> None:
    with pytest.raises((ValueError, TypeError), match=re.escape(says)):
        reading.load("tiny", overrides)


def test_values_of_the_right_type_pass() -> None:
    fine = ["trainer.learning_rate=1", "trainer.run_name=null", "trainer.eval_strategy='no'", "trainer.bf16=null"]
    more = ["trainer.save_only_model=false", "trainer.vllm_importance_sampling_clip_max=null", "trainer.save_steps=0.5"]
    assert reading.load("tiny", [*fine, *more]).trainer["eval_strategy"] == "no"


def test_another_task_leaves_the_options_of_the_one_before_behind(tmp_path: Path) -> None:
    inherited = reading.load("tiny").task_options
    assert reading.load("tiny", ["task=graph_color"]).task_options == inherited
    assert reading.load("tiny", ["task=gsm8k"]).task_options == {}
    assert reading.load("tiny", ["task_options.eval_size=5", "task=gsm8k"]).task_options == {"eval_size": 5}
    path = tmp_path / "mine.yaml"
    path.write_text("base: tiny\ntask: gsm8k\n", encoding="utf-8")
    assert reading.load(str(path)).task_options == {}


def test_bases_that_come_back_to_themselves_are_named(tmp_path: Path) -> None:
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    one.write_text(f"base: {two}\n", encoding="utf-8")
    two.write_text(f"base: {one}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"base: .*one\.yaml -> .*two\.yaml -> .*one\.yaml comes back"):
        reading.load(str(one))


def test_local_paths_are_recorded_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").mkdir()
    (tmp_path / "tiny").mkdir()
    found = reading.load("tiny", ["model=weights", "task=own.py"]).resolved()
    assert (found.model, found.task) == (str(tmp_path / "weights"), str(tmp_path / "own.py"))
    kept = reading.load("tiny").resolved()
    assert (kept.model, kept.task) == ("tiny", "graph_color")


def test_the_remedy_for_a_wrong_launch_can_be_pasted() -> None:
    with pytest.raises(ValueError, match="accelerate launch") as caught:
        accumulation(reading.load("qwen3-1.7b-gsm8k-fsdp", ["name=mine"]), 1)
    said = str(caught.value)
    file = re.search(r"--config_file (\S+)", said)
    assert file is not None
    assert Path(file[1]).is_file()
    assert "-m tpo_torch.llm.train qwen3-1.7b-gsm8k-fsdp`" in said


def test_advice_does_not_name_what_is_refused(tmp_path: Path) -> None:
    settings = without_gpu(reading.load("tiny", ["trainer.steps_per_generation=3"]))
    with pytest.raises(ValueError, match=r"Leave out trainer\.steps_per_generation") as caught:
        build_arguments(settings, tmp_path, accumulation(settings, 1))
    assert "gradient_accumulation_steps" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("a: [1", "is not YAML"),
        ("- 1", "expected settings with names"),
        ("model: tiny", "task missing"),
        ("!!python/object/apply:os.getcwd []", "are not read"),
        ("base: tny", "did you mean 'tiny'"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(content: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises((ValueError, TypeError), match=re.escape(says)):
        reading.load(str(path))
    with pytest.raises(ValueError, match="is not there; expected a file, or one of"):
        reading.load(str(tmp_path / "none.yaml"))


def test_an_override_leaves_what_was_read_as_it_was() -> None:
    content = reading.load("tiny").plain()
    before = json.dumps(content)
    reading.changed(content, ["trainer.max_steps=1", "task_options.train_size=1", "evaluation.every=1"])
    assert json.dumps(content) == before


def test_equal_settings_are_equal_however_they_were_written() -> None:
    assert EvaluationSettings(k=[1, 4]) == EvaluationSettings()
    plain = RunSettings("x", "tiny", "gsm8k").plain()
    assert reading.from_plain(json.loads(json.dumps(plain))) == RunSettings("x", "tiny", "gsm8k")


def test_a_file_of_ones_own_lies_over_its_base(tmp_path: Path) -> None:
    own: dict[str, Any] = {
        "base": "tiny",
        "trainer": {"max_steps": 7},
        "task": "gsm8k",
        "task_options": {"eval_size": 5},
    }
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(own), encoding="utf-8")
    settings, base = reading.load(str(path)), reading.load("tiny")
    assert settings.name == "mine"
    # Options of another task would mean nothing to this one.
    assert settings.task_options == {"eval_size": 5}
    assert settings.trainer == {**base.trainer, "max_steps": 7}
    assert settings.warmup == base.warmup
    assert isinstance(settings.warmup, WarmupSettings)


@pytest.mark.parametrize(
    ("overrides", "processes", "says"),
    [
        (["prompts=3", "trainer.per_device_train_batch_size=16"], 1, "per_device_train_batch_size=12 works"),
        (["prompts=2"], 3, "change prompts"),
        (["prompts=3", "trainer.per_device_train_batch_size=16"], 1, "on 1 process;"),
        (["trainer.num_generations=1"], 1, "one alone teaches nothing"),
        (["processes=4"], 1, "--num_processes 4"),
        (["trainer.per_device_train_batch_size=0"], 1, "got 0, expected at least 1"),
    ],
)
def test_batches_that_cannot_be_cut_are_refused_with_one_that_can(
    overrides: list[str], processes: int, says: str
) -> None:
    with pytest.raises((ValueError, TypeError), match=re.escape(says)):
        accumulation(reading.load("tiny", overrides), processes)


@pytest.mark.parametrize("word", ["false", "0", "no", "''"])
@pytest.mark.parametrize("section", ["lora", "warmup"])
def test_a_section_that_is_no_mapping_is_refused_and_never_switched_on(section: str, word: str) -> None:
    with pytest.raises(TypeError, match=section):
        reading.load("tiny", (f"{section}={word}",))


def test_a_base_is_looked_for_beside_the_file_that_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "theirs.yaml").write_text("base: ../shared.yaml\nprompts: 3\n", encoding="utf-8")
    (tmp_path / "shared.yaml").write_text("base: tiny\nseed: 5\n", encoding="utf-8")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    settings = reading.load("../inner/theirs.yaml")
    assert (settings.prompts, settings.seed, settings.model) == (3, 5, "tiny")
    (tmp_path / "shared.yaml").write_text("base: inner/theirs.yaml\n", encoding="utf-8")
    with pytest.raises(ValueError, match="comes back to itself"):
        reading.load(str(inner / "theirs.yaml"))
    with pytest.raises(ValueError, match="comes back to itself"):
        reading.load("../inner/theirs.yaml")


@pytest.mark.parametrize(
    ("override", "section", "name"),
    [
        ("model=HERE", "", "model"),
        ("task=HERE/t.py", "", "task"),
        ("task_options.folder=HERE", "task_options", "folder"),
        ("trainer.deepspeed=HERE/ds.json", "trainer", "deepspeed"),
    ],
)
@pytest.mark.parametrize("written", ["~/data", "data"])
def test_what_lies_on_this_computer_is_recorded_by_its_whole_path(
    override: str, section: str, name: str, written: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for file in ("t.py", "ds.json"):
        (data / file).touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    settings = reading.load("qwen3-1.7b-gsm8k", (override.replace("HERE", written),)).resolved()
    values = getattr(settings, section) if section else vars(settings)
    assert values[name] == override.partition("=")[2].replace("HERE", str(data))


def test_a_home_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("base: ~nobody-here/b.yaml\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"~nobody-here/b\.yaml: found no home folder"):
        reading.load(str(tmp_path / "a.yaml"))
    for override in ("model=~nobody-here/m", "task=~nobody-here/t.py", "task_options.folder=~nobody-here/x"):
        with pytest.raises(ValueError, match="found no home folder"):
            reading.load("qwen3-1.7b-gsm8k", (override,)).resolved()
