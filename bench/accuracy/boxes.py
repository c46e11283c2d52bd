"""Boxes out of detectors' outputs, and how many of two sets of boxes are the same."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Array = npt.NDArray[np.float32]

SAME = 0.5  #: IoU from which two boxes are one
_TEXT, _TEXT_BOX, _UNCLIP, _SMALLEST = 0.3, 0.5, 1.6, 3  # of rapidocr's configuration
_SCORE, _SUPPRESS = 0.25, 0.45  # of nudenet's post-processing


def of_text(probability: Array) -> Array:
    """Boxes [n, 4] (left, top, right, bottom) of a text map [H, W], as DB's post-processing for upright lines.

    Connected regions, by mean probability, widened by area * ratio / perimeter (Liao et al. 2020).
    """
    region, _ = ndimage.label(ndimage.binary_dilation(probability > _TEXT, np.ones((2, 2))), np.ones((3, 3)))
    found = []
    for rows, columns in ndimage.find_objects(region):
        height, width = rows.stop - rows.start, columns.stop - columns.start
        if min(height, width) < _SMALLEST or probability[rows, columns].mean() < _TEXT_BOX:
            continue
        wider = height * width * _UNCLIP / (2 * (height + width))
        found.append((columns.start - wider, rows.start - wider, columns.stop + wider, rows.stop + wider))
    return np.array(found, np.float32).reshape(-1, 4)


def of_yolo(output: Array) -> tuple[Array, npt.NDArray[np.int64]]:
    """Boxes and classes of YOLOv8's output [4 + classes, places], after non-maximum suppression over all classes."""
    scores = output[4:].max(0)
    kept = np.flatnonzero(scores >= _SCORE)
    middle, size = output[:2, kept].T, output[2:4, kept].T
    boxes, classes = np.hstack([middle - size / 2, middle + size / 2]), output[4:, kept].argmax(0)
    chosen: list[int] = []
    for place in np.argsort(-scores[kept]):
        if not chosen or overlap(boxes[[place]], boxes[chosen]).max() <= _SUPPRESS:
            chosen.append(int(place))
    return boxes[chosen], classes[chosen]


def overlap(first: Array, second: Array) -> Array:
    """IoU of every one of ``first`` [n, 4] with every one of ``second`` [m, 4]: [n, m]."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    both = np.clip(high - low, 0, None).prod(2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (first, second)]
    return both / (areas[0][:, None] + areas[1][None, :] - both)


def f_measure(pairs: Sequence[tuple[Array, Array]]) -> float:
    """Harmonic mean of precision and recall of (found, true) boxes over all images; 1 if there are none at all."""
    matched = sum(_matched(found, true) for found, true in pairs)
    boxes = sum(len(found) + len(true) for found, true in pairs)
    return 2 * matched / boxes if boxes else 1.0


def _matched(found: Array, true: Array) -> int:
    """Count pairs of one box each, largest overlap first, down to ``SAME``."""
    if not len(found) or not len(true):
        return 0
    table, count = overlap(found, true), 0
    while table.max() >= SAME:
        row, column = np.unravel_index(table.argmax(), table.shape)
        table[row, :] = table[:, column] = -1
        count += 1
    return count
