"""A run that was killed and goes on ends where the uninterrupted one does, to the last bit; on a CPU."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import llm_worker
from helpers import tiny_llm as tiny
from safetensors.torch import load_file

from tpo_torch.llm import ResumableGRPOTrainer, TargetPOTrainer
from tpo_torch.llm.checkpoints import STATE_NAME, Newest, fault, file_name, latest, newest
from tpo_torch.llm.manifest import NAME

KILLED = -9
TIMES = ("step_time", "runtime", "samples_per_second", "steps_per_second")

# A round of completions lasts four optimizer steps, so that some are in flight at most checkpoints; checkpoints lie
# between two lines of the log; an epoch is eight steps; the optimizer has a memory and a schedule.
FLYING: dict[str, Any] = {
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "steps_per_generation": 4,
    "num_iterations": 2,
    "max_steps": 14,
    "save_strategy": "steps",
    "save_steps": 5,
    "logging_steps": 2,
    "save_total_limit": 1,
    "optim": "adamw_torch",
    "lr_scheduler_type": "cosine",
    "max_grad_norm": 1.0,
}
SHORT = FLYING | {"max_steps": 10}
# A checkpoint where an epoch ends, groups over two micro-batches, rows shuffled.
SPREAD = SHORT | {
    "save_steps": 4,
    "num_generations": 8,
    "gradient_accumulation_steps": 4,
    "steps_per_generation": 8,
    "shuffle_rows": True,
    "anchor": "ratio",
}
RUNS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "tpo": ("tpo", 1, FLYING),
    "tpo, spread": ("tpo", 1, SPREAD),
    "tpo, stream": ("tpo", 1, FLYING | {"stream": True}),
    "tpo, two": ("tpo", 2, SHORT | {"per_device_train_batch_size": 2}),
    "tpo, shards": (
        "tpo",
        2,
        SHORT | {"per_device_train_batch_size": 2, "sharded": True, "max_steps": 9, "save_steps": 2},
    ),
    "tpo, workers": (
        "tpo",
        1,
        SHORT
        | {"dataloader_num_workers": 1, "dataloader_persistent_workers": True}
        | {"evaluate": True, "eval_on_start": True, "eval_strategy": "steps", "eval_steps": 6},
    ),
    "grpo": ("grpo", 1, SHORT | {"evaluate": True, "eval_strategy": "steps", "eval_steps": 5}),
    "grpo, stream": ("grpo", 1, SHORT | {"stream": True, "save_steps": 4}),
}
# Which run dies where, in or after which optimizer step, and from which checkpoint it goes on.
DEATHS = [
    ("tpo", ("micro-batch", 1), None),
    ("tpo", ("micro-batch", 7), 5),
    ("tpo", ("weights", 10), 5),
    ("tpo", ("exact state", 10), 5),
    ("tpo", ("trainer state", 10), 5),
    ("tpo", ("list", 10), 5),
    ("tpo", ("after", 14), 14),
    ("tpo", ("generation", 12), 10),
    ("tpo, spread", ("micro-batch", 9), 8),
    ("tpo, stream", ("generation", 12), 10),
    ("tpo, two", ("micro-batch", 7), 5),
    ("tpo, shards", ("generation", 8), 8),
    ("tpo, workers", ("micro-batch", 7), 5),
    ("grpo", ("micro-batch", 9), 5),
    ("grpo, stream", ("generation", 8), 8),
]


def case(run: str, death: tuple[str, int]) -> str:
    return f"{run}: {death[0]} {death[1]}"


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All runs to their end, and all that were killed; by name."""
    where = tmp_path_factory.mktemp("ended")
    jobs = {}
    for name, (method, world, settings) in RUNS.items():
        run = where / name
        jobs[name] = llm_worker.start(run, "train", world, method=method, run=str(run / "run"), **settings)
    for name, death, _ in DEATHS:
        method, world, settings = RUNS[name]
        run = where / case(name, death)
        jobs[case(name, death)] = llm_worker.start(
            run, "train", world, method=method, run=str(run / "run"), die=death, **settings
        )
    for name, job in jobs.items():
        end = job.wait()
        # The last process is the one that is killed; another ends with an error.
        expected = [llm_worker.FAILED] * (job.world - 1) + [KILLED] if ":" in name else [0] * job.world
        assert end.codes == expected, f"{name}: {end}"
    again = []
    for name, death, _ in DEATHS:
        method, world, settings = RUNS[name]
        run = where / case(name, death)
        again.append(
            llm_worker.start(
                run / "again", "train", world, method=method, run=str(run / "run"), resume=True, **settings
            )
        )
    for job in again:
        job.wait().fine()
    return where


def history(path: Path) -> list[dict[str, Any]]:
    """What was logged, without what a clock measured."""
    lines = json.loads(path.read_text(encoding="utf-8"))
    return [{name: x for name, x in line.items() if not name.endswith(TIMES)} for line in lines]


@pytest.mark.parametrize(("name", "death", "checkpoint"), DEATHS)
def test_a_killed_run_ends_where_the_uninterrupted_one_does(
    ended: Path, name: str, death: tuple[str, int], checkpoint: int | None
) -> None:
    whole, again = ended / name, ended / case(name, death) / "again"
    expected = "from None" if checkpoint is None else f"from checkpoint-{checkpoint}"
    assert (again / "said_0.txt").read_text(encoding="utf-8").startswith(expected)
    for rank in range(RUNS[name][1]):
        assert history(again / f"end_{rank}.json") == history(whole / f"end_{rank}.json")
        weights, found = (load_file(path / f"end_{rank}.safetensors") for path in (whole, again))
        assert all(torch.equal(found[key], value) for key, value in weights.items())


