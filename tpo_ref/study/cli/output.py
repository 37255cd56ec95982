"""Standard output and standard error that end no run: what cannot be written any more is dropped, and that is said."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

# The descriptors of the three streams.
INPUT, OUTPUT, ERRORS = 0, 1, 2


class Sink(io.FileIO):
    """Bytes to a descriptor, until it refuses some: the reader is gone, or the disk full. The rest is dropped.

    Args: descriptor, which stays open.
    """

    failure: OSError | None = None

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "wb", closefd=False)

    def write(self, data: Any, /) -> int:
        """Write at least a part; all of it counts as written once something has failed."""
        if self.failure is None:
            try:
                return super().write(data)
            except OSError as error:
                self.failure = error
        return memoryview(data).nbytes


class Streams:
    """What became of the streams; lost, whether standard output refused what a reader was still to see."""

    lost = False


@contextlib.contextmanager
def lasting() -> Iterator[Streams]:
    """Standard output and error through a `Sink`, with a question mark for each letter that their encoding lacks.

    At the end one line on standard error says what standard output refused; a reader that left, such as `head`, has
    seen what it wanted. Streams that a caller has put in their place stay, and replace letters too.
    """
    _open_closed()
    before, streams = (sys.stdout, sys.stderr), Streams()
    sys.stdout, out = _replaced(sys.stdout, sys.__stdout__, OUTPUT)
    sys.stderr, _ = _replaced(sys.stderr, sys.__stderr__, ERRORS)
    try:
        yield streams
    finally:
        sys.stdout.flush()
        if out is not None and out.failure is not None and out.failure.errno != errno.EPIPE:
            streams.lost = True
            print(f"tpo: standard output: {out.failure.strerror}; the rest of it is lost", file=sys.stderr)
        sys.stderr.flush()
        sys.stdout, sys.stderr = before


def _replaced(stream: TextIO | None, original: TextIO | None, descriptor: int) -> tuple[TextIO, Sink | None]:
    """The stream to write to from now on, and its sink where it has one."""
    if stream is not None and stream is not original:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
        return stream, None
    sink = Sink(descriptor)
    encoding = "utf-8" if stream is None else stream.encoding
    by_line = sink.isatty() or descriptor == ERRORS
    return io.TextIOWrapper(io.BufferedWriter(sink), encoding, "replace", line_buffering=by_line), sink


def _open_closed() -> None:
    """Point descriptors that were handed down closed to nowhere, so that no file of a result gets their number."""
    for descriptor in (INPUT, OUTPUT, ERRORS):
        try:
            os.fstat(descriptor)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != descriptor:
                os.dup2(nowhere, descriptor)
                os.close(nowhere)
