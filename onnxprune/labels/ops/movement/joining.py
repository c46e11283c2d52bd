"""Concat: labels one after the other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxprune.labels.constant_channels import Facts, Known
from onnxprune.labels.labels import FIXED, Layer, Op, Tensor, merge
from onnxprune.labels.ops.table import Layers, gathers, known, rule
from onnxprune.model.graph import Shape


@rule("Concat")
def concat(op: Op) -> Sequence[Layers]:
    """Labels one after the other along ``axis``; along all other axes the inputs are combined position by position."""
    return [concatenation(op, [t for t in op.inputs if t is not None])]


def concatenation(op: Op, inputs: list[Tensor]) -> Layers:
    """The layers of ``inputs`` one after the other along the ``axis`` of the node."""
    axis = op.attrs["axis"] % op.outputs[0].rank
    across = [
        Tensor(t.name, t.shape, _without(t.full, axis), tuple(la for la in t.layers if axis not in la.axes))
        for t in inputs
    ]
    layers = list(merge(op, across))
    parts = [t.along(axis) for t in inputs]
    if any(part is not None for part in parts):
        layers.append(_joined(op, axis, inputs, parts))
    return tuple(layers)


def _without(shape: Shape, axis: int) -> Shape:
    return tuple(1 if a == axis else s for a, s in enumerate(shape))


def _joined(op: Op, axis: int, inputs: list[Tensor], parts: list[Layer | None]) -> Layer:
    rank = len(inputs[0].shape)
    axes = sorted({axis, *(a for p in parts if p for a in p.axes)})
    pieces = []
    for tensor, part in zip(inputs, parts, strict=True):
        labels = part.labels if part else np.full([tensor.shape[axis] if a == axis else 1 for a in range(rank)], FIXED)
        shape = [tensor.shape[a] if a in axes else 1 for a in range(rank)]
        pieces.append(np.broadcast_to(labels, shape))
        if part is not None and len(part.axes) < len(axes):
            op.pin(part, "is concatenated with channels of another layout")
    columns = next((p.columns for p in parts if p is not None and len(p.axes) == len(axes)), axis)
    return Layer(np.concatenate(pieces, axis), tuple(axes), columns)


@known("Concat")
def known_concat(facts: Facts) -> Sequence[Known | None]:
    """Constants one after the other along ``axis``."""
    y = facts.outputs[0]
    axis = facts.node.attrs["axis"] % y.rank
    parts = [(t, facts.known(p)) for p, t in enumerate(facts.inputs) if t is not None]
    if all(known is None for _, known in parts):
        return [None]
    nothing = Known(np.zeros((1,) * y.rank, np.float32), np.zeros((1,) * y.rank, np.bool_))
    pieces = [of_size(known or nothing, axis, t.shape[axis]) for t, known in parts]
    shape = np.broadcast_shapes(*(_without(p.value.shape, axis) for p in pieces))
    values, masks = (
        [np.broadcast_to(a, (*shape[:axis], a.shape[axis], *shape[axis + 1 :])) for a in arrays]
        for arrays in ([p.value for p in pieces], [p.mask for p in pieces])
    )
    return [Known(np.concatenate(values, axis), np.concatenate(masks, axis))]


def of_size(known: Known, axis: int, size: int) -> Known:
    """The same, of full ``size`` along ``axis``, and both arrays of one shape."""
    shape = list(np.broadcast_shapes(known.value.shape, known.mask.shape))
    shape[axis] = size
    return Known(np.broadcast_to(known.value, shape), np.broadcast_to(known.mask, shape))


gathers("joins", "Concat")
