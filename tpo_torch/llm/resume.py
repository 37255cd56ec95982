"""Exact resume for trainers of the GRPO family: what a killed run needs beside weights, optimizer and random states.

TRL forgets the completions it has generated but not yet trained on, its position among them, and the figures not yet
logged; its sampler forgets the epoch. All of that is kept here, one file per process in each checkpoint. When every
process has written what it holds, the first lists all files with their SHA-256 (`manifest`), and only then are older
checkpoints removed: a checkpoint is whole exactly when it agrees with its list.
"""

from __future__ import annotations

import json
import time
import warnings
from collections import deque
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor
from transformers import TrainerCallback
from transformers.trainer_utils import rotate_checkpoints
from trl import GRPOTrainer

from tpo_ref.study import files, locks
from tpo_torch.llm import manifest, origin
from tpo_torch.llm.checkpoints import FORMAT, check, file_name, header, latest, layout, newest, other_code
from tpo_torch.llm.replay import ReplayedSampler, RestartedSampler, like
from tpo_torch.llm.rewards import SafeRewards
from tpo_torch.llm.sampling import NamedSampling

__all__ = ["ExactResume", "ResumableGRPOTrainer", "latest"]

# Two fractions of an epoch this close are the same step.
EPOCH_TOLERANCE = 1e-9


