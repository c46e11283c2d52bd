"""Numbers of few bits: scale * (q - zero_point), q an integer of so many bits.

A grid lies along a tensor as its scales' shape says: of the tensor's rank, each length 1 (one for all), the tensor's
own (one for each), or a divisor of it (one for each block in a row). All arithmetic is in single precision, as whoever
reads the file computes it, so that a weight on its grid is the same bits on every side.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.int64]
Number = TypeVar("Number", bound=np.generic)


class _OfBits:
    """Codes of so many ``bits``, ``signed`` from -2^(bits-1), else from 0."""

    bits: int
    signed: bool

    @property
    def low(self) -> int:
        """The least code."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def high(self) -> int:
        """The largest code."""
        return self.low + (1 << self.bits) - 1


@dataclass(frozen=True)
class Grid(_OfBits):
    """``scale`` (float32, more than 0) and ``zero_point`` (within the codes), of the shape that the module describes.

    ``bits``: 2 to 16; ``signed``: codes from -2^(bits-1), else from 0.
    """

    scale: NDArray[np.float32] = field(repr=False)
    zero_point: Codes = field(repr=False)
    bits: int
    signed: bool

    def of_rank(self, rank: int) -> Grid:
        """A grid of one scale, for a tensor of ``rank``."""
        return Grid(self.scale.reshape((1,) * rank), self.zero_point.reshape((1,) * rank), self.bits, self.signed)

    def codes(self, values: NDArray[Any]) -> Codes:
        """The nearest codes, ties to even, as QuantizeLinear has them."""
        scale, zero = self.along(values.shape)
        codes = np.rint(values.astype(np.float32) / scale).astype(np.int64) + zero
        return np.asarray(np.clip(codes, self.low, self.high), np.int64)

    def values(self, codes: Codes) -> NDArray[np.float32]:
        """What codes stand for, as DequantizeLinear has it."""
        scale, zero = self.along(codes.shape)
        return np.asarray((codes - zero).astype(np.float32) * scale)

    def rounded(self, values: NDArray[Any]) -> NDArray[Any]:
        """The nearest on the grid, in the type of ``values``; bit for bit `values` of `codes`, in less time."""
        scale, zero = self.along(values.shape)
        codes = values.astype(np.float32) / scale
        np.rint(codes, out=codes)
        np.clip(codes, self.low - zero, self.high - zero, out=codes)
        codes *= scale
        return codes.astype(values.dtype, copy=False)

    def along(self, shape: tuple[int, ...]) -> tuple[NDArray[np.float32], Codes]:
        """Scale and zero point, so that they broadcast with a tensor of this ``shape``."""
        return laid(self.scale, shape), laid(self.zero_point, shape)


def laid(numbers: NDArray[Number], shape: tuple[int, ...]) -> NDArray[Number]:
    """``numbers`` that lie along a tensor of ``shape`` as scales do, so that they broadcast with it."""
    for axis, (whole, own) in enumerate(zip(shape, numbers.shape, strict=True)):
        if own not in (1, whole):
            numbers = numbers.repeat(whole // own, axis)
    return numbers


@dataclass(frozen=True)
class Cells(_OfBits):
    """A grid on a weight [groups, m, n]: ``scale`` and ``zero`` [groups, m, blocks], a block of so many columns each.

    ``bits`` and ``signed`` as of `Grid`; ``one``: all have the same scale, and are to have.
    """

    scale: NDArray[np.float32] = field(repr=False)
    zero: NDArray[np.int64] = field(repr=False)
    bits: int
    signed: bool
    one: bool = False

    def values(self, w: NDArray[np.float64]) -> NDArray[np.float64]:
        """The nearest to W on the grid, as single precision has them."""
        blocks = w.reshape(*w.shape[:2], self.scale.shape[2], -1)
        scale, zero = self.scale[..., None], self.zero[..., None]
        codes = np.clip(np.rint(blocks / scale.astype(np.float64)), self.low - zero, self.high - zero)
        return np.asarray((codes.astype(np.float32) * scale).reshape(w.shape), np.float64)


@dataclass(frozen=True)
class Grids:
    """``weights``: by initializer; ``activations``: by tensor (graph inputs too), each with one scale for all of it."""

    weights: Mapping[str, Grid] = field(repr=False, default_factory=dict)
    activations: Mapping[str, Grid] = field(repr=False, default_factory=dict)