@pytest.mark.parametrize("name", RUNS)
def test_the_uninterrupted_run_is_what_was_meant(ended: Path, name: str) -> None:
    steps = RUNS[name][2]["max_steps"]
    logged = history(ended / name / "end_0.json")
    assert [line["step"] for line in logged if "loss" in line] == list(range(2, steps + 1, 2))
    assert logged[-1]["step"] == steps
    assert logged[-1]["epoch"] > 1


# -- checkpoints by their files ---------------------------------------------------------------------------------------


@pytest.fixture
def checkpoint(ended: Path, tmp_path: Path) -> Path:
    """A whole checkpoint of TPO, in a folder of its own."""
    source = latest(ended / "tpo" / "run")
    assert source is not None
    return Path(shutil.copytree(source, tmp_path / source.name))


def trainer(folder: Path, kind: type[Any] = TargetPOTrainer, **others: Any) -> Any:
    settings = tiny.arguments(folder, **FLYING | {"use_cpu": True} | others)
    return tiny.build(kind, tiny.model(dtype=torch.float32), tiny.reward, settings, tiny.prompts(), tiny.tokenizer())


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path: Path) -> None:
    """One bit of a file, in its middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


# What happens to a checkpoint, and what is said of it then.
BREAKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "half a trainer state": (lambda at: half(at / STATE_NAME), f"its {STATE_NAME} has \\d+ bytes of"),
    "half an exact state": (lambda at: half(at / file_name(0)), f"its {file_name(0)} has \\d+ bytes of"),
    "no optimizer": (lambda at: (at / "optimizer.pt").unlink(), "its optimizer.pt is missing"),
    "another schedule": (lambda at: flipped(at / "scheduler.pt"), "its scheduler.pt was altered"),
    "another weight": (lambda at: flipped(at / "model.safetensors"), "its model.safetensors was altered"),
    "a folder for a file": (
        lambda at: ((at / "rng_state.pth").unlink(), (at / "rng_state.pth").mkdir()),
        "its rng_state.pth is missing",
    ),
    "half a list": (lambda at: half(at / NAME), f"its {NAME} is damaged"),
    "another list": (lambda at: flipped(at / NAME), f"its {NAME} is damaged"),
    "no list": (lambda at: (at / NAME).unlink(), f"it has no {NAME}, so it is half written"),
    "not there": (shutil.rmtree, "not there or half written"),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", BREAKS)
def test_a_damaged_checkpoint_is_passed_over_and_refused(name: str, checkpoint: Path) -> None:
    older = Path(shutil.copytree(checkpoint, checkpoint.with_name("checkpoint-2")))
    assert newest(checkpoint.parent) == Newest(checkpoint, ())
    damage, words = BREAKS[name]
    damage(checkpoint)
    with pytest.raises(ValueError, match=rf"{checkpoint.name}: {words}.* expected a whole checkpoint: {older} is"):
        trainer(checkpoint.parent).train(resume_from_checkpoint=checkpoint)
    found = newest(checkpoint.parent)
    assert found.path == older
    assert all(re.match(rf"{checkpoint}: passed over, {words}", text) for text in found.passed_over)
    assert len(found.passed_over) == checkpoint.exists()


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_resuming_says_which_checkpoints_were_passed_over(checkpoint: Path) -> None:
    shutil.copytree(checkpoint, checkpoint.with_name("checkpoint-20"))
    flipped(checkpoint.with_name("checkpoint-20") / "optimizer.pt")
    with pytest.warns(UserWarning, match=r"checkpoint-20: passed over, its optimizer.pt was altered"):
        trainer(checkpoint.parent).train(resume_from_checkpoint=True)
    flipped(checkpoint / "optimizer.pt")
    with pytest.raises(ValueError, match=r"no whole checkpoint in .*start without it\. .*checkpoint-14: passed over"):
        trainer(checkpoint.parent).train(resume_from_checkpoint=True)


def test_a_file_missing_of_one_process_is_a_half_written_checkpoint(ended: Path, tmp_path: Path) -> None:
    source = latest(ended / "tpo, two" / "run")
    assert source is not None
    found = Path(shutil.copytree(source, tmp_path / source.name))
    assert fault(found) is None
    (found / file_name(1)).unlink()
    assert fault(found) is not None
    assert latest(tmp_path) is None


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_another_layout_method_or_folder_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"another batch layout .gradient_accumulation_steps 2 -> 4"):
        trainer(tmp_path, gradient_accumulation_steps=4).train(resume_from_checkpoint=str(checkpoint))
    with pytest.raises(ValueError, match="a checkpoint of Target Policy Optimization, expected one of GRPO"):
        trainer(tmp_path, ResumableGRPOTrainer).train(resume_from_checkpoint=str(checkpoint))
    with pytest.raises(ValueError, match="no whole checkpoint in"):
        trainer(tmp_path / "elsewhere").train(resume_from_checkpoint=True)
    with pytest.raises(ValueError, match="sync_ref_model"):
        trainer(tmp_path, sync_ref_model=True).train(resume_from_checkpoint=True)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_checkpoint_that_is_written_again_is_not_whole_meanwhile(checkpoint: Path) -> None:
    """A second run in the folder of a first, killed while it replaces a checkpoint, would leave parts of both."""
    run = trainer(checkpoint.parent, max_steps=5)
    seen: list[bool] = []
    target = checkpoint.with_name("checkpoint-5")
    checkpoint.rename(target)
    plain = run._save_optimizer_and_scheduler
    run._save_optimizer_and_scheduler = lambda where: (seen.append(fault(target) is None), plain(where))
    run.train()
    assert seen == [False]
    assert fault(target) is None
