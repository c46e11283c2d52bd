"""Elementwise operators: positions that meet are the same channel; the layers go through.

Whether a zero input gives a zero output does not matter here: nothing reads a removed channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.labels.constant_channels import Facts, Known, placed, pointwise, zeros_moved
from onnxprune.labels.labels import FIXED, Op, Tensor, merge
from onnxprune.labels.ops.table import Layers, gathers, known, rule
from onnxprune.model.dtypes import NUMPY_FLOATS
from onnxprune.running.stand_in_nodes import QONNX, QUANTIZERS

# fmt: off
UNARY = (
    "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitwiseNot", "Cast", "Ceil", "Celu", "Clip", "Cos",
    "Cosh", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN",
    "LeakyRelu", "Log", "Mish", "Neg", "Not", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign",
    "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu",
)
BROADCAST = (
    "Add", "And", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Equal", "Greater", "GreaterOrEqual",
    "Less", "LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul", "Or", "Pow", "PRelu", "Sub", "Sum", "Where", "Xor",
)
#: Continuous where they are defined: rounding in an input stays rounding in the output.
CONTINUOUS = (
    "Abs", "Asinh", "Atan", "Celu", "Clip", "Cos", "Cosh", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish",
    "Identity", "LeakyRelu", "Mish", "Neg", "Relu", "Selu", "Sigmoid", "Sin", "Sinh", "Softplus", "Softsign", "Swish",
    "Tanh", "Add", "Div", "Max", "Mean", "Min", "PRelu", "Sub", "Sum", "Where",
)
CONTRIB = ("BiasGelu", "FastGelu", "Gelu", "QuickGelu")
# fmt: on


@rule(*UNARY, *BROADCAST)
@rule(*CONTRIB, domain="com.microsoft")
def elementwise(op: Op) -> Sequence[Layers]:
    """Y[p] = f(A[p], B[p], ...), with broadcasting from the last axis."""
    return [merge(op, op.inputs)]


for _domain in QONNX:
    rule(*QUANTIZERS, domain=_domain)(elementwise)
known(*CONTINUOUS)(pointwise)
known("Gelu", "QuickGelu", domain="com.microsoft")(zeros_moved)


@known("Mul")
def known_product(facts: Facts) -> Sequence[Known | None]:
    """A known 0 makes the product 0."""
    factors = [k for p in range(len(facts.inputs)) if (k := facts.known(p)) is not None]
    if not factors:
        return [None]
    zero = reduce(np.logical_or, [k.zero for k in factors])
    (both,) = pointwise(facts)
    if both is None:
        return [Known(np.zeros(zero.shape, factors[0].value.dtype), zero)]
    return [Known(np.where(zero, np.zeros((), both.value.dtype), both.value), zero | both.mask)]


@known("Cast")
def known_cast(facts: Facts) -> Sequence[Known | None]:
    """Between floats: to integers and booleans it is not continuous."""
    return pointwise(facts) if facts.node.attrs.get("to") in NUMPY_FLOATS else [None]


gathers("adds", "Add", "Sum")
gathers("multiplies", "Mul")


@rule("CastLike")
def first_input(op: Op) -> Sequence[Layers]:
    """Only the second input's type matters."""
    return [merge(op, op.inputs[:1])]


@rule("Dropout")
def dropout(op: Op) -> Sequence[Layers]:
    """Inference mode: the output and the mask have the input's channels."""
    layers = merge(op, op.inputs[:1])
    return [layers for _ in op.outputs]


@known("Dropout")
def known_dropout(facts: Facts) -> Sequence[Known | None]:
    """What comes in goes out, but in training mode."""
    return [None if facts.has(2) else facts.known(0)]


@rule("QuantizeLinear", "DequantizeLinear")
def quantize(op: Op) -> Sequence[Layers]:
    """Scale and zero point are scalars, vectors along ``axis`` (opset 13 on), or one a block of it (opset 21)."""
    x = op.inputs[0]
    assert x is not None
    axis = op.attrs.get("axis", 1) % max(x.rank, 1)
    if op.attrs.get("block_size", 0):
        return [_in_blocks(op, x, axis, op.attrs["block_size"])]
    return [merge(op, [x, *(t.at_axis(axis, x.rank) if t else None for t in op.inputs[1:])])]


def _in_blocks(op: Op, x: Tensor, axis: int, size: int) -> Layers:
    """Whole blocks of ``size`` channels go along ``axis``, with their scale; of a single block, any of them."""
    tensors = [t for t in op.inputs if t is not None]
    if any(axis in la.axes and len(la.axes) > 1 for t in tensors for la in t.layers):
        for tensor in tensors:
            op.keep_all(tensor, "is quantized in blocks")
        return ()
    across = [
        replace(
            t,
            full=(*t.full[:axis], 1, *t.full[axis + 1 :]),
            layers=tuple(la for la in t.layers if axis not in la.axes),
        )
        for t in tensors
    ]
    along = x.along(axis)
    if along is not None:
        flat = along.labels.reshape(-1)
        rows = np.append(flat, np.repeat(flat[-1:], -len(flat) % size)).reshape(-1, size)
        for scale in (t for t in tensors[1:] if t.full[axis] > 1):
            own = scale.along(axis)
            fixed = np.full(scale.shape[axis], FIXED) if own is None else own.labels
            op.say.equate(rows, fixed.reshape(-1, 1), "is quantized in blocks that are fixed")
    return (*merge(op, across), *([along] if along else []))


@known("QuantizeLinear")
def known_quantized(facts: Facts) -> Sequence[Known | None]:
    """0 becomes the zero point. Other constants are let go: they would leave a float bias in a quantized model."""
    x, zero = facts.known(0), _zero_point(facts)
    if x is None or zero is None:
        return [None]
    return [Known(np.broadcast_to(zero, np.broadcast_shapes(zero.shape, x.zero.shape)), x.zero)]


@known("DequantizeLinear")
def known_dequantized(facts: Facts) -> Sequence[Known | None]:
    """The zero point becomes 0."""
    x, zero, scale = facts.known(0), _zero_point(facts), facts.known(1)
    if x is None or zero is None or scale is None:
        return [None]
    mask = x.mask & (x.value == zero)
    return [Known(np.zeros(mask.shape, scale.value.dtype), mask)]


def _zero_point(facts: Facts) -> NDArray[Any] | None:
    """The zero point as it lies along its axis; 0 where none is given. None where it is not a constant."""
    x = facts.inputs[0]
    if x is None or facts.node.attrs.get("block_size", 0):
        return None
    if not facts.has(2):
        return np.zeros((1,) * x.rank, np.uint8)
    zero = facts.known(2)
    return None if zero is None else placed(zero.value, facts.node.attrs.get("axis", 1) % max(x.rank, 1), x.rank)


@rule("Branches", domain="onnxprune")
def branches(op: Op) -> Sequence[Layers]:
    """Y_i = T_i if C else E_i, for each i: inputs are C, then all T, then all E.

    The branches of an If are written out (`onnxprune.model.written_out`), and this operator of our own joins them.
    """
    found: list[Layers] = []
    count = len(op.node.outputs)
    for index, out in enumerate(op.outputs):
        pair = [op.tensor(1 + index), op.tensor(1 + count + index)]
        if any(t is None or t.full != out.full for t in pair):
            for tensor in pair:
                op.keep_all(tensor, "has another shape in the other branch")
            found.append(())
        else:
            found.append(merge(op, pair, "has fixed channels in the other branch"))
    return found
