"""Normalisation: statistics of each channel let it go; statistics over channels hold them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from onnxprune.labels.constant_channels import Facts, Known, placed
from onnxprune.labels.labels import Op, Tensor, line, merge
from onnxprune.labels.ops.reduction import hold_axes
from onnxprune.labels.ops.table import Change, Cut, Layers, known, rewrite, rule
from onnxprune.model.graph import Node

_OVER_CHANNELS = "is normalised over its channels"


@rule("BatchNormalization")
def batch_normalization(op: Op) -> Sequence[Layers]:
    """Y = scale * (X - mean) / sqrt(var + eps) + B, per channel of axis 1; in training mode statistics [C] of X too."""
    x = op.inputs[0]
    assert x is not None
    scale = op.inputs[1]
    for layer in scale.layers if scale else ():
        op.role(scale, layer.labels, "scale")
    if trains(op.node):
        x = replace(x, layers=hold_axes(op, x, [a for a in range(x.rank) if a != 1], _OVER_CHANNELS))
    layers = merge(op, [x, *(t.at_axis(1, x.rank) if t else None for t in op.inputs[1:])])
    return [layers, *(tuple(line(la.labels, 0, 1) for la in layers) for _ in op.outputs[1:])]


def trains(node: Node) -> bool:
    """Whether a BatchNormalization takes its statistics of X: before opset 14, where it gives them too."""
    return bool(node.attrs.get("training_mode", 0)) or sum(map(bool, node.outputs)) > 1


@known("BatchNormalization")
def known_batch_normalization(facts: Facts) -> Sequence[Known | None]:
    """A scale of 0 gives B, whatever comes in."""
    given, x = [facts.known(p) for p in range(1, 5)], facts.known(0)
    if trains(facts.node) or any(g is None for g in given):
        return [None]
    rank = facts.outputs[0].rank
    scale, bias, mean, var = (placed(g.value.astype(np.float64), 1, rank) for g in given if g is not None)
    zero = scale == 0
    if x is None:
        return [Known(bias, zero)]
    inside = np.where(x.mask, x.value, 0).astype(np.float64)
    value = scale * (inside - mean) / np.sqrt(var + facts.node.attrs.get("epsilon", 1e-5)) + bias
    return [Known(value.astype(x.value.dtype), x.mask | zero)]


@rule("InstanceNormalization")
def instance_normalization(op: Op) -> Sequence[Layers]:
    """Statistics of each channel over the axes from 2 on."""
    x = op.inputs[0]
    assert x is not None
    layers = hold_axes(op, x, range(2, x.rank), _OVER_CHANNELS)
    vectors = [t.at_axis(1, x.rank) if t else None for t in op.inputs[1:]]
    return [merge(op, [Tensor(x.name, x.shape, x.full, layers), *vectors])]


@known("InstanceNormalization")
def known_instance_normalization(facts: Facts) -> Sequence[Known | None]:
    """A channel of zeros, or a scale of 0, gives B."""
    x, scale, bias, rank = facts.known(0), facts.known(1), facts.known(2), facts.outputs[0].rank
    if scale is None or bias is None:
        return [None]
    zero = placed(scale.value, 1, rank) == 0
    return [Known(placed(bias.value, 1, rank), zero if x is None else zero | x.zero)]


@rule("LayerNormalization", "RMSNormalization")
def layer_normalization(op: Op) -> Sequence[Layers]:
    """Statistics over all axes from ``axis`` on: a norm over fewer channels is another function."""
    x = op.inputs[0]
    assert x is not None
    axis = op.attrs.get("axis", -1) % x.rank
    layers = hold_axes(op, x, range(axis, x.rank), _OVER_CHANNELS)
    for vector in op.inputs[1:]:
        op.keep_all(vector, "scales a norm over channels")
    return [layers for _ in op.outputs]  # mean and deviation have size 1 along the axes that are held


@rule("GroupNormalization")
def group_normalization(op: Op) -> Sequence[Layers]:
    """Statistics over the channels of each group: a group goes as a whole. Scale and bias: [C]."""
    x = op.inputs[0]
    assert x is not None
    layers = hold_axes(op, x, range(2, x.rank), _OVER_CHANNELS)
    layer = next((la for la in layers if la.axes == (1,)), None)
    if layer is None:
        for tensor in op.inputs:
            op.keep_all(tensor, _OVER_CHANNELS)
        return [()]
    blocks = layer.labels.reshape(op.attrs["num_groups"], -1)
    op.say.equate(blocks, blocks[:, :1], _OVER_CHANNELS)
    for vector in op.inputs[1:]:
        for own in vector.layers if vector else ():
            op.say.equate(own.labels.reshape(len(blocks), -1), blocks[:, :1], _OVER_CHANNELS)
    return [layers]


@rewrite("GroupNormalization")
def rewrite_group_normalization(cut: Cut) -> Change:
    """As many groups as are left, each as large as it was."""
    before, after = cut.op.inputs[0], cut.inputs[0]
    assert before is not None
    assert after is not None
    return Change(attrs={"num_groups": after.shape[1] * cut.op.attrs["num_groups"] // before.shape[1]})


@rule("LRN")
def across_channels(op: Op) -> Sequence[Layers]:
    """Statistics over neighbouring channels."""
    x = op.inputs[0]
    assert x is not None
    for vector in op.inputs[1:]:
        op.keep_all(vector, "scales a norm over channels")
    return [hold_axes(op, x, range(1, x.rank), _OVER_CHANNELS)]
