"""Split, Slice and Gather by known indices: parts of the labels, and the bounds that name them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from onnxprune.labels.constant_channels import moved
from onnxprune.labels.labels import Labels, Layer, Op, cut_shape, rows_of
from onnxprune.labels.ops.reduction import hold_axes
from onnxprune.labels.ops.table import Change, Cut, Layers, gathers, ints, known, rewrite, rule, unwritten


@rule("Split")
def split(op: Op) -> Sequence[Layers]:
    """Each output takes its part of the labels along ``axis``."""
    x = op.inputs[0]
    assert x is not None
    axis = op.attrs.get("axis", 0) % x.rank
    layer = x.along(axis)
    others = tuple(la for la in x.layers if la is not layer)
    if layer is None:
        return [others for _ in op.outputs]
    bounds = np.cumsum([0, *(y.shape[axis] for y in op.outputs)])
    found = []
    for y, (start, end) in zip(op.outputs, itertools.pairwise(map(int, bounds)), strict=True):
        own = (_part(op, layer, axis, slice(start, end)),) if y.full[axis] else ()  # of nothing, nothing must stay
        found.append((*others, *own))
    return found


@rewrite("Split")
def rewrite_split(cut: Cut) -> Change:
    """Sizes of the parts; written down where equal parts became unequal."""
    x = cut.inputs[0]
    assert x is not None
    axis = cut.op.attrs.get("axis", 0) % x.rank
    sizes = [cut_shape(y, cut.alive)[axis] for y in cut.outputs]
    if any(size == 0 < y.shape[axis] for size, y in zip(sizes, cut.outputs, strict=True)):
        raise LookupError("nothing would be left of one of its parts")
    if sizes == [y.shape[axis] for y in cut.outputs]:
        return Change()
    if cut.op.node.version < 13:
        return Change(attrs={"split": sizes})
    told = cut.op.has(1)
    if told:
        unwritten(cut, 1)
    if not told and len(set(sizes)) == 1:
        return Change()
    drop = {"num_outputs": None} if "num_outputs" in cut.op.attrs else {}
    return Change(attrs=drop, inputs={1: np.asarray(sizes, np.int64)})


def _part(op: Op, layer: Layer, axis: int, index: slice | Labels) -> Layer:
    """What is taken of ``layer``: something of it must stay, and as much in each row."""
    part = layer.picked(axis, index)
    rows = [a for a in part.axes if a != part.columns]
    if rows and axis == part.columns:
        op.say.split(rows_of(part, rows).reshape([*(part.labels.shape[a] for a in rows), -1]))
    op.say.intact(part.labels.reshape(1, -1))
    return part


def hold_rows(op: Op, layer: Layer, axis: int, why: str = "its parts are taken apart") -> None:
    """Cutting a layer with several axes along its columns is right only where all rows keep the same ones."""
    if len(layer.axes) > 1 and axis == layer.columns:
        first = tuple(slice(None) if a == axis else slice(0, 1) for a in range(layer.labels.ndim))
        op.say.equate(layer.labels, layer.labels[first], why)


def _slices(op: Op) -> dict[int, tuple[int, int, int]]:
    """{axis: (start, stop, step)} of a Slice. Raises LookupError where they are not known before running."""
    x = op.inputs[0]
    assert x is not None
    starts, ends = ints(op, "starts", 1), ints(op, "ends", 2)
    if starts is None or ends is None:
        raise LookupError("its bounds are computed at run time")
    axes = ints(op, "axes", 3) or list(range(len(starts)))
    steps = ints(op, "steps", 4) or [1] * len(starts)
    found = {}
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        found[axis % x.rank] = (start, end, step)
    return found


@rule("Slice")
def slice_(op: Op) -> Sequence[Layers]:
    """Labels are sliced like the elements. On unlabelled axes the bounds do not matter."""
    x, y = op.inputs[0], op.outputs[0]
    assert x is not None
    for parameter in op.inputs[1:]:
        op.keep_all(parameter, "")
    try:
        bounds = _slices(op)
    except LookupError as reason:
        changed = [a for a in range(x.rank) if x.full[a] != y.full[a]]
        unknown = changed if op.value(3) is None and op.has(3) else ints(op, "axes", 3) or range(x.rank)
        for layer in x.layers:
            if any(a in layer.axes for a in unknown):
                op.pin(layer, f"is sliced, and {reason}")
        return [tuple(la for la in x.layers if not any(a in la.axes for a in unknown))]
    out = []
    stepped = [axis for axis, (_, _, step) in bounds.items() if abs(step) > 1]
    for layer in hold_axes(op, x, stepped, "is sliced with a step"):
        if any(y.full[axis] == 0 for axis in layer.axes):
            continue
        sliced = layer
        for axis, (start, end, step) in bounds.items():
            if axis in layer.axes:
                part = slice(start, end, step)  # ONNX clamps bounds as Python does
                if range(x.full[axis])[part] != range(x.full[axis]):
                    hold_rows(op, layer, axis)
                sliced = _part(op, sliced, axis, part)
        out.append(sliced)
    return [tuple(out)]


def _alive_along(cut: Cut, layer: Layer, axis: int) -> NDArray[np.bool_]:
    """Which positions of ``axis`` keep anything."""
    rows = np.moveaxis(cut.alive(layer.labels), axis, 0).reshape(layer.labels.shape[axis], -1)
    return np.asarray(rows.any(axis=1))


@rewrite("Slice")
def rewrite_slice(cut: Cut) -> Change:
    """Bounds on labelled axes move with the channels that went before them."""
    x = cut.op.inputs[0]
    assert x is not None
    bounds = _slices(cut.op)
    starts, ends = [b[0] for b in bounds.values()], [b[1] for b in bounds.values()]
    changed = False
    for position, (axis, (start, end, step)) in enumerate(bounds.items()):
        layer = x.along(axis)
        if layer is None:
            continue
        alive = _alive_along(cut, layer, axis)
        taken = range(x.shape[axis])[slice(start, end, step)]
        if alive.all():
            continue
        size = int(alive.sum())
        if not taken:  # bounds of which one counts from the end meet elsewhere
            if range(size)[slice(start, end, step)]:
                starts[position] = ends[position] = 0
                changed = True
            continue
        low, high = min(taken), max(taken) + 1
        first, past = int(alive[:low].sum()), int(alive[:high].sum())
        if first == past:
            raise LookupError("nothing would be left of its slice")
        wanted = range(first, past) if step > 0 else range(past - 1, first - 1, -1)
        if range(size)[slice(start, end, step)] != wanted:
            starts[position], ends[position] = (
                (first, past) if step > 0 else (past - 1, first - 1 if first else -(2**31))
            )
            changed = True
    if not changed:
        return Change()
    if "starts" in cut.op.attrs:
        return Change(attrs={"starts": starts, "ends": ends})
    dtype = np.asarray(cut.op.value(1)).dtype
    return Change(inputs={1: np.asarray(starts, dtype), 2: np.asarray(ends, dtype)})


@rule("Gather")
def gather(op: Op) -> Sequence[Layers]:
    """Y = take(X, indices, axis). Indices along a labelled axis must be known; other axes keep their labels."""
    x, indices = op.inputs[0], op.inputs[1]
    assert x is not None
    assert indices is not None
    axis = op.attrs.get("axis", 0) % x.rank
    op.keep_all(indices, "is used as an index")
    extra = indices.rank - 1
    out = []
    for layer in x.layers:
        shifted = [a if a < axis else a + extra for a in layer.axes if a != axis]
        columns = layer.columns if layer.columns < axis else layer.columns + extra
        if axis not in layer.axes:
            shape = (*layer.labels.shape[:axis], *(1,) * indices.rank, *layer.labels.shape[axis + 1 :])
            out.append(Layer(layer.labels.reshape(shape), tuple(shifted), columns))
            continue
        taken = op.value(1)
        if taken is None:
            op.pin(layer, "is gathered by indices computed at run time")
        elif taken.ndim == 0 and layer.columns != axis:
            labels = np.asarray(layer.labels.take(int(taken), axis))
            out.append(Layer(labels, tuple(shifted), columns))
        elif taken.ndim == 1 and taken.size:
            hold_rows(op, layer, axis)
            out.append(_part(op, layer, axis, taken.astype(np.int64)))
        else:
            op.pin(layer, "gives one of its channels as a tensor without channels")
    return [tuple(out)]


@rewrite("Gather")
def rewrite_gather(cut: Cut) -> Change:
    """Indices of kept channels count the kept channels before them."""
    x, taken = cut.op.inputs[0], cut.op.value(1)
    assert x is not None
    axis = cut.op.attrs.get("axis", 0) % x.rank
    layer = x.along(axis)
    if layer is None or taken is None:
        return Change()
    alive = _alive_along(cut, layer, axis)
    if alive.all():
        return Change()
    index = taken.astype(np.int64) % x.shape[axis]
    new = (np.cumsum(alive) - 1)[index[alive[index]] if index.ndim else index]
    if index.ndim and not len(new):
        raise LookupError("nothing would be left of what it gathers")
    return Change(inputs={1: new.astype(taken.dtype)})


gathers("parts", "Split")
known("Split", "Slice", "Gather")(moved)
