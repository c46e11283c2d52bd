"""Writing that says nothing: signs of a few strokes in rows, as text detectors and recognizers are woken by.

Signs are in a bank, each in a square; a row is made of them at that size, words apart, and then scaled.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

#: Signs that there are, and the side of the square that they are in.
SIGNS, SIDE = 64, 40

#: Heights of rows: in pixels at least, and as shares of the picture's height at most.
SMALLEST, LARGEST = 10, 0.8

#: Between ink and paper, in brightness, at least; what lies under them, and the deviation of grain, at most.
CONTRAST, GROUND, GRAIN = 0.25, 0.3, 0.06


def pages(rng: np.random.Generator, height: int, width: int, ground: Array) -> Array:
    """[count, 3, height, width] in 0..1: rows of signs; ``ground`` [count, height, width] lies under them."""
    bank = [_sign(rng) for _ in range(SIGNS)]
    found = np.empty((len(ground), 3, height, width), np.float32)
    for picture, under in zip(found, ground, strict=True):
        ink, paper = _colours(rng)
        cover = _cover(rng, bank, height, width)
        back = paper[:, None, None] + np.float32(rng.uniform(0, GROUND)) * (under - 0.5)
        grain = np.float32(rng.uniform(0, GRAIN)) * rng.standard_normal(picture.shape, np.float32)
        np.clip(back + cover * (ink[:, None, None] - back) + grain, 0, 1, out=picture)
    return found


def _colours(rng: np.random.Generator) -> tuple[Array, Array]:
    while True:
        ink, paper = rng.random((2, 3)).astype(np.float32)
        if abs(float(ink.mean() - paper.mean())) > CONTRAST:
            return ink, paper


def _sign(rng: np.random.Generator) -> Array:
    """[SIDE, width]: how much of each place is ink; two to five strokes, upright, level, slanted or bent."""
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32) / SIDE
    wide = np.float32(rng.uniform(0.4, 0.9))
    thick, ink = rng.uniform(0.03, 0.08), np.zeros((SIDE, SIDE), np.float32)
    for _ in range(int(rng.integers(2, 6))):
        ends: NDArray[np.float64] = rng.uniform(0.08, 0.92, (2, 2)) * np.array([wide, 1.0])
        first, last = ends[0], ends[1]
        kind = int(rng.integers(4))
        if kind < 2:  # upright or level
            last[kind] = first[kind]
        if kind == 3:
            away = _from_bow(x, y, first, np.abs(last - first).clip(0.1, 0.4))
        else:
            away = _from_line(x, y, first, last)
        np.maximum(ink, np.clip(0.5 + (thick - away) * SIDE, 0, 1), out=ink)
    return ink[:, : max(4, int(wide * SIDE))]


def _from_line(x: Array, y: Array, first: NDArray[np.float64], last: NDArray[np.float64]) -> Array:
    along = last - first
    share = ((x - first[0]) * along[0] + (y - first[1]) * along[1]) / max(float(along @ along), 1e-6)
    share = share.clip(0, 1)
    return np.asarray(np.hypot(x - first[0] - share * along[0], y - first[1] - share * along[1]), np.float32)


def _from_bow(x: Array, y: Array, centre: NDArray[np.float64], half: NDArray[np.float64]) -> Array:
    around = np.hypot((x - centre[0]) / half[0], (y - centre[1]) / half[1])
    return np.asarray(np.abs(around - 1) * half.min(), np.float32)


def _cover(rng: np.random.Generator, bank: list[Array], height: int, width: int) -> Array:
    """[height, width]: rows from top to bottom, some blank, of one size or another."""
    cover = np.zeros((height, width), np.float32)
    most = max(4.0, LARGEST * height)
    size = float(np.exp(rng.uniform(np.log(min(SMALLEST, most)), np.log(most))))
    top = rng.uniform(0, 0.5) * size
    while top + size <= height:
        left = int(rng.uniform(0, 0.3) * width)
        row = _row(rng, bank, round(size), max(1, int((width - left) * rng.uniform(0.3, 1))))
        down = int(top)
        part = cover[down : down + row.shape[0], left : left + row.shape[1]]
        np.maximum(part, row[: part.shape[0], : part.shape[1]], out=part)
        top += size * rng.uniform(1.1, 2.5)
        if rng.random() < 0.3:
            size = float(np.clip(size * rng.uniform(0.6, 1.6), min(SMALLEST, most), most))
    return cover


def _row(rng: np.random.Generator, bank: list[Array], size: int, length: int) -> Array:
    """[size, up to length]."""
    from scipy.ndimage import gaussian_filter, zoom  # noqa: PLC0415 (a run that draws nothing must not wait for it)

    scale = size / SIDE
    signs: list[Array] = []
    wanted, made = length / scale, 0
    while made < wanted:
        gap = np.zeros((SIDE, int(rng.integers(2, 7)) if rng.random() < 0.8 else SIDE // 2), np.float32)
        signs += [bank[int(rng.integers(len(bank)))], gap]
        made += sum(s.shape[1] for s in signs[-2:])
    row = np.concatenate(signs, axis=1)
    if scale < 1:
        row = gaussian_filter(row, 0.4 / scale)
    return np.asarray(zoom(row, scale, order=1), np.float32)[:, :length]
