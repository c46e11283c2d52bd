"""Arrays of calibration on disk, by name and batch, in a folder that is gone afterwards."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.file_system import scratch

Array = NDArray[Any]
Shape = tuple[int, ...]

#: A batch of a tensor: its number, the code of its type, its shape.
Batch = tuple[int, str, Shape]


@dataclass
class Spill:
    """Arrays on disk by name and batch, with one file for each name: thousands of files would be slow."""

    folder: Path
    _files: dict[str, _Rows] = field(default_factory=dict)
    _count: int = 0

    def put(self, name: str, batch: int, array: Array) -> None:
        """Store one batch of a tensor."""
        if name not in self._files:
            self._count += 1
            self._files[name] = _Rows(self.folder / str(self._count))
        self._files[name].append(batch, array)

    def get(self, name: str, batch: int) -> Array:
        """Read one batch of a tensor."""
        return self._files[name].read(batch)

    def size(self, name: str, batch: int) -> int:
        """The length of a stored batch along its first axis."""
        return self._files[name].places[batch][2][0]

    def names(self, prefix: str, batch: int) -> list[str]:
        """The stored tensors of ``batch`` whose names start with ``prefix``, without it."""
        return [n.removeprefix(prefix) for n, f in self._files.items() if batch in f.places and n.startswith(prefix)]

    def drop(self, name: str) -> None:
        """Delete all batches of a tensor."""
        if name in self._files:
            self._files.pop(name).path.unlink(missing_ok=True)

    def file(self, name: str) -> tuple[Path, list[Batch]]:
        """The file of a tensor, and its batches in the order in which they lie there."""
        rows = self._files[name]
        return rows.path, [(batch, dtype.str, shape) for batch, (_, dtype, shape) in rows.places.items()]

    def adopt(self, name: str, batches: Iterable[Batch]) -> tuple[Path, int]:
        """Register a tensor whose file the caller will write; returns the file's path and its size in bytes."""
        self._count += 1
        rows, size = _Rows(self.folder / str(self._count)), 0
        for batch, code, shape in batches:
            dtype = np.dtype(code)
            rows.places[batch] = (size, dtype, shape)
            size += math.prod(shape) * dtype.itemsize
        self._files[name] = rows
        return rows.path, size


@dataclass
class _Rows:
    """The batches of one tensor, one behind the other: where each begins, its type and its shape."""

    path: Path
    places: dict[int, tuple[int, np.dtype[Any], Shape]] = field(default_factory=dict)

    def append(self, batch: int, array: Array) -> None:
        with self.path.open("ab") as file:
            self.places[batch] = (file.tell(), array.dtype, array.shape)
            file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)

    def read(self, batch: int) -> Array:
        start, dtype, shape = self.places[batch]
        return np.fromfile(self.path, dtype, math.prod(shape), offset=start).reshape(shape)


@contextmanager
def spilling() -> Iterator[Spill]:
    """Give a `Spill` in a temporary folder, which is deleted when the block ends."""
    with tempfile.TemporaryDirectory(prefix=scratch.prefix()) as folder:
        yield Spill(Path(folder))
