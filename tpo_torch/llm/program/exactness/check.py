"""Is the trainer's gradient that of whole groups? A table over layouts, on a model of a few thousand parameters.

The dense side is one forward pass over all completions and the textbook cross-entropy of their groups, by autograd; it
(dense.py) shares no line with the trainer. Both run in double precision, TRL's fused head replaced by a textbook one.
"""

from __future__ import annotations

import copy
import math
import os
import subprocess
import sys
import tempfile
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import PrinterCallback
from transformers.utils import logging

from tpo_ref.study import files
from tpo_torch.llm.config import TargetPOConfig
from tpo_torch.llm.program.exactness.comparison import Comparison, DoubleTrainer
from tpo_torch.llm.program.exactness.dense import DenseSettings
from tpo_torch.llm.program.exactness.task import PROMPTS, tiny_model, tiny_tokenizer
from tpo_torch.llm.target import ANCHORS, SCALES

# Relative tolerance: larger than rounding in double precision, over two layers and a sum of a hundred tokens, and far
# smaller than the effect of a wrong coefficient.
TOLERANCE = 1e-10
LORA = LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False)


@dataclass(frozen=True)
class Case:
    """One layout: arguments of `TargetPOConfig` that differ from `BASE`, and whether only an adapter is trained."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    lora: bool = False


BASE: dict[str, Any] = {
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "report_to": "none",
    "num_generations": 4,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "max_completion_length": 6,
    "learning_rate": 0.05,
    "lr_scheduler_type": "constant",
    "optim": "sgd",
    "max_grad_norm": 0.0,
    "max_steps": 2,
    "save_strategy": "no",
    "logging_strategy": "no",
    "disable_tqdm": True,
    "seed": 3,
    # The paper's form; the others are cases of their own.
    "anchor": "policy",
    "divide_by_length": False,
}
SHIPPED = {"anchor": "ratio", "divide_by_length": True}
TWO_ROUNDS = {"gradient_accumulation_steps": 2, "steps_per_generation": 1}
SPLIT = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
RULES = ("rloo", "maxrl", "dr_grpo", "grpo", "gspo", "dg", "rebel", "pmpo", "reinforce_pp")
CASES = (
    Case("whole groups in a micro-batch"),
    Case("one group per micro-batch", {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}),
    Case("groups over micro-batches", SPLIT),
    Case("one row per micro-batch", {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8}),
    Case("rows shuffled", {**SPLIT, "shuffle_rows": True}),
    Case("two optimizer steps per round", {"gradient_accumulation_steps": 1, "steps_per_generation": 2}),
    Case("two steps per round, split", {**SPLIT, "steps_per_generation": 8, "shuffle_rows": True}),
    Case("two rounds per step", TWO_ROUNDS),
    Case("three epochs", {"num_iterations": 3, "max_steps": 3}),
    Case("three epochs, split", {**SPLIT, "num_iterations": 3, "max_steps": 3}),
    Case(
        "truncated rows masked, split",
        {
            "mask_truncated_completions": True,
            "max_completion_length": 10,
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 16,
        },
    ),
    Case("LoRA", {}, lora=True),
    Case("LoRA, split", SPLIT, lora=True),
    *(
        Case(
            f"anchor {anchor}, {'split, ' if cut else ''}two epochs",
            {"anchor": anchor, "anchor_temperature": 4.0, "num_iterations": 2, **cut},
        )
        for anchor in ANCHORS[1:]
        for cut in ({}, SPLIT)
    ),
    *(
        Case(
            f"scale {scale}, {'split, ' if cut else ''}two epochs",
            {**SHIPPED, "score_scale": scale, "num_iterations": 2, **cut},
        )
        for scale in SCALES[1:]
        for cut in ({}, SPLIT)
    ),
    Case("scale batch_std, two rounds per step", {**SHIPPED, **TWO_ROUNDS, "score_scale": "batch_std"}),
    *(
        Case(
            f"reverse, anchor {anchor}, {'split, ' if cut else ''}two epochs",
            {"anchor": anchor, "divergence": "reverse", "num_iterations": 2, **cut},
        )
        for anchor in ANCHORS[:2]
        for cut in ({}, SPLIT)
    ),
    *(
        Case(
            f"rule {rule}, {'split, ' if cut else ''}two epochs",
            {**SHIPPED, "rule": rule, "num_iterations": 2, **cut},
        )
        for rule in RULES
        for cut in ({}, SPLIT)
    ),
    Case("rule reinforce_pp, two rounds per step", {**SHIPPED, **TWO_ROUNDS, "rule": "reinforce_pp"}),
    Case("defaults, split", {**SPLIT, **SHIPPED}),
    Case("defaults, two rounds per step", {**SHIPPED, **TWO_ROUNDS}),
    Case("defaults, three epochs, split", {**SPLIT, **SHIPPED, "num_iterations": 3, "max_steps": 3}),
)


PROCESSES = 2
CASES_TOGETHER = (
    Case("whole groups in a micro-batch", {"per_device_train_batch_size": 4}),
    Case("a group over both processes", {"per_device_train_batch_size": 2}),
    Case(
        "groups over processes and micro-batches", {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 6}
    ),
    Case("rows shuffled, three epochs", {**SPLIT, "shuffle_rows": True, "num_iterations": 3, "max_steps": 3}),
    Case(
        "anchor ratio, over both, two epochs",
        {"per_device_train_batch_size": 2, "anchor": "ratio", "num_iterations": 2},
    ),
    Case(
        "scale batch_std, over both",
        {**SHIPPED, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "score_scale": "batch_std"},
    ),
    Case("rule pmpo, over both", {"per_device_train_batch_size": 2, **SHIPPED, "rule": "pmpo", "num_iterations": 2}),
    Case("rule reinforce_pp, over both", {"per_device_train_batch_size": 2, **SHIPPED, "rule": "reinforce_pp"}),
    Case("defaults, over both", {"per_device_train_batch_size": 2, **SHIPPED, "num_iterations": 2}),
)


@dataclass(frozen=True)
class ExactnessReport:
    """The outcome of one case: optimizer steps compared, the largest gradient entry, the largest difference over it.

    `cut` says processes × micro-batches of a round of generation × rows.
    """

    name: str
    cut: str
    steps: int
    largest: float
    difference: float

    @property
    def holds(self) -> bool:
        """Whether the gradients agree; False where no step was compared, or all are zero."""
        return self.largest > 0 and self.difference <= TOLERANCE

    def cells(self) -> list[str]:
        """The case as a row of text."""
        verdict = "holds" if self.holds else "fails"
        numbers = (f"{self.largest:.2g}", f"{self.difference:.1e}")
        return [self.name, self.cut, str(self.steps), *numbers, verdict]

    def plain(self) -> dict[str, Any]:
        """The case as plain json."""
        own = asdict(self)
        return {"layout": own.pop("name"), **own, "holds": self.holds}


def verify(together: bool = False) -> list[ExactnessReport]:
    """Compare every case, one after the other; seconds each.

    Args: together, also the cases of `PROCESSES` processes, which takes the time to start them.
    Raises: RuntimeError where those processes fail, with what they wrote.
    """
    logging.set_verbosity_error()
    with warnings.catch_warnings():
        # TRL uses names that transformers has renamed.
        warnings.simplefilter("ignore", FutureWarning)
        reports = [check(case) for case in (CASES if "RANK" not in os.environ else CASES_TOGETHER)]
    return reports + (_launched() if together else [])


def _launched() -> list[ExactnessReport]:
    """Compare the cases of several processes, started by torch's own launcher."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "reports.json"
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={PROCESSES}"]
        process = subprocess.run(
            [*launcher, "-m", "tpo_torch.llm.program.exactness.check", str(path)],
            capture_output=True,
            text=True,
            check=False,
            encoding="utf-8",
        )
        if process.returncode:
            what = f"{PROCESSES} processes failed with code {process.returncode}:"
            raise RuntimeError(f"{what}\n{process.stderr[-2000:]}")
        return [ExactnessReport(**report) for report in files.read_json(path)["reports"]]


