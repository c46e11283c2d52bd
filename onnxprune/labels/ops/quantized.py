"""Operators on integers: the contraction or the elementwise rule, with scales and zero points cut along.

A channel of a quantized tensor is zero where it holds its zero point, which is what a read says beside its position.
onnxruntime's quantizer writes QuantizeLinear and DequantizeLinear of 16 bits in its own domain before opset 21.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from onnxprune.labels.labels import FIXED, Op, Tensor, line, merge
from onnxprune.labels.ops.contracting import conv_blocks, conv_macs, convolution, product, product_macs, rewrite_group
from onnxprune.labels.ops.elementwise import known_dequantized, known_quantized, quantize
from onnxprune.labels.ops.movement.joining import concatenation
from onnxprune.labels.ops.reduction import hold_axes
from onnxprune.labels.ops.table import Blocks, Change, Cut, Layers, blocks, known, macs, rewrite, rule
from onnxprune.model.graph import Node, Shape

MICROSOFT = "com.microsoft"

rule("QuantizeLinear", "DequantizeLinear", domain=MICROSOFT)(quantize)
known("QuantizeLinear", domain=MICROSOFT)(known_quantized)
known("DequantizeLinear", domain=MICROSOFT)(known_dequantized)

_BLOCKS = "is quantized in blocks"


def _scaled(op: Op, layers: Layers, axis: int, positions: Sequence[int]) -> Layers:
    """``layers`` of the output, combined with scales and zero points that lie along ``axis`` where they are vectors."""
    y = op.outputs[0]
    vectors = [t.at_axis(axis % y.rank, y.rank) for p in positions if (t := op.tensor(p)) is not None]
    return merge(op, [Tensor(y.name, y.shape, y.full, layers), *(v for v in vectors if v.rank <= y.rank)])


@rule("QLinearConv")
def qlinear_conv(op: Op) -> Sequence[Layers]:
    """X, x_scale, x_zero, W, w_scale, w_zero, y_scale, y_zero, B: scale and zero point of W are scalars or [O]."""
    layers = convolution(op, op.inputs[0], op.inputs[3], op.tensor(8), zero=2)
    return [_scaled(op, layers, 1, (4, 5))]


@rule("ConvInteger")
def conv_integer(op: Op) -> Sequence[Layers]:
    """X, W, x_zero, w_zero."""
    layers = convolution(op, op.inputs[0], op.inputs[1], None, zero=2)
    return [_scaled(op, layers, 1, (3,))]


@blocks("QLinearConv")
def qlinear_conv_blocks(node: Node) -> dict[int, Blocks]:
    """As Conv's, at the weight's position."""
    own = conv_blocks(node)
    return {3: own[1]} if own else {}


blocks("ConvInteger")(conv_blocks)
rewrite("QLinearConv", "ConvInteger")(rewrite_group)
macs("ConvInteger")(conv_macs)


@macs("QLinearConv")
def qlinear_conv_macs(node: Node, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    """As Conv's, with the weight at its position."""
    return conv_macs(node, [inputs[0], inputs[3]], outputs)


@rule("QLinearMatMul")
def qlinear_matmul(op: Op) -> Sequence[Layers]:
    """A, a_scale, a_zero, B, b_scale, b_zero, y_scale, y_zero."""
    return [_scaled(op, product(op, (0, 3), zeros=(2, 5)), -1, (4, 5))]


@rule("MatMulInteger")
def matmul_integer(op: Op) -> Sequence[Layers]:
    """A, B, a_zero, b_zero."""
    return [_scaled(op, product(op, (0, 1), zeros=(2, 3)), -1, (3,))]


@rule("DynamicQuantizeLinear")
def dynamic_quantize_linear(op: Op) -> Sequence[Layers]:
    """X -> Y, scale, zero point. The range always holds 0: a channel of zeros does not change it."""
    x = op.inputs[0]
    assert x is not None
    if x.layers:
        op.say.read(0)
    return [x.layers, (), ()]


@rule("MatMulIntegerToFloat", domain=MICROSOFT)
def matmul_integer_to_float(op: Op) -> Sequence[Layers]:
    """A, B, a_scale, b_scale, a_zero, b_zero, bias."""
    return [_scaled(op, product(op, zeros=(4, 5)), -1, (3, 5, 6))]


@rule("DynamicQuantizeMatMul", domain=MICROSOFT)
def dynamic_quantize_matmul(op: Op) -> Sequence[Layers]:
    """A of floats, B, b_scale, b_zero, bias: A is quantized at run time, in a range that holds 0."""
    return [_scaled(op, product(op, zeros=(None, 3)), -1, (2, 3, 4))]


@rule("QGemm", domain=MICROSOFT)
def qgemm(op: Op) -> Sequence[Layers]:
    """A, a_scale, a_zero, B, b_scale, b_zero, C, y_scale, y_zero; B may be transposed."""
    layers = product(op, (0, 3), zeros=(2, 5), transposed=(op.attrs.get("transA", 0), op.attrs.get("transB", 0)))
    y = op.outputs[0]
    return [merge(op, [Tensor(y.name, y.shape, y.full, _scaled(op, layers, -1, (4, 5))), op.tensor(6)])]


