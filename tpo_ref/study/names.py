"""Names and paths that a user gives: checked before anything is made of them, and shown in messages."""

from __future__ import annotations

import os
import re
from pathlib import Path

# What Linux and macOS take, with room for the suffixes of temporary names; and how much of a long one is shown.
NAME_BYTES, PATH_BYTES, SHOWN = 255, 4_000, 60
# A kind of device as torch names it, and its number.
DEVICE = re.compile(r"[a-z]+(:[0-9]{1,3})?")


def check_name(name: str, text: str) -> None:
    """ValueError for a name or path, that the setting `name` was given, which no file of this system can have.

    >>> check_name("out", "a/" + 300 * "b")
    Traceback (most recent call last):
    ...
    ValueError: out: got 'a/bbbbbbbbbb…bbbbbbbbbb', with a name of 300 bytes, expected at most 255; choose a shorter one
    """
    if "\0" in text:
        raise ValueError(f"{name}: got {shown(text)}, which has a null byte; choose a name without")
    sizes = [len(os.fsencode(part)) for part in text.split(os.sep)]
    for size, most, what in ((max(sizes), NAME_BYTES, "name"), (sum(sizes) + len(sizes) - 1, PATH_BYTES, "path")):
        if size > most:
            long = f"with a {what} of {size} bytes, expected at most {most}"
            raise ValueError(f"{name}: got {shown(text)}, {long}; choose a shorter one")


def check_folder(name: str, folder: Path) -> None:
    """ValueError for a path, that the setting `name` was given, where no folder is and none can be made."""
    check_name(name, os.fspath(folder))
    for place in (folder, *folder.parents):
        if place.exists() and not place.is_dir():
            raise ValueError(f"{name}: got {shown(str(folder))}, but {shown(str(place))} is a file; choose a folder")


def check_device(device: str) -> None:
    """ValueError for what is no name of a device, whatever this machine has."""
    if not DEVICE.fullmatch(device):
        raise ValueError(f"device: got {shown(device)}, expected cpu, cuda, or one such as cuda:1")


def shown(text: str) -> str:
    """A text in quotes, on one line, its middle left out where it is long."""
    return repr(text if len(text) <= SHOWN else f"{text[: SHOWN // 5]}…{text[-SHOWN // 6 :]}")
