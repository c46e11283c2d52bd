"""Fused attention: Q and K lose the same dimensions of each head, V and the output theirs; heads keep their number.

Y = softmax(scale * Q @ K^T + mask) @ V for each head. The default scale is 1 / sqrt(dimensions of a head): once
dimensions have gone it is written down as it was, as the softmax must not change.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from onnxprune.graph import Node, Shape
from onnxprune.labels import FIXED, Labels, Layer, Op, Tensor, line, merge
from onnxprune.ops.reduction import hold_axes
from onnxprune.ops.table import Change, Cut, Layers, macs, rewrite, rule

MICROSOFT = "com.microsoft"
_WHY = "is attended over"
_HEADS = "is split into heads that are fixed"


def _heads(op: Op, tensor: Tensor, heads: int) -> Labels:
    """Labels of [B, T, heads * D] or [B, heads, T, D] as [heads, D]; all other axes are held."""
    layer = tensor.along(tensor.rank - 1)
    for other in tensor.layers:
        if other is not layer:
            op.pin(other, _WHY)
    if layer is None:
        return np.full((heads, tensor.shape[3] if tensor.rank == 4 else tensor.shape[2] // heads), FIXED)
    if tensor.rank == 3:
        op.hold(layer, (0, 1), _WHY)
        labels = layer.labels.reshape(-1, tensor.shape[2])[0].reshape(heads, -1)
    else:
        op.hold(layer, (0, 2), _WHY)
        labels = np.broadcast_to(layer.labels, (1, heads, 1, tensor.shape[3]))[0, :, 0]
    op.say.intact(labels)
    return np.asarray(labels)


def _output(labels: Labels, y: Tensor) -> Layers:
    """The layer of an attention's output, in three or four dimensions."""
    if y.rank == 3:
        return (line(labels, 2, 3),)
    return (Layer(labels[None, :, None, :], (1, 3), 3),)


@rule("Attention")
def attention(op: Op) -> Sequence[Layers]:
    """Q, K, V, mask, past: [B, heads, T, D], or [B, T, heads * D] with the number of heads in attributes."""
    q, k, v = (op.inputs[i] for i in range(3))
    assert q is not None
    assert k is not None
    assert v is not None
    mine = q.full[1] if q.rank == 4 else op.attrs.get("q_num_heads", 0)
    shared = k.full[1] if k.rank == 4 else op.attrs.get("kv_num_heads", 0)
    if mine != shared or any(op.tensor(i) is not None for i in (4, 5)):
        for tensor in op.inputs:
            op.keep_all(tensor, "is attended over by groups of heads or with a cache")
        return [()]
    op.keep_all(op.tensor(3), "masks an attention")
    keys = _heads(op, k, mine)
    op.say.equate(_heads(op, q, mine), keys, _HEADS)
    op.say.read(0)
    return [_output(_heads(op, v, mine), op.outputs[0])]


@rewrite("Attention")
def rewrite_attention(cut: Cut) -> Change:
    """The scale that the original had."""
    q = cut.op.inputs[0]
    assert q is not None
    head = q.shape[3] if q.rank == 4 else q.shape[2] // cut.op.attrs["q_num_heads"]
    return _scale(cut, head)


def _scale(cut: Cut, head: int) -> Change:
    return Change() if cut.op.attrs.get("scale", 0) else Change(attrs={"scale": 1 / math.sqrt(head)})


@macs("Attention")
def attention_macs(node: Node, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    """Q @ K^T and the product with V: B * T * S * heads * (D + Dv)."""
    del node
    q, k, y = inputs[0], inputs[1], outputs[0]
    return q[0] * q[-2] * k[-2] * (q[-1] * (q[1] if len(q) == 4 else 1) + y[-1] * (y[1] if len(y) == 4 else 1))


@rule("Attention", domain=MICROSOFT)
def packed_attention(op: Op) -> Sequence[Layers]:
    """X: [B, T, I], W: [I, 3 * heads * D] for Q, K and V, bias: [3 * heads * D], masks and past."""
    x, w = op.inputs[0], op.inputs[1]
    assert x is not None
    assert w is not None
    special = op.attrs.get("qkv_hidden_sizes") or op.attrs.get("do_rotary", 0)
    plain = not special and all(op.tensor(i) is None for i in (4, 5, 6))
    into, own = w.along(0), w.along(1)
    if not plain or into is None or own is None:
        for tensor in op.inputs:
            op.keep_all(tensor, "is attended over with a cache or unequal sizes")
        return [()]
    op.keep_all(op.tensor(3), "masks an attention")
    incoming = x.along(2)
    for layer in x.layers:
        op.hold(layer, (0, 1), _WHY)
    found = incoming.labels.reshape(-1, x.shape[2])[0] if incoming else np.full(1, FIXED)
    op.say.equate(found, into.labels.reshape(-1), "reads channels that are fixed")
    op.role(w, into.labels, "in")
    op.role(w, own.labels, "out")
    for position in range(3):  # the products inside read W's and the bias's own channels
        op.say.read(position)
    labels = own.labels.reshape(3 * op.attrs["num_heads"], -1)
    query, key, value = np.split(labels, 3)
    op.say.equate(query, key, _HEADS)
    op.say.intact(labels)
    if (bias := op.tensor(2)) is not None:
        merge(op, [bias, Tensor("", (labels.size,), bias.full, (line(labels, 0, 1),))])
    return [_output(value, op.outputs[0])]


@rewrite("Attention", domain=MICROSOFT)
def rewrite_packed_attention(cut: Cut) -> Change:
    """The scale that the original had."""
    w = cut.op.inputs[1]
    assert w is not None
    return _scale(cut, w.shape[1] // 3 // cut.op.attrs["num_heads"])


@macs("Attention", domain=MICROSOFT)
def packed_attention_macs(node: Node, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    """The projection, Q @ K^T and the product with V: B * T * (I * 3HD + 2 * T * HD)."""
    del node, outputs
    (batch, steps, width), (_, made) = inputs[0], inputs[1]
    return batch * steps * (width * made + 2 * steps * made // 3)


@rule("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain=MICROSOFT)
def skip_layer_normalization(op: Op) -> Sequence[Layers]:
    """LayerNorm(X + skip + bias): statistics over the last axis."""
    for vector in op.inputs[2:]:
        op.keep_all(vector, "scales a norm over channels")
    layers = []
    for tensor in op.inputs[:2]:
        assert tensor is not None
        kept = hold_axes(op, tensor, (tensor.rank - 1,), "is normalised over its channels")
        layers.append(Tensor(tensor.name, tensor.shape, tensor.full, kept))
    merged = merge(op, layers)
    return [merged if y.rank == layers[0].rank else () for y in op.outputs]
