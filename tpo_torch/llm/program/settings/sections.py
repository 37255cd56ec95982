"""The settings of a language-model run, checked before anything is loaded."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tpo_ref import checks
from tpo_ref.checks import unknown
from tpo_ref.study import files
from tpo_torch.llm import ranges
from tpo_torch.llm.conversion import Change
from tpo_torch.llm.fields import quoted
from tpo_torch.llm.program.settings import switches, upstream
from tpo_torch.llm.program.settings.fields import TRAINERS, Mappings, check_fields
from tpo_torch.llm.program.settings.switching import DROPOUT, GRPO, RATE, SECTIONS
from tpo_torch.llm.program.settings.upstream import GRPO_CONFIG, TPO_CONFIG, Configuration
from tpo_torch.llm.target import TargetSettings

METHODS = tuple(SECTIONS)
# The method whose coefficients another rule may make, and the setting that names it.
TARGET, RULE = "tpo", "rule"
# The name of TPO with the anchor "ratio", after arXiv:2605.06139.
LISTWISE = "lpo"
LAUNCHERS = Path(__file__).parents[2] / "configs" / "accelerate"
TINY = "tiny"
# What may be the path of a file among the trainer's arguments, and of a folder among the options of a task.
FILES = ("deepspeed", "fsdp_config", "accelerator_config")
GSM8K, FOLDER = "gsm8k", "folder"
# The name of a run that no file was read for, where its configuration is asked for.
UNNAMED = "CONFIG"
# A file system takes 255 bytes; method, seed and the names of temporary files come on top.
LONGEST_NAME = 180


@dataclass(frozen=True)
class EvaluationSettings:
    """Settings of the evaluation on the held-out set.

    Raises: TypeError, ValueError naming the setting, what was given and what was expected.
    """

    every: int = 20
    """Optimizer steps between two evaluations; the first and the last are always made."""
    size: int | None = 128
    """Prompts of the held-out set, None for all."""
    samples: int = 4
    """Answers per prompt behind pass@k, 0 for none."""
    k: Sequence[int] = (1, 4)
    """The k of pass@k, each up to samples."""
    batch_size: int = 64
    """Prompts generated together on one process."""
    seed: int = 0
    """Seed of the sampled answers."""

    def __post_init__(self) -> None:
        for name, least in {"every": 1, "samples": 0, "batch_size": 1, "seed": 0}.items():
            checks.whole(f"evaluation.{name}", getattr(self, name), least)
        if self.size is not None:
            checks.whole("evaluation.size", self.size, 1)
        if not isinstance(self.k, (list, tuple)):
            raise TypeError(f"evaluation.k: got {self.k!r}, expected a list such as [1, 4]")
        # So that equal settings are equal, read from a list or written in Python.
        object.__setattr__(self, "k", tuple(self.k))
        for k in self.k:
            checks.whole("evaluation.k", k, 1)
            if self.samples and k > self.samples:
                raise ValueError(
                    f"evaluation.k: got {k}, expected at most samples = {self.samples}; raise samples, or lower k"
                )


@dataclass(frozen=True)
class TinySettings:
    """The shape of the model that is built on the spot.

    Raises: TypeError, ValueError naming the setting, what was given and what was expected.
    """

    layers: int = 2
    """Transformer layers."""
    width: int = 128
    """Width of the residual stream."""
    heads: int = 4
    """Attention heads; a divisor of width that leaves each an even width."""
    vocabulary: int = 400
    """Entries of the vocabulary, at most."""

    def __post_init__(self) -> None:
        for name in ("layers", "width", "heads", "vocabulary"):
            checks.whole(f"tiny.{name}", getattr(self, name), 1)
        if self.width % (2 * self.heads):
            raise ValueError(
                f"tiny.heads: got {self.heads}, expected a divisor of width = {self.width} that leaves each head an "
                "even width"
            )


@dataclass(frozen=True)
class WarmupSettings:
    """The supervised warm-up of the model that is built on the spot, on worked examples of the task.

    Raises: TypeError, ValueError naming the setting, what was given and what was expected.
    """

    steps: int = 200
    """Steps of AdamW."""
    batch_size: int = 64
    """Worked examples a step."""
    learning_rate: float = 2e-3
    """The largest learning rate of the schedule."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size"):
            checks.whole(f"warmup.{name}", getattr(self, name), 1)
        checks.positive("warmup.learning_rate", self.learning_rate)


