"""Exact resume for trainers of the GRPO family: what a killed run needs beside weights, optimizer and random states.

TRL forgets the completions it has generated but not yet trained on, its position among them, and the figures not yet
logged; its sampler forgets the epoch. All of that is kept here, one file per process in each checkpoint. The file is
written before transformers writes trainer_state.json, all processes waiting for each other in between: a checkpoint is
whole exactly when that file can be read and no process's is missing.
"""

from __future__ import annotations

import json
import re
import warnings
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from transformers import TrainerCallback
from trl import GRPOTrainer
from trl.trainer.utils import RepeatSampler

from tpo_ref.study import files
from tpo_torch.llm.rewards import SafeRewards

FORMAT = 1
STATE_NAME = "trainer_state.json"
# Two fractions of an epoch this close are the same step.
EPOCH_TOLERANCE = 1e-9
LAYOUT = ("world_size", "per_device_train_batch_size", "gradient_accumulation_steps", "steps_per_generation")
LAYOUT_TOO = ("num_generations", "num_iterations")


def file_name(rank: int) -> str:
    """The file of one process in a checkpoint."""
    return f"exact_state_{rank}.safetensors"


def latest(folder: Path) -> Path | None:
    """The newest whole checkpoint of a run; None where there is none.

    Args: folder, which holds checkpoint-N; those that a killed process left half written are passed over.
    """
    numbered = [(int(found[1]), path) for path in folder.glob("checkpoint-*") if (found := _numbered(path))]
    return next((path for _, path in sorted(numbered, reverse=True) if is_whole(path)), None)


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint has everything that `train(resume_from_checkpoint=…)` needs to go on exactly."""
    try:
        files.read_json(checkpoint / STATE_NAME)
        world = _header(checkpoint / file_name(0))["layout"]["world_size"]
        return all(_header(checkpoint / file_name(rank)) for rank in range(world))
    except (OSError, ValueError, KeyError, SafetensorError):
        return False


class ReplayedSampler(RepeatSampler):  # type: ignore[misc]
    """TRL's sampler, which can say with which random state its epoch began."""

    began: Tensor | None = None

    def __iter__(self) -> Iterator[int]:
        self.began = self.generator.get_state() if self.shuffle else None
        yield from super().__iter__()


