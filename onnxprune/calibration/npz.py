"""Arrays of an .npz read sample by sample: numpy's own reader takes a whole array into memory."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

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


def members(path: Path) -> dict[str, Member]:
    """The arrays of an .npz by name. Raises OSError, ValueError and BadZipFile where it is none."""
    found = {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            with archive.open(name) as file:
                version = npy.read_magic(file)
                read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
                shape, fortran, dtype = read(file)
                start = None if fortran and len(shape) > 1 else file.tell()
            plain = name.removesuffix(".npy")
            if dtype.hasobject:
                raise ValueError(f"array '{plain}' holds Python objects")
            found[plain] = Member(path, name, tuple(shape), dtype, start)
    return found