@dataclass(frozen=True)
class RunSettings:
    """Everything a run is made of.

    Raises: TypeError, ValueError naming the setting, what was given and what was expected.
    """

    name: str
    """Name of the run, which names its folder."""
    model: str
    """A hub name, a local folder, or "tiny" for a model built on the spot."""
    task: str
    """Name of a task, or the path of a user's own."""
    task_options: Mappings = field(default_factory=dict)
    """Keywords of the task."""
    method: str = "tpo"
    """tpo, grpo, or lpo, which is tpo with anchor ratio."""
    seed: int = 0
    """Seed of the run."""
    prompts: int = 16
    """Prompts per optimizer step, over all processes."""
    processes: int | None = None
    """Number of processes, None for any."""
    trainer: Mappings = field(default_factory=dict)
    """Fields of TRL's configuration, for either method."""
    tpo: Mappings = field(default_factory=dict)
    """Fields of TargetPOConfig that TPO alone reads."""
    grpo: Mappings = field(default_factory=dict)
    """Fields of GRPOConfig that GRPO alone reads."""
    lora: Mappings | None = None
    """Fields of peft's LoraConfig, None to train all weights."""
    evaluation: EvaluationSettings = EvaluationSettings()
    """Evaluation on the held-out set."""
    tiny: TinySettings = TinySettings()
    """Shape of the model "tiny"."""
    warmup: WarmupSettings | None = None
    """Supervised warm-up of the model "tiny", None for untrained weights."""
    accelerate: str | None = None
    """Shipped launcher file that several processes need, None for none."""
    revision: str | None = None
    """Revision of a hub name, None for the newest; the digits of a commit pin it."""
    rule: str = ""
    """NAME[,OPTION=VALUE] or FILE.py:FUNCTION, an update rule in place of TPO's own; empty for that."""
    rule_trusted: bool = field(default=True, compare=False)
    """Whether that file may be run: not where only somebody else's file names it."""
    trusted: bool = field(default=True, compare=False)
    """Whether the task's file may be run: not where only somebody else's file names it."""
    source: str = field(default=UNNAMED, compare=False)
    """What the settings were read from; not recorded."""
    changes: tuple[Change, ...] = field(default=(), compare=False)
    """What became of settings written for another method; not recorded."""

    def __post_init__(self) -> None:
        for name in ("name", "model", "task"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name):
                raise TypeError(f"{name}: got {getattr(self, name)!r}, expected a word{quoted(getattr(self, name))}")
            if "\0" in getattr(self, name):
                raise ValueError(f"{name}: got {getattr(self, name)!r}, expected no null byte; no file is called so")
        if not re.fullmatch(r"[\w.-]+", self.name) or not self.name.strip("."):
            raise ValueError(f"name: got {self.name!r}, expected letters, digits, '.', '_' or '-': it names a folder")
        if self.revision is not None:
            self._check_revision()
        if len(self.name.encode()) > LONGEST_NAME:
            raise ValueError(
                f"name: got {len(self.name.encode())} bytes, expected at most {LONGEST_NAME}: it names a folder"
            )
        if self.accelerate is not None and not launcher_file(str(self.accelerate)).is_file():
            raise unknown("accelerate", str(self.accelerate), sorted(path.stem for path in LAUNCHERS.glob("*.yaml")))
        if self.method not in METHODS:
            raise unknown("method", self.method, METHODS)
        self._check_rule()
        checks.whole("seed", self.seed, 0)
        checks.whole("prompts", self.prompts, 1)
        if self.processes is not None:
            checks.whole("processes", self.processes, 1)
        for name in ranges.RUN:
            ranges.check(name, getattr(self, name), ranges.RUN, {})
        for section in TRAINERS:
            values = {name: switches.parsed(f"{section}.{name}", x) for name, x in getattr(self, section).items()}
            object.__setattr__(self, section, values)
        self._check_names()
        if self.method != GRPO:
            self._check_target()

    def _check_rule(self) -> None:
        """Whether a rule is given once, as text, to a method that takes one; the target's settings judge what it is."""
        for section in TRAINERS:
            if RULE in getattr(self, section):
                raise ValueError(
                    f"{section}.{RULE}: is no option of the trainer here; write {RULE}=… without a section"
                )
        if not isinstance(self.rule, str):
            raise TypeError(f"{RULE}: got {self.rule!r}, expected NAME or FILE.py:FUNCTION")
        if self.rule and self.method != TARGET:
            raise ValueError(
                f"{RULE}: got {self.rule!r} beside method {self.method}, expected method {TARGET}, whose trainer takes "
                "any rule; leave one of them out"
            )

    def _check_names(self) -> None:
        """The names that TRL and peft must know; a mistake is found before the model is loaded."""
        configurations = {"trainer": self.configuration, "tpo": TPO_CONFIG, "grpo": GRPO_CONFIG}
        for section, configuration in configurations.items():
            given, fields = getattr(self, section), upstream.fields_of(configuration)
            for name in given if configuration is GRPO_CONFIG else ():
                if name not in fields and name in upstream.fields_of(TPO_CONFIG):
                    raise ValueError(
                        f"{section}.{name}: is an option of TPO alone; write it in the section tpo, which method "
                        "grpo does not read"
                    )
            check_fields(section, given, fields, configuration.name)
        twice = sorted(set(self.trainer) & set(getattr(self, self.section)))
        if twice:
            raise ValueError(f"{self.section}.{twice[0]}: is given in trainer too; leave one of them out")
        if self.lora is not None:
            fields = upstream.fields_of(upstream.LORA_CONFIG)
            check_fields("lora", self.lora, fields, upstream.LORA_CONFIG.name)

    def _check_revision(self) -> None:
        """A revision beside a hub name, once."""
        if not isinstance(self.revision, str) or not self.revision:
            raise TypeError(f"revision: got {self.revision!r}, expected a word, such as a commit; quote digits")
        if self.model == TINY or files.at_home(self.model).is_dir():
            raise ValueError(f"revision: got {self.revision!r}, but {self.model} is no name on the hub; leave it out")
        if dict(self.given.get("model_init_kwargs") or {}).get("revision") is not None:
            raise ValueError("revision: is given in model_init_kwargs too; leave one of them out")

    def _check_target(self) -> None:
        """What a method with a target cannot take, and lpo beside it."""
        rate = (self.lora or {}).get(RATE)
        if rate and not self.given.get(DROPOUT):
            raise ValueError(
                f"lora.{RATE}: got {rate!r}, expected 0, or trainer.{DROPOUT}=true to switch it off; under dropout a "
                "completion has no single log-probability: the target would be made from another one than is trained"
            )
        anchor = self.given.get("anchor", TargetSettings.anchor)
        if self.method == LISTWISE and anchor != TargetSettings.anchor:
            raise ValueError(
                f"{self.section_of('anchor')}.anchor: got {anchor!r}, but method lpo is TPO with anchor "
                f"{TargetSettings.anchor!r}; leave it out, or say --method tpo"
            )

    @property
    def section(self) -> str:
        """The section that belongs to the method alone."""
        return SECTIONS[self.method]

    @property
    def folder(self) -> str:
        """The name of the run's folder."""
        return f"{self.name}-{self.shown_method}" + (f"-seed{self.seed}" if self.seed else "")

    @property
    def shown_method(self) -> str:
        """The method by which a run is called: that of its rule, where it has one."""
        if not self.rule:
            return self.method
        # Imported where needed: it takes NumPy along.
        from tpo_ref.study import chosen_rules

        return chosen_rules.method_of(self.rule)

    def plain(self) -> dict[str, files.Json]:
        """The settings as JSON values; a run without a rule says nothing of one, as before there were any."""
        fields = [f.name for f in dataclasses.fields(self) if f.compare and (f.name != RULE or self.rule)]
        return {name: files.plain(getattr(self, name)) for name in fields}

    @property
    def model_revision(self) -> str | None:
        """The revision of the model, given beside it or among its keywords."""
        among: str | None = dict(self.given.get("model_init_kwargs") or {}).get("revision")
        return self.revision or among

    @property
    def given(self) -> dict[str, Any]:
        """What the trainer's arguments are given: the fields of both methods, and those of this one."""
        return {**self.trainer, **getattr(self, self.section), **({RULE: self.rule} if self.rule else {})}

    def section_of(self, name: str) -> str:
        """The section that gives one of the trainer's arguments; that of the method where none does."""
        return "trainer" if name in self.trainer else self.section

    @property
    def configuration(self) -> Configuration:
        """The class of the trainer's arguments: TargetPOConfig, or TRL's own GRPOConfig."""
        return GRPO_CONFIG if self.method == GRPO else TPO_CONFIG

    def argument(self, name: str) -> Any:
        """The value of one of the trainer's arguments: what is given, or the default of its class."""
        return self.given[name] if name in self.given else upstream.default_of(self.configuration, name)

    def resolved(self) -> RunSettings:
        """The same with whole paths of what lies on this computer, which then is found from anywhere."""
        return dataclasses.replace(
            self,
            model=self.model if self.model == TINY else _whole(self.model),
            task=str(files.at_home(self.task).resolve()) if self.task.endswith(".py") else self.task,
            task_options=_with_whole(self.task_options, (FOLDER,) if self.task == GSM8K else ()),
            trainer=_with_whole(self.trainer, FILES),
            rule=_whole_rule(self.rule),
        )


def _with_whole(values: Mappings, names: Sequence[str]) -> dict[str, Any]:
    return {key: _whole(value) if key in names and isinstance(value, str) else value for key, value in values.items()}


def _whole(text: str) -> str:
    """A path made whole where something is there, or a home in it; anything else, such as a hub name, as it is."""
    path = files.at_home(text)
    return str(path.resolve()) if text.startswith("~") or path.exists() else text


def _whole_rule(text: str) -> str:
    """A rule's text with the whole path of its file, if it has one."""
    path, colon, rest = text.partition(".py:")
    return f"{files.at_home(path + '.py').resolve()}:{rest}" if colon else text


def launcher_file(name: str) -> Path:
    """Where a shipped configuration of `accelerate launch` lies."""
    return LAUNCHERS / f"{name}.yaml"
