"""Names of files and folders that do not stay: whoever supervises the run is told of them before they are made.

A run that ends in any way but a kill removes them itself.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

#: Who is told: of a folder and of how names in it begin.
watchers: list[Callable[[str, str], None]] = []


def prefix(place: Path | None = None, stem: str = "onnxprune.") -> str:
    """How the names of this process's files begin that do not stay; in ``place``, or else where temporary files go."""
    start = f"{stem}{os.getpid()}."
    for tell in watchers:
        tell(str((place or Path(tempfile.gettempdir())).resolve()), start)
    return start
