"""Operators that work along some axes: reductions, pooling, softmax, sorting. Channels along these axes stay."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from onnxprune.labels.constant_channels import Facts, Known, moved
from onnxprune.labels.labels import Layer, Op, Tensor, cut_shape, merge, rows_of
from onnxprune.labels.ops.table import Change, Cut, Kernel, Layers, ints, kernel, known, rewrite, rule
from onnxprune.model.graph import Node, Shape

# fmt: off
REDUCE = (
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
    "ReduceSum", "ReduceSumSquare",
)
#: Of these, sums of what is 0 for 0.
SUMS = ("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceSum", "ReduceSumSquare")
# fmt: on


def hold_axes(op: Op, x: Tensor, axes: Sequence[int], why: str) -> Layers:
    """Keep what is labelled along ``axes``; give the layers that go on.

    What is labelled along other axes too goes as a whole: columns whose rows are worked over, or rows.
    """
    out = []
    for layer in x.layers:
        free = tuple(a for a in layer.axes if a not in axes)
        if not free:
            op.pin(layer, why)
        elif len(free) < len(layer.axes):
            first = layer.labels[tuple(slice(0, 1) if a in axes else slice(None) for a in range(x.rank))]
            op.say.equate(layer.labels, first, why)
            out.append(Layer(first, free, layer.columns if layer.columns in free else free[-1]))
        else:
            out.append(layer)
    return tuple(out)


def sum_axes(op: Op, x: Tensor, axes: Sequence[int], why: str, kept: int) -> tuple[Layers, Layers]:
    """As `hold_axes`, for sums to which zeros add nothing: what goes on of X, and what the output has beside.

    Labels that lie along ``axes`` alone end. Of rows whose columns are summed a channel a row is left, which goes with
    it. A constant's channels stay: its others would be scaled by what is left (a normalised weight). ``kept``: whether
    the output still has the axes.
    """
    rest, own = [], []
    for layer in x.layers:
        free = [a for a in layer.axes if a not in axes]
        if x.constant or len(free) > 1 or layer.columns in free:
            rest.append(layer)
            continue
        op.say.read(0)
        op.say.intact(layer.labels.reshape(1, -1))
        if free:
            axis = free[0] if kept else free[0] - sum(a < free[0] for a in axes)
            own.append(op.say.fresh(op.outputs[0], axis))
            op.say.together(own[-1].labels.reshape(-1, 1), rows_of(layer, free))
    return hold_axes(op, replace(x, layers=tuple(rest)), axes, why), tuple(own)


def dropped(layer: Layer, axes: Sequence[int]) -> Layer:
    """The layer of a tensor that lost ``axes``, none of which are labelled."""
    gone = sorted(axes)
    labels = layer.labels.reshape([s for a, s in enumerate(layer.labels.shape) if a not in gone])
    return Layer(
        labels,
        tuple(a - sum(g < a for g in gone) for a in layer.axes),
        layer.columns - sum(g < layer.columns for g in gone),
    )


@rule(*REDUCE, "ArgMax", "ArgMin")
def reduce(op: Op) -> Sequence[Layers]:
    """The reduced axes, all of them where none is named (unless ``noop_with_empty_axes``).

    Sums end their labels; others keep their channels: a mean would have another divisor.
    """
    x = op.inputs[0]
    assert x is not None
    arg = op.node.op.startswith("Arg")
    try:
        axes = [op.attrs.get("axis", 0)] if arg else ints(op, "axes", 1)
    except LookupError:
        axes = None
    if not axes:
        axes = [] if op.attrs.get("noop_with_empty_axes", 0) else list(range(x.rank))
    axes = [a % x.rank for a in axes]
    kept, why = op.attrs.get("keepdims", 1), "is reduced over its channels"
    layers, own = sum_axes(op, x, axes, why, kept) if op.node.op in SUMS else (hold_axes(op, x, axes, why), ())
    return [(*(layers if kept else (dropped(layer, axes) for layer in layers)), *own)]


@rule("LpNormalization")
def lp_normalization(op: Op) -> Sequence[Layers]:
    """Y = X / |X|: channels of zeros add nothing to the norm along ``axis``, and go through."""
    x = op.inputs[0]
    assert x is not None
    layer = x.along(op.attrs.get("axis", -1) % x.rank)
    if layer is not None and not x.constant:
        op.say.read(0)
    elif layer is not None:
        op.pin(layer, "is normalised over its channels")
    return [x.layers]


@rule("Softmax", "LogSoftmax", "Hardmax", "CumSum", "TopK")
def along_axis(op: Op) -> Sequence[Layers]:
    """Works along ``axis``; up to opset 12 Softmax and its kin flatten, and so work along all axes from there on."""
    x = op.inputs[0]
    assert x is not None
    softmax = op.node.op.endswith(("max", "Softmax"))
    old = softmax and op.node.version < 13
    default = 1 if old else -1
    value = op.value(1)
    axis = int(np.ravel(value)[0]) if op.node.op == "CumSum" and value is not None else op.attrs.get("axis", default)
    axis %= x.rank
    axes = list(range(axis, x.rank)) if old else [axis]
    if op.node.op == "CumSum" and value is None:
        axes = list(range(x.rank))
    layers = hold_axes(op, x, axes, f"goes through {op.node.op} over its channels")
    return [layers for _ in op.outputs]


def _over(op: Op, axes: Iterable[int]) -> Sequence[Layers]:
    """Works over ``axes`` of X, as the other inputs say, and on each position of all others by itself."""
    x = op.inputs[0]
    assert x is not None
    why = f"goes through {op.node.op} over its channels"
    for tensor in op.inputs[1:]:
        op.keep_all(tensor, why)
    return [hold_axes(op, x, [a % x.rank for a in axes], why)]


@rule("ReverseSequence")
def reverse_sequence(op: Op) -> Sequence[Layers]:
    """X backwards along ``time_axis``, as far as the lengths of ``batch_axis`` say."""
    return _over(op, (op.attrs.get("time_axis", 0), op.attrs.get("batch_axis", 1)))


@rule("MeanVarianceNormalization")
def mean_variance_normalization(op: Op) -> Sequence[Layers]:
    """(X - mean) / deviation over ``axes``."""
    return _over(op, op.attrs.get("axes", (0, 2, 3)))


@rule("Trilu")
def trilu(op: Op) -> Sequence[Layers]:
    """A triangle of each matrix of the last two axes."""
    return _over(op, (-1, -2))


@rule("Compress")
def compress(op: Op) -> Sequence[Layers]:
    """The positions along ``axis`` that a condition picks; without an axis, of all elements."""
    x = op.inputs[0]
    assert x is not None
    return _over(op, (op.attrs["axis"],) if "axis" in op.attrs else range(x.rank))


@rule("CenterCropPad")
def center_crop_pad(op: Op) -> Sequence[Layers]:
    """X cropped and padded to sizes of ``axes``, which are all by default."""
    x = op.inputs[0]
    assert x is not None
    return _over(op, op.attrs.get("axes", range(x.rank)))


@rule("MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def spatial(op: Op) -> Sequence[Layers]:
    """Works on each channel by itself, over the axes from 2 on."""
    x = op.inputs[0]
    assert x is not None
    layers = hold_axes(op, x, range(2, x.rank), "is pooled over its channels")
    if len(op.outputs) > 1:  # MaxPool's indices
        op.say.positions(op.outputs[1], math.prod(x.full[2:]))
    return [layers for _ in op.outputs]


@rule("MaxUnpool", positions=(1,))
def max_unpool(op: Op) -> Sequence[Layers]:
    """Y[I] = X, where I counts positions of a tensor with channels as long as those of Y."""
    x, places, y = op.inputs[0], op.inputs[1], op.outputs[0]
    assert x is not None
    assert places is not None
    if places.counted != math.prod(y.full[2:]):
        for tensor in (x, places):
            op.keep_all(tensor, "is put back by positions of another size")
        return [()]
    return [merge(op, [replace(t, layers=hold_axes(op, t, range(2, t.rank), "is put back")) for t in (x, places)])]


@rewrite("MaxUnpool")
def rewrite_max_unpool(cut: Cut) -> Change:
    """``output_shape`` names the channels too."""
    told = cut.op.value(2)
    return (
        Change() if told is None else Change(inputs={2: np.asarray(cut_shape(cut.outputs[0], cut.alive), told.dtype)})
    )


@known("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax", "ReduceMin")
def known_summary(facts: Facts) -> Sequence[Known | None]:
    """Equal elements give themselves; where padding counts, 0 does."""
    x = facts.inputs[0]
    if x is None or any(len(layer.axes) > 1 for layer in x.layers):  # of several axes, one may be worked along
        return [None]
    found = moved(facts)[0]
    counts = facts.node.attrs.get("count_include_pad", 0) or facts.node.attrs.get("ceil_mode", 0)
    return [found and found.where(found.zero) if counts else found]


@known(
    "LpPool", "GlobalLpPool", "ReduceL1", "ReduceL2", "ReduceProd", "ReduceSum", "ReduceSumSquare"
)  # of one element or more, as everywhere
def known_total(facts: Facts) -> Sequence[Known | None]:
    """Zeros give 0."""
    return [k and k.where(k.zero) for k in known_summary(facts)]


@kernel("GlobalAveragePool")
def global_pool_kernel(node: Node, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> Kernel:
    """A depthwise convolution as large as its input."""
    del node, outputs
    x = inputs[0]
    return Kernel(x[1], x[1], x[1], x[2:], math.prod(x[2:]), 1, x[0])
