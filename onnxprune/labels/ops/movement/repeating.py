"""Expand, Tile and ConstantOfShape: elements that stand for several positions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxprune.labels.constant_channels import moved
from onnxprune.labels.labels import Layer, Op, cut_shape
from onnxprune.labels.ops.table import Change, Cut, Layers, known, rewrite, rule, unwritten


@rule("Expand")
def expand(op: Op) -> Sequence[Layers]:
    """Labelled axes stay; along an axis that is repeated from size 1, every position is a channel of its own."""
    x, y = op.inputs[0], op.outputs[0]
    assert x is not None
    wide = x.with_leading(y.rank)
    known = op.value(1) is not None
    repeated = [a for a in range(y.rank) if wide.full[a] == 1 and y.full[a] > 1]
    return [(*wide.layers, *(op.say.fresh(y, a) for a in repeated if known))]


@rewrite("Expand")
def rewrite_expand(cut: Cut) -> Change:
    """A target of 1 leaves an axis as it is, at any size."""
    value, y = cut.op.value(1), cut.outputs[0]
    if value is None:
        return unwritten(cut, 1)
    target, shape = value.astype(np.int64).copy(), cut_shape(y, cut.alive)
    offset = y.rank - len(target)
    for axis in range(offset, y.rank):
        if target[axis - offset] == y.shape[axis]:
            target[axis - offset] = shape[axis]
    return Change(inputs={1: target})


@rule("ConstantOfShape")
def constant_of_shape(op: Op) -> Sequence[Layers]:
    """All positions hold the same: every position along every axis is a channel of its own."""
    y = op.outputs[0]
    return [tuple(op.say.fresh(y, a) for a in range(y.rank) if y.full[a] > 1) if op.value(0) is not None else ()]


@rewrite("ConstantOfShape")
def rewrite_constant_of_shape(cut: Cut) -> Change:
    """The shape."""
    return Change(inputs={0: np.asarray(cut_shape(cut.outputs[0], cut.alive), np.int64)})


@rule("Tile")
def tile(op: Op) -> Sequence[Layers]:
    """Labels repeat as the elements do."""
    x, repeats = op.inputs[0], op.value(1)
    assert x is not None
    if repeats is None:
        op.keep_all(x, "is tiled by a number computed at run time")
        return [()]
    out = []
    for layer in x.layers:
        counts = [int(r) if a in layer.axes else 1 for a, r in enumerate(repeats)]
        out.append(Layer(np.tile(layer.labels, counts), layer.axes, layer.columns))
    return [tuple(out)]


known("Expand", "Tile")(moved)
