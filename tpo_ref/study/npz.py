"""Named arrays as npz files, without pickle; what is read is no larger than the file."""

from __future__ import annotations

import io
import math
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tpo_ref.study import files

if TYPE_CHECKING:
    # At run time only what reads or writes arrays imports it: the help of the command line does neither.
    from numpy.typing import NDArray

# What reading a damaged archive of arrays raises.
DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, KeyError, ValueError, OSError, OverflowError),
    *(NotImplementedError, RuntimeError, MemoryError),
)


def write(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write named arrays as npz, atomically."""
    files.write_bytes(path, packed(arrays))


def packed(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Named arrays as the bytes of an npz."""
    import numpy as np

    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def read(path: Path) -> dict[str, NDArray[Any]]:
    """Read named arrays; ValueError when truncated or holding pickled objects, which are never loaded."""
    return unpacked(files.read_bytes(path), path)


def unpacked(content: bytes, path: Path) -> dict[str, NDArray[Any]]:
    """The arrays in the bytes of an npz; ValueError as `read`; path, for messages.

    What is read is never larger than the bytes given: a compressed member is refused, as is a length that is not there.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise ValueError("compressed")
            arrays = {member.filename.removesuffix(".npy"): _array(archive.read(member)) for member in members}
        if len(arrays) < len(members):
            raise ValueError("two arrays of one name")
    except DAMAGE as error:
        raise ValueError(f"{path}: truncated or not an npz of plain arrays ({error}); delete it, run again") from error
    return arrays


def _array(content: bytes) -> NDArray[Any]:
    """The array in the bytes of an npy file, which has nothing else in it; ValueError for Python objects."""
    import numpy as np

    stream = io.BytesIO(content)
    headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(stream)
    if version not in headers:
        raise ValueError(f"npy format {version}")
    shape, by_columns, dtype = headers[version](stream)
    if dtype.hasobject:
        raise ValueError("holds Python objects")
    if len(content) - stream.tell() != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{len(content) - stream.tell()} bytes for shape {shape} of {dtype}")
    order: Literal["F", "C"] = "F" if by_columns else "C"
    return np.ndarray(shape, dtype, content, stream.tell(), order=order).copy(order)
