"""Rows of elementwise operators, gates and quantizers."""

from __future__ import annotations

from collections.abc import Iterator

from onnxprune.labels.ops.elementwise import UNARY
from tests.models import mlp, pair, sandwich
from tests.rows.row import FIXED, G, Row


def unary() -> Iterator[Row]:
    """Every unary operator, on values that it takes."""
    small = dict.fromkeys(("Acos", "Asin", "Atanh"), "t = Tanh(h)\np = Mul(t, nine)")
    positive = dict.fromkeys(("Acosh", "Log", "Sqrt", "Reciprocal"), "t = Softplus(h)\np = Add(t, one)")
    special = {
        "BitwiseNot": "r = Round(h)\np = Cast<to=6>(r)\nb = BitwiseNot(p)\nf = Cast<to=1>(b)\ng = Mul(f, h)",
        "Not": "r = Round(h)\np = Cast<to=9>(r)\nb = Not(p)\nf = Cast<to=1>(b)\ng = Mul(f, h)",
        "IsInf": "b = IsInf(h)\nf = Cast<to=1>(b)\ng = Add(f, h)",
        "IsNaN": "b = IsNaN(h)\nf = Cast<to=1>(b)\ng = Add(f, h)",
        "Cast": "d = Cast<to=11>(h)\ng = Cast<to=1>(d)",
    }
    since = {"Gelu": 20, "Mish": 18, "Swish": 24, "BitwiseNot": 18}
    for op in UNARY:
        before = {**small, **positive}.get(op, "p = Identity(h)")
        middle = special.get(op, f"{before}\ng = {op}(p)")
        opset = since.get(op, 17)
        yield Row(f"{op}", sandwich(middle, "float nine = {0.9}", "float one = {1}"), 8, opset=opset)
    for op in ("FastGelu", "Gelu", "QuickGelu"):
        yield Row(f"contrib {op}", sandwich(f"g = com.microsoft.{op}(h)", G), 8)
    yield Row("contrib BiasGelu", mlp("g = com.microsoft.BiasGelu(h, b)", "float[8] b", "float[2,8] g"), 8)
    yield Row("contrib FastGelu with bias", mlp("g = com.microsoft.FastGelu(h, b)", "float[8] b", "float[2,8] g"), 8)
    yield Row("Clip with bounds as inputs", sandwich("g = Clip(h, a, b)", "float a = {-0.5}", "float b = {0.5}"), 8)
    yield Row("Clip at opset 9", sandwich("g = Clip<min=-0.5, max=0.5>(h)"), 8, opset=9, ir=4)
    yield Row("Relu at opset 23", sandwich("g = Relu(h)"), 8, opset=23, ir=11)
    yield Row("CastLike", sandwich("g = CastLike(h, like)", "float like"), 8)
    yield Row("Dropout with mask", sandwich("d, m = Dropout(h)\nf = Cast<to=1>(m)\ng = Mul(d, f)"), 8)


