"""Operators that sum over channels: they end the labels that come in and start the weight's own.

Y = sum over k of X[.., k, ..] * W[k, n]: the weight's input axis carries the labels of X, its output axis fresh ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from onnxprune.labels.labels import FIXED, Labels, Layer, Op, Tensor, line, merge, rows_of
from onnxprune.labels.ops.patches import gather
from onnxprune.labels.ops.reduction import hold_axes
from onnxprune.labels.ops.table import (
    Blocks,
    Change,
    Cut,
    Kernel,
    Layers,
    Linear,
    blocks,
    kernel,
    linear,
    macs,
    rewrite,
    rule,
)
from onnxprune.model.graph import Node, Shape

_FIXED_INPUT = "reads channels that are fixed"
_DEPTHWISE = "is a depthwise convolution of fixed channels"


def _flat(op: Op, tensor: Tensor, axis: int) -> Labels:
    """The labels along ``axis``, which alone may be labelled there; FIXED where nothing is."""
    layer = tensor.along(axis)
    if layer is None:
        return np.full(tensor.shape[axis], FIXED, np.int64)
    first = layer.labels[tuple(slice(None) if a == axis else slice(0, 1) for a in range(tensor.rank))]
    if len(layer.axes) > 1:
        op.say.equate(layer.labels, first, "its channels are summed over")
    flat = first.reshape(-1)
    return flat if len(flat) == tensor.shape[axis] else np.asarray(np.broadcast_to(flat, tensor.shape[axis]))


def _hold_kernel(op: Op, x: Tensor, w: Tensor) -> None:
    """Spatial axes keep their length."""
    for tensor, what in ((x, "is convolved along these positions"), (w, "")):
        for layer in tensor.layers:
            op.hold(layer, range(2, tensor.rank), what)


def _depthwise(op: Op, x: Tensor) -> bool:
    """Whether each channel of the original model is a group of its own."""
    return bool(x.full[1] == op.node.attrs.get("group", 1) > 1)


def _batch(x: Tensor) -> Layers:
    return tuple(la for la in x.layers if la.axes == (0,))


def _convolve(op: Op, group: int, x: Tensor, w: Tensor, into: Labels, out: Labels, zero: int | None = None) -> Layer:
    """The contraction that all convolutions share.

    x: [N, C, ...] with C in ``group`` blocks; ``into``: the weight's labels [group, any, C/group] that meet them;
    ``out``: [group, O/group], the labels that the weight gives; ``zero``: the input that holds the zero point of x.
    Returns the layer of axis 1 of the output.
    """
    _hold_kernel(op, x, w)
    labels = _flat(op, x, 1)
    incoming = labels.reshape(group, 1, -1)
    if _depthwise(op, x):  # a channel goes with the outputs it makes
        op.say.equate(np.broadcast_to(incoming[:, 0], out.shape), out, _DEPTHWISE)
        return line(out, 1, x.rank)
    op.say.equate(incoming, into, _FIXED_INPUT)
    op.role(w, into, "in")
    if x.along(1) is not None:
        op.say.read(0, zero)
    if group > 1:
        op.say.intact(labels.reshape(group, -1))
        op.say.intact(out)
    return line(out, 1, x.rank)


def convolution(op: Op, x: Tensor | None, w: Tensor | None, bias: Tensor | None, zero: int | None = None) -> Layers:
    """The layers of a convolution. X: [N, C, *S], W: [O, C/group, *kernel], B: [O]."""
    assert x is not None
    assert w is not None
    group = int(op.attrs.get("group", 1))
    out = _flat(op, w, 0).reshape(group, -1)
    into = _per_block(w, group)
    op.role(w, out, "out")
    given = _convolve(op, group, x, w, into, out, zero)
    y = op.outputs[0]
    result = Tensor(y.name, y.shape, y.full, (*_batch(x), given))
    return merge(op, [result, bias.at_axis(1, x.rank) if bias else None])


@rule("Conv")
def conv(op: Op) -> Sequence[Layers]:
    """X, W, B."""
    return [convolution(op, op.inputs[0], op.inputs[1], op.tensor(2))]


@rule("FusedConv", domain="com.microsoft")
def fused_conv(op: Op) -> Sequence[Layers]:
    """X, W, B, and Z, which is added."""
    y = op.outputs[0]
    layers = convolution(op, op.inputs[0], op.inputs[1], op.tensor(2))
    return [merge(op, [Tensor(y.name, y.shape, y.full, layers), op.tensor(3)])]


def _per_block(w: Tensor, group: int) -> Labels:
    """The weight's labels along axis 1 as [group, rows of a block, columns]."""
    layer = w.along(1)
    if layer is None:
        return np.full((group, 1, w.shape[1]), FIXED, np.int64)
    flat = layer.labels.reshape(layer.labels.shape[0], -1)
    if len(flat) == 1:  # all rows are alike: one is enough
        return np.broadcast_to(flat, (group, w.shape[1])).reshape(group, 1, -1)
    return flat.reshape(group, -1, w.shape[1])


