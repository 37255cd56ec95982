"""Data from a folder, from the cache, from a mirror; whatever goes wrong is said, and leaves nothing half-written."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import json
import os
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from tpo_torch.shared import data
from tpo_torch.shared.data import DataError, DataFile, Gsm8k, Mnist, load_gsm8k, load_mnist

IMAGES = np.arange(12, dtype=np.uint8).reshape(3, 2, 2)
LABELS = np.array([3, 0, 9], np.uint8)
# An IDX file: two zero bytes, 8 for "unsigned byte", the number of axes, one big-endian word per axis, the values.
RAW = {
    file.name: struct.pack(f">{file.axes + 1}I", 0x800 + file.axes, *values.shape) + values.tobytes()
    for file, values in zip(data.MNIST.files, (IMAGES, LABELS, IMAGES, LABELS), strict=True)
}
TINY = tuple(DataFile(file.name, hashlib.sha256(RAW[file.name]).hexdigest(), file.axes) for file in data.MNIST.files)
FIRST = TINY[0].name


@dataclass
class Mirror:
    """A local mirror: what it sends for each path, a declared length where it lies about it, what it was asked."""

    url: str
    bodies: dict[str, bytes]
    declared: dict[str, int] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def mirror() -> Iterator[Callable[[], Mirror]]:
    servers = []

    def start() -> Mirror:
        state = Mirror("", {f"/{name}.gz": gzip.compress(raw, mtime=0) for name, raw in RAW.items()})

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                state.asked.append(self.path)
                body = state.bodies.get(self.path)
                self.send_response(404 if body is None else 200)
                self.send_header("Content-Length", str(state.declared.get(self.path, len(body or b""))))
                self.end_headers()
                self.wfile.write(body or b"")

            def log_message(self, *_: object) -> None: ...

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.01), daemon=True)
        thread.start()
        servers.append((server, thread))
        state.url = f"http://127.0.0.1:{server.server_address[1]}/"
        return state

    yield start
    for server, thread in servers:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache, tiny files, no data folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("TPO_DATA_DIR", raising=False)
    monkeypatch.setattr(data, "MNIST", replace(data.MNIST, files=TINY))
    return tmp_path / "cache" / "target-policy-optimization" / "mnist"


def from_mirrors(monkeypatch: pytest.MonkeyPatch, *mirrors: Mirror) -> None:
    monkeypatch.setattr(data, "MNIST", replace(data.MNIST, mirrors=tuple(each.url for each in mirrors)))


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def assert_tiny(got: Mnist) -> None:
    np.testing.assert_array_equal(got.train_images, IMAGES.reshape(3, 4))
    np.testing.assert_array_equal(got.test_labels, LABELS)


def test_downloaded_once_then_read_from_the_cache(
    cache: Path, mirror: Callable[[], Mirror], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = mirror()
    from_mirrors(monkeypatch, source)
    assert_tiny(load_mnist())
    assert_tiny(load_mnist())
    assert sorted(source.asked) == sorted(f"/{file.name}.gz" for file in TINY)
    assert left_in(cache) == sorted(f"{file.name}.gz" for file in TINY)


def test_a_second_mirror_stands_in_for_a_first_that_is_wrong(
    cache: Path, mirror: Callable[[], Mirror], monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong, right = mirror(), mirror()
    wrong.bodies = {path: gzip.compress(b"other digits", mtime=0) for path in wrong.bodies}
    from_mirrors(monkeypatch, wrong, right)
    assert_tiny(load_mnist())
    assert len(wrong.asked) == len(right.asked) == len(TINY)


@pytest.mark.parametrize("fault", ["checksum", "truncated gzip", "cut connection", "not found"])
def test_a_bad_download_is_named_and_leaves_nothing(
    fault: str, cache: Path, mirror: Callable[[], Mirror], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, path = mirror(), f"/{FIRST}.gz"
    whole = source.bodies[path]
    if fault == "checksum":
        source.bodies[path] = gzip.compress(b"other digits", mtime=0)
    elif fault == "truncated gzip":
        source.bodies[path] = whole[:-9]
    elif fault == "cut connection":
        source.bodies[path], source.declared[path] = whole[:-9], len(whole)
    else:
        del source.bodies[path]
    from_mirrors(monkeypatch, source)
    with pytest.raises(DataError, match=f"(?s){FIRST}.*TPO_DATA_DIR"):
        load_mnist()
    assert left_in(cache) == []


def test_without_a_network_the_message_says_how_to_get_mnist(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Port 9 of this machine: nothing listens there.
    monkeypatch.setattr(data, "MNIST", replace(data.MNIST, mirrors=("http://127.0.0.1:9/",)))
    with pytest.raises(DataError, match="TPO_DATA_DIR") as caught:
        load_mnist()
    assert all(f"mnist/{file.name}.gz" in str(caught.value) for file in TINY)
    assert left_in(cache) == []


def test_an_interrupted_download_leaves_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted:
        def __enter__(self) -> Interrupted:
            return self

        def __exit__(self, *_: object) -> None: ...

        def read(self) -> bytes:
            raise KeyboardInterrupt

    monkeypatch.setattr(data.urllib.request, "urlopen", lambda *_, **__: Interrupted())
    with pytest.raises(KeyboardInterrupt):
        load_mnist()
    assert left_in(cache) == []


def test_a_kill_while_writing_leaves_no_file_under_the_real_name(
    cache: Path, mirror: Callable[[], Mirror], monkeypatch: pytest.MonkeyPatch
) -> None:
    from_mirrors(monkeypatch, mirror())

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            load_mnist()
    # What was being written has a temporary name, which nothing reads.
    assert not any((cache / f"{file.name}.gz").exists() for file in TINY)
    assert_tiny(load_mnist())


def test_an_unwritable_cache_is_said(
    cache: Path, mirror: Callable[[], Mirror], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from_mirrors(monkeypatch, mirror())
    (tmp_path / "cache").write_text("a file where the folder should be", encoding="utf-8")
    with pytest.raises(DataError, match="XDG_CACHE_HOME"):
        load_mnist()


@pytest.mark.parametrize("packed", [False, True])
def test_a_data_folder_comes_first_plain_or_gz(
    packed: bool, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "data" / "mnist"
    folder.mkdir(parents=True)
    for name, raw in RAW.items():
        (folder / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(raw, mtime=0) if packed else raw)
    monkeypatch.setattr(data, "MNIST", replace(data.MNIST, mirrors=()))
    assert_tiny(load_mnist(folder))
    monkeypatch.setenv("TPO_DATA_DIR", str(folder.parent))
    assert_tiny(load_mnist())


def test_a_data_folder_without_mnist_leaves_the_cache_in_charge(
    cache: Path, mirror: Callable[[], Mirror], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TPO_DATA_DIR", str(tmp_path))
    from_mirrors(monkeypatch, mirror())
    assert_tiny(load_mnist())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, f"found no {FIRST}"),
        (b"", "SHA-256"),
        (RAW[FIRST][:-1], "SHA-256"),
        (gzip.compress(RAW[FIRST], mtime=0)[:-9], "truncated"),
        (gzip.compress(RAW[FIRST], mtime=0)[:12] + b"\xff" * 20, "truncated or damaged"),
    ],
)
def test_a_damaged_folder_is_named(content: bytes | None, message: str, cache: Path, tmp_path: Path) -> None:
    for name, raw in RAW.items():
        (tmp_path / name).write_bytes(raw)
    (tmp_path / FIRST).unlink()
    if content is not None:
        (tmp_path / FIRST).write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_mnist(tmp_path)


def test_a_damaged_cache_says_to_delete_the_file(cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / f"{FIRST}.gz").write_bytes(b"\x1f\x8b half of it")
    with pytest.raises(DataError, match=rf"{FIRST}\.gz: truncated.*delete it"):
        load_mnist()


def test_the_real_files_where_they_are_here_else_tiny_ones(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    folder = Path(os.environ.get("TPO_DATA_DIR", "")) / "mnist"
    if folder.is_dir() and "TPO_DATA_DIR" in os.environ:
        digits = load_mnist(folder)
        assert digits.train_images.shape == (60_000, 784)
        assert digits.test_images.shape == (10_000, 784)
        # Every digit makes up about a tenth of the labels; the first training image is a 5.
        assert np.bincount(digits.train_labels).min() > 5_000
        assert digits.train_labels[0] == 5
    assert all(url.startswith("https://") for url in (*data.MNIST.mirrors, *data.GSM8K.mirrors))


def test_arrays_that_are_no_digits_are_refused() -> None:
    images, labels = IMAGES.reshape(3, 4), LABELS
    for bad, error, message in [
        ((images.astype(float), labels, images, labels), TypeError, "train_images: got float64"),
        ((IMAGES, labels, images, labels), ValueError, "train_images: got shape"),
        ((images, labels[:2], images, labels), ValueError, "one for each of 3"),
        ((images, labels, images, labels + 1), ValueError, "label 10"),
        ((images, labels, images[:, :3], labels), ValueError, "same number"),
        ((images[:0], labels[:0], images, labels), ValueError, "N at least 1"),
        ((images.tolist(), labels, images, labels), TypeError, "got list"),
    ]:
        with pytest.raises(error, match=message):
            Mnist(*bad)  # type: ignore[arg-type]


PROBLEMS = {
    "train.jsonl": [{"question": "1 + 1?", "answer": "<<1+1=2>>2\n#### 2"}],
    "test.jsonl": [{"question": "2 + 2? \N{EURO SIGN}", "answer": "#### 4"}, {"question": "3?", "answer": "#### 3"}],
}
LINES = {name: "".join(json.dumps(row) + "\n" for row in rows).encode() for name, rows in PROBLEMS.items()}


@pytest.fixture
def problems(monkeypatch: pytest.MonkeyPatch, cache: Path, mirror: Callable[[], Mirror]) -> Mirror:
    """A mirror of two tiny files of problems, and an empty cache."""
    source = mirror()
    source.bodies = {f"/{name}": raw for name, raw in LINES.items()}
    tiny = tuple(DataFile(name, hashlib.sha256(raw).hexdigest()) for name, raw in LINES.items())
    monkeypatch.setattr(data, "GSM8K", replace(data.GSM8K, files=tiny, mirrors=(source.url,)))
    return source


def test_problems_are_downloaded_once_as_plain_files(problems: Mirror, cache: Path) -> None:
    expected = Gsm8k(tuple(PROBLEMS["train.jsonl"]), tuple(PROBLEMS["test.jsonl"]))
    assert load_gsm8k() == load_gsm8k() == expected
    assert problems.asked == [f"/{name}" for name in LINES]
    assert left_in(cache.parent / "gsm8k") == sorted(LINES)


def test_altered_problems_are_named_and_not_kept(problems: Mirror, cache: Path) -> None:
    problems.bodies["/test.jsonl"] = LINES["test.jsonl"].replace(b"4", b"5")
    with pytest.raises(DataError, match=r"(?s)two GSM8K files.*test.jsonl: got SHA-256.*gsm8k/train.jsonl"):
        load_gsm8k()
    assert left_in(cache.parent / "gsm8k") == ["train.jsonl"]


def test_the_real_problems_where_they_are_here() -> None:
    if not (Path(os.environ.get("TPO_DATA_DIR", "/")) / "gsm8k").is_dir():
        pytest.skip("no folder gsm8k in $TPO_DATA_DIR")
    problems = load_gsm8k()
    assert (len(problems.train), len(problems.test)) == (7_473, 1_319)
    assert all("#### " in row["answer"] for row in (*problems.train, *problems.test))
