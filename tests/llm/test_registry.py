"""The names of Reasoning Gym's datasets and options, read from its source: those of its registry, or none at all."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from reasoning_gym.factory import DATASETS

from tpo_torch.llm.source import UnexpectedSource
from tpo_torch.llm.tasks import registry


def test_names_read_from_the_source_are_those_of_the_registry() -> None:
    read = [registration.name for registration in registry.registrations()]
    assert sorted(read) == sorted(DATASETS)


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_a_dataset_read_from_the_source_is_the_imported_one(name: str) -> None:
    assert registry.written_dataset(name) == registry.imported_dataset(name)


@pytest.mark.parametrize("name", ["", "chain_summ", "seed", "ThreadPool"])
def test_an_unknown_name_is_refused_in_the_same_words(name: str) -> None:
    with pytest.raises(ValueError, match="gym: got ") as imported:
        registry.imported_dataset(name)
    with pytest.raises(ValueError, match="gym: got ") as written:
        registry.written_dataset(name)
    assert str(written.value) == str(imported.value)


SOURCE = """
NAME = "word"

@dataclass
class Base:
    seed: int = 0

@dataclass(frozen=True)
class Config(Base):
    constant = 1
    shared: ClassVar[int] = 2
    letters: int = 3
    derived: int = field(init=False)

register_dataset(NAME, Words, Config)
"""
PLAIN = "register_dataset(NAME, Words, Config)"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The one module of a package that stands in for upstream, and that must not be imported."""
    folder = tmp_path / "written_gym"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise AssertionError('imported')", encoding="utf-8")
    (folder / "words.py").write_text(SOURCE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "PACKAGE", folder.name)
    return folder / "words.py"


def test_inherited_fields_are_options_too(package: Path) -> None:
    assert registry.dataset_of("word") == registry.GymDataset(
        "word", package.read_text(encoding="utf-8"), ("seed", "letters")
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (PLAIN, ""),
        (PLAIN, "for each in NAMES:\n    register_dataset(each, Words, Config)"),
        (PLAIN, f"{PLAIN}\n@register_dataset('other')\nclass Other: ..."),
        (PLAIN, "register_dataset(NAME, dataset_cls=Words, config_cls=Config)"),
        (PLAIN, "register_dataset(NAME, Words, config.Config)"),
        ('NAME = "word"', 'NAME = "wo" + OTHER'),
        ('NAME = "word"', 'NAME = "word"\nNAME = "other"'),
        ('NAME = "word"', "from names import NAME"),
        ("class Config(Base)", "class Config(elsewhere.Base)"),
        ("class Config(Base)", "class Config(Base, Other)"),
        ("@dataclass(frozen=True)", ""),
        ("class Config", "class class"),
    ],
)
def test_a_source_that_is_not_as_expected_leads_to_the_import(package: Path, old: str, new: str) -> None:
    assert old in SOURCE
    package.write_text(SOURCE.replace(old, new), encoding="utf-8")
    with pytest.raises(UnexpectedSource):
        registry.written_dataset("word")
    with pytest.raises(ValueError, match=r"gym: got 'word', .*word_sorting"):
        registry.dataset_of("word")


def test_a_library_that_is_not_there_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "PACKAGE", "no_such_package")
    with pytest.raises(UnexpectedSource):
        registry.written_dataset("word")


def test_a_dataset_registered_in_this_process_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    assert registry.PACKAGE in sys.modules
    monkeypatch.setitem(DATASETS, "mine", DATASETS["chain_sum"])
    assert registry.dataset_of("mine").options == registry.dataset_of("chain_sum").options