@blocks("Conv")
@blocks("FusedConv", domain="com.microsoft")
def conv_blocks(node: Node) -> Mapping[int, Blocks]:
    """A group convolution may keep other inputs in each group."""
    group = int(node.attrs.get("group", 1))
    return {1: Blocks(rows=0, columns=1, count=group)} if group > 1 else {}


@rule("ConvTranspose")
def conv_transpose(op: Op) -> Sequence[Layers]:
    """X: [N, C, *S], W: [C, O/group, *kernel], B: [O]."""
    x, w = op.inputs[0], op.inputs[1]
    assert x is not None
    assert w is not None
    group = int(op.attrs.get("group", 1))
    rows = _flat(op, w, 0)
    out = _per_block(w, group)[:, 0, :]
    if _depthwise(op, x):  # the rows of the weight are the channels themselves
        own, out = out, np.broadcast_to(rows.reshape(group, 1), out.shape)
        if w.along(1) is not None:
            op.say.equate(own, out, _DEPTHWISE)
    op.role(w, out, "out")
    given = _convolve(op, group, x, w, rows.reshape(group, 1, -1), out)
    shape = op.outputs[0]
    bias = op.tensor(2)
    result = Tensor(shape.name, shape.shape, shape.full, (*_batch(x), given))
    return [merge(op, [result, bias.at_axis(1, x.rank) if bias else None])]


blocks("ConvTranspose")(conv_blocks)


@rewrite("Conv", "ConvTranspose")
@rewrite("FusedConv", domain="com.microsoft")
def rewrite_group(cut: Cut) -> Change:
    """A depthwise convolution has as many groups as it has channels left."""
    before, after = cut.op.inputs[0], cut.inputs[0]
    assert before is not None
    assert after is not None
    group = cut.op.attrs.get("group", 1)
    if group > 1 and group == before.shape[1] and after.shape[1] != group:
        return Change(attrs={"group": after.shape[1]})
    return Change()


