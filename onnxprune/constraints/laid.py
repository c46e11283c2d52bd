"""A grid as it lies in a file, along the axes of a weight, and as a layer is solved: by group, output and block.

Where each scale goes is found by sending numbers of the scales through what turns a matrix into the weight.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnxprune.calibration.gram_matrices import Product
from onnxprune.constraints.grids import Cells, Grid, laid


def laid_along(product: Product, cells: Cells) -> Grid:
    """The grid of the weight of ``product``; scales of all rows are one where they are the same by construction."""
    groups, outputs, blocks = cells.scale.shape
    shape = (groups, outputs, product.channels, product.taps)
    number = np.arange(cells.scale.size).reshape(groups, outputs, blocks, 1)
    each = np.broadcast_to(number.repeat(product.channels // blocks, 2), shape) * (not cells.one)
    places = product.form.weight(np.ascontiguousarray(each))
    for axis in range(places.ndim):
        places = places.take(np.arange(0, places.shape[axis], _run(places, axis)), axis)
    scale = np.asarray(cells.scale.reshape(-1)[places], np.float32)
    return Grid(scale, cells.zero.reshape(-1)[places], cells.bits, cells.signed)


def cells_of(product: Product, grid: Grid, shape: tuple[int, ...]) -> Cells | None:
    """The same grid on the matrix of a weight of ``shape``; None where it does not lie along that."""
    if len(shape) != grid.scale.ndim or any(whole % own for whole, own in zip(shape, grid.scale.shape, strict=True)):
        return None
    scale, zero = grid.along(shape)
    numbers = np.arange(grid.scale.size).reshape(grid.scale.shape)
    places = product.form.matrix(np.broadcast_to(laid(numbers, shape), shape))
    size = _run(places.reshape(*places.shape[:2], -1), 2)
    if size % product.taps:
        return None
    at = np.arange(0, product.columns, size)

    def blocks(array: NDArray[np.generic]) -> NDArray[np.generic]:
        matrix = product.form.matrix(np.broadcast_to(array, shape))
        return matrix.reshape(*matrix.shape[:2], -1)[:, :, at]

    one = grid.scale.size == 1
    return Cells(np.asarray(blocks(scale), np.float32), np.asarray(blocks(zero), np.int64), grid.bits, grid.signed, one)


def _run(places: NDArray[np.int64], axis: int) -> int:
    """The length of blocks along ``axis`` inside of which nothing changes."""
    changes = np.flatnonzero(
        (np.diff(places, axis=axis) != 0).any(axis=tuple(a for a in range(places.ndim) if a != axis))
    )
    return int(np.gcd.reduce([*(changes + 1), places.shape[axis]]))
