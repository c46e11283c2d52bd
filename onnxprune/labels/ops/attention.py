"""Fused attention: Q and K lose the same dimensions of each head, V and the output theirs, or all lose whole heads.

Y = softmax(scale * Q @ K^T + mask) @ V for each head. The default scale is 1 / sqrt(dimensions of a head): once
dimensions have gone it is written down as it was, as the softmax must not change.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from onnxprune.labels.labels import FIXED, Labels, Layer, Op, Tensor, cut_shape, line, merge
from onnxprune.labels.ops.reduction import hold_axes
from onnxprune.labels.ops.table import Change, Cut, Layers, macs, rewrite, rule
from onnxprune.model.graph import Node, Shape

MICROSOFT = "com.microsoft"
_WHY = "is attended over"
_HEADS = "is split into heads that are fixed"
_TURNED = "is turned by its position"
_SPECIAL = "is attended over with a cache, or in an unusual layout"


def _heads(op: Op, tensor: Tensor, heads: int) -> Labels:
    """Labels of [B, T, heads * D] or [B, heads, T, D] as [heads, D]; all other axes are held."""
    layer = tensor.along(tensor.rank - 1) or (tensor.along(1) if tensor.rank == 4 else None)
    for other in tensor.layers:
        if other is not layer:
            op.pin(other, _WHY)
    size = (heads, tensor.shape[-1] // (heads if tensor.rank == 3 else 1))
    if layer is None:
        return np.full(size, FIXED)
    if tensor.rank == 3:
        op.hold(layer, (0, 1), _WHY)
        return np.asarray(layer.labels.reshape(-1, tensor.shape[2])[0].reshape(size))
    op.hold(layer, (0, 2), _WHY)
    return np.asarray(np.broadcast_to(layer.labels[0, :, 0], size))


def _mask(op: Op, mask: Tensor | None, keys: Labels) -> None:
    """A mask [.., heads or 1, T, S]: a head takes its part of it along."""
    if mask is None:
        return
    axis = mask.rank - 3
    layer = next((la for la in mask.layers if la.axes == (axis,)), None)
    for other in mask.layers:
        if other is not layer:
            op.pin(other, "masks an attention")
    if layer is not None:
        op.say.together(layer.labels.reshape(-1, 1), keys)
    elif axis >= 0 and mask.full[axis] > 1:
        op.say.intact(keys)


def _output(labels: Labels, y: Tensor) -> Layers:
    """The layer of an attention's output, in three or four dimensions."""
    if y.rank == 3:
        return (line(labels, 2, 3),)
    return (Layer(labels[None, :, None, :], (1, 3), 3),)


def _refused(op: Op) -> Sequence[Layers]:
    for tensor in op.inputs:
        op.keep_all(tensor, _SPECIAL)
    return [() for _ in op.outputs]


@rule("Attention")
def attention(op: Op) -> Sequence[Layers]:
    """Q, K, V, mask, past: [B, heads, T, D], or [B, T, heads * D] with the number of heads in attributes."""
    q, k, v = (op.inputs[i] for i in range(3))
    assert q is not None
    assert k is not None
    assert v is not None
    if op.has(4) or op.has(5) or len(op.outputs) > 1:
        return _refused(op)
    own = q.shape[1] if q.rank == 4 else op.attrs["q_num_heads"]
    shared = k.shape[1] if k.rank == 4 else op.attrs["kv_num_heads"]
    return [_attend(op, (q, k, v), (own, shared), op.tensor(3))]


def _attend(op: Op, inputs: tuple[Tensor, Tensor, Tensor], heads: tuple[int, int], mask: Tensor | None) -> Layers:
    """What all attention of Q, K and V shares. Gives the layers of the output.

    ``heads``: of Q, and of K and V, each of which serves as many heads of Q one after the other, and goes with them.
    """
    served = heads[0] // heads[1]
    query = _heads(op, inputs[0], heads[0])
    keys, values = (_heads(op, tensor, heads[1]) for tensor in inputs[1:])
    op.say.equate(query, keys.repeat(served, axis=0), _HEADS)
    op.say.together(keys, values)
    _mask(op, mask, keys.repeat(served, axis=0))
    op.say.read(0)
    return _output(values.repeat(served, axis=0), op.outputs[0])


def _left(cut: Cut, labels: Labels | None, heads: int) -> int:
    """How many heads are left of ``labels``, all of which are laid out head by head."""
    return heads if labels is None else int(cut.alive(labels.reshape(heads, -1)).any(axis=1).sum())


def _last(tensor: Tensor | None) -> Labels | None:
    """The labels along the last axis, at the first position of all others."""
    layer = tensor.along(tensor.rank - 1) if tensor else None
    return None if tensor is None or layer is None else layer.labels.reshape(-1, tensor.shape[-1])[0]


