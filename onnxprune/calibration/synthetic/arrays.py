"""Everything that is no picture: maps of features, volumes, point clouds, sequences, vectors, and integers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnxprune.calibration.synthetic import noise
from onnxprune.model.graph import Shape

Array = NDArray[np.float32]
Whole = NDArray[np.int64]


def features(rng: np.random.Generator, count: int, channels: int, space: Shape) -> Array:
    """[count, channels, *space] of mean 0 and variance 1: channels are mixtures of a few fields of 1/f noise."""
    sources = min(channels, 8)
    drawn = noise.fields(rng, count * sources, space).reshape(count, sources, -1)
    drawn = drawn - drawn.mean(axis=2, keepdims=True)
    mixing = rng.standard_normal((count, channels, sources), np.float32)
    mixed = np.matmul(mixing, drawn) + 0.1 * rng.standard_normal((count, channels, drawn.shape[2]), np.float32)
    return standard(mixed).reshape(count, channels, *space)


def standard(array: Array) -> Array:
    """Each sample moved and scaled to mean 0 and variance 1, where it varies."""
    flat = array.reshape(len(array), -1)
    spread = flat.std(axis=1, keepdims=True)
    return np.asarray(
        ((flat - flat.mean(axis=1, keepdims=True)) / np.where(spread > 0, spread, 1)), np.float32
    ).reshape(array.shape)


def points(rng: np.random.Generator, count: int, number: int, axes: int) -> Array:
    """[count, number, axes]: clouds of points on the faces of ellipsoids and in blobs, within the unit ball."""
    found = rng.standard_normal((count, number, axes), np.float32)
    on_faces = found[::2]
    on_faces /= np.linalg.norm(on_faces, axis=2, keepdims=True).clip(1e-6)
    found *= rng.uniform(0.2, 1, (count, 1, axes)).astype(np.float32)
    found += 0.3 * rng.standard_normal((count, 3, axes), np.float32)[:, rng.integers(0, 3, number)]
    return np.asarray(found / np.linalg.norm(found, axis=2).max(axis=1).clip(1e-6)[:, None, None], np.float32)


def sounds(rng: np.random.Generator, count: int, channels: int, length: int) -> Array:
    """[count, channels, length] in -1..1: a third 1/f noise, a third tones, a third steps; some with silence."""
    found = noise.fields(rng, count * channels, (length,)).reshape(count, channels, length) * 2 - 1
    time = np.arange(length, dtype=np.float32)
    for number, sample in enumerate(found):
        if number % 3 == 1:
            pitch = np.exp(rng.uniform(np.log(2 / max(length, 8)), np.log(0.25), (4, 1))).astype(np.float32)
            tones = np.sin(2 * np.pi * (pitch * time + rng.random((4, 1)).astype(np.float32)))
            sample[:] = (rng.dirichlet(np.ones(4), channels).astype(np.float32) @ tones) * rng.uniform(0.2, 1)
        elif number % 3 == 2:
            sample[:] = np.sign(sample - np.median(sample, axis=1, keepdims=True)) * rng.uniform(0.2, 1)
        if rng.random() < 0.25:
            begin = int(rng.integers(0, length))
            sample[:, begin : begin + length // 4] = 0
    return found


def vectors(rng: np.random.Generator, count: int, size: int) -> Array:
    """[count, size]: half independent, half mixtures of a few causes, as measured quantities are."""
    found = rng.standard_normal((count, size), np.float32)
    causes = max(1, size // 4)
    mixing = rng.standard_normal((causes, size), np.float32) / np.float32(np.sqrt(causes))
    found[1::2] = 0.3 * found[1::2] + rng.standard_normal((len(found[1::2]), causes), np.float32) @ mixing
    return found


def ids(rng: np.random.Generator, count: int, shape: Shape, table: int) -> Whole:
    """Rows of a table, each as likely."""
    return rng.integers(0, max(1, table), (count, *shape))


def masks(rng: np.random.Generator, count: int, shape: Shape) -> Whole:
    """[count, *shape]: 1 up to a place along the last axis, at least half of it; in half of the samples everywhere."""
    found = np.ones((count, *shape), np.int64)
    if not shape:
        return found
    length = shape[-1]
    for sample in found[1::2]:
        sample[..., int(rng.integers((length + 1) // 2, length + 1)) :] = 0
    return found
