"""Operators of onnxruntime's own domain that are standard ones, of more types or with an activation behind.

Its quantizer writes QuantizeLinear and DequantizeLinear of 16 bits there before opset 21, its optimizer FusedGemm.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnxprune.labels.labels import Op, merge
from onnxprune.labels.ops.contracting import gemm, product_macs
from onnxprune.labels.ops.elementwise import known_dequantized, known_quantized, quantize
from onnxprune.labels.ops.reduction import hold_axes
from onnxprune.labels.ops.table import Layers, known, macs, rule

MICROSOFT = "com.microsoft"

rule("QuantizeLinear", "DequantizeLinear", domain=MICROSOFT)(quantize)
known("QuantizeLinear", domain=MICROSOFT)(known_quantized)
known("DequantizeLinear", domain=MICROSOFT)(known_dequantized)
rule("FusedGemm", domain=MICROSOFT)(gemm)
macs("FusedGemm", domain=MICROSOFT)(product_macs)


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
