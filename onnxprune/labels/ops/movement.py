"""Operators that move elements: numpy's own operation on the label array. Below a rule: how it mentions sizes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxprune.labels.constant_channels import Facts, Known, moved, uniform
from onnxprune.labels.labels import FIXED, Labels, Layer, Op, Tensor, cut_shape, line, merge, rows_of
from onnxprune.labels.ops.table import Change, Cut, Layers, gathers, ints, known, rewrite, rule, unwritten
from onnxprune.model.graph import Shape

#: A reshape that would need more labels than this pins instead.
_MAX_LABELS = 1 << 22


@rule("Transpose")
def transpose(op: Op) -> Sequence[Layers]:
    """Axes in a new order."""
    x = op.inputs[0]
    assert x is not None
    return [x.transposed(list(op.attrs.get("perm", range(x.rank)[::-1]))).layers]


# --- Reshape and its relatives --------------------------------------------------------------------------------------


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
            _hold_rows(op, layer, layer.columns, "its channels are shuffled")
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


# --- Concat, Split, Slice, Gather, Pad ------------------------------------------------------------------------------


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
    pieces = [_along(known or nothing, axis, t.shape[axis]) for t, known in parts]
    shape = np.broadcast_shapes(*(_without(p.value.shape, axis) for p in pieces))
    values, masks = (
        [np.broadcast_to(a, (*shape[:axis], a.shape[axis], *shape[axis + 1 :])) for a in arrays]
        for arrays in ([p.value for p in pieces], [p.mask for p in pieces])
    )
    return [Known(np.concatenate(values, axis), np.concatenate(masks, axis))]


def _along(known: Known, axis: int, size: int) -> Known:
    """The same, of full ``size`` along ``axis``, and both arrays of one shape."""
    shape = list(np.broadcast_shapes(known.value.shape, known.mask.shape))
    shape[axis] = size
    return Known(np.broadcast_to(known.value, shape), np.broadcast_to(known.mask, shape))


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
    return [(*others, _part(op, layer, axis, slice(int(a), int(b)))) for a, b in itertools.pairwise(bounds)]


gathers("joins", "Concat")
gathers("parts", "Split")
gathers("moves", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze")


@rewrite("Split")
def rewrite_split(cut: Cut) -> Change:
    """Sizes of the parts; written down where equal parts became unequal."""
    x = cut.inputs[0]
    assert x is not None
    axis = cut.op.attrs.get("axis", 0) % x.rank
    sizes = [cut_shape(y, cut.alive)[axis] for y in cut.outputs]
    if 0 in sizes:
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


def _hold_rows(op: Op, layer: Layer, axis: int, why: str = "its parts are taken apart") -> None:
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
    for layer in x.layers:
        sliced = layer
        for axis, (start, end, step) in bounds.items():
            if axis in layer.axes:
                part = slice(start, end, step)  # ONNX clamps bounds as Python does
                if range(x.full[axis])[part] != range(x.full[axis]):
                    _hold_rows(op, layer, axis)
                if abs(step) > 1:
                    op.pin(layer, "is sliced with a step")
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
        if alive.all() or len(taken) == 0:
            continue
        low, high = min(taken), max(taken) + 1
        first, past = int(alive[:low].sum()), int(alive[:high].sum())
        if first == past:
            raise LookupError("nothing would be left of its slice")
        size = int(alive.sum())
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
        elif taken.ndim == 1:
            _hold_rows(op, layer, axis)
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


def _pads(op: Op) -> dict[int, tuple[int, int]]:
    """{axis: (before, after)} of a Pad. Raises LookupError where they are not known before running."""
    x = op.inputs[0]
    assert x is not None
    pads = ints(op, "pads", 1)
    axes = ints(op, "axes", 3) or list(range(x.rank))
    if pads is None:
        raise LookupError("its pads are computed at run time")
    return {a % x.rank: (pads[i], pads[i + len(axes)]) for i, a in enumerate(axes)}


@rule("Pad")
def pad(op: Op) -> Sequence[Layers]:
    """Unlabelled axes are padded freely; along a labelled one the padding makes channels of its own."""
    x, y = op.inputs[0], op.outputs[0]
    assert x is not None
    for parameter in op.inputs[1:]:
        op.keep_all(parameter, "")
    out = []
    for layer in x.layers:
        if all(x.full[a] == y.full[a] for a in layer.axes):
            out.append(layer)
            continue
        before, after = (
            (0, 0) if op.value(1) is None and "pads" not in op.attrs else _pads(op).get(layer.columns, (0, 0))
        )
        plain = before >= 0 and after >= 0 and op.attrs.get("mode", "constant") in ("constant", b"constant")
        if len(layer.axes) > 1 or not plain or before + after == 0:
            op.pin(layer, "is padded with copies of channels")
            continue
        padded = op.say.fresh(y, layer.columns)
        middle = padded.picked(layer.columns, slice(before, before + x.shape[layer.columns]))
        op.say.equate(middle.labels, layer.labels, "is padded with channels")
        out.append(padded)
    return [tuple(out)]


@known("Pad")
def known_padded(facts: Facts) -> Sequence[Known | None]:
    """Channels that hold what is padded with; any, where they are padded with themselves."""
    (found,) = moved(facts)
    if found is None or facts.node.attrs.get("mode", "constant") not in ("constant", b"constant"):
        return [found]
    given = facts.known(2)
    fill = given.value.reshape(-1) if given is not None else facts.node.attrs.get("value", 0.0)
    return [None if facts.has(2) and given is None else found.where(found.value == fill)]


@rewrite("Pad")
def rewrite_pad(cut: Cut) -> Change:
    """How many of the padding channels stay on either side."""
    x, y = cut.op.inputs[0], cut.outputs[0]
    assert x is not None
    padded = [a for layer in y.layers for a in layer.axes if x.full[a] != y.full[a]]
    if not padded:
        return Change()
    pads = _pads(cut.op)
    for axis in padded:
        layer = y.along(axis)
        if layer is not None and axis in pads:
            alive, (before, after) = cut.alive(layer.labels.reshape(-1)), pads[axis]
            pads[axis] = (int(alive[:before].sum()), int(alive[len(alive) - after :].sum()))
    flat = [p[0] for p in pads.values()] + [p[1] for p in pads.values()]
    if "pads" in cut.op.attrs:
        return Change(attrs={"pads": flat})
    return Change(inputs={1: np.asarray(flat, np.int64)})


@rule("Resize", "Upsample")
def resize(op: Op) -> Sequence[Layers]:
    """Axes that keep their length keep their labels; the others are interpolated."""
    x, y = op.inputs[0], op.outputs[0]
    assert x is not None
    for parameter in op.inputs[1:]:
        op.keep_all(parameter, "")
    for layer in x.layers:
        if any(x.full[a] != y.full[a] for a in layer.axes):
            op.pin(layer, "is resized along its channels")
    return [tuple(la for la in x.layers if all(x.full[a] == y.full[a] for a in la.axes))]


@rewrite("Resize")
def rewrite_resize(cut: Cut) -> Change:
    """``sizes`` names the channel axis too (unless ``axes`` leaves it out)."""
    x, sizes = cut.inputs[0], cut.op.value(3)
    if sizes is None or x is None or sizes.size == 0:
        return unwritten(cut, 3)
    axes = [a % x.rank for a in cut.op.attrs.get("axes", range(x.rank))]
    new = [x.shape[a] if cut.outputs[0].along(a) else s for a, s in zip(axes, sizes, strict=True)]
    return Change(inputs={3: np.asarray(new, sizes.dtype)})


@known("Resize", "Upsample")
def known_resized(facts: Facts) -> Sequence[Known | None]:
    """Interpolating equal elements gives the same, but beyond the borders of a crop."""
    cropped = facts.node.attrs.get("coordinate_transformation_mode", "") in (
        "tf_crop_and_resize",
        b"tf_crop_and_resize",
    )
    return [None] if cropped else moved(facts)


@rule("DepthToSpace")
def depth_to_space(op: Op) -> Sequence[Layers]:
    """b*b input channels make one output channel: they go together."""
    x = op.inputs[0]
    assert x is not None
    layer, others = _rearranged(op, x, "is rearranged into space")
    if layer is None:
        return [others]
    square = op.attrs["blocksize"] ** 2
    crd = op.attrs.get("mode", "DCR") == "CRD"
    blocks = layer.labels.reshape((-1, square) if crd else (square, -1))
    blocks = blocks if crd else blocks.T
    op.say.equate(blocks, blocks[:, :1], "makes one channel with others")
    return [(*others, line(blocks[:, 0], 1, 4))]


@known("DepthToSpace")
def known_depth_to_space(facts: Facts) -> Sequence[Known | None]:
    """A channel of which all b*b parts hold the same."""
    x, known_x = facts.inputs[0], facts.known(0)
    if x is None or known_x is None:
        return [None]
    flat = _along(uniform(known_x, (0, 2, 3)), 1, x.shape[1])
    square = facts.node.attrs["blocksize"] ** 2
    crd = facts.node.attrs.get("mode", "DCR") == "CRD"
    value, mask = (
        a.reshape((-1, square) if crd else (square, -1)).transpose((0, 1) if crd else (1, 0))
        for a in (flat.value, flat.mask)
    )
    rows = uniform(Known(value, mask), (1,))
    return [Known(rows.value.reshape(1, -1, 1, 1), rows.mask.reshape(1, -1, 1, 1))]


def _rearranged(op: Op, x: Tensor, why: str) -> tuple[Layer | None, Layers]:
    """The layer of axis 1 alone, and that of axis 0; all others are pinned."""
    plain = [la for la in x.layers if la.axes in ((0,), (1,))]
    for layer in x.layers:
        if not any(layer is known for known in plain):
            op.pin(layer, why)
    channels = next((la for la in plain if la.axes == (1,)), None)
    return channels, tuple(la for la in plain if la is not channels)


@rule("SpaceToDepth")
def space_to_depth(op: Op) -> Sequence[Layers]:
    """Each input channel makes b*b output channels, in the order [b, b, C]."""
    x = op.inputs[0]
    assert x is not None
    layer, others = _rearranged(op, x, "is rearranged into channels")
    if layer is None:
        return [others]
    return [(*others, line(np.tile(layer.labels.reshape(-1), op.attrs["blocksize"] ** 2), 1, 4))]


known("Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Expand", "Tile", "Split", "Slice", "Gather")(moved)
known("SpaceToDepth")(moved)
