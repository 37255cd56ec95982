"""Nothing that a configuration, a record or a model brings is run unasked: each way would leave a marker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import tiny_llm as tiny

from tpo_ref.study.cli import commands as cli
from tpo_torch.llm.program import plan, pretrained
from tpo_torch.llm.program.record import Folder
from tpo_torch.llm.program.settings import reading, switches, upstream
from tpo_torch.llm.program.tiny import CHAT_TEMPLATE

pytestmark = tiny.FILTERS
GYM = ("task=gym:chain_sum", "task_options={train_size: 8, eval_size: 2}")
SHORT = ("prompts=2", "trainer.num_generations=2", "trainer.per_device_train_batch_size=4", "trainer.max_steps=1")
CODE = "from pathlib import Path\nPath({marker!r}).touch()\n"
CLASSES = """
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
class Config(PreTrainedConfig):
    model_type = "mine"
class Model(PreTrainedModel):
    config_class = Config
class Tokens(PreTrainedTokenizerFast):
    pass
"""


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "was run"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A small model, as anybody may publish one."""
    folder = tmp_path / "model"
    tiny.model().save_pretrained(folder)
    tokens(folder)
    return folder


def tokens(folder: Path) -> None:
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)


def edit(path: Path, **more: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | more), encoding="utf-8")


