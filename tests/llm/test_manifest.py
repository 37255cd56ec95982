"""A folder agrees with its list of files exactly while nothing in it was lost or altered."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpo_torch.llm import manifest

CONTENTS = st.dictionaries(
    st.sampled_from(("a.bin", "b.json", "inner/c.bin", "inner/deep/d.bin")), st.binary(max_size=64), min_size=1
)


def filled(folder: Path, contents: dict[str, bytes]) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("folder") / "listed"


@given(contents=CONTENTS, data=st.data())
def test_one_bit_or_byte_less_is_found(place: Path, contents: dict[str, bytes], data: st.DataObject) -> None:
    folder = filled(place, contents)
    assert "half written" in str(manifest.fault(folder))
    manifest.write(folder)
    assert manifest.fault(folder) is None
    path = folder / data.draw(st.sampled_from((manifest.NAME, *contents)))
    content = bytearray(path.read_bytes())
    if content and data.draw(st.booleans()):
        bit = data.draw(st.integers(0, 8 * len(content) - 1))
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
    elif content:
        # The list ends with a line feed that says nothing.
        path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1 - (path.name == manifest.NAME)))])
    else:
        path.unlink()
    found = str(manifest.fault(folder))
    assert path.relative_to(folder).as_posix() in found
    assert "\n" not in found


@given(contents=CONTENTS)
def test_what_is_beside_the_list_does_not_matter_and_files_do_not_change_places(
    place: Path, contents: dict[str, bytes]
) -> None:
    folder = filled(place, contents)
    manifest.write(folder)
    (folder / "notes.txt").write_text("mine", encoding="utf-8")
    assert manifest.fault(folder) is None
    if len(set(contents.values())) > 1:
        first, second = sorted(contents, key=lambda name: contents[name])[:: len(contents) - 1][:2]
        (folder / first).write_bytes(contents[second])
        (folder / second).write_bytes(contents[first])
        assert manifest.fault(folder) is not None


def test_a_folder_takes_the_place_of_another_with_its_list(tmp_path: Path) -> None:
    filled(tmp_path / "old", {"a.bin": b"1", "gone.bin": b"2"})
    manifest.replace(filled(tmp_path / "new", {"a.bin": b"3"}), tmp_path / "old")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old"]
    assert manifest.fault(tmp_path / "old") is None
    assert not (tmp_path / "old" / "gone.bin").exists()


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "null", '{"format": 1, "files": [], "sha256": ""}', '{"format": 2, "files": {}}', "\xff"]
)
def test_a_list_that_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / manifest.NAME).write_text(text, encoding="latin-1")
    assert manifest.fault(tmp_path) == f"its {manifest.NAME} is damaged"
    assert manifest.fault(tmp_path / manifest.NAME) == "it is no folder"
