"""Runs that are killed at random moments, or whose newest checkpoint is damaged, end as a run that was left alone.

Run: python -m benchmarks.llm.survival --kills 30 --damages 30
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import io
import json
import math
import os
import random
import shutil
import signal
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tpo_ref.study.cli import commands
from tpo_torch.llm.program.record import Folder

# A model of two layers on sums of two numbers; checkpoints at every other of twelve steps, all of them kept.
SETTINGS = (
    *("train", "tiny", "task=gym:chain_sum"),
    "task_options={train_size: 40, eval_size: 5, min_terms: 2, max_terms: 2, partial: true}",
    *("name=survival", "prompts=4", "trainer.num_generations=4", "trainer.per_device_train_batch_size=8"),
    *("trainer.max_completion_length=16", "trainer.max_steps=12", "trainer.save_steps=2", "trainer.num_iterations=2"),
    *("trainer.learning_rate=1e-3", "trainer.save_total_limit=null", "evaluation.every=6", "evaluation.size=5"),
    *("evaluation.samples=2", "evaluation.k=[1, 2]", "tiny.width=32", "tiny.heads=2", "warmup.steps=200"),
)
# Not the same from run to run: the time.
TIMES = ("time", "runtime", "per_second", "tokens_per")
STEP_WITH_CHECKPOINTS = 7
# Exit code of a run whose process raised.
FAILED = 70


def main() -> int:
    """Run both kinds of accident; 1 where a run ended otherwise than the whole one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--damages", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        out = Path(name)
        _in_a_process(out / "first")
        whole = _ending(out / "first")
        start = time.perf_counter()
        _in_a_process(_warm(out, "whole"))
        seconds = time.perf_counter() - start
        if _ending(out / "whole") != whole:
            print("two whole runs differ: nothing can be compared")
            return 1
        norms = [float(str(line["grad_norm"])) for line in whole[0] if "grad_norm" in line]
        print(
            f"the whole run: {seconds:.1f} s, {len(norms)} steps, gradient norms {min(norms):.3g} to {max(norms):.3g}"
        )
        wrong = _killed(out, whole, options.kills, seconds, draw)
        wrong += _damaged(out, whole, options.damages, draw)
    return int(wrong > 0)


def _killed(out: Path, whole: object, count: int, seconds: float, draw: random.Random) -> int:
    """Kill a run until it has died so often, starting a new one whenever one ends; how many ended otherwise."""
    died = runs = wrong = 0
    while died < count:
        folder = _warm(out, f"killed-{runs}")
        runs += 1
        while _in_a_process(folder, draw.uniform(0.1, seconds)):
            died += 1
        wrong += _ending(folder) != whole
    print(f"{died} kills at random moments in {runs} runs: {runs - wrong} runs end as the whole one, {wrong} do not")
    return wrong


def _damaged(out: Path, whole: object, count: int, draw: random.Random) -> int:
    """Damage a checkpoint of a run that is half done, and go on; how many ended otherwise, or without a word."""
    half = _warm(out, "half")
    _in_a_process(half, at_step=STEP_WITH_CHECKPOINTS)
    kinds: collections.Counter[str] = collections.Counter()
    silent = wrong = 0
    for number in range(count):
        folder = out / f"damaged-{number}"
        shutil.copytree(half, folder)
        newest = max(_folder(folder).checkpoints.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
        kinds[_damage(newest, draw)] += 1
        _in_a_process(folder)
        silent += f"{newest}: passed over" not in (folder / "said.txt").read_text(encoding="utf-8")
        wrong += _ending(folder) != whole
        shutil.rmtree(folder)
    said = ", ".join(f"{times} x {kind}" for kind, times in sorted(kinds.items()))
    print(f"{count} damaged checkpoints ({said}): {count - silent} passed over and said, {wrong} runs end otherwise")
    return wrong + silent


def _damage(checkpoint: Path, draw: random.Random) -> str:
    """Do something to one file of a checkpoint; what, in words."""
    path = draw.choice(sorted(path for path in checkpoint.iterdir() if path.stat().st_size > 1))
    content = bytearray(path.read_bytes())
    kind = draw.choice(("lost", "a bit flipped", "cut short", "other bytes for a part", "an older one's"))
    older = min(checkpoint.parent.glob("checkpoint-*")) / path.name
    if kind == "an older one's" and older.read_bytes() == content:
        kind = "lost"
    place = draw.randrange(len(content) - 1)
    match kind:
        case "lost":
            path.unlink()
        case "a bit flipped":
            content[place] ^= 1 << draw.randrange(8)
            path.write_bytes(content)
        case "cut short":
            path.write_bytes(content[:place])
        case "other bytes for a part":
            content[place : place + 64] = bytes(byte ^ 255 for byte in content[place : place + 64])
            path.write_bytes(content)
        case _:
            shutil.copyfile(older, path)
    return kind


def _warm(out: Path, name: str) -> Path:
    """A folder of results that has the warmed-up model, which is the same for all runs."""
    shutil.copytree(out / "first" / "warmups", out / name / "warmups")
    return out / name


def _in_a_process(out: Path, seconds: float | None = None, at_step: int | None = None) -> bool:
    """Begin or go on with a run, in a copy of this process; whether it was killed, after so long or in that step."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(_run(out, at_step))
        except BaseException:
            traceback.print_exc()
            os._exit(FAILED)
    end = math.inf if seconds is None else time.monotonic() + seconds
    status = 0
    while time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        time.sleep(0.005)
    else:
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
    code = os.waitstatus_to_exitcode(status)
    if code not in (0, -signal.SIGKILL):
        said = out / "said.txt"
        raise SystemExit(f"{out}: a run ended with {code}: {said.read_text(encoding='utf-8') if said.exists() else ''}")
    return code != 0


def _run(out: Path, at_step: int | None) -> int:
    """Train, and write what was said; killed in a step where one is given."""
    resume = ["--resume"] if _folder(out).record.exists() else []
    if at_step is not None:
        from tpo_torch.llm.program import callbacks

        begin = callbacks.Progress.on_step_begin

        def killing(self: Any, args: Any, state: Any, control: Any, **given: Any) -> None:
            if state.global_step == at_step:
                os.kill(os.getpid(), signal.SIGKILL)
            begin(self, args, state, control, **given)

        callbacks.Progress.on_step_begin = killing  # type: ignore[method-assign]
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = commands.run([*SETTINGS, "--out", str(out), *resume])
    (out / "said.txt").write_text(said.getvalue(), encoding="utf-8")
    return code


def _folder(out: Path) -> Folder:
    return Folder(out / "llm" / "survival-tpo")


def _ending(out: Path) -> tuple[list[dict[str, object]], dict[str, bytes]]:
    """The log of a run without times, and its final weights."""
    history = [json.loads(line) for line in _folder(out).metrics.read_text(encoding="utf-8").splitlines()]
    lasting = [{k: v for k, v in line.items() if not any(word in k for word in TIMES)} for line in history]
    weights = load_file(_folder(out).model / "model.safetensors")
    return lasting, {name: weight.numpy().tobytes() for name, weight in weights.items()}


if __name__ == "__main__":
    raise SystemExit(main())