def binary() -> Iterator[Row]:
    """Two activations at the same position are one channel."""
    for op in ("Add", "Sub", "Mul", "Max", "Min", "Mean", "Sum"):
        yield Row(op, pair(f"g = {op}(h, h2)"), 8)
    yield Row("Div", pair("e = Exp(h2)\ng = Div(h, e)"), 8)
    yield Row("Pow", pair("e = Exp(h2)\ng = Pow(e, h)"), 8)
    yield Row("Mod", pair("e = Exp(h2)\ng = Mod<fmod=1>(h, e)"), 8)
    for op in ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"):
        yield Row(op, pair(f"a = Round(h)\nb = Round(h2)\nc = {op}(a, b)\ng = Cast<to=1>(c)"), 8)
    for op in ("And", "Or", "Xor"):
        bools = "r = Round(h)\ns = Round(h2)\na = Cast<to=9>(r)\nb = Cast<to=9>(s)"
        yield Row(op, pair(f"{bools}\nc = {op}(a, b)\ng = Cast<to=1>(c)"), 8)
    for op in ("BitwiseAnd", "BitwiseOr", "BitwiseXor"):
        ints = "r = Mul(h, ten)\ns = Mul(h2, ten)\na = Cast<to=6>(r)\nb = Cast<to=6>(s)"
        yield Row(op, pair(f"{ints}\nc = {op}(a, b)\ng = Cast<to=1>(c)", "float ten = {10}"), 8, opset=18)
    ints = "r = Abs(h)\na = Cast<to=13>(r)\nr2 = Abs(h2)\nb = Cast<to=13>(r2)"
    yield Row("BitShift", pair(f'{ints}\nc = BitShift<direction="LEFT">(a, b)\ng = Cast<to=1>(c)'), 8)
    yield Row("Where", pair("c = Greater(h, h2)\ng = Where(c, h, h2)"), 8)
    yield Row("Where of a scalar", pair("c = Greater(h2, zero)\ng = Where(c, h, zero)", "float zero = {0}"), 8)
    sides = ("float[8,1,1] a", "float[1,8,1,1] b")
    yield Row("Where between constants", sandwich("c = Greater(h, a)\ng = Where(c, a, b)", *sides), 8)
    for shape in ("8,1,1", "1", "1,8,1,1", "8,6,6", "6", "1,1,6"):
        yield Row(f"PRelu slope [{shape}]", sandwich("g = PRelu(h, s)", f"float[{shape}] s"), 8)
    for shape in ("8,1,1", "1,8,1,1", "2,8,6,6", "8,6,1", "6", "1", "6,6"):
        yield Row(f"Add constant [{shape}]", sandwich("g = Add(c, h)", f"float[{shape}] c"), 8)
    yield Row("Mul by a gate", pair("p = GlobalAveragePool(h2)\ng = Mul(p, h)"), 8)
    rows_and_columns = "r = ReduceMean<axes=[2]>(h)\nc = ReduceMean<axes=[3]>(h2)\ng = Add(r, c)"
    yield Row("Add broadcast on both sides", pair(rows_and_columns), 8)
    yield Row("Mul by a map of one channel", pair("g = Mul(h, h2)", second=1), 8)
    yield Row("Sum of three", pair("h3 = Conv(x, w2)\ng = Sum(h, h2, h3)", "float[8,3,3,3] w2"), 8)
    yield Row("Add a graph input", sandwich("g = Add(h, z)", inputs=", float[2,8,6,6] z"), 0, FIXED)
    yield Row("Add a graph input of one channel", sandwich("g = Add(h, z)", inputs=", float[2,1,6,6] z"), 8)
    yield Row("residual chain", pair("a = Add(h, h2)\nb = Conv(a, w2)\ng = Add(a, b)", "float[8,8,1,1] w2"), 8)
    yield Row("SE gate", sandwich(SE_GATE, "float[4,8,1,1] w1", "float[8,4,1,1] w2"), 12)
    yield Row("GLU", sandwich("a, b = Split<axis=1>(h)\ns = Sigmoid(b)\ng = Mul(a, s)", reads=4), 4, opset=11, ir=6)


SE_GATE = "p = GlobalAveragePool(h)\na = Conv(p, w1)\nr = Relu(a)\nb = Conv(r, w2)\ns = Sigmoid(b)\ng = Mul(h, s)"


def quantized() -> Iterator[Row]:
    """QuantizeLinear and DequantizeLinear: one scale, or one a channel."""
    one = ("float s = {0.05}", "int8 z = {0}")
    yield Row("QDQ per tensor", sandwich("q = QuantizeLinear(h, s, z)\ng = DequantizeLinear(q, s, z)", *one), 8)
    for bits, kind, scale in (("8", "int8", "0.05"), ("16", "int16", "0.0005")):
        middle = "q = com.microsoft.QuantizeLinear(h, s, z)\ng = com.microsoft.DequantizeLinear(q, s, z)"
        grid = (f"float s = {{{scale}}}", f"{kind} z = {{0}}", "float[2,8,6,6] g")
        yield Row(f"QDQ of {bits} bits in onnxruntime's domain", sandwich(middle, *grid), 8)
    contrib = ("int16[8,8,1,1] q", "float[8] vars", "int16[8] z", "float[8,8,1,1] w")
    middle = "w = com.microsoft.DequantizeLinear<axis=0>(q, vars, z)\ng = Conv(h, w)"
    yield Row("QDQ weight in onnxruntime's domain", sandwich(middle, *contrib), 16)
    weights = ("int8[8,8,1,1] q", "float[8] vars", "int8[8] z")
    for axis in (0, 1):
        middle = f"w = DequantizeLinear<axis={axis}>(q, vars, z)\ng = Conv(h, w)"
        yield Row(f"QDQ weight along {axis}", sandwich(middle, *weights), 16)
    blocks = "w = DequantizeLinear<axis={}, block_size=4>(q, vars)\ng = Conv(h, w)"
    for axis, scales, prunable in ((1, "8,2,1,1", 10), (0, "2,8,1,1", 10)):
        text = sandwich(blocks.format(axis), weights[0], f"float[{scales}] vars")
        yield Row(f"QDQ in blocks along {axis}", text, prunable, opset=21, ir=10)
    packed = "w = DequantizeLinear<axis=0, block_size=3>(q, vars, z)\ng = MatMul(h, w)"
    text = mlp(packed, "int4[8,4] q", "float[3,4] vars", "int4[3,4] z", reads=4)
    yield Row("QDQ of int4 in blocks, the last shorter", text, 7, opset=21, ir=10)
    single = mlp(packed.replace("=3", "=8"), "uint4[8,4] q", "float[1,4] vars", "uint4[1,4] z", reads=4)
    yield Row("QDQ of uint4 in one block", single, 12, opset=21, ir=10)
