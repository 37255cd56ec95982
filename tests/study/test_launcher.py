"""How many processes were launched, and which of them this is, whichever launcher started them."""

from __future__ import annotations

import pytest

from tpo_ref.study import launcher


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*launcher.COUNTS, *launcher.RANKS):
        monkeypatch.delenv(name, raising=False)


def test_without_a_launcher_there_is_one_process_and_it_is_the_first() -> None:
    assert (launcher.process_count(), launcher.process_number(), launcher.is_first_process()) == (1, 0, True)


@pytest.mark.parametrize(("count", "rank"), [*zip(launcher.COUNTS, launcher.RANKS, strict=True)])
def test_each_launcher_is_understood(count: str, rank: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(count, "4")
    monkeypatch.setenv(rank, "2")
    assert (launcher.process_count(), launcher.process_number(), launcher.is_first_process()) == (4, 2, False)
