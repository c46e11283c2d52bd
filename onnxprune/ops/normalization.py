"""Normalisation: statistics of each channel let it go; statistics over channels hold them."""

from __future__ import annotations

from collections.abc import Sequence

from onnxprune.labels import Op, Tensor, merge
from onnxprune.ops.reduction import hold_axes
from onnxprune.ops.table import Layers, rule


@rule("BatchNormalization")
def batch_normalization(op: Op) -> Sequence[Layers]:
    """Y = scale * (X - mean) / sqrt(var + eps) + B, per channel of axis 1; inference mode."""
    x = op.inputs[0]
    assert x is not None
    scale = op.inputs[1]
    for layer in scale.layers if scale else ():
        op.role(scale, layer.labels, "scale")
    return [merge(op, [x, *(t.at_axis(1, x.rank) if t else None for t in op.inputs[1:])])]


@rule("InstanceNormalization")
def instance_normalization(op: Op) -> Sequence[Layers]:
    """Statistics of each channel over the axes from 2 on."""
    x = op.inputs[0]
    assert x is not None
    layers = hold_axes(op, x, range(2, x.rank), "is normalised over its channels")
    vectors = [t.at_axis(1, x.rank) if t else None for t in op.inputs[1:]]
    return [merge(op, [Tensor(x.name, x.shape, x.full, layers), *vectors])]


@rule("LayerNormalization", "RMSNormalization")
def layer_normalization(op: Op) -> Sequence[Layers]:
    """Statistics over all axes from ``axis`` on: a norm over fewer channels is another function."""
    x = op.inputs[0]
    assert x is not None
    axis = op.attrs.get("axis", -1) % x.rank
    layers = hold_axes(op, x, range(axis, x.rank), "is normalised over its channels")
    for vector in op.inputs[1:]:
        op.keep_all(vector, "scales a norm over channels")
    return [layers]


@rule("LRN", "GroupNormalization")
def across_channels(op: Op) -> Sequence[Layers]:
    """Statistics over neighbouring or grouped channels."""
    x = op.inputs[0]
    assert x is not None
    for vector in op.inputs[1:]:
        op.keep_all(vector, "scales a norm over channels")
    return [hold_axes(op, x, range(1, x.rank), "is normalised over its channels")]
