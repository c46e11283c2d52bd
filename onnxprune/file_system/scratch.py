"""Names of temporary files and folders. The process that supervises a run is told of them before they are made.

A run removes them itself, unless it is killed; then the supervisor does.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

#: Who is told: of a folder and of how names in it begin.
watchers: list[Callable[[str, str], None]] = []


def prefix(place: Path | None = None, stem: str = "onnxprune.") -> str:
    """How names of this process's temporary files begin, in ``place`` or in the system's folder for such files."""
    start = f"{stem}{os.getpid()}."
    for tell in watchers:
        tell(str((place or Path(tempfile.gettempdir())).resolve()), start)
    return start
