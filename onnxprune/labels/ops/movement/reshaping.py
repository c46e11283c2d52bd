"""Transpose, Reshape and its relatives: the same elements under other dimensions, and so the same labels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.labels.constant_channels import moved
from onnxprune.labels.labels import Labels, Layer, Op, Tensor, cut_shape, rows_of
from onnxprune.labels.ops.movement.slicing import hold_rows
from onnxprune.labels.ops.table import Change, Cut, Layers, gathers, known, rewrite, rule, unwritten
from onnxprune.model.graph import Shape

#: A reshape that would need more labels than this pins instead.
_MAX_LABELS = 1 << 22


@rule("Transpose")
def transpose(op: Op) -> Sequence[Layers]:
    """Axes in a new order."""
    x = op.inputs[0]
    assert x is not None
    return [x.transposed(list(op.attrs.get("perm", range(x.rank)[::-1]))).layers]


@dataclass(frozen=True)
class Segment:
    """Input axes ``[i0, i1)`` that become output axes ``[j0, j1)``: the smallest runs of equal size."""

    i0: int
    i1: int
    j0: int
    j1: int

    @property
    def plain(self) -> bool:
        """One axis that stays one axis."""
        return self.i1 - self.i0 == self.j1 - self.j0 == 1


def segments(source: Shape, target: Shape) -> Iterator[Segment]:
    """Cut a reshape into its smallest independent parts. Sizes are those of the original model."""
    i = j = 0
    while i < len(source) or j < len(target):
        i0, j0 = i, j
        a = source[i] if i < len(source) else 1
        b = target[j] if j < len(target) else 1
        i, j = min(i + 1, len(source)), min(j + 1, len(target))
        while a != b:
            if a < b and i < len(source):
                a *= source[i]
                i += 1
            elif j < len(target):
                b *= target[j]
                j += 1
            else:  # sizes that do not match: a dimension of size 0
                i, j = len(source), len(target)
                break
        yield Segment(i0, i, j0, j)


@rule("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshape(op: Op) -> Sequence[Layers]:
    """Elements in the same order under other dimensions.

    A labelled axis that is merged with another repeats its labels over it; one that is split gives a layer along all
    parts along which its labels differ.
    """
    x, y = op.inputs[0], op.outputs[0]
    assert x is not None
    parts = list(segments(x.full, y.full))
    return [tuple(out for layer in x.layers if (out := _reshaped(op, layer, x, y, parts)) is not None)]


def _reshaped(op: Op, layer: Layer, x: Tensor, y: Tensor, parts: list[Segment]) -> Layer | None:
    source, target = [1] * x.rank, [1] * y.rank
    touched = [p for p in parts if any(p.i0 <= a < p.i1 for a in layer.axes)]
    for part in touched:
        source[part.i0 : part.i1] = x.shape[part.i0 : part.i1]
        target[part.j0 : part.j1] = y.shape[part.j0 : part.j1]
        merged = [a for a in layer.axes if part.i0 <= a < part.i1]
        if len(merged) > 1 and layer.columns in merged[:-1]:
            # The columns would not stay together in their rows: let them go whole.
            hold_rows(op, layer, layer.columns, "its channels are shuffled")
    if math.prod(source) != math.prod(target) or math.prod(source) > _MAX_LABELS:
        op.pin(layer, "is reshaped in a way that does not keep channels apart")
        return None
    labels = np.broadcast_to(layer.labels, source).reshape(target)
    axes = _labelled_axes(labels, touched, y)
    if not axes:
        op.pin(layer, "is reshaped to a single element")
        return None
    split = [p for p in touched if sum(p.j0 <= a < p.j1 for a in axes) > 1]
    shrunk = labels[tuple(slice(None) if a in axes else slice(0, 1) for a in range(y.rank))]
    out = Layer(shrunk, axes, _columns(layer, parts, axes))
    if split:
        rows = [a for a in axes if a != out.columns]
        op.say.split(rows_of(out, rows).reshape([*(shrunk.shape[a] for a in rows), -1]))
    return out


def _labelled_axes(labels: Labels, touched: list[Segment], y: Tensor) -> tuple[int, ...]:
    """The output axes along which the labels differ; in the second run, those of the first."""
    candidates = [a for p in touched for a in range(p.j0, p.j1)]
    for layer in y.layers:
        if any(a in candidates for a in layer.axes):
            return layer.axes
    return tuple(a for a in candidates if labels.shape[a] > 1 and not _constant_along(labels, a))


def _constant_along(labels: Labels, axis: int) -> bool:
    return bool((labels == labels.take([0], axis)).all())


def _columns(layer: Layer, parts: list[Segment], axes: tuple[int, ...]) -> int:
    """Where the columns go: their own axis, or the last labelled axis of what they were merged into or split into."""
    for part in parts:
        if part.i0 <= layer.columns < part.i1:
            inside = [a for a in axes if part.j0 <= a < part.j1]
            if inside:
                return inside[-1]
    return axes[-1]


@rewrite("Reshape")
def rewrite_reshape(cut: Cut) -> Change:
    """The target shape; 0 and -1 stay what they are where they still say the same."""
    shape = cut_shape(cut.outputs[0], cut.alive)
    written = cut.op.value(1)
    if written is None:
        return unwritten(cut, 1)
    target = written.astype(np.int64).copy()
    for axis, size in enumerate(shape):
        copied = target[axis] == 0 and not cut.op.attrs.get("allowzero", 0)
        if copied and cut.inputs[0] is not None and cut.inputs[0].shape[axis] != size:
            raise LookupError("its target copies a size that changes")
        if target[axis] != -1 and not copied:
            target[axis] = size
    return Change(inputs={1: target})


gathers("moves", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze")
known("Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze")(moved)
