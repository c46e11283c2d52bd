"""Pictures of nothing, as they are known to be worth most: edges and flat regions over noise.

In grey, a third are 1/f noise, a third such noise cut at a random level, and a third lines along a level of it, edges
slightly blurred; brighter and darker, with grain. In colour they are dead leaves: ellipses and rectangles of random
place, size (as 1/r), angle, colour and shade, one over the other, over 1/f noise (Lee, Mumford and Huang 2001; Baradad
et al. 2021, "Learning to See by Looking at Noise", arXiv 2106.05963); and one in four is written on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from onnxprune.calibration.synthetic import noise, writing

Array = NDArray[np.float32]

#: Of grey pictures: the deviation of noise, exponents (logarithm) of brightness, and the deviation of grain, at most.
CONTRAST, TONES, GRAIN = 0.25, (-0.7, 1.4), 0.25

#: Leaves on a picture, at most; and their half axes as shares of its side.
LEAVES, SMALLEST, LARGEST = 48, 0.04, 0.45

#: Of so many colour pictures one is written on.
WRITTEN = 4


def grey(rng: np.random.Generator, count: int, height: int, width: int) -> Array:
    """[count, height, width] in 0..1."""
    from scipy.ndimage import gaussian_filter  # noqa: PLC0415 (a run that draws nothing must not wait for it)

    found = noise.fields(rng, count, (height, width))
    for number, picture in enumerate(found):
        if number % 3 == 0:
            np.clip(0.5 + CONTRAST * (picture - picture.mean()) / (picture.std() + 1e-9), 0, 1, out=picture)
            continue
        low = rng.uniform(0.1, 0.9)
        high = 1.0 if number % 3 == 1 else min(1.0, low + rng.uniform(0.05, 0.2))  # a region, or lines along its level
        first, last = np.quantile(picture, (low, high))
        shape = ((picture > first) & (picture <= last)).astype(np.float32)
        gaussian_filter(shape, rng.uniform(0.3, 1.0), output=picture)
    found **= np.exp(rng.uniform(*TONES, (count, 1, 1))).astype(np.float32)
    grain = rng.uniform(0, GRAIN, (count, 1, 1)).astype(np.float32)
    found += grain * rng.standard_normal(found.shape, np.float32)
    return np.clip(found, 0, 1, out=found)


def colour(rng: np.random.Generator, count: int, height: int, width: int) -> Array:
    """[count, 3, height, width] in 0..1."""
    base = noise.fields(rng, count, (height, width))
    found = np.empty((count, 3, height, width), np.float32)
    written = slice(WRITTEN - 1, None, WRITTEN)
    found[written] = writing.pages(rng, height, width, base[written])
    for number, (picture, ground) in enumerate(zip(found, base, strict=True), 1):
        if number % WRITTEN == 0:
            continue
        tone, swing = rng.uniform(0.2, 0.8, 3), rng.uniform(-0.6, 0.6, 3)
        picture[:] = (tone[:, None, None] + swing[:, None, None] * (ground - 0.5)).astype(np.float32)
        for leaf in rng.random((int(rng.integers(LEAVES // 4, LEAVES)), 11)).tolist():
            _paint(picture, ground, leaf)
    return np.clip(found, 0, 1, out=found)


def _paint(picture: Array, ground: Array, leaf: Sequence[float]) -> None:
    """Paint one leaf, made of numbers in 0..1, over ``picture`` [3, H, W]."""
    _, height, width = picture.shape
    size, aspect, turn, y, x, form, shaded, grained, *paint = leaf
    first = min(height, width) * SMALLEST * (LARGEST / SMALLEST) ** size  # density 1/r
    second = first * (0.3 + 0.7 * aspect)
    y, x, reach = y * height, x * width, 1.42 * first + 1
    top, bottom = max(0, int(y - reach)), min(height, int(y + reach) + 1)
    left, right = max(0, int(x - reach)), min(width, int(x + reach) + 1)
    dy = np.arange(top - y, bottom - y, dtype=np.float32)[: bottom - top, None]
    dx = np.arange(left - x, right - x, dtype=np.float32)[None, : right - left]
    sine, cosine = math.sin(math.pi * turn), math.cos(math.pi * turn)
    u = dx * (cosine / first) + dy * (sine / first)
    v = dy * (cosine / second) - dx * (sine / second)
    inside = u * u + v * v < 1 if form < 0.5 else np.maximum(np.abs(u), np.abs(v)) < 1
    shade = 0.6 * (shaded - 0.5) * u + 1
    grain = 0.3 * grained * (ground[top:bottom, left:right] - 0.5)
    for plane, value in zip(picture[:, top:bottom, left:right], paint, strict=True):
        np.copyto(plane, value * shade + grain, where=inside)