@rewrite("Attention")
def rewrite_attention(cut: Cut) -> Change:
    """The number of heads that are left, and the scale that the original had."""
    q = cut.op.inputs[0]
    assert q is not None
    if q.rank == 4:
        return _written(cut, q.shape[3], {})
    heads = cut.op.attrs["q_num_heads"]
    left = _left(cut, _last(q), heads)
    shared = left * cut.op.attrs["kv_num_heads"] // heads
    return _written(cut, q.shape[2] // heads, {"q_num_heads": left, "kv_num_heads": shared})


def _written(cut: Cut, size: int, numbers: dict[str, int]) -> Change:
    """What a node says of its heads, each of ``size`` dimensions in the original."""
    scale = {} if cut.op.attrs.get("scale", 0) else {"scale": 1 / math.sqrt(size)}
    return Change(attrs={**numbers, **scale})


@macs("Attention")
def attention_macs(node: Node, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    """Q @ K^T and the product with V: B * T * S * heads * (D + Dv)."""
    del node
    q, k, y = inputs[0], inputs[1], outputs[0]
    return q[0] * q[-2] * k[-2] * (q[-1] * (q[1] if len(q) == 4 else 1) + y[-1] * (y[1] if len(y) == 4 else 1))


@rule("RotaryEmbedding")
@rule("RotaryEmbedding", domain=MICROSOFT)
def rotary_embedding(op: Op) -> Sequence[Layers]:
    """X: [B, heads, T, D] or [B, T, heads * D], tables of sines and positions: whole heads can go."""
    x = op.inputs[0]
    assert x is not None
    for table in op.inputs[1:]:
        op.keep_all(table, _TURNED)
    heads = x.shape[1] if x.rank == 4 else op.attrs.get("num_heads", 0)
    if not heads:
        op.keep_all(x, _TURNED)
        return [()]
    labels = _heads(op, x, heads)
    op.say.equate(labels, labels[:, :1], _TURNED)
    return [_output(labels, op.outputs[0])]


@rewrite("RotaryEmbedding")
@rewrite("RotaryEmbedding", domain=MICROSOFT)
def rewrite_rotary_embedding(cut: Cut) -> Change:
    """The number of heads that are left, where it is said."""
    heads, y = cut.op.attrs.get("num_heads", 0), cut.outputs[0]
    shape = cut_shape(y, cut.alive)
    left = shape[1] if y.rank == 4 else heads * shape[2] // y.shape[2]
    return Change(attrs={"num_heads": left}) if heads else Change()


@rule("MultiHeadAttention", domain=MICROSOFT)
def multi_head_attention(op: Op) -> Sequence[Layers]:
    """Q, K, V: [B, T, heads * D], bias: [Q's + K's + V's channels], key mask, attention bias [B, heads, T, S], past."""
    q, k, v = (op.tensor(i) for i in range(3))
    plain = q is not None and k is not None and v is not None and {q.rank, k.rank, v.rank} == {3}
    if not plain or any(op.has(i) for i in range(6, len(op.node.inputs))) or len(op.outputs) > 1:
        return _refused(op)
    assert q is not None
    assert k is not None
    assert v is not None
    op.keep_all(op.tensor(4), "masks an attention")
    layers = _attend(op, (q, k, v), (op.attrs["num_heads"],) * 2, op.tensor(5))
    if (bias := op.tensor(3)) is not None:
        vectors = [
            found if (found := _last(t)) is not None else np.full(t.shape[2], FIXED, np.int64) for t in (q, k, v)
        ]
        labels = np.concatenate(vectors)
        merge(op, [bias, Tensor("", labels.shape, bias.full, (line(labels, 0, 1),))])
        op.say.read(3)
    return [layers]


@rewrite("MultiHeadAttention", domain=MICROSOFT)
def rewrite_multi_head_attention(cut: Cut) -> Change:
    """The number of heads that are left, and the scale that the original had."""
    q = cut.op.inputs[0]
    assert q is not None
    heads = cut.op.attrs["num_heads"]
    return _written(cut, q.shape[2] // heads, {"num_heads": _left(cut, _last(q), heads)})


macs("MultiHeadAttention", domain=MICROSOFT)(attention_macs)


@rule("Attention", domain=MICROSOFT)
def packed_attention(op: Op) -> Sequence[Layers]:
    """X: [B, T, I], W: [I, 3 * heads * D] for Q, K and V, bias: [3 * heads * D], masks and past."""
    x, w = op.inputs[0], op.inputs[1]
    assert x is not None
    assert w is not None
    special = op.attrs.get("qkv_hidden_sizes") or op.attrs.get("do_rotary", 0) or len(op.outputs) > 1
    plain = not special and not any(op.has(i) for i in (4, 6))
    into, own = w.along(0), w.along(1)
    if not plain or into is None or own is None:
        return _refused(op)
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
    labels = own.labels.reshape(3, op.attrs["num_heads"], -1)
    query, key, value = labels
    op.say.equate(query, key, _HEADS)
    op.say.together(key, value)
    op.say.split(labels)
    _mask(op, op.tensor(5), key)
    if (bias := op.tensor(2)) is not None:
        merge(op, [bias, Tensor("", (labels.size,), bias.full, (line(labels, 0, 1),))])
    return [_output(value, op.outputs[0])]


@rewrite("Attention", domain=MICROSOFT)
def rewrite_packed_attention(cut: Cut) -> Change:
    """The number of heads that are left, and the scale that the original had."""
    w = cut.op.inputs[1]
    assert w is not None
    heads, labels = cut.op.attrs["num_heads"], _last(w)
    left = _left(cut, None if labels is None else labels[: len(labels) // 3], heads)
    return _written(cut, w.shape[1] // 3 // heads, {"num_heads": left})


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