@macs("Conv")
@macs("FusedConv", domain="com.microsoft")
def conv_macs(node: Node, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    """Each output position takes one row of the weight: N * prod(S_out) * numel(W)."""
    del node
    return _numel(inputs[1]) * outputs[0][0] * _numel(outputs[0][2:])


@macs("ConvTranspose")
def conv_transpose_macs(node: Node, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    """Each input position is spread by one row of the weight: N * prod(S_in) * numel(W)."""
    del node, outputs
    return _numel(inputs[1]) * inputs[0][0] * _numel(inputs[0][2:])


@linear("Conv")
def conv_linear(node: Node, inputs: Sequence[Tensor | None]) -> Linear | None:
    """Without padding every output position sees the whole kernel."""
    w = inputs[1]
    if w is None:
        return None
    group = int(node.attrs.get("group", 1))
    padded = any(node.attrs.get("pads", ())) or (_auto_padded(node) and _numel(w.full[2:]) > 1)

    kernel = w.full[2:]
    return Linear(
        matrix=lambda array: array.reshape(group, array.shape[0] // group, array.shape[1], -1),
        weight=lambda matrix: matrix.reshape(-1, matrix.shape[2], *kernel),
        patches=lambda x, y, rows: gather(node, kernel, x, y, rows, transposed=False),
        summed=1,
        made=1,
        uniform=not padded,
    )


@linear("ConvTranspose")
def conv_transpose_linear(node: Node, inputs: Sequence[Tensor | None]) -> Linear | None:
    """Output positions see different taps, unless there is but one, and no position lies between two inputs."""
    w = inputs[1]
    if w is None:
        return None
    group = int(node.attrs.get("group", 1))
    spread = any(s > 1 for s in node.attrs.get("strides", ())) or any(node.attrs.get("pads", ()))
    spread = spread or any(node.attrs.get("output_padding", ())) or "output_shape" in node.attrs

    kernel = w.full[2:]
    return Linear(
        matrix=lambda array: array.reshape(group, array.shape[0] // group, array.shape[1], -1).transpose(0, 2, 1, 3),
        weight=lambda matrix: matrix.transpose(0, 2, 1, 3).reshape(-1, matrix.shape[1], *kernel),
        patches=lambda x, y, rows: gather(node, kernel, x, y, rows, transposed=True),
        summed=1,
        made=1,
        uniform=_numel(kernel) == 1 and not spread,
    )


def _auto_padded(node: Node) -> bool:
    return node.attrs.get("auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER", b"SAME_UPPER", b"SAME_LOWER")


@kernel("Conv")
@kernel("FusedConv", domain="com.microsoft")
def conv_kernel(node: Node, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> Kernel:
    """X: [N, C, *S], W: [O, C/group, *kernel]."""
    x, w, y = inputs[0], inputs[1], outputs[0]
    groups = x[1] // w[1] if w[1] else 1  # not the attribute: the shapes may be those of other widths
    del node
    return Kernel(x[1], w[0], groups, w[2:], _numel(x[2:]), _numel(y[2:]), x[0])


@kernel("ConvTranspose")
def conv_transpose_kernel(node: Node, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> Kernel:
    """X: [N, C, *S], W: [C, O/group, *kernel]."""
    x, w, y = inputs[0], inputs[1], outputs[0]
    groups = y[1] // w[1] if w[1] else 1
    del node
    return Kernel(x[1], y[1], groups, w[2:], _numel(x[2:]), _numel(y[2:]), x[0])


def _numel(shape: Shape) -> int:
    return math.prod(shape)


# --- matrix products ------------------------------------------------------------------------------------------------


def product(
    op: Op,
    positions: tuple[int, int] = (0, 1),
    *,
    zeros: tuple[int | None, int | None] = (None, None),
    transposed: tuple[object, object] = (0, 0),
    batch_second: tuple[object, object] = (0, 0),
) -> Layers:
    """Layers of A @ B. A: [..., M, K], B: [..., K, N]; ``zeros``: the inputs that hold their zero points.

    ``batch_second``: sides whose first axis stands before the batch axes, [M, ..., K], before they are ``transposed``.
    """
    sides = [op.inputs[p] for p in positions]
    a, b = sides
    assert a is not None
    assert b is not None
    if min(a.rank, b.rank) < 2:
        for side in (a, b):
            op.keep_all(side, "is multiplied with a vector")
        return ()
    rank = max(a.rank, b.rank)
    swap = [*range(rank - 2), rank - 1, rank - 2]
    a, b = (
        side.transposed([*range(1, side.rank - 1), 0, side.rank - 1]) if first else side
        for side, first in zip((a, b), batch_second, strict=True)
    )
    a, b = (
        side.with_leading(rank).transposed(swap) if flip else side.with_leading(rank)
        for side, flip in zip((a, b), transposed, strict=True)
    )
    left, right = a.along(rank - 1), b.along(rank - 2)
    if left is not None and right is not None:
        op.say.equate(_summed(op, a, rank - 1, rank - 2), _summed(op, b, rank - 2, rank - 1), _FIXED_INPUT)
    heads: list[Layer | None] = []
    for position, zero, tensor, layer, axis in zip(
        positions, zeros, (a, b), (left, right), (rank - 1, rank - 2), strict=True
    ):
        if layer is None:
            heads.append(None)
            continue
        op.role(tensor, layer.labels, "in")
        if left is None or right is None:
            heads.append(next(iter(hold_axes(op, replace(tensor, layers=(layer,)), [axis], _FIXED_INPUT)), None))
            continue
        heads.append(_heads(op, layer, rank))
        if not tensor.constant or (a.constant and b.constant):
            op.say.read(position, zero)
    for tensor, axis in ((b, rank - 1), (a, rank - 2)):
        if (out := tensor.along(axis)) is not None:
            op.role(tensor, out.labels, "out")
    return merge(op, [_rest(a, rank - 1, left, heads[0]), _rest(b, rank - 2, right, heads[1])])


def _rest(tensor: Tensor, axis: int, summed: Layer | None, heads: Layer | None) -> Tensor:
    """A side of a product once ``axis`` is summed: of its ``summed`` layer ``heads`` is left."""
    layers = tuple(la for la in tensor.layers if la is not summed)
    return replace(
        tensor,
        shape=tuple(1 if a == axis else s for a, s in enumerate(tensor.shape)),
        full=tuple(1 if a == axis else s for a, s in enumerate(tensor.full)),
        layers=(*layers, heads) if heads is not None else layers,
    )


def _heads(op: Op, layer: Layer, rank: int) -> Layer | None:
    """What is left of a layer that is summed over its columns: a channel for each of its rows, which goes with it."""
    batch = [a for a in layer.axes if a < rank - 2]
    if len(batch) != 1 or layer.columns in batch or op.outputs[0].rank != rank:
        op.hold(layer, batch, "is summed over")
        return None
    own = op.say.fresh(op.outputs[0], batch[0])
    op.say.together(own.labels.reshape(-1, 1), rows_of(layer, batch))
    return own


def _summed(op: Op, tensor: Tensor, axis: int, other: int) -> Labels:
    """The labels of the summed ``axis``, last, behind those of the batch axes."""
    layer = tensor.along(axis)
    if layer is None:
        return np.full(tensor.shape[axis], FIXED, np.int64)
    if other in layer.axes:
        op.say.equate(layer.labels, layer.labels.take([0], other), "its channels are summed over")
    return np.asarray(layer.labels.take(0, other))


@rule("MatMul")
def matmul(op: Op) -> Sequence[Layers]:
    """numpy.matmul: leading axes broadcast."""
    return [product(op)]


@rule("FusedMatMul", domain="com.microsoft")
def fused_matmul(op: Op) -> Sequence[Layers]:
    """MatMul of transposed sides, scaled."""
    flips = (op.attrs.get("transA", 0), op.attrs.get("transB", 0))
    firsts = (op.attrs.get("transBatchA", 0), op.attrs.get("transBatchB", 0))
    return [product(op, transposed=flips, batch_second=firsts)]


@rule("Gemm")
@rule("FusedGemm", domain="com.microsoft")
def gemm(op: Op) -> Sequence[Layers]:
    """Y = alpha * A' @ B' + beta * C. A': [M, K], B': [K, N], C broadcast to [M, N]."""
    y = op.outputs[0]
    layers = product(op, transposed=(op.attrs.get("transA", 0), op.attrs.get("transB", 0)))
    return [merge(op, [Tensor(y.name, y.shape, y.full, layers), op.tensor(2)])]


@linear("MatMul", "Gemm")
def product_linear(node: Node, inputs: Sequence[Tensor | None]) -> Linear | None:
    """With a weight [K, N] on the right; a MatMul has no bias."""
    x, w = inputs[0], inputs[1]
    if x is None or w is None or x.rank < 2 or w.rank != 2:
        return None
    flipped = bool(node.attrs.get("transB", 0))
    summed = x.rank - (2 if node.attrs.get("transA", 0) else 1)
    alpha, beta = float(node.attrs.get("alpha", 1.0)), float(node.attrs.get("beta", 1.0))
    return Linear(
        matrix=lambda array: (array if flipped else array.T)[None, :, :, None],
        weight=lambda matrix: np.ascontiguousarray(matrix[0, :, :, 0] if flipped else matrix[0, :, :, 0].T),
        patches=lambda x, _, rows: np.moveaxis(x, summed, -1).reshape(-1, x.shape[summed])[rows][:, None, :, None],
        summed=summed,
        made=x.rank - 1,
        bias=node.op == "Gemm",
        alpha=alpha,
        beta=beta,
    )


@kernel("Gemm")
def gemm_kernel(node: Node, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> Kernel:
    """A 1x1 convolution of one position: Y: [M, N]."""
    into = inputs[0][0 if node.attrs.get("transA", 0) else 1]
    return Kernel(into, outputs[0][1], 1, (1,), 1, 1, outputs[0][0])


@macs("MatMul", "Gemm")
@macs("FusedMatMul", "FusedGemm", domain="com.microsoft")
def product_macs(node: Node, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    """One per output element and summed position."""
    rows = 0 if node.attrs.get("transBatchA", 0) else -2
    summed = inputs[0][rows] if node.attrs.get("transA", 0) else inputs[0][-1]
    return _numel(outputs[0]) * summed