class ExactResume:
    """For a `GRPOTrainer`: checkpoints from which the run goes on as if it had never stopped."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._resumed: dict[str, Any] | None = None
        trainer: Any = self
        trainer.add_callback(_Restore(self))

    def train(self, resume_from_checkpoint: Any = None, **others: Any) -> Any:
        """As `transformers.Trainer.train`; True takes the newest whole checkpoint of output_dir.

        Raises: ValueError where there is none, or the one named is half written or of another batch layout.
        """
        trainer: Any = self
        if resume_from_checkpoint is True:
            resume_from_checkpoint = latest(Path(trainer.args.output_dir))
            if resume_from_checkpoint is None:
                raise ValueError(f"resume: found no whole checkpoint in {trainer.args.output_dir}; start without it")
        if resume_from_checkpoint:
            resume_from_checkpoint = str(resume_from_checkpoint)
            self._check(Path(resume_from_checkpoint))
        return super().train(resume_from_checkpoint=resume_from_checkpoint or None, **others)  # type: ignore[misc]

    def _check(self, checkpoint: Path) -> None:
        trainer: Any = self
        if not (checkpoint / file_name(0)).exists():
            warnings.warn(f"{checkpoint}: made without exact state; completions in flight are lost", stacklevel=3)
            return
        if not is_whole(checkpoint):
            raise ValueError(f"{checkpoint}: half written; take an older one, or resume_from_checkpoint=True")
        was, now = _header(checkpoint / file_name(0))["layout"], _layout(trainer.args)
        if was != now:
            changed = ", ".join(
                f"{name} {was.get(name)} -> {value}" for name, value in now.items() if was.get(name) != value
            )
            raise ValueError(f"{checkpoint}: got another batch layout ({changed}), expected the one it was made with")

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        plain = super()._get_train_sampler(dataset)  # type: ignore[misc]
        self._sampler = ReplayedSampler(
            plain.data_source, plain.mini_repeat_count, plain.batch_size, plain.repeat_count, plain.shuffle, plain.seed
        )
        return self._sampler

    # -- save -----------------------------------------------------------------------------------------------------

    def _save_rng_state(self, output_dir: str) -> None:
        trainer: Any = self
        super()._save_rng_state(output_dir)  # type: ignore[misc]
        tensors, plain = self._exact_state()
        content = save(
            {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()},
            metadata={"state": json.dumps(plain)},
        )
        files.write_bytes(Path(output_dir) / file_name(trainer.args.process_index), content)
        trainer.accelerator.wait_for_everyone()

    def _exact_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        trainer: Any = self
        buffered = trainer._buffered_inputs
        tensors = {"tr_loss": trainer._tr_loss.double()}
        others: list[dict[str, Any]] = []
        for i, part in enumerate(buffered or ()):
            tensors |= {f"buffer.{i}.{name}": value for name, value in part.items() if isinstance(value, Tensor)}
            others.append({name: value for name, value in part.items() if not isinstance(value, Tensor)})
        sampler = getattr(self, "_sampler", None)
        if sampler is not None and sampler.shuffle and sampler.began is not None:
            tensors |= {"sampler.began": sampler.began, "sampler.now": sampler.generator.get_state()}
        plain = {
            "format": FORMAT,
            "layout": _layout(trainer.args),
            "step": trainer._step,
            "buffer": None if buffered is None else others,
            "metrics": {mode: dict(lists) for mode, lists in trainer._metrics.items()},
            "logs": {name: _listed(log) for name, log in trainer._logs.items() if name != "images"},
            "tokens": trainer._total_train_tokens,
            "total_loss": trainer._total_loss_scalar,
            "last_logged": trainer._globalstep_last_logged,
        }
        more, numbers = self.extra_state()
        return tensors | {f"extra.{name}": value for name, value in more.items()}, plain | {"extra": numbers}

    def extra_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and plain values of a subclass, kept with the rest."""
        return {}, {}

    # -- load -----------------------------------------------------------------------------------------------------

    def _load_optimizer_and_scheduler(self, checkpoint: Any) -> None:
        trainer: Any = self
        super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]
        path = None if checkpoint is None else Path(checkpoint) / file_name(trainer.args.process_index)
        if path is None or not path.exists():
            return
        state = _header(path)
        with safe_open(path, framework="pt", device="cpu") as opened:
            state["tensors"] = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        self._resumed = state
        sampler = getattr(self, "_sampler", None)
        if sampler is not None and "sampler.began" in state["tensors"]:
            epoch = trainer.state.epoch or 0.0
            at = "sampler.now" if abs(epoch - round(epoch)) < EPOCH_TOLERANCE else "sampler.began"
            sampler.generator.set_state(state["tensors"][at])

    def restore(self) -> None:
        """Put back what a checkpoint kept; called once, after transformers has reset its counters."""
        state, self._resumed = self._resumed, None
        if state is None:
            return
        trainer: Any = self
        device, tensors = trainer.accelerator.device, state["tensors"]
        trainer._step, trainer._total_train_tokens = state["step"], state["tokens"]
        trainer._tr_loss = tensors["tr_loss"].to(trainer._tr_loss)
        trainer._total_loss_scalar, trainer._globalstep_last_logged = state["total_loss"], state["last_logged"]
        if state["buffer"] is not None:
            trainer._buffered_inputs = [
                {
                    name[len(f"buffer.{i}.") :]: t.to(device)
                    for name, t in tensors.items()
                    if name.startswith(f"buffer.{i}.")
                }
                | others
                for i, others in enumerate(state["buffer"])
            ]
        for mode, lists in state["metrics"].items():
            for name, values in lists.items():
                trainer._metrics[mode][name] = list(values)
        for name, kept in state["logs"].items():
            _refill(trainer._logs[name], kept)
        more = {name.removeprefix("extra."): t.to(device) for name, t in tensors.items() if name.startswith("extra.")}
        self.load_extra_state(more, state["extra"])

    def load_extra_state(self, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
        """Take back what `extra_state` gave."""


class ResumableGRPOTrainer(ExactResume, SafeRewards, GRPOTrainer):  # type: ignore[misc]
    """`trl.GRPOTrainer` with the same exact resume and reward checks: the baseline differs in its loss alone."""


class _Restore(TrainerCallback):  # type: ignore[misc]
    """Transformers resets its running loss after loading a checkpoint, and calls this after that."""

    def __init__(self, trainer: ExactResume) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.restore()


def _layout(args: Any) -> dict[str, int]:
    return {name: int(getattr(args, name)) for name in (*LAYOUT, *LAYOUT_TOO)}


def _numbered(path: Path) -> re.Match[str] | None:
    return re.fullmatch(r"checkpoint-(\d+)", path.name) if path.is_dir() else None


def _header(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt", device="cpu") as opened:
        state: dict[str, Any] = json.loads((opened.metadata() or {})["state"])
    if state["format"] != FORMAT:
        raise ValueError(f"{path}: got format {state['format']}, expected {FORMAT}; start the run afresh")
    return state


def _listed(log: Any) -> Any:
    return list(log) if isinstance(log, deque) else {name: list(values) for name, values in log.items()}


def _refill(log: Any, kept: Any) -> None:
    if isinstance(log, deque):
        log.extend(kept)
    else:
        for name, values in kept.items():
            log[name].extend(values)