def with_code(model: Path, marker: Path, file: str = "config.json") -> None:
    """Give a model code of its own, which transformers would import."""
    (model / "mine.py").write_text(CODE.format(marker=str(marker)) + CLASSES, encoding="utf-8")
    if file == "config.json":
        names = {"AutoConfig": "mine.Config", "AutoModel": "mine.Model", "AutoModelForCausalLM": "mine.Model"}
        edit(model / file, model_type="mine", auto_map=names)
    else:
        edit(model / file, tokenizer_class="Tokens", auto_map={"AutoTokenizer": ["mine.Tokens", "mine.Tokens"]})


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The error of a command, which is one line."""
    capsys.readouterr()
    assert cli.run([*words]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("tpo: ")]
    assert len(said) == 1
    return said[0]


# -- models -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("command", ["train", "dry", "eval"])
def test_a_models_own_code_is_never_run(
    command: str, file: str, model: Path, marker: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with_code(model, marker, file)
    out = ("--out", str(tmp_path / "runs"))
    words = {
        "train": ("train", "tiny", f"model={model}", "lora=null", *GYM, *SHORT, *out),
        "dry": ("train", "tiny", f"model={model}", *GYM, *SHORT, *out, "--dry-run"),
        "eval": ("eval", str(model), "--task", "gym:chain_sum", GYM[1]),
    }[command]
    if file == "config.json":
        assert "has code of its own, which is not run" in refused(capsys, *words)
    else:
        # Transformers has a class for any fast tokenizer, and takes that one.
        assert cli.run([*words]) == 0
    assert not marker.exists()


WAYS = {
    "a mapping": "trainer: {{model_init_kwargs: {{trust_remote_code: true}}}}",
    "deeper": "trainer: {{model_init_kwargs: {{config: {{inner: [{{trust_remote_code: true}}]}}}}}}",
    "the trainer's own": "trainer: {{trust_remote_code: true}}",
    "text": "trainer: {{model_init_kwargs: '{{\"trust_remote_code\": true}}'}}",
    "text with an escape": "trainer: {{model_init_kwargs: '{{\"trust_remote_c\\u006fde\": true}}'}}",
    "text in another field": "trainer: {{generation_kwargs: '{{\"trust_remote_c\\u006fde\": true}}'}}",
    "one": "trainer: {{model_init_kwargs: {{trust_remote_code: 1}}}}",
    "a word": "trainer: {{model_init_kwargs: {{trust_remote_code: 'yes'}}}}",
    "the section of a method": "tpo: {{model_init_kwargs: {{trust_remote_code: true}}}}",
}


@pytest.mark.parametrize("way", WAYS)
def test_a_configuration_cannot_switch_code_on(
    way: str, model: Path, marker: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with_code(model, marker)
    path = tmp_path / "theirs.yaml"
    path.write_text(f"base: tiny\nmodel: {model}\n{WAYS[way].format()}\n", encoding="utf-8")
    said = refused(capsys, "train", str(path), *GYM, *SHORT, "--out", str(tmp_path / "runs"))
    assert "trust_remote_code" in said
    assert "a model is weights and configuration, not a program" in said
    assert not marker.exists()
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("key", switches.KEYS)
@pytest.mark.parametrize("section", ["trainer", "grpo", "lora"])
def test_every_switch_is_refused_wherever_it_stands(key: str, section: str) -> None:
    value = False if key in ("use_safetensors", "weights_only") else "anything"
    given = {key: value} if section == "lora" else {"model_init_kwargs": {key: value}}
    name = f"lora.{key}" if section == "lora" else f"{section}.model_init_kwargs"
    with pytest.raises(ValueError, match=rf"^{name}: got {key} = "):
        reading.from_plain(
            {
                "name": "a",
                "model": "b",
                "task": "gsm8k",
                "method": "grpo" if section == "grpo" else "tpo",
                section: given,
            }
        )


@pytest.mark.parametrize("name", switches.KERNELS)
def test_kernels_of_the_hub_are_refused_and_names_of_implementations_are_not(name: str) -> None:
    with pytest.raises(ValueError, match="fetches compiled code from the hub"):
        switches.check("trainer.model_init_kwargs", {name: "kernels-community/flash-attn"})
    with pytest.raises(ValueError, match="fetches compiled code from the hub"):
        switches.check("trainer.model_init_kwargs", {name: {"": "sdpa", "text": "flash|a/b"}})
    switches.check("trainer.model_init_kwargs", {name: "flash_attention_2"})


def test_what_asks_for_nothing_is_taken() -> None:
    given = {"trust_remote_code": False, "use_safetensors": True, "attn_implementation": "sdpa", "auto_map": None}
    settings = reading.from_plain(
        {
            "name": "a",
            "model": "b",
            "task": "gsm8k",
            "trainer": {"model_init_kwargs": json.dumps(given), "push_to_hub": False, "hub_strategy": "every_save"},
        }
    )
    assert settings.trainer["model_init_kwargs"] == given


@pytest.mark.parametrize("text", ['{"a": 1, "a": 2}', '{"a": NaN}', '{"a": ', "{" * 2000])
def test_text_that_is_no_json_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ValueError, match=r"^trainer\.model_init_kwargs: got text that is no JSON") as refusal:
        switches.parsed("trainer.model_init_kwargs", text)
    assert len(str(refusal.value)) < 300


def test_an_adapters_modules_are_not_imported(
    model: Path, marker: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft import LoraConfig, get_peft_model

    adapter = tmp_path / "adapter"
    get_peft_model(tiny.model(), LoraConfig(r=2, task_type="CAUSAL_LM")).save_pretrained(adapter)
    tokens(adapter)
    (tmp_path / "evil.py").write_text(CODE.format(marker=str(marker)), encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    edit(adapter / "adapter_config.json", base_model_name_or_path=str(model), megatron_core="evil", megatron_config={})
    said = refused(capsys, "eval", str(adapter), "--task", "gym:chain_sum", GYM[1])
    assert "adapter_config.json: got megatron_" in said
    assert not marker.exists()


def test_an_adapter_on_a_model_with_code_does_not_run_it(
    model: Path, marker: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from peft import LoraConfig, get_peft_model

    adapter = tmp_path / "adapter"
    get_peft_model(tiny.model(), LoraConfig(r=2, task_type="CAUSAL_LM")).save_pretrained(adapter)
    tokens(adapter)
    with_code(model, marker)
    edit(adapter / "adapter_config.json", base_model_name_or_path=str(model))
    assert "has code of its own" in refused(capsys, "eval", str(adapter), "--task", "gym:chain_sum", GYM[1])
    assert not marker.exists()


@pytest.mark.parametrize("kind", ["model", "adapter"])
def test_pickled_weights_are_not_read(
    kind: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch
    from peft import LoraConfig, get_peft_model

    folder, name = model, "pytorch_model.bin"
    if kind == "adapter":
        folder, name = tmp_path / "adapter", "adapter_model.bin"
        get_peft_model(tiny.model(), LoraConfig(r=2, task_type="CAUSAL_LM")).save_pretrained(folder)
        edit(folder / "adapter_config.json", base_model_name_or_path=str(model))
        tokens(folder)
    for path in folder.glob("*.safetensors"):
        path.unlink()
    torch.save({}, folder / name)
    said = refused(capsys, "eval", str(folder), "--task", "gym:chain_sum", GYM[1])
    assert "no weights as safetensors" in said
    if kind == "model":
        out = ("--out", str(tmp_path / "runs"))
        assert "no weights as safetensors" in refused(capsys, "train", "tiny", f"model={model}", *GYM, *SHORT, *out)


# -- tasks --------------------------------------------------------------------------------------------------------


def own_task(folder: Path, marker: Path) -> Path:
    path = folder / "theirs.py"
    path.write_text(CODE.format(marker=str(marker)) + "raise SystemExit('was run')\n", encoding="utf-8")
    return path


def test_a_task_file_that_only_a_configuration_names_is_not_run(
    marker: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = own_task(tmp_path, marker)
    path = tmp_path / "theirs.yaml"
    path.write_text(f"base: tiny\ntask: {task}\ntask_options: {{}}\n", encoding="utf-8")
    for option in ("--dry-run", "--fresh"):
        said = refused(capsys, "train", str(path), "--out", str(tmp_path / "runs"), option)
        assert f"{path} asks to run the Python file {task}; read it, then say --trust-code" in said
    assert not marker.exists()
    settings = reading.load(str(path), trust_code=True)
    assert plan.prepare(settings, tmp_path / "runs").settings.trusted
    assert plan.prepare(reading.load(str(path), [f"task={task}"]), tmp_path / "runs").settings.trusted


@pytest.mark.parametrize("wrong", ["trainer.top_p=2", "trainer.learing_rate=1", "prompts=0", "trainer.optim=none"])
def test_all_options_are_checked_before_a_task_is_imported(
    wrong: str, marker: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = own_task(tmp_path, marker)
    said = refused(capsys, "train", "tiny", f"task={task}", wrong, "--out", str(tmp_path / "runs"))
    assert "task" not in said.split(":")[1]
    assert not marker.exists()


def test_a_record_runs_no_task_unasked(marker: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Folder(tmp_path / "runs" / "llm" / "a-tpo")
    settings = reading.from_plain({"name": "a", "model": "tiny", "task": str(own_task(tmp_path, marker))})
    folder.begin(settings, "", fresh=False)
    said = refused(capsys, "eval", str(folder.path))
    assert f"{folder.record} asks to run the Python file {tmp_path / 'theirs.py'}" in said
    assert not marker.exists()


# -- what leaves the machine ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", switches.SENDING)
def test_a_configuration_sends_nothing_away(name: str, tmp_path: Path) -> None:
    value: Any = True if name in ("push_to_hub", "hub_private_repo", "hub_always_push") else "somebody/somewhere"
    with pytest.raises(ValueError, match=rf"^trainer\.{name}: got .*sends nothing away"):
        reading.from_plain({"name": "a", "model": "b", "task": "gsm8k", "trainer": {name: value}})
    flat = tmp_path / "GRPO.yaml"
    lines = ["model_name_or_path: a/b", "dataset_name: openai/gsm8k", f"{name}: {json.dumps(value)}"]
    flat.write_text("\n".join(lines), encoding="utf-8")
    settings = reading.load(str(flat), method="tpo")
    assert name not in settings.trainer
    assert [change.became for change in settings.changes if change.name == name] == ["dropped"]


def test_every_field_that_speaks_of_the_hub_is_in_the_table() -> None:
    fields = upstream.fields_of(upstream.TPO_CONFIG)
    about = {name for name in fields if "hub" in name or name.startswith("trackio_")}
    assert about == {*switches.SENDING, "hub_token"}


# -- a pinned model ---------------------------------------------------------------------------------------------------


def test_a_revision_pins_model_and_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tpo_torch.llm.program import run

    settings = reading.load("qwen3-1.7b-gsm8k", ["revision=abc1234", "trainer.use_cpu=true", "trainer.bf16=false"])
    arguments = run.build_arguments(settings, tmp_path, 1)
    assert arguments.model_init_kwargs["revision"] == settings.model_revision == "abc1234"
    assert arguments.model_init_kwargs["trust_remote_code"] is arguments.trust_remote_code is False
    assert settings.plain()["revision"] == "abc1234"
    asked: list[Any] = []
    monkeypatch.setattr(pretrained.huggingface_hub, "try_to_load_from_cache", lambda *a, **k: asked.append(k) or "x")
    pretrained.locate("a/b", "abc1234")
    assert asked == [{"revision": "abc1234"}]
    with pytest.raises(ValueError, match="is no name on the hub"):
        reading.load("tiny", ["revision=abc1234"])
    with pytest.raises(ValueError, match="leave one of them out"):
        reading.load("qwen3-1.7b-gsm8k", ["revision=abc1234", "trainer.model_init_kwargs.revision=main"])


def test_a_native_model_that_names_code_too_is_trained_without_it(
    model: Path, marker: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (model / "mine.py").write_text(CODE.format(marker=str(marker)) + CLASSES, encoding="utf-8")
    edit(model / "config.json", auto_map={"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"})
    assert cli.run(["eval", str(model), "--task", "gym:chain_sum", GYM[1], "evaluation.samples=0"]) == 0
    assert not marker.exists()
