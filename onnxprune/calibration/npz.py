"""Arrays of an .npz read sample by sample: numpy's own reader takes a whole array into memory.

What an array says of its size is compared with the bytes that are there before anything is made of that size.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from onnxprune.memory_and_threads import size_text, total_memory
from onnxprune.model.graph import Shape


@dataclass(frozen=True)
class Member:
    """One array of an .npz. ``start``: where its values begin; None where they are in Fortran order."""

    path: Path
    name: str
    shape: Shape
    dtype: np.dtype[Any]
    start: int | None

    def read(self, count: int, shape: Shape, positions: Sequence[int]) -> Iterator[NDArray[Any]]:
        """The array as [count, *shape], its entries at ``positions``, which ascend: one pass, one entry in memory."""
        if self.start is None:
            whole = np.load(self.path)[self.name.removesuffix(".npy")].reshape(count, *shape)
            yield from (whole[p] for p in positions)
            return
        size = int(np.prod(shape, dtype=np.int64)) * self.dtype.itemsize
        with zipfile.ZipFile(self.path) as archive, archive.open(self.name) as file:
            for position in positions:
                file.seek(self.start + position * size)
                data = file.read(size)
                if len(data) < size:
                    raise EOFError(f"array '{self.name}' is cut off")
                yield np.frombuffer(bytearray(data), self.dtype).reshape(shape)


def header(file: IO[bytes], there: int) -> tuple[Shape, bool, np.dtype[Any]]:
    """Shape, whether in Fortran order, and type of an array in a file of ``there`` bytes; read up to its values.

    Raises ValueError for one that is no array of numbers, or whose values are not all there.
    """
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("holds Python objects")
    if any(size < 0 for size in shape):
        raise ValueError("has a negative dimension")
    needed = math.prod(shape) * dtype.itemsize
    if needed > there - file.tell():
        raise ValueError(f"is cut off: its shape asks for {size_text(needed)}")
    return tuple(shape), bool(fortran) and len(shape) > 1, dtype


def members(path: Path) -> dict[str, Member]:
    """The arrays of an .npz by name. Raises whatever numpy and zipfile do where it is none."""
    found = {}
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            plain = entry.filename.removesuffix(".npy")
            try:
                with archive.open(entry) as file:
                    shape, fortran, dtype = header(file, entry.file_size)
                    start = None if fortran else file.tell()
            except ValueError as reason:
                raise ValueError(f"array '{plain}' {reason}") from None
            if fortran and entry.file_size > total_memory():
                raise ValueError(f"array '{plain}' is in Fortran order, and memory does not hold it whole")
            found[plain] = Member(path, entry.filename, shape, dtype, start)
    return found