class ExactResume:
    """For a `GRPOTrainer`: checkpoints from which the run goes on as if it had never stopped."""

    # Whether a checkpoint without exact state is refused, since another method made it.
    exact_only = True
    # What a program calls the run, so that it takes no other run's checkpoint for its own.
    run: str | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._resumed: dict[str, Any] | None = None
        self._from: Path | None = None
        trainer: Any = self
        trainer.add_callback(_Restore(self))

    def train(self, resume_from_checkpoint: Any = None, *more: Any, **others: Any) -> Any:
        """As `transformers.Trainer.train`; True takes the newest whole checkpoint of output_dir.

        Raises: ValueError where there is none, or the one named is half written, holds weights alone, is of another
            method or batch layout, or its reference model moves with the policy, which no checkpoint holds; InUse while
            another process trains into output_dir.
        """
        trainer: Any = self
        if resume_from_checkpoint is True:
            found = newest(Path(trainer.args.output_dir))
            if found.path is None:
                damaged = "".join(f". {text}" for text in found.passed_over)
                raise ValueError(
                    f"resume: found no whole checkpoint in {trainer.args.output_dir}; start without it{damaged}"
                )
            for text in found.passed_over:
                warnings.warn(text, stacklevel=2)
            resume_from_checkpoint = found.path
        self._from = Path(resume_from_checkpoint) if resume_from_checkpoint else None
        if self._from is not None:
            check(self._from, layout(trainer.args), trainer._name, self.exact_only)
            if differences := "; ".join(other_code(self._from)):
                warnings.warn(
                    f"{self._from}: was made by other code ({differences}); the rest of the run may come out otherwise",
                    stacklevel=2,
                )
            if trainer.args.sync_ref_model:
                raise ValueError("sync_ref_model: got True, expected False; no checkpoint holds the reference model")
        going_on = None if self._from is None else str(self._from)
        on_start = trainer.args.eval_on_start
        # A resumed run has its start behind it.
        trainer.args.eval_on_start = on_start and going_on is None
        try:
            with self._alone():
                return super().train(going_on, *more, **others)  # type: ignore[misc]
        finally:
            trainer.args.eval_on_start = on_start

    def _alone(self) -> AbstractContextManager[None]:
        """No other trainer writes checkpoints of the same names meanwhile."""
        trainer: Any = self
        if not trainer.args.should_save or trainer.args.save_strategy == "no":
            return nullcontext()
        return locks.held(Path(trainer.args.output_dir), "output_dir", "choose another output_dir")

    def _init_training_state(self, *args: Any, **kwargs: Any) -> tuple[int, int]:
        """Pass and micro-batch to go on at; of a stream, transformers takes all that was read for one pass."""
        trainer: Any = self
        start: tuple[int, int] = super()._init_training_state(*args, **kwargs)  # type: ignore[misc]
        # Counts passes over the data, each with the optimizer step it began before.
        self._pass, self._pass_began, self._in_pass = -1, 0, False
        path = None if self._from is None else self._from / file_name(trainer.args.process_index)
        if path is None or not path.exists():
            return start
        self._pass, self._pass_began = header(path)["pass"]
        self._in_pass = True
        if hasattr(trainer.train_dataset, "__len__") or trainer.args.ignore_data_skip:
            return start
        return self._pass, (trainer.state.global_step - self._pass_began) * trainer.args.gradient_accumulation_steps

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        self._sampler = like(super()._get_train_sampler(dataset), ReplayedSampler)  # type: ignore[misc]
        return self._sampler

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        return like(super()._get_eval_sampler(eval_dataset), RestartedSampler)  # type: ignore[misc]

    def get_train_dataloader(self) -> Any:
        """As TRL's; see `_seeded_apart`."""
        return self._seeded_apart(super().get_train_dataloader())  # type: ignore[misc]

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """As TRL's; see `_seeded_apart`."""
        return self._seeded_apart(super().get_eval_dataloader(eval_dataset))  # type: ignore[misc]

    def _seeded_apart(self, loader: Any) -> Any:
        """A loader whose persistent workers take their seed from a stream of their own.

        From torch's stream it would be drawn once per process, not once per pass: answers sampled after a resume would
        then be others.
        """
        trainer: Any = self
        if trainer.args.dataloader_persistent_workers:
            inner = getattr(loader, "base_dataloader", loader)
            inner.generator = torch.Generator().manual_seed(trainer.args.seed)
        return loader

    # -- save -----------------------------------------------------------------------------------------------------

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        trainer: Any = self
        folder = Path(trainer._get_output_dir(trial=trial))
        target, limit = folder / f"checkpoint-{trainer.state.global_step}", trainer.args.save_total_limit
        if trainer.args.should_save:
            # What an earlier run left under this number is not whole while its files are replaced one by one.
            manifest.begin(target)
        trainer.accelerator.wait_for_everyone()
        try:
            with manifest.saving(target, trainer.args.should_save):
                super()._save_checkpoint(model, trial)  # type: ignore[misc]
                trainer.accelerator.wait_for_everyone()
                if trainer.args.should_save:
                    manifest.write(target)
        finally:
            trainer.args.save_total_limit = limit
        trainer.accelerator.wait_for_everyone()
        if trainer.args.should_save:
            rotate_checkpoints(str(folder), limit, trainer.state.best_model_checkpoint, use_mtime=True)

    def _save_rng_state(self, output_dir: str) -> None:
        trainer: Any = self
        super()._save_rng_state(output_dir)  # type: ignore[misc]
        tensors, plain = self._exact_state()
        content = save(
            {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()},
            metadata={"state": json.dumps(plain, default=_plain)},
        )
        files.write_bytes(Path(output_dir) / file_name(trainer.args.process_index), content)
        # Transformers would now remove older checkpoints, though this one is not whole yet.
        trainer.args.save_total_limit = None

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
            "layout": layout(trainer.args),
            "code": files.plain(origin.here()),
            "run": self.run,
            "method": trainer._name,
            "pass": [self._pass, self._pass_began],
            "seconds": time.time() - self._began,
            "step": trainer._step,
            "buffer": None if buffered is None else others,
            "metrics": {mode: dict(lists) for mode, lists in trainer._metrics.items()},
            "logs": {name: _listed(log) for name, log in trainer._logs.items() if name != "images"},
            "tokens": trainer._total_train_tokens,
            "total_loss": trainer._total_loss_scalar,
            "first_step": trainer._initial_global_step,
            "last_logged": trainer._globalstep_last_logged,
            "entropy": [trainer.entropy_coef, trainer._last_world_entropy] if trainer.use_adaptive_entropy else None,
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
        state = header(path)
        with safe_open(path, framework="pt", device="cpu") as opened:
            state["tensors"] = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        self._resumed = state
        sampler = getattr(self, "_sampler", None)
        if sampler is not None and "sampler.began" in state["tensors"]:
            epoch = trainer.state.epoch or 0.0
            name = "sampler.now" if abs(epoch - round(epoch)) < EPOCH_TOLERANCE else "sampler.began"
            sampler.generator.set_state(state["tensors"][name])

    def restore(self) -> None:
        """Put back what a checkpoint kept; called once, after transformers has reset its counters."""
        state, self._resumed = self._resumed, None
        self._began = time.time()
        trainer: Any = self
        if state is None:
            # A second run of the same trainer is a run of its own.
            trainer._step, trainer._buffered_inputs = 0, None
            return
        # Loss and speed at the end are those of the whole run.
        self._began -= state["seconds"]
        trainer._initial_global_step = state["first_step"]
        device, tensors = trainer.accelerator.device, state["tensors"]
        trainer._step, trainer._total_train_tokens = state["step"], state["tokens"]
        trainer._tr_loss = tensors["tr_loss"].to(trainer._tr_loss)
        trainer._total_loss_scalar, trainer._globalstep_last_logged = state["total_loss"], state["last_logged"]
        if state["entropy"] is not None:
            trainer.entropy_coef, trainer._last_world_entropy = state["entropy"]
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
        for name, entries in state["logs"].items():
            _refill(trainer._logs[name], entries)
        more = {name.removeprefix("extra."): t.to(device) for name, t in tensors.items() if name.startswith("extra.")}
        self.load_extra_state(more, state["extra"])

    def begin_pass(self) -> None:
        """Called where a pass over the data begins, or is taken up again."""
        trainer: Any = self
        if not self._in_pass:
            self._pass, self._pass_began = self._pass + 1, trainer.state.global_step
        self._in_pass = False

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        trainer: Any = self
        if trainer.state.global_step >= trainer.state.max_steps:
            # Killed between its last checkpoint and its end: transformers would train for one step more.
            trainer.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)  # type: ignore[misc]

    def _finalize_training(self, trial: Any, num_train_samples: Any, start_time: float) -> Any:
        return super()._finalize_training(trial, num_train_samples, self._began)  # type: ignore[misc]

    def load_extra_state(self, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
        """Take back what `extra_state` gave."""


class ResumableGRPOTrainer(ExactResume, SafeRewards, NamedSampling, GRPOTrainer):  # type: ignore[misc]
    """`trl.GRPOTrainer` with the same resume, sampling and reward checks: the baseline differs in its loss alone."""

    # TRL's own trainer trains by the same method, and its checkpoints lack the exact state alone.
    exact_only = False


class _Restore(TrainerCallback):  # type: ignore[misc]
    """Transformers resets its running loss after loading a checkpoint, and calls this after that."""

    def __init__(self, trainer: ExactResume) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.restore()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.begin_pass()


def _plain(value: Any) -> Any:
    """What json does not know, in what a reward function logged: numbers of arrays, and anything else as text."""
    return value.item() if hasattr(value, "item") else str(value)


def _listed(log: Any) -> Any:
    return list(log) if isinstance(log, deque) else {name: list(values) for name, values in log.items()}


def _refill(log: Any, entries: Any) -> None:
    if isinstance(log, deque):
        log.extend(entries)
    else:
        for name, values in entries.items():
            log[name].extend(values)
