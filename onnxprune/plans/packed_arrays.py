"""Masks and grids as entries of JSON: their bytes, zlib, base64."""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from onnxprune.constraints.grids import Grid

T = TypeVar("T")


def packed_mask(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Shape and `numpy.packbits`."""
    return {"shape": list(mask.shape), "keep": _text_of(np.packbits(mask).tobytes())}


def mask_of(entry: Mapping[str, Any]) -> NDArray[np.bool_]:
    """What `packed_mask` packed. Raises ValueError and TypeError for what is none, or not as long as its shape says."""
    shape = tuple(of(int, n) for n in entry["shape"])
    count = math.prod(shape)
    bits = _bytes_of(entry["keep"], -(-count // 8), shape)
    return np.unpackbits(np.frombuffer(bits, np.uint8), count=count).astype(np.bool_).reshape(shape)


def packed_grid(grid: Grid) -> dict[str, Any]:
    """Scales as float32, zero points as int32 where one is not 0, the lowest byte first."""
    entry = {"bits": grid.bits, "signed": grid.signed, "shape": list(grid.scale.shape)}
    entry["scale"] = _text_of(grid.scale.astype("<f4").tobytes())
    if grid.zero_point.any():
        entry["zero_point"] = _text_of(grid.zero_point.astype("<i4").tobytes())
    return entry


def grid_of(entry: Mapping[str, Any]) -> Grid:
    """What `packed_grid` packed. Raises ValueError and TypeError for what is none."""
    shape = tuple(of(int, n) for n in entry["shape"])
    size = 4 * math.prod(shape)
    scale = np.frombuffer(_bytes_of(entry["scale"], size, shape), "<f4").astype(np.float32).reshape(shape)
    zero = np.zeros(shape, np.int64)
    if "zero_point" in entry:
        zero = np.frombuffer(_bytes_of(entry["zero_point"], size, shape), "<i4").astype(np.int64).reshape(shape)
    grid = Grid(scale, zero, of(int, entry["bits"]), of(bool, entry["signed"]))
    fine = 2 <= grid.bits <= 16 and np.isfinite(scale).all() and (scale > 0).all()
    if not fine or (zero < grid.low).any() or (zero > grid.high).any():
        raise ValueError("not a grid")
    return grid


def of(kind: type[T], given: object) -> T:
    """``given``, if it is of this kind; a truth value is no number. Raises TypeError."""
    if type(given) is not kind:
        raise TypeError(f"not {kind.__name__}")
    return given


def _text_of(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data, 9)).decode("ascii")


def _bytes_of(text: Any, length: int, shape: tuple[int, ...]) -> bytes:
    """What `_text_of` packed, so many bytes and no more. Raises ValueError."""
    opened = zlib.decompressobj()
    try:
        data = opened.decompress(base64.b64decode(of(str, text)), length + 1)
    except zlib.error:
        raise ValueError("not packed") from None
    if min(shape, default=0) < 0 or len(data) != length:
        raise ValueError("not of this shape")
    return data
