"""Files that have an end: what a name leads to may be a pipe nobody writes into, or a device that never stops."""

from __future__ import annotations

import errno
import stat
from pathlib import Path


def ensure_regular(path: Path) -> None:
    """Raise OSError where ``path`` leads to no file, or to what is none."""
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "Is a directory", str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "not a file", str(path))
