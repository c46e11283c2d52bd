"""Data of constants that lies in a file of its own: where it may be.

A location comes with the model, from a stranger perhaps. It is a path below the model's folder: no absolute path, no
'..', no link, hard or soft, to anything outside, and no device or pipe. What the file says beside location, offset and
length is not looked at. All of this is said here, as the versions of onnx that are supported differ in what they check.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from onnx import TensorProto

#: The longest number of an offset or a length: more digits are more bytes than any file has.
_DIGITS = 19


@dataclass(frozen=True)
class Place:
    """Where data lies; ``length``: None where it goes to the end of the file."""

    location: str
    offset: int
    length: int | None


def is_external(tensor: TensorProto) -> bool:
    """Whether the data of ``tensor`` is not in it."""
    return bool(tensor.data_location == TensorProto.EXTERNAL)


def place_of(tensor: TensorProto) -> Place:
    """What ``tensor`` says of where its data is. Raises ValueError, with the reason, for what is no place."""
    said = {str(entry.key): entry.value for entry in tensor.external_data}
    location = said.get("location", "")
    if not isinstance(location, str) or not location or "\0" in location:
        raise ValueError("external data has no place")
    length = said.get("length")
    return Place(location, _number("offset", said.get("offset") or "0"), _number("length", length) if length else None)


def _number(name: str, text: str | bytes) -> int:
    if not isinstance(text, str) or not (text.isascii() and text.isdecimal() and len(text) <= _DIGITS):
        raise ValueError(f"the {name} of its external data is no number of bytes")
    return int(text)


def below(folder: Path, location: str) -> Path:
    """The file at ``location`` below ``folder``, which is resolved. Raises ValueError, with the reason, or OSError."""
    windows = PureWindowsPath(location)
    if PurePosixPath(location).is_absolute() or windows.anchor or ".." in (*Path(location).parts, *windows.parts):
        raise ValueError("outside the model's folder")
    try:
        file = (folder / location).resolve()
    except RuntimeError:  # links in a circle; an OSError from Python 3.13 on
        raise ValueError("a link in a circle") from None
    if not file.is_relative_to(folder):
        raise ValueError("outside the model's folder")
    status = file.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("not a file")
    if status.st_nlink > 1 and _links_below(folder, status) < status.st_nlink:
        raise ValueError("a hard link to a file outside the model's folder")
    return file


def _links_below(folder: Path, status: os.stat_result) -> int:
    """How many names a file has in ``folder`` itself and below."""
    count = 0
    for place, _, names in os.walk(folder):
        for name in names:
            found = os.lstat(Path(place, name))
            count += (found.st_ino, found.st_dev) == (status.st_ino, status.st_dev)
    return count
