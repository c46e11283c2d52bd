"""Refusing what is no regular file: a name may lead to a pipe that nobody writes to, or to an endless device."""

from __future__ import annotations

import errno
import stat
from pathlib import Path


def ensure_regular(path: Path) -> None:
    """Raise OSError unless ``path`` leads to a regular file."""
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "Is a directory", str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "not a file", str(path))
