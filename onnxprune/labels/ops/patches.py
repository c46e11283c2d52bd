"""What a convolution reads for some positions of its output: im2col of these rows alone."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxprune.labels.ops.table import Array, Rows
from onnxprune.model.graph import Node, Shape

#: Where a map has this many times the positions that are read, they are picked out of it as it is.
_FEW = 2


@dataclass(frozen=True)
class _Window:
    """How a convolution slides, one entry for each spatial axis."""

    kernel: Shape
    strides: Shape
    dilations: Shape
    begin: Shape  # padding in front

    def taps(self) -> NDArray[np.int64]:
        """[taps, axes]: kernel offsets in the order of the weight."""
        return np.asarray(list(itertools.product(*map(range, self.kernel))), np.int64).reshape(-1, len(self.kernel))

    def reads(self, places: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Input positions [rows, taps, axes] for output ``places`` [rows, axes]; all are possible."""
        strides, dilations, begin = (np.asarray(v, np.int64) for v in (self.strides, self.dilations, self.begin))
        found = places[:, None] * strides + self.taps() * dilations - begin
        return found, np.ones(found.shape[:2], np.bool_)

    def spreads(self, places: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """As `reads`, of a transposed convolution: the input positions that are spread to ``places``, where any."""
        strides, dilations, begin = (np.asarray(v, np.int64) for v in (self.strides, self.dilations, self.begin))
        total = places[:, None] + begin - self.taps() * dilations
        return total // strides, np.asarray((total % strides == 0).all(axis=-1))


def _window(node: Node, kernel: Shape, source: Shape, target: Shape, *, transposed: bool) -> _Window:
    rank = len(kernel)
    strides = tuple(node.attrs.get("strides") or (1,) * rank)
    dilations = tuple(node.attrs.get("dilations") or (1,) * rank)
    pads = tuple(node.attrs.get("pads") or (0,) * 2 * rank)[:rank]
    auto = node.attrs.get("auto_pad", "NOTSET")
    computed = auto.startswith("SAME") or (transposed and node.attrs.get("output_shape") is not None)
    if computed:
        wide, narrow = (target, source) if transposed else (source, target)
        extra = node.attrs.get("output_padding") or (0,) * rank
        spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
        totals = [
            max(0, (n - 1) * s + span + (e if transposed else 0) - w)
            for n, s, span, w, e in zip(narrow, strides, spans, wide, extra, strict=True)
        ]
        lower = auto == "SAME_LOWER" or (transposed and auto != "SAME_UPPER")
        pads = tuple(t - t // 2 if lower else t // 2 for t in totals)
    return _Window(kernel, strides, dilations, pads)


def gather(node: Node, kernel: Shape, x: Array, target: Shape, rows: Rows, *, transposed: bool) -> Array:
    """Patches [rows, group, C/group, taps] of x [N, C, *S] at ``rows`` of an output of shape ``target`` [N, O, *S']."""
    space, target, group = x.shape[2:], target[2:], int(node.attrs.get("group", 1))
    window = _window(node, kernel, space, target, transposed=transposed)
    sample, place = np.divmod(rows, math.prod(target))
    places = np.stack(np.unravel_index(place, target), axis=-1) if target else np.zeros((len(rows), 0), np.int64)
    reads, real = (window.spreads if transposed else window.reads)(places)
    inside = real & ((reads >= 0) & (reads < space)).all(axis=-1)
    flat = np.zeros(inside.shape, np.int64)
    for axis, size in enumerate(space):
        flat = flat * size + np.clip(reads[..., axis], 0, size - 1)
    last = x.reshape(*x.shape[:2], -1).transpose(0, 2, 1)  # [N, positions, C]
    if _FEW * flat.size < len(x) * last.shape[1]:
        taken = last[sample[:, None], flat]  # [rows, taps, C]
    else:  # whole rows lie together then
        last = np.ascontiguousarray(last)
        taken = last.reshape(-1, x.shape[1]).take(sample[:, None] * last.shape[1] + flat, axis=0)
    taken[~inside] = 0
    return np.asarray(taken.transpose(0, 2, 1).reshape(len(rows), group, x.shape[1] // group, -1))
