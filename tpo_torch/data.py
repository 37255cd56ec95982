"""Data sets: from a folder, else from the cache, else a download that is checked before it is kept. NumPy only."""

from __future__ import annotations

import gzip
import hashlib
import http.client
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
# Asked in this order; both keep the files as their authors compressed them.
MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
TIMEOUT_SECONDS = 30.0
CLASSES = 10
# An IDX file of n axes opens with 4 bytes of kind and 4 bytes per axis.
WORD_BYTES = 4


@dataclass(frozen=True)
class IdxFile:
    """A file of MNIST: its name without .gz, the md5 of its uncompressed bytes, its number of axes."""

    name: str
    md5: str
    axes: int


MNIST_FILES = (
    IdxFile("train-images-idx3-ubyte", "6bbc9ace898e44ae57da46a324031adb", 3),
    IdxFile("train-labels-idx1-ubyte", "a25bea736e30d166cdddb491f175f624", 1),
    IdxFile("t10k-images-idx3-ubyte", "2646ac647ad5339dbf082846283269ea", 3),
    IdxFile("t10k-labels-idx1-ubyte", "27ae3e4e09519cfbb04c329615203637", 1),
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
            got = (self.train_images.shape[1], self.test_images.shape[1])
            raise ValueError(f"images: got {got} pixels in training and test images, expected the same number")

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

    >>> load_mnist(Path("no-such-folder"))
    Traceback (most recent call last):
    ...
    tpo_torch.data.DataError: no-such-folder: found no train-images-idx3-ubyte(.gz); put the four MNIST files there
    """
    given = folder if folder is not None else _folder_from_environment()
    if given is None:
        contents = [_from_cache(file) for file in MNIST_FILES]
    else:
        contents = [_from_folder(file, given) for file in MNIST_FILES]
    return Mnist(*(_parse(file, raw) for file, raw in zip(MNIST_FILES, contents, strict=True)))


def cache_folder() -> Path:
    """Where downloads are kept: $XDG_CACHE_HOME, or ~/.cache, then the name of this project and of the data set."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / CACHE_NAME / "mnist"


def _folder_from_environment() -> Path | None:
    base = os.environ.get(FOLDER_VARIABLE)
    folder = Path(base) / "mnist" if base else None
    return folder if folder is not None and folder.is_dir() else None


def _from_folder(file: IdxFile, folder: Path) -> bytes:
    path = _find(file, folder)
    if path is None:
        raise DataError(f"{folder}: found no {file.name}(.gz); put the four MNIST files there")
    return _verified(file, _read(path), str(path), "replace it with a fresh copy")


def _from_cache(file: IdxFile) -> bytes:
    folder = cache_folder()
    path = _find(file, folder)
    if path is not None:
        return _verified(file, _read(path), str(path), "delete it and run again to download it afresh")
    packed, raw = _download(file)
    try:
        files.write_bytes(folder / f"{file.name}.gz", packed)
    except OSError as error:
        what = f"cannot keep {file.name} in {folder} ({error}); set XDG_CACHE_HOME to a writable folder with free space"
        raise DataError(what) from error
    return raw


def _find(file: IdxFile, folder: Path) -> Path | None:
    return next((path for path in (folder / file.name, folder / f"{file.name}.gz") if path.is_file()), None)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); make it readable") from error


def _download(file: IdxFile) -> tuple[bytes, bytes]:
    """The file as sent and uncompressed, from the first mirror that sends it whole."""
    failures = []
    for mirror in MIRRORS:
        url = f"{mirror}{file.name}.gz"
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response:
                packed: bytes = response.read()
            return packed, _verified(file, packed, url, "another mirror is asked")
        except (urllib.error.URLError, http.client.HTTPException, OSError, DataError) as error:
            failures.append(f"{url}: {error}")
    given = os.environ.get(FOLDER_VARIABLE, "not set")
    raise DataError(
        "cannot download MNIST:\n  "
        + "\n  ".join(failures)
        + f"\n{FOLDER_VARIABLE} is {given!r}. Without a network, set it to a folder "
        f"that holds {_listed('mnist/' + each.name + '.gz' for each in MNIST_FILES)}."
    )


def _verified(file: IdxFile, data: bytes, source: str, remedy: str) -> bytes:
    """The uncompressed bytes, once their checksum is right: compressed bytes differ between mirrors."""
    raw = data
    # Judged by the two bytes that open every gzip file, so that a wrong ending of the name does no harm.
    if data.startswith(b"\x1f\x8b"):
        try:
            raw = gzip.decompress(data)
        except (EOFError, OSError, zlib.error) as error:
            raise DataError(f"{source}: truncated or damaged gzip ({error}); {remedy}") from error
    md5 = hashlib.md5(raw, usedforsecurity=False).hexdigest()
    if md5 != file.md5:
        raise DataError(f"{source}: got md5 {md5} of the uncompressed bytes, expected {file.md5}; {remedy}")
    return raw


def _parse(file: IdxFile, raw: bytes) -> Bytes:
    header = WORD_BYTES * (1 + file.axes)
    count = int.from_bytes(raw[WORD_BYTES : 2 * WORD_BYTES], "big")
    values: Bytes = np.frombuffer(raw, np.uint8, offset=header)
    return values if file.axes == 1 else values.reshape(count, -1)


def _check_part(part: str, images: Any, labels: Any) -> None:
    for name, x, axes in ((f"{part}_images", images, 2), (f"{part}_labels", labels, 1)):
        if not isinstance(x, np.ndarray) or x.dtype != np.uint8:
            got = getattr(x, "dtype", type(x).__name__)
            raise TypeError(f"{name}: got {got}, expected a uint8 array; use np.asarray(x, np.uint8)")
        if x.ndim != axes or x.size == 0:
            expected = "(N, pixels)" if axes > 1 else "(N,)"
            raise ValueError(f"{name}: got shape {x.shape}, expected {expected} with N at least 1")
    if len(images) != len(labels):
        raise ValueError(f"{part}_labels: got {len(labels)} labels, expected one for each of {len(images)} images")
    if labels.max() >= CLASSES:
        raise ValueError(f"{part}_labels: got the label {labels.max()}, expected digits below {CLASSES}")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
