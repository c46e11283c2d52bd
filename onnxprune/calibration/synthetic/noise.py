"""Noise of power 1/f^a over one axis, two or three: what natural images, sounds and volumes have in common."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnxprune.model.graph import Shape

Array = NDArray[np.float32]

#: Exponents of the amplitude: from fine grain to clouds.
ROUGHEST, SMOOTHEST = 1.0, 2.5

#: Fields that are drawn at once: beyond, each sample is a mixture of two of them, moved about.
_BANK_ELEMENTS = 1 << 22


def fields(rng: np.random.Generator, count: int, space: Shape) -> Array:
    """[count, *space], each field with an exponent of its own, from 0 to 1."""
    size = max(1, int(np.prod(space)))
    drawn = _drawn(rng, min(count, max(8, _BANK_ELEMENTS // size)), space)
    return unit(_mixed(rng, drawn, count))


def unit(array: Array) -> Array:
    """Each sample stretched from 0 to 1; one that is constant becomes 0."""
    flat = array.reshape(len(array), -1)
    low, high = flat.min(axis=1, keepdims=True), flat.max(axis=1, keepdims=True)
    span = np.where(high > low, high - low, 1)
    return np.asarray(((flat - low) / span).reshape(array.shape), np.float32)


def _drawn(rng: np.random.Generator, count: int, space: Shape) -> Array:
    import scipy.fft  # noqa: PLC0415 (a run that draws nothing must not wait for it)

    axes = [np.fft.fftfreq(n) if a < len(space) - 1 else np.fft.rfftfreq(n) for a, n in enumerate(space)]
    square = np.zeros(())
    for axis in axes:
        square = np.add.outer(square, axis**2)
    square = square.astype(np.float32)
    square.flat[0] = np.inf  # no mean
    exponents = rng.uniform(ROUGHEST, SMOOTHEST, count).astype(np.float32)
    white = rng.standard_normal((count, *square.shape, 2), np.float32).view(np.complex64)[..., 0]
    white *= square ** (-exponents.reshape(-1, *(1,) * len(space)) / 2)
    return np.asarray(scipy.fft.irfftn(white, s=space, axes=range(1, len(space) + 1), workers=1), np.float32)


def _mixed(rng: np.random.Generator, drawn: Array, count: int) -> Array:
    """``count`` fields of those that were drawn, which have no borders: sums of two of them, moved and mirrored."""
    if count <= len(drawn):
        return drawn
    drawn = drawn / drawn.reshape(len(drawn), -1).std(axis=1).reshape(-1, *(1,) * (drawn.ndim - 1)).clip(1e-9)
    found = np.empty((count, *drawn.shape[1:]), np.float32)
    axes = tuple(range(drawn.ndim - 1))
    for sample in found:
        one, other = (_moved(rng, drawn[rng.integers(len(drawn))], axes) for _ in range(2))
        np.add(one, other * np.float32(rng.uniform(0, 1)), out=sample)
    return found


def _moved(rng: np.random.Generator, field: Array, axes: tuple[int, ...]) -> Array:
    field = np.flip(field, tuple(a for a in axes if rng.random() < 0.5))
    return np.roll(field, [int(rng.integers(0, field.shape[a])) for a in axes], axes)
