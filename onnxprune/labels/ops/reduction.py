"""Operators that work along some axes: reductions, pooling, softmax, sorting. Channels along these axes stay."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from onnxprune.labels.constant_channels import Facts, Known, moved
from onnxprune.labels.labels import Layer, Op, Tensor
from onnxprune.labels.ops.table import Kernel, Layers, ints, kernel, known, rule
from onnxprune.model.graph import Node, Shape

# fmt: off
REDUCE = (
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
    "ReduceSum", "ReduceSumSquare",
)
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
    """The reduced axes, all of them where none is named (unless ``noop_with_empty_axes``), keep their channels."""
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
    layers = hold_axes(op, x, axes, "is reduced over its channels")
    if not op.attrs.get("keepdims", 1):
        layers = tuple(dropped(layer, axes) for layer in layers)
    return [layers]


@rule("Softmax", "LogSoftmax", "Hardmax", "LpNormalization", "CumSum", "TopK")
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


@rule("MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def spatial(op: Op) -> Sequence[Layers]:
    """Works on each channel by itself, over the axes from 2 on."""
    x = op.inputs[0]
    assert x is not None
    layers = hold_axes(op, x, range(2, x.rank), "is pooled over its channels")
    if len(op.outputs) > 1:  # MaxPool's indices count positions in the whole tensor
        op.keep_all(x, "is pooled with indices")
    return [layers]


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