def check(case: Case) -> ExactnessReport:
    """Train a few optimizer steps and compare the gradient of each with the dense one at the same parameters.

    Under a launcher, the dense side sees the rows of all processes, and each process compares.
    """
    # peft makes adapters in single precision, whatever the model's.
    policy = get_peft_model(tiny_model(), LORA).double() if case.lora else tiny_model()
    tokenizer = tiny_tokenizer()
    with tempfile.TemporaryDirectory() as folder:
        config = TargetPOConfig(folder, **(BASE | case.options))
        settings = DenseSettings(
            pad=tokenizer.pad_token_id,
            eos=tokenizer.eos_token_id,
            mask_truncated=config.mask_truncated_completions,
            anchor=config.anchor,
            eta=config.eta,
            tau=config.tau,
            anchor_temperature=config.anchor_temperature,
            divide_by_length=config.divide_by_length,
            score_scale=config.score_scale,
            divergence=config.divergence,
            rule=config.rule,
        )
        comparison = Comparison(copy.deepcopy(policy), settings, tokenizer, config.num_generations)
        trainer = DoubleTrainer(
            policy,
            comparison,
            config,
            train_dataset=Dataset.from_dict({"prompt": list(PROMPTS) * 2}),
            processing_class=tokenizer,
        )
        trainer.remove_callback(PrinterCallback)
        with warnings.catch_warnings():
            # How well an anchor suits the small model is another question than whether its gradient is exact.
            warnings.filterwarnings("ignore", message="anchor ")
            trainer.train()
    largest = float(comparison.largest_entry)
    relative = float(comparison.largest_difference) / largest if largest else math.inf
    layout = config.layout
    cut = f"{layout.processes} x {layout.slices} x {layout.per_device}"
    return ExactnessReport(case.name, cut, comparison.steps, largest, relative)


if __name__ == "__main__":
    reports = verify()
    if os.environ["RANK"] == "0":
        files.write_json(Path(sys.argv[1]), {"reports": [asdict(report) for report in reports]})