macs("MatMulInteger", "QLinearMatMul")(product_macs)
macs("QGemm", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", domain=MICROSOFT)(product_macs)


@rule("QLinearAdd", "QLinearMul", domain=MICROSOFT)
def qlinear_binary(op: Op) -> Sequence[Layers]:
    """A, a_scale, a_zero, B, b_scale, b_zero, c_scale, c_zero."""
    return [merge(op, [op.tensor(0), op.tensor(3)])]


@rule("QLinearLeakyRelu", "QLinearSigmoid", domain=MICROSOFT)
def qlinear_unary(op: Op) -> Sequence[Layers]:
    """X, x_scale, x_zero, y_scale, y_zero."""
    return [merge(op, [op.tensor(0)])]


@rule("QLinearAveragePool", "QLinearGlobalAveragePool", domain=MICROSOFT)
def qlinear_pool(op: Op) -> Sequence[Layers]:
    """X, x_scale, x_zero, y_scale, y_zero; each channel by itself."""
    x = op.inputs[0]
    assert x is not None
    spatial = range(1, x.rank - 1) if op.attrs.get("channels_last", 0) else range(2, x.rank)
    return [hold_axes(op, x, list(spatial), "is pooled over its channels")]


@rule("QLinearSoftmax", domain=MICROSOFT)
def qlinear_softmax(op: Op) -> Sequence[Layers]:
    """X, x_scale, x_zero, y_scale, y_zero; ``opset`` says whether Softmax works along one axis or from there on."""
    x = op.inputs[0]
    assert x is not None
    axis = op.attrs.get("axis", -1) % x.rank
    axes = [axis] if op.attrs["opset"] >= 13 else range(axis, x.rank)
    return [hold_axes(op, x, axes, f"goes through {op.node.op} over its channels")]


@rule("QLinearWhere", domain=MICROSOFT)
def qlinear_where(op: Op) -> Sequence[Layers]:
    """Condition, X, x_scale, x_zero, Y, y_scale, y_zero, z_scale, z_zero."""
    return [merge(op, [op.tensor(0), op.tensor(1), op.tensor(4)])]


@rule("QLinearConcat", domain=MICROSOFT)
def qlinear_concat(op: Op) -> Sequence[Layers]:
    """y_scale, y_zero, then (X, x_scale, x_zero) for each input."""
    return [concatenation(op, [t for t in op.inputs[2::3] if t is not None])]


@rule("MatMulNBits", domain=MICROSOFT)
def matmul_nbits(op: Op) -> Sequence[Layers]:
    """A: [..., K], B: [N, K/block, bytes], scales and zero points [N, K/block] or in one row, g_idx, bias: Y [..., N].

    Channels of Y go one by one; those of A in whole blocks, where scale and zero point have a place for each.
    """
    a, b, y = op.inputs[0], op.inputs[1], op.outputs[0]
    assert a is not None
    assert b is not None
    rows, columns, left, size = b.along(0), b.along(1), a.along(a.rank - 1), op.attrs["block_size"]
    beside = [t for p in (2, 3) if (t := op.tensor(p)) is not None]
    across = [t.along(1) for t in beside if t.rank > 1]
    of_rows = np.full(b.shape[0], FIXED) if rows is None else rows.labels.reshape(-1)
    for own in (t.along(0) for t in beside):
        if own is not None:
            op.say.equate(own.labels.reshape(b.shape[0], -1), of_rows.reshape(-1, 1), _BLOCKS)
    fits = not op.has(4) and all(t.shape == b.shape[:2] for t in beside) and a.shape[-1] == b.shape[1] * size
    if left is not None and len(left.axes) == 1 and columns is not None and fits:
        op.say.equate(left.labels.reshape(-1, size), columns.labels.reshape(-1, 1), _BLOCKS)
        for layer in filter(None, across):
            op.say.equate(layer.labels.reshape(-1), columns.labels.reshape(-1), _BLOCKS)
        op.say.read(0)
        across, columns, left = [], None, None
    for layer in filter(None, (b.along(2), columns, left, *across)):
        op.pin(layer, _BLOCKS)
    op.keep_all(op.tensor(4), _BLOCKS)
    op.role(b, of_rows, "out")
    rest = tuple(la for la in a.layers if a.rank - 1 not in la.axes)
    made = () if rows is None else (line(of_rows, y.rank - 1, y.rank),)
    return [_scaled(op, (*rest, *made), -1, (5,))]


@rewrite("MatMulNBits", domain=MICROSOFT)
def rewrite_matmul_nbits(cut: Cut) -> Change:
    """The attributes say how many rows and columns there are."""
    after = cut.inputs[1]
    assert after is not None
    return Change(attrs={"N": after.shape[0], "K": min(after.shape[1] * cut.op.attrs["block_size"], cut.op.attrs["K"])})


@macs("MatMulNBits", domain=MICROSOFT)
def matmul_nbits_macs(_node: Node, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    """One per output element and summed position."""
    return math.prod(outputs[0]) * inputs[0][-1]
