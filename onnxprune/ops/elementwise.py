"""Elementwise operators: positions that meet are the same channel; the layers go through.

Whether a zero input gives a zero output does not matter here: nothing reads a removed channel.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnxprune.labels import Op, merge
from onnxprune.ops.table import Layers, rule

# fmt: off
UNARY = (
    "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitwiseNot", "Cast", "Ceil", "Celu", "Clip", "Cos",
    "Cosh", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN",
    "LeakyRelu", "Log", "Mish", "Neg", "Not", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign",
    "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu",
)
BROADCAST = (
    "Add", "And", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Equal", "Greater", "GreaterOrEqual", "Less",
    "LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul", "Or", "Pow", "PRelu", "Sub", "Sum", "Where", "Xor",
)
CONTRIB = ("BiasGelu", "FastGelu", "Gelu", "QuickGelu")
# fmt: on


@rule(*UNARY, *BROADCAST)
@rule(*CONTRIB, domain="com.microsoft")
def elementwise(op: Op) -> Sequence[Layers]:
    """Y[p] = f(A[p], B[p], ...), with broadcasting from the last axis."""
    return [merge(op, op.inputs)]


@rule("CastLike")
def first_input(op: Op) -> Sequence[Layers]:
    """Only the second input's type matters."""
    return [merge(op, op.inputs[:1])]


@rule("Dropout")
def dropout(op: Op) -> Sequence[Layers]:
    """Inference mode: the output and the mask have the input's channels."""
    layers = merge(op, op.inputs[:1])
    return [layers for _ in op.outputs]


@rule("QuantizeLinear", "DequantizeLinear")
def quantize(op: Op) -> Sequence[Layers]:
    """Scale and zero point are scalars, or vectors along ``axis`` (opset 13 on); blocks (opset 21) pin."""
    x = op.inputs[0]
    if x is None or op.attrs.get("block_size", 0):
        for tensor in op.inputs:
            op.keep_all(tensor, "is quantized in blocks")
        return [()]
    axis = op.attrs.get("axis", 1) % max(x.rank, 1)
    return [merge(op, [x, *(t.at_axis(axis, x.rank) if t else None for t in op.inputs[1:])])]
