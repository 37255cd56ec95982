"""`tpo train --dry-run`: what a run would do, refused as the run would be, and nothing is written."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from helpers import tiny_llm

from tpo_ref.study.cli import commands as cli
from tpo_torch.llm.program import memory, preview, run
from tpo_torch.llm.program.differences import changed, unchanged
from tpo_torch.llm.program.exactness.task import tiny_model, tiny_tokenizer
from tpo_torch.llm.program.settings import reading

pytestmark = tiny_llm.FILTERS

OWN = """
def dataset(split, size, seed):
    return [{"prompt": [{"role": "user", "content": f"a b {split} {i}"}]} for i in range(size or 8)]

def reward(completions, **columns):
    return [0.5] * len(completions)
"""


def call(capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, str, str]:
    code = cli.run(["train", "tiny", *tiny_llm.MICRO, *more])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def everything(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_it_shows_settings_batch_memory_and_prompts_and_writes_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "build_trainer", None)
    code, out, err = call(capsys, "--dry-run")
    assert (code, err) == (0, "")
    assert everything(tmp_path) == {}
    for line in (
        "  trainer.learning_rate = 0.0005 (default 1e-06)",
        "  trainer.logging_steps = 1 (default 10)",
        "batch: 2 prompts x 4 = 1 process x 1 micro-batch x 8 rows per optimizer step, 3 steps",
        "  extra forward passes, without gradient: none",
        "--- expected answer 1: <answer>",
    ):
        assert f"\n{line}" in out
    assert "tpo.eta=1.0" in out
    assert "<|im_start|>user\n" in out
    assert out.index("learning_rate = ") < out.index("tpo.eta=") < out.index("batch:") < out.index("at the peak")
    assert out.endswith("nothing was written\n")


def test_it_needs_no_weights_of_a_model_in_a_folder(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    model, words = tiny_model(), tiny_tokenizer()
    words.chat_template = "{% for message in messages %}{{ message['content'] }} c{% endfor %}"
    model.config.save_pretrained("model")
    words.save_pretrained("model")
    Path("mine.py").write_text(OWN, encoding="utf-8")
    before = everything(tmp_path)
    options = ("model=model", "task=mine.py", "task_options={train_size: 8, eval_size: 2}", "trainer.beta=0.1")
    lora = "lora={r: 2, target_modules: all-linear}"
    code, out, err = call(capsys, *options, lora, "--dry-run")
    assert (code, err) == (0, "")
    count = sum(p.numel() for p in model.parameters())
    assert f"estimated (spec/llm.md): {count:,} weights" not in out
    assert "reference model, all the time" not in out
    assert "a b train 0 c" in out
    assert "none: the task has no worked answers" in out
    assert f"{count:,} weights, {count:,} trained" in call(capsys, *options, "--dry-run")[1]
    assert "reference model, all the time" in call(capsys, *options, "--dry-run")[1]
    assert everything(tmp_path) == before


@pytest.mark.parametrize(
    "wrong",
    [
        "trainer.lr_scheduler_type=nonsense",
        "prompts=32",
        "trainer.use_vllm=true",
        "trainer.report_to=nonsense",
        "task_options={train_size: -1}",
        "trainer.chat_template_kwargs=3",
    ],
)
def test_what_a_run_refuses_it_refuses_in_the_same_words(
    wrong: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, said = call(capsys, wrong, "--dry-run")
    assert everything(tmp_path) == {}
    assert (code, said) == (cli.USAGE_ERROR, call(capsys, wrong)[2])


@pytest.mark.parametrize("method", ["tpo", "lpo"])
def test_settings_are_told_once_and_whole(method: str) -> None:
    settings = reading.load("tiny", ["tpo.eta=2.0", "lora={r: 2}", "grpo.epsilon=0.3"], method)
    own = run.own_defaults(settings)
    differing = {line.split(" = ")[0] for line in changed(settings, own)}
    same = {entry.split("=")[0] for entry in unchanged(settings, own)}
    assert {"tpo.eta", "lora", "trainer.logging_steps", "prompts"} <= differing
    assert {"tpo.tau", "trainer.temperature", "evaluation.seed"} <= same
    assert not differing & same
    assert not {"source", "changes"} & (differing | same)
    given = {name for name, value in settings.given.items() if value is not None}
    assert given <= {name.partition(".")[2] for name in differing | same}


@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("whole groups in one micro-batch", {}),
        ("half a group per micro-batch", {}),
        ("half a group per micro-batch", {"anchor": "ratio"}),
        ("rows shuffled", {}),
        ("two steps per round", {}),
        ("two steps per round, groups cut", {"anchor": "ratio"}),
        ("two rounds per step, groups cut", {}),
    ],
)
def test_extra_passes_are_told_exactly_where_the_trainer_makes_some(
    name: str, others: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    plain = tiny_llm.TargetPOTrainer._without_gradient
    monkeypatch.setattr(
        tiny_llm.TargetPOTrainer, "_without_gradient", lambda self, part: (calls.append(1), plain(self, part))[1]
    )
    trainer, _ = tiny_llm.train(tmp_path, **tiny_llm.LAYOUTS[name], **others)
    settings = reading.load("tiny")
    told = preview.extra_passes(settings, trainer.args, trainer.layout)
    assert bool([words for words in told if "as GRPO makes too" not in words]) == bool(calls)


# -- memory ------------------------------------------------------------------------------------------------------------

SHAPES = {
    "square": {"hidden_size": 64, "intermediate_size": 192, "num_attention_heads": 4, "num_key_value_heads": 4},
    "shared keys": {"hidden_size": 96, "intermediate_size": 256, "num_attention_heads": 6, "num_key_value_heads": 2},
    "deep": {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 1},
}
ROWS, LENGTH = 4, 16


def qwen(shape: str, layers: int = 3) -> Any:
    config = transformers.Qwen3Config(
        vocab_size=50, head_dim=16, num_hidden_layers=layers, tie_word_embeddings=True, **SHAPES[shape]
    )
    return transformers.Qwen3ForCausalLM(config)


def arguments(**others: Any) -> Any:
    plain = {"optim": "adamw_torch", "beta": 0.0, "use_vllm": False, "bf16": False, "fp16": False}
    return SimpleNamespace(**plain | {"gradient_checkpointing": False} | others)


def kept_for_backward(model: Any, ids: torch.Tensor) -> int:
    """Bytes of all that autograd keeps of the layers, weights left out."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def pack(x: torch.Tensor) -> torch.Tensor:
        kept[x.untyped_storage().data_ptr()] = x
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        # Alive while counted, so that no address is used twice.
        output = model.model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    assert output is not None
    return sum(x.untyped_storage().nbytes() for place, x in kept.items() if place not in own)


