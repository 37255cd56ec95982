"""Data sets: from a folder, else from the cache, else a download that is checked before it is kept. NumPy only."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import json
import os
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tpo_ref.study import files
from tpo_ref.study.errors import Unavailable

Bytes = NDArray[np.uint8]

FOLDER_VARIABLE = "TPO_DATA_DIR"
CACHE_NAME = "target-policy-optimization"
TIMEOUT_SECONDS = 30.0
CLASSES = 10
# An IDX file of n axes opens with 4 bytes of kind and 4 bytes per axis.
WORD_BYTES = 4


@dataclass(frozen=True)
class DataFile:
    """A file: its name without .gz, the SHA-256 of its uncompressed bytes, and for IDX files the number of axes."""

    name: str
    digest: str
    axes: int = 0


@dataclass(frozen=True)
class Collection:
    """The files of one data set, and where they are.

    Args: title, what messages call them; folder, under the data folder; suffix, which mirrors append to a file's name;
        mirrors, addresses tried in their order; files.
    """

    title: str
    folder: str
    suffix: str
    mirrors: tuple[str, ...]
    files: tuple[DataFile, ...]


MNIST = Collection(
    *("the four MNIST files", "mnist", ".gz"),
    mirrors=("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"),
    files=(
        DataFile("train-images-idx3-ubyte", "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db", 3),
        DataFile("train-labels-idx1-ubyte", "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5", 1),
        DataFile("t10k-images-idx3-ubyte", "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7", 3),
        DataFile("t10k-labels-idx1-ubyte", "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2", 1),
    ),
)
GSM8K = Collection(
    *("the two GSM8K files", "gsm8k", ""),
    mirrors=(
        "https://raw.githubusercontent.com/openai/grade-school-math/master/grade_school_math/data/",
        "https://github.com/openai/grade-school-math/raw/master/grade_school_math/data/",
    ),
    files=(
        DataFile("train.jsonl", "17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465"),
        DataFile("test.jsonl", "3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14"),
    ),
)


class DataError(Unavailable):
    """Data is missing or damaged; the message says which file and what to do."""


@dataclass(frozen=True)
class Mnist:
    """Images of digits with their labels.

    Args: train_images, test_images (N, pixels) uint8, 0 = background; train_labels, test_labels (N,) uint8, below 10.
    Raises: TypeError unless uint8 arrays; ValueError for wrong shapes, no image, or a label that is no digit.

    >>> images, labels = np.zeros((2, 4), np.uint8), np.array([3, 7], np.uint8)
    >>> Mnist(images, labels, images, labels).pixels
    4
    """

    train_images: Bytes
    train_labels: Bytes
    test_images: Bytes
    test_labels: Bytes

    def __post_init__(self) -> None:
        for part in ("train", "test"):
            _check_part(part, getattr(self, f"{part}_images"), getattr(self, f"{part}_labels"))
        if self.train_images.shape[1] != self.test_images.shape[1]:
            widths = (self.train_images.shape[1], self.test_images.shape[1])
            raise ValueError(f"images: got {widths} pixels in training and test images, expected the same number")

    @property
    def pixels(self) -> int:
        """Pixels of one image, 784 for MNIST."""
        return int(self.train_images.shape[1])


def load_mnist(folder: Path | None = None) -> Mnist:
    """The MNIST digits, 60,000 for training and 10,000 for testing.

    Paper: Fig. 4 (its data)

    Without a folder: $TPO_DATA_DIR/mnist where it exists; else the cache, $XDG_CACHE_HOME (or ~/.cache)
    /target-policy-optimization/mnist, filled by a download of what is missing there. Files may be plain or .gz.

    Args: folder, which holds the four IDX files; nothing is downloaded into it.
    Returns: uint8 arrays, images (60000, 784) and (10000, 784), labels (60000,) and (10000,).
    Raises: DataError for a missing, truncated or altered file, or no network; nothing half-written is left behind.

    >>> load_mnist(Path("no-such-folder"))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    tpo_torch.shared.data.DataError: no-such-folder: found no train-images-idx3-ubyte(.gz); put ...
    """
    contents = _contents(MNIST, folder)
    return Mnist(*(_parse(file, raw) for file, raw in zip(MNIST.files, contents, strict=True)))


@dataclass(frozen=True)
class Gsm8k:
    """School problems with worked answers: each a question, and an answer whose last line is `#### N`."""

    train: tuple[dict[str, str], ...]
    test: tuple[dict[str, str], ...]


def load_gsm8k(folder: Path | None = None) -> Gsm8k:
    """GSM8K, 7,473 problems for training and 1,319 for testing, found as `load_mnist` finds its files, under gsm8k.

    Args: folder, which holds train.jsonl and test.jsonl; nothing is downloaded into it.
    Returns: the problems in the files' order, each with the keys "question" and "answer".
    Raises: DataError for a missing, truncated or altered file, or no network; nothing half-written is left behind.

    >>> load_gsm8k(Path("no-such-folder"))
    Traceback (most recent call last):
    ...
    tpo_torch.shared.data.DataError: no-such-folder: found no train.jsonl(.gz); put the two GSM8K files there
    """
    train, test = (tuple(json.loads(line) for line in raw.splitlines()) for raw in _contents(GSM8K, folder))
    return Gsm8k(train, test)


def cache_folder(name: str = MNIST.folder) -> Path:
    """Where downloads are kept: $XDG_CACHE_HOME, or ~/.cache, then the name of this project and of the data set.

    Raises: DataError for a user without a home.
    """
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base).expanduser() if base else Path.home() / ".cache") / CACHE_NAME / name
    except RuntimeError as error:
        remedy = f"set {FOLDER_VARIABLE} or XDG_CACHE_HOME"
        raise DataError(f"{name}: found no home folder to keep downloads in; {remedy}") from error


def _contents(collection: Collection, folder: Path | None) -> list[bytes]:
    """The verified bytes of each file: from the folder given, else the data folder, else the cache, else a mirror."""
    source = folder if folder is not None else _folder_from_environment(collection)
    if source is None:
        return [_from_cache(collection, file) for file in collection.files]
    return [_from_folder(collection, file, source) for file in collection.files]


def _folder_from_environment(collection: Collection) -> Path | None:
    base = os.environ.get(FOLDER_VARIABLE)
    try:
        folder = Path(base).expanduser() / collection.folder if base else None
    except RuntimeError as error:
        raise DataError(f"{FOLDER_VARIABLE}: found no home folder for {base}; write the whole path") from error
    return folder if folder is not None and folder.is_dir() else None


def _from_folder(collection: Collection, file: DataFile, folder: Path) -> bytes:
    path = _find(file, folder)
    if path is None:
        raise DataError(f"{folder}: found no {file.name}(.gz); put {collection.title} there")
    return _verified(file, _read(path), str(path), "replace it with a fresh copy")


def _from_cache(collection: Collection, file: DataFile) -> bytes:
    folder = cache_folder(collection.folder)
    path = _find(file, folder)
    if path is not None:
        return _verified(file, _read(path), str(path), "delete it and run again to download it afresh")
    packed, raw = _download(collection, file)
    try:
        files.write_bytes(folder / f"{file.name}{collection.suffix}", packed)
    except OSError as error:
        what = f"cannot keep {file.name} in {folder} ({error}); set XDG_CACHE_HOME to a writable folder with free space"
        raise DataError(what) from error
    return raw


def _find(file: DataFile, folder: Path) -> Path | None:
    return next((path for path in (folder / file.name, folder / f"{file.name}.gz") if path.is_file()), None)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); make it readable") from error


def _download(collection: Collection, file: DataFile) -> tuple[bytes, bytes]:
    """The file as sent and uncompressed, from the first mirror that sends it whole."""
    failures = []
    for mirror in collection.mirrors:
        url = f"{mirror}{file.name}{collection.suffix}"
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response:
                packed: bytes = response.read()
            return packed, _verified(file, packed, url, "another mirror is asked")
        except (urllib.error.URLError, http.client.HTTPException, OSError, DataError) as error:
            failures.append(f"{url}: {error}")
    variable = os.environ.get(FOLDER_VARIABLE, "not set")
    raise DataError(
        f"cannot download {collection.title}:\n  "
        + "\n  ".join(failures)
        + f"\n{FOLDER_VARIABLE} is {variable!r}. Without a network, set it to a folder that holds "
        + _listed(f"{collection.folder}/{each.name}{collection.suffix}" for each in collection.files)
        + "."
    )


def _verified(file: DataFile, data: bytes, source: str, remedy: str) -> bytes:
    """The uncompressed bytes, once their checksum is right: compressed bytes differ between mirrors."""
    raw = data
    # Judged by the two bytes that open every gzip file, so that a wrong ending of the name does no harm.
    if data.startswith(b"\x1f\x8b"):
        try:
            raw = gzip.decompress(data)
        except (EOFError, OSError, zlib.error) as error:
            raise DataError(f"{source}: truncated or damaged gzip ({error}); {remedy}") from error
    digest = hashlib.sha256(raw).hexdigest()
    if digest != file.digest:
        raise DataError(f"{source}: got SHA-256 {digest} of the uncompressed bytes, expected {file.digest}; {remedy}")
    return raw


def _parse(file: DataFile, raw: bytes) -> Bytes:
    header = WORD_BYTES * (1 + file.axes)
    count = int.from_bytes(raw[WORD_BYTES : 2 * WORD_BYTES], "big")
    values: Bytes = np.frombuffer(raw, np.uint8, offset=header)
    return values if file.axes == 1 else values.reshape(count, -1)


def _check_part(part: str, images: Any, labels: Any) -> None:
    for name, x, axes in ((f"{part}_images", images, 2), (f"{part}_labels", labels, 1)):
        if not isinstance(x, np.ndarray) or x.dtype != np.uint8:
            kind = getattr(x, "dtype", type(x).__name__)
            raise TypeError(f"{name}: got {kind}, expected a uint8 array; use np.asarray(x, np.uint8)")
        if x.ndim != axes or x.size == 0:
            expected = "(N, pixels)" if axes > 1 else "(N,)"
            raise ValueError(f"{name}: got shape {x.shape}, expected {expected} with N at least 1")
    if len(images) != len(labels):
        raise ValueError(f"{part}_labels: got {len(labels)} labels, expected one for each of {len(images)} images")
    if labels.max() >= CLASSES:
        raise ValueError(f"{part}_labels: got the label {labels.max()}, expected digits below {CLASSES}")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