@pytest.mark.parametrize("shape", SHAPES)
def test_memory_is_exact_where_it_says_so_and_close_elsewhere(shape: str) -> None:
    torch.manual_seed(0)
    model = qwen(shape)
    with torch.device("meta"):
        bare = qwen(shape)
    sizes = memory.Shape(rows=ROWS, generated=ROWS, prompt=LENGTH // 2, completion=LENGTH // 2)
    parts = {part.name: part for part in memory.terms(bare, arguments(beta=0.1), sizes)}
    ids = torch.randint(0, 50, (ROWS, LENGTH))

    kept = kept_for_backward(model, ids)
    assert parts["activations"].size == pytest.approx(kept, rel=0.15)

    optimizer = torch.optim.AdamW(model.parameters())
    output = model(input_ids=ids, labels=ids, use_cache=True)
    output.loss.backward()
    optimizer.step()
    states = [x for state in optimizer.state.values() for name, x in state.items() if name != "step"]
    exact = {
        "weights": model.parameters(),
        "reference model": model.parameters(),
        "gradients": [p.grad for p in model.parameters()],
        "optimizer states": states,
        "keys and values": [x for layer in output.past_key_values.layers for x in (layer.keys, layer.values)],
    }
    for name, tensors in exact.items():
        assert parts[name].exact
        assert parts[name].size == sum(x.numel() * x.element_size() for x in tensors), name


def test_memory_falls_with_checkpointing_sharding_and_without_a_reference() -> None:
    with torch.device("meta"):
        bare = qwen("square", layers=8)
    alone = memory.Shape(rows=64, generated=64, prompt=32, completion=32)
    sharded = memory.Shape(rows=64, generated=64, prompt=32, completion=32, processes=4, sharded=True)
    most = memory.peak(memory.terms(bare, arguments(beta=0.1), alone))
    for less in (
        memory.terms(bare, arguments(), alone),
        memory.terms(bare, arguments(beta=0.1, gradient_checkpointing=True), alone),
        memory.terms(bare, arguments(beta=0.1), sharded),
        memory.terms(bare, arguments(beta=0.1, optim="sgd"), alone),
    ):
        assert memory.peak(less) < most
    unknown = {part.name: part for part in memory.terms(bare, arguments(optim="adafactor"), alone)}
    assert not unknown["optimizer states"].exact
