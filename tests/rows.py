"""The table of operators and their forms: a model, how many of its channels can go, and why the others cannot.

A new rule comes with its row here, and joins `tests/strategies.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from onnx import ModelProto

from onnxprune.labels.ops.elementwise import UNARY
from onnxprune.labels.ops.reduction import REDUCE
from onnxprune.model.graph import Shape
from onnxprune.running.stand_in_nodes import QONNX, QUANTIZERS
from tests.models import build, flat, mlp, pair, sandwich


@dataclass(frozen=True)
class Row:
    """A model in text. ``held_because``: why channels stay that no graph output needs; None: there are none such."""

    name: str
    text: str = field(repr=False)
    prunable: int
    held_because: str | None = None
    opset: int = 17
    ir: int = 8
    shapes: Mapping[str, Shape] = field(default_factory=dict)

    def model(self) -> ModelProto:
        """The model, its weights filled in."""
        return build(self.text, self.opset, self.ir)

    def __str__(self) -> str:
        return self.name


#: Declarations of what onnx cannot infer.
G = "float[2,8,6,6] g"

FIXED = "whose channels are fixed"


# --- elementwise ----------------------------------------------------------------------------------------------------


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


# --- contracting ----------------------------------------------------------------------------------------------------


def convolutions() -> Iterator[Row]:
    """Conv and ConvTranspose of all kinds, in one to three dimensions."""
    yield Row("Conv with bias", sandwich("g = Conv(h, w1, b)", "float[6,8,3,3] w1", "float[6] b", reads=6), 14)
    yield Row("Conv in groups", sandwich("g = Conv<group=2>(h, w1, b)", "float[6,4,3,3] w1", "float[6] b", reads=6), 14)
    grouped = "a = Conv<group=2>(h, w1)\nr = Relu(a)\ng = Conv<group=4>(r, w2)"
    yield Row("Conv groups in a row", sandwich(grouped, "float[8,4,1,1] w1", "float[4,2,1,1] w2", reads=4), 20)
    depthwise = sandwich("g = Conv<group=8>(h, w1, b)", "float[8,1,3,3] w1", "float[8] b")
    yield Row("Conv depthwise", depthwise, 8)
    twice = "a, b = Split<axis=1>(h, s)\nc = Concat<axis=1>(a, a, b)\ng = Conv<group=2>(c, w1)"
    unequal = sandwich(twice, "int64[2] s = {2,4}", "float[4,4,1,1] w1", reads=4).replace("[8,3,3,3]", "[6,3,3,3]")
    yield Row("Conv in groups of unequal sources", unequal, 4, "needs equal counts in each of its blocks")
    multiplier = sandwich("g = Conv<group=8>(h, w1, b)", "float[16,1,3,3] w1", "float[16] b", reads=16)
    yield Row("Conv depthwise with multiplier 2", multiplier, 8)
    weights = "<float[9,1,3,3] w0, float[5,9,1,1] w9>"
    first = f"(float[2,3,8,8] x) => (float y) {weights} {{ h = Conv<group=3>(x, w0)\ny = Conv(h, w9) }}"
    yield Row("Conv depthwise of the input", first, 0, "is a depthwise convolution of fixed channels")
    for dims, kernel in (("9", "3"), ("7,7", "3,3"), ("5,5,5", "2,2,2")):
        text = f"(float[2,3,{dims}] x) => (float y) <float[8,3,{kernel}] w0, float[8] b, float[5,8,{kernel}] w9> "
        yield Row(f"Conv over [{dims}]", text + "{ h = Conv(x, w0, b)\ny = Conv(h, w9) }", 8)
    for group, weight, prunable in ((1, "8,6", 14), (2, "8,3", 14), (8, "8,1", 8), (8, "8,2", 8)):
        out = group * int(weight[-1])
        text = sandwich(
            f"g = ConvTranspose<group={group}>(h, w1, b)", f"float[{weight},3,3] w1", f"float[{out}] b", reads=out
        )
        yield Row(f"ConvTranspose group {group} weight [{weight}]", text, prunable)
    weights = "<float[3,8,2] w0, float[8,5,2] w9>"
    one_d = f"(float[2,3,9] x) => (float y) {weights} {{ h = ConvTranspose(x, w0)\ny = ConvTranspose(h, w9) }}"
    yield Row("ConvTranspose in one dimension", one_d, 8)
    fused = sandwich(
        'g = com.microsoft.FusedConv<activation="Relu">(h, w1, b)',
        "float[6,8,3,3] w1",
        "float[6] b",
        "float[2,6,4,4] g",
        reads=6,
    )
    yield Row("FusedConv", fused, 14)
    z = sandwich('g = com.microsoft.FusedConv<activation="Relu">(h, w1, b, h)', "float[8,8,1,1] w1", "float[8] b", G)
    yield Row("FusedConv with a sum", z, 8)
    yield Row(
        "Conv with a computed weight",
        sandwich("w = Mul(w1, s)\ng = Conv(h, w)", "float[8,8,1,1] w1", "float[8,1,1,1] s"),
        16,
    )


def products() -> Iterator[Row]:
    """Gemm and MatMul, with weights on either side and without."""
    for a, b in ((0, 0), (0, 1), (1, 0), (1, 1)):
        left, right = ("t = Transpose(h)", "t") if a else ("", "h")
        weight = "4,8" if b else "8,4"
        for bias in ("4", "1,4", "1,1", "1", "2,4", "2,1"):
            gemm = f"{left}\ng = Gemm<transA={a}, transB={b}, alpha=0.5, beta=2.0>({right}, w1, c)"
            yield Row(f"Gemm {a}{b} C [{bias}]", mlp(gemm, f"float[{weight}] w1", f"float[{bias}] c", reads=4), 12)
    yield Row("Gemm without C", mlp("g = Gemm(h, w1)", "float[8,4] w1", reads=4), 12)
    left = "(float[6,4] x) => (float y) <float[8,6] w0, float[5,8] w9> { h = Gemm(w0, x)\ny = Gemm(w9, h) }"
    yield Row("Gemm weight on the left", left, 8)
    for rows in ("2", "2,3", "2,3,4"):
        yield Row(f"MatMul of [{rows},6]", mlp("g = MatMul(h, w1)", "float[8,4] w1", reads=4, rows=rows), 12)
    batched = mlp("g = MatMul(h, w1)", "float[3,8,4] w1", reads=4, rows="3,2")
    yield Row("MatMul with a batch of weights", batched, 12)
    left = "(float[2,6,4] x) => (float y) <float[8,6] w0, float[5,8] w9> { h = MatMul(w0, x)\ny = MatMul(w9, h) }"
    yield Row("MatMul weight on the left", left, 8)
    pointwise = sandwich(
        "f = Reshape(h, s)\nm = MatMul(w1, f)\ng = Reshape(m, t)",
        "int64[3] s = {0,8,36}",
        "float[6,8] w1",
        "int64[4] t = {2,6,6,6}",
        reads=6,
    )
    yield Row("MatMul weight on the left of a map", pointwise, 14)
    yield Row(
        "MatMul by a vector",
        "(float[2,6] x) => (float y) <float[6,8] w0, float[8] v> { h = MatMul(x, w0)\ny = MatMul(h, v) }",
        0,
        "is multiplied with a vector",
    )
    yield Row(
        "MatMul of two activations",
        mlp("k = MatMul(x, w1)\nt = Transpose(k)\ns = MatMul(h, t)\ng = Softmax(s)", "float[6,8] w1", reads=2),
        8,
    )
    for a, b in ((0, 0), (0, 1), (1, 0), (1, 1)):
        left, right = ("t = Transpose(h)", "t") if a else ("", "h")
        weight = "4,8" if b else "8,4"
        fused = f"{left}\ng = com.microsoft.FusedMatMul<transA={a}, transB={b}, alpha=0.5>({right}, w1)"
        yield Row(f"FusedMatMul {a}{b}", mlp(fused, f"float[{weight}] w1", "float[2,4] g", reads=4), 12)
    batched = "h2 = MatMul(x, w1)\ns = com.microsoft.FusedMatMul<transBatchA=1, transBatchB=1, transB=1>(h, h2)\n"
    batched += "g = com.microsoft.FusedMatMul<transBatchB=1>(s, h)"
    declared = ("float[6,8] w1", "float[3,2,2] s", "float[3,2,8] g")
    yield Row("FusedMatMul with the batch second", mlp(batched, *declared, rows="2,3"), 8)


def attention(heads: int, dim: int, scale: str = "") -> str:
    """x [2,3,6]; Q, K, V of ``heads`` * ``dim`` channels through Reshape and Transpose."""
    width = heads * dim
    split = "\n".join(
        f"{n} = MatMul(x, w{n})\n{n}r = Reshape({n}, split)\n{n}t = Transpose<perm=[{p}]>({n}r)"
        for n, p in (("q", "0,2,1,3"), ("k", "0,2,3,1"), ("v", "0,2,1,3"))
    )
    weights = ", ".join(f"float[6,{width}] w{n}" for n in "qkv")
    return attended(split, weights, f"int64[4] split = {{0,0,{heads},{dim}}}", width=width, scale=scale)


def attended(split: str, *weights: str, width: int = 8, scale: str = "", key: str = "kt") -> str:
    """x [2,3,6] -> ``split`` -> qt, kt, vt -> ``scale`` (s to z) -> softmax -> heads merged -> MatMul -> y."""
    named = ", ".join([*weights, f"float[{width},5] w9", f"int64[3] merge = {{0,0,{width}}}"])
    return (
        f"(float[2,3,6] x) => (float y) <{named}> {{\n{split}\ns = MatMul(qt, {key})\n{scale}\n"
        f"p = Softmax<axis=-1>({'z' if scale else 's'})\no = MatMul(p, vt)\n"
        "ot = Transpose<perm=[0,2,1,3]>(o)\nm = Reshape(ot, merge)\ny = MatMul(m, w9)\n}"
    )


SCALE = "n = Shape<start=-1>(qt)\nf = Cast<to=1>(n)\nr = Sqrt(f)\nz = Div(s, r)"


PACKED = "float[6,24] w, float[24] b, int64[5] split = {0,0,3,2,4}"
INTO = "m0 = MatMul(x, w)\na0 = Add(m0, b)\nr0 = Reshape(a0, split)\n"
GATHERED = (
    INTO + "t0 = Transpose<perm=[2,0,3,1,4]>(r0)\nqt = Gather(t0, i0)\nk = Gather(t0, i1)\nvt = Gather(t0, i2)\n"
    "kt = Transpose<perm=[0,1,3,2]>(k)"
)
INDICES = "int64 i0 = {0}, int64 i1 = {1}, int64 i2 = {2}"


def heads() -> Iterator[Row]:
    """Attention in basic operators: whole heads, and the same number of dimensions of each."""
    yield Row("attention of 2 heads", attention(2, 4), 16)
    yield Row("attention of 4 heads", attention(4, 2), 16)
    yield Row("attention of 1 head", attention(1, 8), 16)
    yield Row("attention with packed Q, K, V", attended(GATHERED, PACKED, INDICES), 16)
    parts = (
        "t0 = Transpose<perm=[0,3,2,1,4]>(r0)\nqs, ks, vs = Split<axis=2, num_outputs=3>(t0)\nqt = Squeeze(qs, two)\n"
    )
    parts += "ks1 = Squeeze(ks, two)\nvt = Squeeze(vs, two)\nkt = Transpose<perm=[0,1,3,2]>(ks1)"
    yield Row("attention with packed Q, K, V split", attended(INTO + parts, PACKED, "int64[1] two = {2}"), 16, opset=18)
    inner = "m0 = MatMul(x, w)\nr0 = Reshape(m0, split)\nt0 = Transpose<perm=[0,2,1,3]>(r0)\n"
    inner += "qt, k, vt = Split<axis=3>(t0, sizes)\nkt = Transpose<perm=[0,1,3,2]>(k)"
    sizes = ("float[6,16] w", "int64[4] split = {0,0,2,8}", "int64[3] sizes = {2,2,4}")
    yield Row("attention with Q, K, V packed in each head", attended(inner, *sizes), 12)
    for name, shape in (("temperature", "2,1,1"), ("bias table", "2,3,3"), ("bias of all heads", "3,3")):
        scale = f"z = {'Mul' if name == 'temperature' else 'Add'}(s, c)"
        yield Row(f"attention with a {name}", attended(GATHERED, PACKED, INDICES, f"float[{shape}] c", scale=scale), 16)
    window = "g0 = Gather(table, index)\ng1 = Reshape(g0, square)\ng2 = Transpose<perm=[2,0,1]>(g1)\n"
    window += "g3 = Unsqueeze(g2, zero)\nz = Add(s, g3)"
    table = (
        "float[5,2] table",
        "int64[9] index = {2,3,4,1,2,3,0,1,2}",
        "int64[3] square = {3,3,-1}",
        "int64[1] zero = {0}",
    )
    yield Row(
        "attention with a table of relative positions", attended(GATHERED, PACKED, INDICES, *table, scale=window), 16
    )
    fixed = attended(GATHERED, PACKED, INDICES, scale="z = Add(s, c)").replace(
        "(float[2,3,6] x)", "(float[2,3,6] x, float[2,2,3,3] c)"
    )
    yield Row("attention with a mask of heads that is given", fixed, 16)
    gate = "f = MatMul(x, wf)\nft = Transpose<perm=[0,2,1]>(f)\nfu = Unsqueeze(ft, three)\nz = Mul(s, fu)"
    gated = attended(GATHERED, PACKED, INDICES, "float[6,2] wf", "int64[1] three = {3}", scale=gate)
    yield Row("attention with gated heads", gated, 16)
    normed = "r = ReduceL2<axes=[3]>(qt)\nn = Add(r, one)\nq2 = Div(qt, n)\ns2 = MatMul(q2, kt)\nz = Add(s, s2)"
    yield Row("attention with normalised Q", attended(GATHERED, PACKED, INDICES, "float one = {1}", scale=normed), 16)
    shared = (
        "".join(f"{n} = MatMul(x, w{n})\n" for n in "qkv") + "qr = Reshape(q, s4)\nqt = Transpose<perm=[0,2,1,3]>(qr)\n"
    )
    for n, perm in (("k", "0,2,3,1"), ("v", "0,2,1,3")):
        shared += f"{n}r = Reshape({n}, s5)\n{n}e = Expand({n}r, e5)\n{n}f = Reshape({n}e, s4)\n"
        shared += f"{n}t = Transpose<perm=[{perm}]>({n}f)\n"
    weights = (
        "float[6,8] wq",
        "float[6,4] wk",
        "float[6,4] wv",
        "int64[4] s4 = {0,0,4,-1}",
        "int64[5] s5 = {0,0,2,1,2}",
    )
    yield Row("attention with keys for two heads each", attended(shared, *weights, "int64[5] e5 = {1,1,1,2,1}"), 8)
    across = GATHERED.replace("[2,0,3,1,4]", "[2,0,3,4,1]")
    text = attended(across, PACKED, INDICES, "float[2,1,1] c", scale="z = Mul(s, c)").replace(
        "ot = Transpose<perm=[0,2,1,3]>(o)", "ot = Transpose<perm=[0,3,1,2]>(o)"
    )
    yield Row("attention across channels", text, 2)


# --- movement -------------------------------------------------------------------------------------------------------


def concats() -> Iterator[Row]:
    """Concat with its offsets, Split in all its forms."""
    yield Row("Concat", pair("g = Concat<axis=1>(h, h2)", reads=14, second=6), 14)
    yield Row("Concat of the same twice", sandwich("g = Concat<axis=1>(h, h)", reads=16), 8)
    yield Row(
        "Concat with the input", sandwich("g = Concat<axis=1>(z, h, z)", inputs=", float[2,3,6,6] z", reads=14), 8
    )
    yield Row("Concat with a constant", sandwich("g = Concat<axis=-3>(h, c)", "float[2,3,6,6] c", reads=11), 11)
    yield Row("Concat along height", pair("g = Concat<axis=2>(h, h2)"), 8)
    yield Row(
        "Concat along height with the input",
        sandwich("g = Concat<axis=2>(h, z)", inputs=", float[2,8,6,6] z"),
        0,
        FIXED,
    )
    nested = "a = Concat<axis=1>(h, h2)\nb, c = Split<axis=1, num_outputs=2>(a)\ng = Concat<axis=1>(c, b, a)"
    yield Row("Concat and Split nested", pair(nested, reads=24, second=4), 12, opset=18)
    bottleneck = "a, b = Split<axis=1>(h, s)\nc = Conv(b, w1)\nd = Add(b, c)\ng = Concat<axis=1>(a, b, d)"
    yield Row("C2f", sandwich(bottleneck, "int64[2] s = {4,4}", "float[4,4,1,1] w1", reads=12), 8)
    dense = "a = Conv(h, w1)\nb = Concat<axis=1>(h, a)\nc = Conv(b, w2)\ng = Concat<axis=1>(b, c)"
    yield Row("dense block", sandwich(dense, "float[4,8,1,1] w1", "float[4,12,1,1] w2", reads=16), 16)
    swap = "g = Concat<axis=1>(b, a)"
    yield Row("Split at opset 9", sandwich(f"a, b = Split<axis=1, split=[3,5]>(h)\n{swap}"), 8, opset=9, ir=4)
    yield Row("Split in halves at opset 11", sandwich(f"a, b = Split<axis=1>(h)\n{swap}"), 8, opset=11, ir=6)
    yield Row("Split by an input", sandwich(f"a, b = Split<axis=-3>(h, s)\n{swap}", "int64[2] s = {3,5}"), 8, opset=13)
    yield Row("Split in halves at opset 13", sandwich(f"a, b = Split<axis=1>(h)\n{swap}"), 8, opset=13)
    yield Row("Split by num_outputs", sandwich(f"a, b = Split<axis=1, num_outputs=2>(h)\n{swap}"), 8, opset=18)
    uneven = "a, b, c = Split<axis=1, num_outputs=3>(h)\ng = Concat<axis=1>(b, c, a)"
    yield Row("Split by num_outputs, unevenly", sandwich(uneven), 8, opset=18)
    yield Row("Split along height", sandwich("a, b = Split<axis=2>(h)\ng = Add(a, b)"), 8, opset=13)
    yield Row("Split with an unread part", sandwich("g, b = Split<axis=1>(h)", reads=4), 8, opset=13)


def slices() -> Iterator[Row]:
    """Slice and Gather along channels and along other axes."""
    low, high = "a = Slice<axes=[1], starts=[0], ends=[3]>(h)", "b = Slice<axes=[1], starts=[3], ends=[9000]>(h)"
    yield Row("Slice at opset 9", sandwich(f"{low}\n{high}\ng = Concat<axis=1>(b, a)"), 8, opset=9, ir=4)
    bounds = ("int64[1] s", "int64[1] e", "int64[1] a = {1}", "int64[1] st")

    def by_input(start: int, end: int, step: int, left: int, because: str | None = None) -> Row:
        values = [f"{n} = {{{v}}}" for n, v in zip((bounds[0], bounds[1], bounds[3]), (start, end, step), strict=True)]
        text = sandwich("g = Slice(h, s, e, a, st)", *values, bounds[2], reads=left)
        return Row(f"Slice [{start}:{end}:{step}]", text, 0 if because else 8, because)

    yield by_input(2, 7, 1, 5)
    yield by_input(-6, -1, 1, 5)
    yield by_input(0, 2**31, 1, 8)
    yield by_input(7, 1, -1, 6)
    yield by_input(-1, -9, -1, 8)
    yield by_input(-1, -(2**31), -1, 8)
    yield by_input(0, 8, 2, 4, "is sliced with a step")
    spatial = sandwich("g = Slice(h, s, e, a)", "int64[2] s = {1,-2}", "int64[2] e = {5,9}", "int64[2] a = {2,3}")
    yield Row("Slice along height and width", spatial, 8)
    narrow = ("int32[2] s = {2,1}", "int32[2] e = {7,5}", "int32[2] a = {1,2}")
    yield Row("Slice by int32", sandwich("g = Slice(h, s, e, a)", *narrow, reads=5), 8)
    stepped = "p = Slice(h, s, e, a, t)\nq = Slice(h, e1, e, a, t)\ng = Concat<axis=1>(p, q)"
    ints = (
        "int64[2] s = {0,0}",
        "int64[2] e1 = {1,1}",
        "int64[2] e = {9,9}",
        "int64[2] a = {2,3}",
        "int64[2] t = {2,2}",
    )
    yield Row("Focus", sandwich(stepped, *ints, reads=16), 8)
    yield Row("Gather of channels", sandwich("g = Gather<axis=1>(h, i)", "int64[5] i = {7,-8,3,3,1}", reads=5), 8)
    shuffle = "g = Gather<axis=1>(h, i)", "int64[8] i = {0,4,1,5,2,6,3,7}"
    yield Row("Gather as a channel shuffle", sandwich(*shuffle), 8)
    yield Row(
        "Gather one channel", sandwich("c = Gather<axis=1>(h, i)\ng = Mul(h, c)", "int64[1] i = {3}"), 7, "scalar"
    )
    one = flat("c = Gather<axis=1>(h, i)\ng = Flatten(c)", "int64 i = {3}", reads=36)
    yield Row("Gather a channel away", one, 0, "as a tensor without channels")
    yield Row("Gather one row", flat("p = Gather<axis=3>(h, i)\ng = Gather<axis=2>(p, i)", "int64 i = {3}", reads=8), 8)
    qkv = "r = Reshape(h, s)\nt = Transpose<perm=[1,0,2]>(r)\nq = Gather(t, i0)\nk = Gather(t, i1)\ng = Mul(q, k)"
    packed = mlp(qkv, "int64[3] s = {2,2,4}", "int64 i0 = {0}", "int64 i1 = {1}", reads=4)
    yield Row("Gather scalar on packed rows", packed, 4)
    lookup = "(int64[2,3] x) => (float y) <float[9,6] table, float[6,5] w9> { h = Gather(table, x)\ny = MatMul(h, w9) }"
    yield Row("Gather from an embedding", lookup, 6)


def layouts() -> Iterator[Row]:
    """Reshape, Flatten, Squeeze, Unsqueeze, Transpose."""
    for name, shape in (("-1", "2,-1"), ("0", "0,-1"), ("written", "2,288"), ("0 and written", "0,288")):
        yield Row(f"Reshape flat by {name}", flat("g = Reshape(h, s)", f"int64[2] s = {{{shape}}}", reads=288), 8)
    yield Row("Flatten", flat("g = Flatten(h)", reads=288), 8)
    nhwc = "t = Transpose<perm=[0,2,3,1]>(h)\ng = Flatten(t)"
    yield Row("Flatten of NHWC", flat(nhwc, reads=288), 8)
    yield Row("Flatten from axis 2", flat("f = Flatten<axis=2>(h)\ng = Transpose(f)", reads=16), 8)
    yield Row(
        "Squeeze at opset 11", flat("p = GlobalAveragePool(h)\ng = Squeeze<axes=[2,3]>(p)", reads=8), 8, opset=11, ir=6
    )
    yield Row(
        "Squeeze by an input", flat("p = GlobalAveragePool(h)\ng = Squeeze(p, a)", "int64[2] a = {-1,-2}", reads=8), 8
    )
    lift = "p = ReduceMean<axes=[2,3], keepdims=0>(h)\nu = Unsqueeze{}\nm = Mul(h, u)\ng = Relu(m)"
    yield Row("Unsqueeze at opset 11", sandwich(lift.format("<axes=[2,3]>(p)")), 8, opset=11, ir=6)
    yield Row("Unsqueeze by an input", sandwich(lift.format("(p, a)"), "int64[2] a = {2,-1}"), 8)
    island = "t = Transpose<perm=[0,2,3,1]>(h)\na = MatMul(t, w1)\nb = Add(a, c)\ng = Transpose<perm=[0,3,1,2]>(b)"
    yield Row("NHWC island", sandwich(island, "float[8,6] w1", "float[6] c", reads=6), 14)
    yield Row("Transpose without perm", mlp("t = Transpose(h)\nr = Relu(t)\ng = Transpose(r)"), 8)
    shuffle = "r = Reshape(h, s)\nt = Transpose<perm=[0,2,1,3,4]>(r)\ng = Reshape(t, u)"
    shapes = ("int64[5] s = {2,2,4,6,6}", "int64[4] u = {0,8,6,6}")
    yield Row("channel shuffle", sandwich(shuffle, *shapes), 4)
    between = shuffle.replace("(h, s)", "(c, s)").replace("g = Reshape", "k = Reshape")
    grouped = f"c = Conv<group=2>(h, w1)\n{between}\ng = Conv<group=2>(k, w2)"
    yield Row(
        "channel shuffle between groups", sandwich(grouped, *shapes, "float[8,4,1,1] w1", "float[8,4,1,1] w2"), 20
    )
    computed = "n = Shape(h)\nb = Gather(n, zero)\nu = Unsqueeze(b, a)\ns = Concat<axis=0>(u, minus)\ng = Reshape(h, s)"
    ints = ("int64 zero = {0}", "int64[1] a = {0}", "int64[1] minus = {-1}")
    for name, x, shapes_ in (("", "2,3,8,8", {}), (" with dynamic batch", "N,3,8,8", {"x": (2, 3, 8, 8)})):
        yield Row(f"Reshape by Shape{name}", flat(computed, *ints, reads=288, x=x), 8, shapes=shapes_)
    product = (
        "n = Shape(h)\nb, c, d, e = Split<axis=0>(n)\nf = Mul(d, e)\ns = Concat<axis=0>(b, c, f)\nr = Reshape(h, s)\n"
        "t = Transpose<perm=[0,2,1]>(r)\nm = MatMul(t, w1)\ng = ReduceMean<axes=[1], keepdims=0>(m)"
    )
    dynamic = flat(product, "float[8,6] w1", "float[N,6] g", reads=6, x="N,3,8,8")
    yield Row("Reshape by a product of sizes", dynamic, 14, opset=13, shapes={"x": (2, 3, 8, 8)})
    heads = "r = Reshape(h, s)\nt = Transpose<perm=[0,1,3,4,2]>(r)\nm = ReduceMean<axes=[2,3], keepdims=0>(t)\n"
    heads += "g = Reshape(m, u)"
    yield Row("Reshape splits and merges", flat(heads, "int64[5] s = {2,2,4,6,6}", "int64[2] u = {2,8}", reads=8), 8)
    yield Row("Reshape with allowzero", flat("g = Reshape<allowzero=1>(h, s)", "int64[2] s = {2,288}", reads=288), 8)
    rows_only = "r = Reshape(h, s)\nm = ReduceMax<axes=[2], keepdims=0>(r)\ng = Flatten(m)"
    yield Row("Reshape into rows that are reduced", flat(rows_only, "int64[5] s = {2,2,4,6,6}", reads=72), 2)


PADS = "int64[8] s = {0,2,0,0,0,3,0,0}"


def space() -> Iterator[Row]:
    """Pad, Resize, DepthToSpace, SpaceToDepth."""
    yield Row("Pad at opset 9", sandwich("g = Pad<pads=[0,0,1,1,0,0,1,1]>(h)"), 8, opset=9, ir=4)
    yield Row("Pad by an input", sandwich("g = Pad(h, p)", "int64[8] p = {0,0,1,1,0,0,1,-1}"), 8)
    yield Row("Pad with axes", sandwich("g = Pad(h, p,, a)", "int64[2] p = {1,2}", "int64[1] a = {-1}"), 8, opset=18)
    for mode in ("reflect", "edge"):
        yield Row(f"Pad {mode}", sandwich(f'g = Pad<mode="{mode}">(h, p)', "int64[8] p = {0,0,1,1,0,0,1,1}"), 8)
    along = sandwich(
        "p = Pad(h, s)\ng = Add(p, h2)\nh2 = Conv(x, w1)",
        PADS,
        "float[13,3,3,3] w1",
        reads=13,
    )
    along = along.replace(
        "p = Pad(h, s)\ng = Add(p, h2)\nh2 = Conv(x, w1)", "h2 = Conv(x, w1)\np = Pad(h, s)\ng = Add(p, h2)"
    )
    yield Row("Pad along channels into a shortcut", along, 13)
    yield Row("Pad along channels", sandwich("g = Pad(h, s)", PADS, reads=13), 8)
    wrong = sandwich('g = Pad<mode="edge">(h, s)', "int64[8] s = {0,1,0,0,0,1,0,0}", reads=10)
    yield Row("Pad along channels with copies", wrong, 0, "is padded with copies of channels")
    up = "float[4] s = {1,1,2,2}"
    yield Row("Resize by scales", sandwich("g = Resize(h,, s)", up), 8)
    yield Row("Resize at opset 10", sandwich("g = Resize(h, s)", up), 8, opset=10, ir=5)
    yield Row("Resize at opset 11", sandwich("g = Resize(h, roi, s)", up, "float[8] roi"), 8, opset=11, ir=6)
    yield Row("Resize by sizes", sandwich("g = Resize(h,,, s)", "int64[4] s = {2,8,9,9}"), 8)
    yield Row("Resize with axes", sandwich("g = Resize<axes=[2,3]>(h,,, s)", "int64[2] s = {9,9}"), 8, opset=18)
    yield Row("Upsample", sandwich("g = Upsample(h, s)", up), 8, opset=9, ir=4)
    along = sandwich("g = Resize(h,, s)", "float[4] s = {1,2,1,1}", reads=16)
    yield Row("Resize along channels", along, 0, "is resized along its channels")
    for mode in ("DCR", "CRD"):
        yield Row(f"DepthToSpace {mode}", sandwich(f'g = DepthToSpace<blocksize=2, mode="{mode}">(h)', reads=2), 2)
    yield Row("SpaceToDepth", sandwich("g = SpaceToDepth<blocksize=2>(h)", reads=32), 8)
    for op, what in (("DepthToSpace", "space"), ("SpaceToDepth", "channels")):
        width = 16 if op == "DepthToSpace" else 4
        head = f"(float[1,4,4,6] x) => (float y) <float[6,8] w0, float[{width},5] w9>"
        nodes = f"h = MatMul(x, w0)\ng = {op}<blocksize=2>(h)\ny = MatMul(g, w9)"
        yield Row(f"{op} of a labelled width", f"{head} {{ {nodes} }}", 0, f"is rearranged into {what}")
    pixel = "r = Reshape(h, s)\nt = Transpose<perm=[0,1,4,2,5,3]>(r)\ng = Reshape(t, u)"
    yield Row(
        "pixel shuffle decomposed",
        sandwich(pixel, "int64[6] s = {2,2,2,2,6,6}", "int64[4] u = {2,2,12,12}", reads=2),
        2,
    )
    unshuffle = "r = Reshape(h, s)\nt = Transpose<perm=[0,1,3,5,2,4]>(r)\ng = Reshape(t, u)"
    yield Row(
        "pixel unshuffle decomposed",
        sandwich(unshuffle, "int64[6] s = {2,8,3,2,3,2}", "int64[4] u = {2,32,3,3}", reads=32),
        8,
    )


def zeros() -> Iterator[Row]:
    """Zeros joined to a map before it is added to a wider one, in a batch of any size."""
    batch = "n = Shape(h)\nb = Slice(n, zero, one)\nz = Concat<axis=0>(b, rest)\n"
    ints = ("int64[1] zero = {0}", "int64[1] one = {1}", "int64[3] rest = {4,6,6}")
    for name, more, made in (
        ("ConstantOfShape", ints, f"{batch}c = ConstantOfShape(z)"),
        ("Expand", (*ints, "float[1,4,1,1] e = {0,0,0,0}"), f"{batch}c = Expand(e, z)"),
        ("ConstantOfShape of the map's own size", (), "n = Shape(h)\nc = ConstantOfShape(n)"),
    ):
        width = 8 if name.endswith("size") else 4
        middle = f"{made}\nk = Concat<axis=1>(h, c)\nh2 = Conv(h, w1)\ng = Add(k, h2)"
        text = sandwich(middle, f"float[{8 + width},8,1,1] w1", *more, reads=8 + width).replace(
            "[2,3,8,8] x", "[N,3,8,8] x"
        )
        yield Row(f"zeros by {name}", text, 8 + width, shapes={"x": (2, 3, 8, 8)})


def repeats() -> Iterator[Row]:
    """Expand, ConstantOfShape, Tile."""
    yield Row(
        "Expand of a gate",
        sandwich("p = GlobalAveragePool(h)\nq = Expand(p, s)\ng = Mul(h, q)", "int64[4] s = {2,8,6,6}"),
        8,
    )
    yield Row("Expand by 1", sandwich("p = GlobalAveragePool(h)\ng = Expand(p, s)", "int64[3] s = {1,6,6}"), 8)
    one = pair("q = Expand(h2, s)\ng = Mul(h, q)", "int64[4] s = {1,8,1,1}", second=1)
    yield Row("Expand to channels", one, 8)
    like = "n = Shape(h)\nz = ConstantOfShape<value = float[1] {1.5}>(n)\ng = Mul(h, z)"
    yield Row("ConstantOfShape like a map", sandwich(like), 8)
    yield Row(
        "ConstantOfShape",
        sandwich("z = ConstantOfShape<value = float[1] {1.5}>(s)\ng = Mul(h, z)", "int64[3] s = {8,6,6}"),
        8,
    )
    padded = sandwich("p = Pad(h, s)\nz = ConstantOfShape(t)\ng = Add(z, p)", PADS, "int64[4] t = {1,13,6,6}", reads=13)
    yield Row("ConstantOfShape over padding", padded, 8)
    dynamic = flat(f"{like.replace('g = ', 'm = ')}\ng = Flatten(m)", reads=288, x="N,3,8,8")
    yield Row("ConstantOfShape with dynamic batch", dynamic, 8, shapes={"x": (2, 3, 8, 8)})
    yield Row("Tile along channels", sandwich("g = Tile(h, r)", "int64[4] r = {1,2,1,1}", reads=16), 8)
    yield Row("Tile along height", sandwich("g = Tile(h, r)", "int64[4] r = {1,1,2,1}"), 8)


# --- along axes -----------------------------------------------------------------------------------------------------


def reductions() -> Iterator[Row]:
    """Reductions, softmax and pooling."""
    for op in REDUCE:
        yield Row(op, sandwich(f"e = Exp(h)\ng = {op}(e, a)", "int64[2] a = {2,-1}"), 8, opset=18)
        before = flat(f"e = Exp(h)\ng = {op}<axes=[-2,3], keepdims=0>(e)", reads=8)
        if op != "ReduceSum":
            yield Row(f"{op} by attribute", before, 8, opset=11, ir=6)
    yield Row("ReduceSum at opset 11", flat("g = ReduceSum<axes=[2,3], keepdims=0>(h)", reads=8), 8, opset=11, ir=6)
    yield Row(
        "ReduceSum at opset 13", flat("g = ReduceSum<keepdims=0>(h, a)", "int64[2] a = {2,3}", reads=8), 8, opset=13
    )
    over = sandwich("m = ReduceMean<axes=[1]>(h)\ng = Mul(h, m)")
    yield Row("ReduceMean over channels", over, 0, "is reduced over its channels")
    everything = sandwich("m = ReduceMean(h)\ng = Mul(h, m)")
    yield Row("ReduceMean over everything", everything, 0, "is reduced over its channels")
    for op in ("ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum"):
        text = sandwich(f"e = Exp(h)\nr = {op}<axes=[1]>(e)\nm = Sigmoid(r)\ng = Mul(h, m)")
        yield Row(f"{op} over channels", text, 8)
    gate = mlp(
        "r = ReduceSum<keepdims=0>(h, a)\nu = Unsqueeze(r, b)\ng = Div(h, u)", "int64[1] a = {-1}, int64[1] b = {1}"
    )
    yield Row("ReduceSum over channels that go on", gate, 8)
    correlation = pair("m = Mul(h, h2)\nr = ReduceSum(m, a)\ng = Relu(r)", "int64[1] a = {1}", reads=1)
    yield Row("correlation of two maps", correlation, 8)
    weight = "s = ReduceL2<axes=[1]>(w1)\ne = Add(s, one)\nw = Div(w1, e)\ng = MatMul(h, w)"
    yield Row(
        "ReduceL2 over a weight",
        mlp(weight, "float[8,4] w1, float one = {1}", reads=4),
        8,
        "is reduced over its channels",
    )
    rows = mlp("r = Reshape(h, s)\ng = ReduceL1<axes=[2], keepdims=0>(r)", "int64[3] s = {2,4,2}", reads=4)
    yield Row("ReduceL1 within rows", rows, 8)
    noop = sandwich("g = ReduceMean<noop_with_empty_axes=1>(h)")
    yield Row("ReduceMean over nothing", noop, 8, opset=18)
    rows = mlp("r = Reshape(h, s)\ng = ReduceMean<axes=[1], keepdims=0>(r)", "int64[3] s = {2,2,4}", reads=4)
    yield Row("ReduceMean over rows", rows, 4)
    for op in ("ArgMax", "ArgMin"):
        yield Row(op, sandwich(f"i = {op}<axis=2>(h)\ng = Cast<to=1>(i)"), 8)
    last = "t = Transpose<perm=[0,2,3,1]>(h)\ns = {}(t)\ng = Transpose<perm=[0,3,1,2]>(s)"
    for op in ("Softmax", "LogSoftmax", "Hardmax"):
        yield Row(f"{op} along width", sandwich(f"g = {op}(h)"), 8, opset=13)
        yield Row(f"{op} along channels", sandwich(f"g = {op}<axis=1>(h)"), 0, f"goes through {op}", opset=13)
        yield Row(f"{op} at opset 11 from height", sandwich(f"g = {op}<axis=2>(h)"), 8, opset=11, ir=6)
        yield Row(f"{op} at opset 11 by default", sandwich(f"g = {op}(h)"), 0, f"goes through {op}", opset=11, ir=6)
        yield Row(f"{op} of NHWC", sandwich(last.format(op)), 0, f"goes through {op}")
    yield Row("LpNormalization", sandwich("g = LpNormalization<axis=2>(h)"), 8)
    yield Row("LpNormalization along channels", sandwich("g = LpNormalization<axis=1>(h)"), 8)
    yield Row("CumSum along height", sandwich("g = CumSum(h, a)", "int64 a = {2}"), 8)
    yield Row("CumSum along channels", sandwich("g = CumSum(h, a)", "int64 a = {-3}"), 0, "CumSum")
    yield Row("TopK along width", sandwich("g, i = TopK<axis=3>(h, k)", "int64[1] k = {2}"), 8)
    yield Row("TopK along channels", sandwich("g, i = TopK<axis=1>(h, k)", "int64[1] k = {2}", reads=2), 0, "TopK")
    for op in ("MaxPool", "AveragePool", "LpPool"):
        yield Row(op, sandwich(f"g = {op}<kernel_shape=[2,2], strides=[2,2]>(h)"), 8)
    for op in ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"):
        yield Row(op, sandwich(f"g = {op}(h)"), 8)
    indices = sandwich("p, i = MaxPool<kernel_shape=[2,2]>(h)\nf = Cast<to=1>(i)\ng = Add(p, f)")
    yield Row("MaxPool with indices", indices, 0, "count over all channels")
    for name, more, last in (("", "", ""), (" by a size", ", t", "int64[4] t = {2,8,6,6}")):
        middle = "p, i = MaxPool<kernel_shape=[2,2], strides=[2,2]>(h)\nr = Relu(p)\n"
        middle += f"g = MaxUnpool<kernel_shape=[2,2], strides=[2,2]>(r, i{more})"
        yield Row(f"MaxUnpool{name}", sandwich(middle, *filter(None, [last])), 8)
    other = middle.replace("(r, i, t)", "(c, i, t)").replace("r = Relu(p)", "c = Conv(p, w1)")
    yield Row("MaxUnpool of other channels", sandwich(other, "float[8,8,1,1] w1", last), 8)
    wide = sandwich(middle, "int64[4] t = {2,8,7,6}")
    yield Row("MaxUnpool to another size", wide, 0, "by positions of another size")


def sampling() -> Iterator[Row]:
    """Sampling where another input says; the deformable convolution."""
    grid = ("float[2,4,5,2] c", "float[2,8,4,5] g")
    yield Row("GridSample", sandwich("g = GridSample(h, c)", *grid[:1]), 8)
    contrib = sandwich("g = com.microsoft.GridSample(h, c)", *grid)
    yield Row("contrib GridSample", contrib, 8)
    flow = "f = Conv(h, w1)\nt = Transpose<perm=[0,2,3,1]>(f)\nc = Tanh(t)\ng = GridSample(h, c)"
    yield Row("GridSample by what a Conv gives", sandwich(flow, "float[2,8,3,3] w1"), 8, "gives positions to sample at")
    affine = "p = GlobalAveragePool(h)\nf = Flatten(p)\nm = MatMul(f, w1)\nt = Reshape(m, s)\nn = Shape(h)\n"
    affine += "c = AffineGrid(t, n)\ng = GridSample(h, c)"
    theta = sandwich(affine, "float[8,6] w1", "int64[3] s = {2,2,3}")
    yield Row("AffineGrid", theta, 8, "gives positions to sample at", opset=20, ir=9)
    rois = ("float[3,4] r = {0,0,4,4,1,1,5,5,0,1,3,5}", "int64[3] i = {0,1,1}", "float[3,8,2,2] g")
    yield Row("RoiAlign", sandwich("g = RoiAlign<output_height=2, output_width=2>(h, r, i)", *rois[:2]), 8)
    crop = sandwich(
        "g = com.microsoft.CropAndResize(h, r, i, s)",
        rois[0].replace("4,4,1,1,5,5,0,1,3,5", "1,1,0,0,1,1,0,0,1,1"),
        rois[1].replace("int64", "int32"),
        "int32[2] s = {2,2}",
        rois[2],
    )
    yield Row("CropAndResize", crop, 8)
    five = "float[3,5] r = {0,0,0,4,4,1,1,1,5,5,1,0,1,3,5}"
    yield Row("MaxRoiPool", sandwich("g = MaxRoiPool<pooled_shape=[2,2]>(h, r)", five), 8)
    into = ("float[6,8,3,3] w1", "float[2,18,4,4] o", "float[6] b", "float[2,9,4,4] m")
    yield Row("DeformConv", sandwich("g = DeformConv(h, w1, o, b, m)", *into, reads=6), 14, opset=19, ir=9)
    made = sandwich("o = Conv(h, w2)\ng = DeformConv(h, w1, o)", into[0], "float[18,8,3,3] w2", reads=6)
    yield Row("DeformConv with computed offsets", made, 14, "gives positions to sample at", opset=19, ir=9)
    groups = sandwich(
        "g = DeformConv<group=2, offset_group=2>(h, w1, o)", "float[6,4,3,3] w1", "float[2,36,4,4] o", reads=6
    )
    yield Row("DeformConv in groups", groups, 14, opset=19, ir=9)
    image = "f = Reshape(h, s)\ng = Col2Im(f, a, b)"
    sizes = ("int64[3] s = {2,8,36}", "int64[2] a = {7,7}", "int64[2] b = {2,2}")
    yield Row("Col2Im", sandwich(image, *sizes, reads=2), 2, opset=18)


def norms() -> Iterator[Row]:
    """Statistics of each channel let it go; statistics over channels hold them."""
    vectors = ("float[8] scale", "float[8] b")
    yield Row(
        "BatchNormalization",
        sandwich("g = BatchNormalization(h, scale, b, m, var)", *vectors, "float[8] m", "float[8] var"),
        8,
    )
    rank_2 = mlp("g = BatchNormalization(h, scale, b, m, var)", *vectors, "float[8] m", "float[8] var")
    yield Row("BatchNormalization of rank 2", rank_2, 8)
    yield Row("InstanceNormalization", sandwich("g = InstanceNormalization(h, scale, b)", *vectors), 8)
    why = "is normalised over its channels"
    yield Row("LayerNormalization", mlp("g = LayerNormalization(h, scale, b)", *vectors), 0, why)
    spatial = sandwich("g = LayerNormalization<axis=2>(h, s)", "float[6,6] s")
    yield Row("LayerNormalization over height and width", spatial, 8)
    yield Row("RMSNormalization", mlp("g = RMSNormalization(h, scale)", *vectors[:1]), 0, why, opset=23, ir=11)
    yield Row("LRN", sandwich("g = LRN<size=3>(h)"), 0, why)
    yield Row(
        "GroupNormalization",
        sandwich("g = GroupNormalization<num_groups=4>(h, scale, b)", *vectors, G),
        4,
        opset=21,
        ir=10,
    )


def recurrent() -> Iterator[Row]:
    """LSTM, GRU and RNN: inputs are read, hidden units go with their gates."""
    for op, gates in (("LSTM", 4), ("GRU", 3), ("RNN", 1)):
        for width, attrs in ((1, ""), (2, ', direction="bidirectional"')):
            weights = (
                f"float[{width},{5 * gates},8] w, float[{width},{5 * gates},5] r, float[{width},{10 * gates}] b, "
                f"int64[3] s = {{4,2,{5 * width}}}, float[6,8] w0, float[{5 * width},3] w9"
            )
            nodes = (
                f"h = MatMul(x, w0)\nl = {op}<hidden_size=5{attrs}>(h, w, r, b)\n"
                "t = Transpose<perm=[0,2,1,3]>(l)\nm = Reshape(t, s)\ny = MatMul(m, w9)"
            )
            text = f"(float[4,2,6] x) => (float y) <{weights}> {{ {nodes} }}"
            yield Row(f"{op}{' in both directions' * (width - 1)}", text, 13)


def indexed() -> Iterator[Row]:
    """Lookups along other axes than the channels', and Einsum."""
    top = "t, i = TopK<axis=3>(h2, k)"
    yield Row("GatherElements along width", pair(f"{top}\ng = GatherElements<axis=3>(h, i)", "int64[1] k = {2}"), 8)
    held = pair("t, i = TopK<axis=1>(h2, k)\ng = GatherElements<axis=1>(h, i)", "int64[1] k = {2}", reads=2)
    yield Row("GatherElements along channels", held, 0, "TopK")
    for op, opset in (("ScatterElements", 17), ("Scatter", 10)):
        text = pair(f"{top}\ng = {op}<axis=3>(h, i, t)", "int64[1] k = {2}")
        yield Row(f"{op} along width", text, 8, opset=opset)
    yield Row("ScatterND of rows", mlp("g = ScatterND(h, i, c)", "int64[1,1] i = {1}", "float[1,8] c"), 8)
    yield Row("GatherND of rows", mlp("g = GatherND(h, i)", "int64[3,1] i = {1,0,1}"), 8)
    yield Row(
        "Einsum with a weight", sandwich('g = Einsum<equation="nchw,oc->nohw">(h, w1)', "float[6,8] w1", reads=6), 14
    )
    both = 'k = MatMul(x, w1)\ng = Einsum<equation="ni,mi->nm">(h, k)'
    yield Row("Einsum of two activations", mlp(both, "float[6,8] w1", reads=2), 8)
    alone = mlp('s = Einsum<equation="ni->n">(h)\nu = Unsqueeze(s, a)\ng = Mul(h, u)', "int64[1] a = {1}")
    yield Row("Einsum that sums channels", alone, 8)
    over = mlp('s = Einsum<equation="io->o">(w1)\ng = Mul(h, s)', "float[4,8] w1")
    yield Row("Einsum that sums a weight", over, 8)
    dots = sandwich('g = Einsum<equation="...chw,oc->...ohw">(h, w1)', "float[6,8] w1", reads=6)
    yield Row("Einsum with an ellipsis", dots, 14)
    implied = mlp('g = Einsum<equation="ni,io">(h, w1)', "float[8,4] w1", reads=4)
    yield Row("Einsum without an output", implied, 12)
    split = "".join(f"{n} = MatMul(x, w{n})\n{n}r = Reshape({n}, split)\n" for n in "qkv")
    for name, scores, mixed in (
        ("heads first", "bihd,bjhd->bhij", "bhij,bjhd->bihd"),
        ("heads last", "bihd,bjhd->bijh", "bijh,bjhd->bihd"),
        ("sides exchanged", "bjhd,bihd->bhij", "bjhd,bhij->bihd"),
    ):
        softmax = "Softmax<axis=2>" if name == "heads last" else "Softmax"
        sides = ("kr, qr", "vr, p") if name == "sides exchanged" else ("qr, kr", "p, vr")
        text = f'{split}s = Einsum<equation="{scores}">({sides[0]})\np = {softmax}(s)\n'
        text += f'o = Einsum<equation="{mixed}">({sides[1]})\nm = Reshape(o, merge)\ny = MatMul(m, w9)'
        weights = "float[6,8] wq, float[6,8] wk, float[6,8] wv, float[8,5] w9"
        ints = "int64[4] split = {0,0,2,4}, int64[3] merge = {0,0,8}"
        yield Row(f"attention by Einsum, {name}", f"(float[2,3,6] x) => (float y) <{weights}, {ints}> {{ {text} }}", 16)


Q = ("float s = {0.05}", "uint8 z = {120}", "float ws = {0.01}", "int8 wz = {0}")


def integers() -> Iterator[Row]:
    """Operators on quantized tensors, in onnx and in onnxruntime's own domain."""
    into, out = "q = QuantizeLinear(h, s, z)", "g = DequantizeLinear(p, s, z)"
    vectors = ("int8[6,8,1,1] w1", "float[6] vars", "int8[6] v", "int32[6] b")
    conv = f"{into}\np = QLinearConv(q, s, z, w1, vars, v, s, z, b)\n{out}"
    yield Row("QLinearConv", sandwich(conv, *vectors, *Q, reads=6), 14)
    grouped = f"{into}\np = QLinearConv<group=2>(q, s, z, w1, ws, wz, s, z)\n{out}"
    yield Row("QLinearConv in groups", sandwich(grouped, "int8[6,4,1,1] w1", *Q, reads=6), 14)
    whole = f"{into}\np = ConvInteger(q, w1, z)\ng = Cast<to=1>(p)"
    yield Row("ConvInteger", sandwich(whole, "int8[6,8,1,1] w1", *Q, reads=6), 14)
    product = f"{into}\np = QLinearMatMul(q, s, z, w1, ws, wz, s, z)\n{out}"
    yield Row("QLinearMatMul", mlp(product, "int8[8,6] w1", *Q, reads=6), 14)
    whole = f"{into}\np = MatMulInteger(q, w1, z)\ng = Cast<to=1>(p)"
    yield Row("MatMulInteger", mlp(whole, "int8[8,6] w1", *Q, reads=6), 14)
    gemm = f"{into}\np = com.microsoft.QGemm<transB=1>(q, s, z, w1, ws, wz, b, s, z)\n{out}"
    yield Row("QGemm", mlp(gemm, "int8[6,8] w1", "int32[6] b", "uint8[2,6] p", *Q, reads=6), 14)
    for op in ("QLinearAdd", "QLinearMul"):
        text = f"{into}\nr = QuantizeLinear(h2, s, z)\np = com.microsoft.{op}(q, s, z, r, s, z, s, z)\n{out}"
        yield Row(op, pair(text, "uint8[2,8,6,6] p", *Q), 8)
    for op, attrs, size in (
        ("QLinearLeakyRelu", "", 6),
        ("QLinearSigmoid", "", 6),
        ("QLinearAveragePool", "<kernel_shape=[2,2]>", 5),
        ("QLinearGlobalAveragePool", "", 1),
    ):
        text = f"{into}\np = com.microsoft.{op}{attrs}(q, s, z, s, z)\n{out}"
        yield Row(op, sandwich(text, f"uint8[2,8,{size},{size}] p", *Q), 8)
    concat = (
        f"{into}\nr = QuantizeLinear(h2, s, z)\np = com.microsoft.QLinearConcat<axis=1>(s, z, q, s, z, r, s, z)\n{out}"
    )
    yield Row("QLinearConcat", pair(concat, "uint8[2,12,6,6] p", *Q, reads=12, second=4), 12)


def dynamic() -> Iterator[Row]:
    """What onnxruntime's quantize_dynamic writes."""
    into = "q, s, z = DynamicQuantizeLinear(h)\nt = Mul(s, vars)"
    out = "f = Cast<to=1>(p)\ng = Mul(f, t)"
    kinds = ("float vars", "int8 wz = {0}")
    yield Row(
        "DynamicQuantizeLinear",
        mlp(f"{into}\np = MatMulInteger(q, w1, z, wz)\n{out}", "int8[8,4] w1", *kinds, reads=4),
        12,
    )
    each = f"{into}\np = MatMulInteger(q, w1, z, v)\n{out}"
    yield Row(
        "DynamicQuantizeLinear, a scale a channel",
        mlp(each, "int8[8,4] w1, float[4] vars, int8[4] v = {0,0,0,0}", reads=4),
        12,
    )
    conv = sandwich(
        f"{into}\np = ConvInteger<pads=[1,1,1,1]>(q, w1, z)\n{out}", "uint8[4,8,3,3] w1", *kinds[:1], reads=4
    )
    yield Row("DynamicQuantizeLinear before ConvInteger", conv, 12)
    plain = "q, s, z = DynamicQuantizeLinear(h)\ng = com.microsoft.MatMulIntegerToFloat(q, w1, s, vars, z, v, b)"
    vectors = ("int8[8,4] w1", "float[4] vars", "int8[4] v = {0,0,0,0}", "float[4] b", "float[2,4] g")
    yield Row("MatMulIntegerToFloat", mlp(plain, *vectors, reads=4), 12)
    fused = "g = com.microsoft.DynamicQuantizeMatMul(h, w1, vars, v, b)"
    yield Row("DynamicQuantizeMatMul", mlp(fused, *vectors, reads=4), 12)
    for width, attrs in ((1, ""), (2, ', direction="bidirectional"')):
        for scales in (f"{width}", f"{width},20"):
            weights = (
                f"int8[{width},8,20] w, int8[{width},5,20] r, float[{width},40] b, float[6,8] w0, "
                f"float[{5 * width},3] w9, "
                f"float[{scales}] vars, float[{scales}] vars2, int64[3] s = {{4,2,{5 * width}}}, float[4,{width},2,5] l"
            )
            zeros = "0," * (width * (20 if "," in scales else 1))
            weights += f", int8[{scales}] wz = {{{zeros[:-1]}}}, int8[{scales}] rz = {{{zeros[:-1]}}}"
            nodes = (
                f"h = MatMul(x, w0)\nl = com.microsoft.DynamicQuantizeLSTM<hidden_size=5{attrs}>"
                "(h, w, r, b,,,,, vars, wz, vars2, rz)\nt = Transpose<perm=[0,2,1,3]>(l)\nm = Reshape(t, s)\n"
                "y = MatMul(m, w9)"
            )
            text = f"(float[4,2,6] x) => (float y) <{weights}> {{ {nodes} }}"
            yield Row(f"DynamicQuantizeLSTM{' in both directions' * (width - 1)} [{scales}]", text, 13)


def fused() -> Iterator[Row]:
    """Fused attention and what comes with it."""
    projected = "q = MatMul(x, wq)\nk = MatMul(x, wk)\nv = MatMul(x, wv)\n"

    def of_three(name: str, node: str, *more: str, width: int = 8, prunable: int = 16, opset: int = 17) -> Row:
        weights = ", ".join([f"float[6,{width}] wq, float[6,{width}] wk, float[6,8] wv, float[8,5] w9", *more])
        text = f"(float[2,3,6] x) => (float[2,3,5] y) <{weights}> {{ {projected}{node}\ny = MatMul(a, w9) }}"
        return Row(name, text, prunable, opset=opset, ir=11 if opset > 22 else 8)

    attend = "a = Attention<q_num_heads=2, kv_num_heads=2>"
    declared = "float[2,3,8] a"
    yield of_three("Attention", f"{attend}(q, k, v)", declared, opset=23)
    yield of_three(
        "Attention with other sizes of Q and V", f"{attend}(q, k, v)", declared, width=6, prunable=14, opset=23
    )
    yield of_three("Attention with a mask of heads", f"{attend}(q, k, v, m)", declared, "float[1,2,3,3] m", opset=23)
    four = "".join(f"{n}r = Reshape({n}, s)\n{n}t = Transpose<perm=[0,2,1,3]>({n}r)\n" for n in "qkv")
    four += "b = Attention(qt, kt, vt)\nbt = Transpose<perm=[0,2,1,3]>(b)\na = Reshape(bt, u)"
    shapes = ("float[2,2,3,4] b", "int64[4] s = {0,0,2,4}", "int64[3] u = {0,0,-1}")
    yield of_three("Attention in four dimensions", four, *shapes, opset=23)
    many = "a = com.microsoft.MultiHeadAttention<num_heads=2>"
    yield of_three("MultiHeadAttention", f"{many}(q, k, v)", declared)
    biased = ("float[24] b", "float[2,2,3,3] r")
    yield of_three("MultiHeadAttention with biases", f"{many}(q, k, v, b,, r)", declared, *biased)
    cached = "".join(f"{n}r = Reshape({n}, s)\n{n}t = Transpose<perm=[0,2,1,3]>({n}r)\n" for n in "kv")
    cached += f"{many}(q, kt, vt)"
    row = of_three("MultiHeadAttention of keys by heads", cached, declared, "int64[4] s = {0,0,2,4}", prunable=0)
    yield replace(row, held_because="in an unusual layout")
    packed = "g = com.microsoft.Attention<num_heads=2>(h, w1, b)"
    sizes = ("float[8,24] w1", "float[24] b", "float[2,3,8] g")
    yield Row("Attention with packed weights", mlp(packed, *sizes, rows="2,3"), 24)
    table = packed.replace("b)", "b,,, r)")
    yield Row("Attention with packed weights and a table", mlp(table, *sizes, "float[2,2,3,3] r", rows="2,3"), 24)
    for op in ("SkipLayerNormalization", "SkipSimplifiedLayerNormalization"):
        text = mlp(f"g = com.microsoft.{op}(h, h, scale)", "float[8] scale", "float[2,3,8] g", rows="2,3")
        yield Row(op, text, 0, "is normalised over its channels")


# --- constants, sharing, what nothing is known of --------------------------------------------------------------------


def weights() -> Iterator[Row]:
    """Where weights come from, and who else reads them."""
    bias = "g1 = Conv(h, w1, b)\ng2 = Conv(h, w2, b)\ng = Concat<axis=1>(g1, g2)"
    shared = sandwich(bias, "float[6,8,1,1] w1", "float[6,8,1,1] w2", "float[6] b", reads=12)
    yield Row("bias that two layers share, cut differently", shared, 20)
    norm = "a = BatchNormalization(h, s, b, b, s)\nc = Conv(a, w1)\ng = BatchNormalization(c, s, b, b, s)"
    yield Row(
        "statistics that two layers share",
        sandwich(norm, "float[8] s = {1,1,1,1,2,2,2,2}", "float[8] b", "float[8,8,1,1] w1"),
        16,
    )
    siamese = "h2 = Conv(z, w0)\na = Conv(h, w1)\nb = Conv(h2, w1)\ng = Mul(a, b)"
    yield Row("siamese", sandwich(siamese, "float[8,8,1,1] w1", inputs=", float[2,3,8,8] z"), 16)
    tied = "(float[2,6] x) => (float y) <float[8,6] w> "
    tied += "{ t = Transpose(w)\nh = MatMul(x, t)\nr = Relu(h)\ny = MatMul(r, w) }"
    yield Row("tied weights", tied, 8, "reads channels that are fixed")
    loop = mlp("a = MatMul(h, w1)\nr = Relu(a)\ng = MatMul(r, w1)", "float[8,8] w1")
    yield Row("a weight applied twice", loop, 8)
    node = "w1 = Constant<value = float[4,8,1,1] {" + ",".join(str((i * 7 % 11) / 5 - 1) for i in range(32)) + "}>()"
    yield Row("weight in a Constant node", sandwich(f"{node}\ng = Conv(h, w1)", reads=4), 12)
    floats = "b = Constant<value_floats = [1.0,2.0,3.0,4.0,5.0,6.0,7.0,8.0]>()\ns = Constant<value_ints = [1,8,1,1]>()"
    yield Row("vector in a Constant node", sandwich(f"{floats}\nr = Reshape(b, s)\ng = Add(h, r)"), 8)
    half = "w = Cast<to=1>(w1)\ng = Conv(h, w)"
    yield Row("weight through Cast", sandwich(half, "float16[4,8,1,1] w1", reads=4), 12)
    yield Row("bfloat16 weight", sandwich(half, "bfloat16[4,8,1,1] w1", reads=4), 12)
    bias = "c = Cast<to=1>(b)\ng1 = Conv(h, w1, c)\nd = Cast<to=1>(b)\ng2 = Conv(h, w2, d)\ng = Concat<axis=1>(g1, g2)"
    shared = sandwich(bias, "float[6,8,1,1] w1", "float[6,8,1,1] w2", "bfloat16[6] b", reads=12)
    yield Row("bfloat16 bias that two layers share, cut differently", shared, 20)
    yield Row("weight through Identity", sandwich("w = Identity(w1)\ng = Conv(h, w)", "float[4,8,1,1] w1", reads=4), 12)
    yield Row("weight through Transpose", mlp("t = Transpose(w1)\ng = MatMul(h, t)", "float[4,8] w1", reads=4), 12)
    yield Row(
        "weight through Reshape",
        sandwich("w = Reshape(w1, s)\ng = Conv(h, w)", "float[4,8] w1", "int64[4] s = {4,8,1,1}", reads=4),
        12,
    )
    model_of_halves = "(float16[2,6] x) => (float16 y) <float16[6,8] w0, float16[8,5] w9> "
    model_of_halves += "{ h = MatMul(x, w0)\nr = Relu(h)\ny = MatMul(r, w9) }"
    yield Row("a model in float16", model_of_halves, 8)
    doubles = model_of_halves.replace("float16", "double")
    yield Row("a model in float64", doubles, 8)


def sizes() -> Iterator[Row]:
    """Sizes of channels that are read as numbers."""
    yield Row("attention scaled by sqrt(d)", attention(2, 4, SCALE), 16)
    yield Row("attention of 1 head scaled by sqrt(d)", attention(1, 8, SCALE), 16)
    scalar = sandwich(
        "n = Shape(h)\ni = Gather(n, c)\nf = Cast<to=1>(i)\nt = ReduceSum<keepdims=0>(x)\nz = Div(t, f)\ng = Relu(h)",
        "int64 c = {1}",
    )
    yield Row("a scalar divided by the number of channels", scalar.replace("(float y)", "(float y, float z)"), 8)
    mean = "n = Shape<start=1, end=2>(h)\nf = Cast<to=1>(n)\ng = Div(h, f)"
    yield Row("Div by the number of channels", sandwich(mean), 8)


def carried_sizes() -> Iterator[Row]:
    """Sizes that are written down beside a dynamic one, and reach their readers through shape arithmetic."""
    shapes: Mapping[str, Shape] = {"x": (2, 3, 8, 8)}
    old = "n = Shape(h)\nb = Gather(n, zero)\nu = Unsqueeze<axes=[0]>(b)\nd = Gather(n, one)\n"
    old += "v = Unsqueeze<axes=[0]>(d)\ns = Concat<axis=0>(u, v, minus)\nr = Reshape(h, s)\ng = Flatten(r)"
    ints = ("int64 zero = {0}", "int64 one = {1}", "int64[1] minus = {-1}")
    yield Row("sizes before opset 13", flat(old, *ints, reads=288, x="N,3,8,8"), 8, opset=11, ir=6, shapes=shapes)
    head = "n = Shape(h)\nc = Cast<to=6>(n)\nb = Slice(c, first, second)\nq = Squeeze(b, first)\n"
    head += "u = Unsqueeze(q, first)\ns = Concat<axis=0>(u, eight, minus)\nk = Cast<to=7>(s)\ni = Identity(k)\n"
    told = ("int64[1] first = {0}", "int64[1] second = {1}", "int32[1] eight = {8}", "int32[1] minus = {-1}")

    def row(name: str, body: str, *more: str, prunable: int = 8, reads: int = 288, because: str | None = None) -> Row:
        text = flat(head + body, *told, *more, reads=reads, x="N,3,8,8").replace("float y", "float[N,5] y")
        return Row(name, text, prunable, because, shapes=shapes)

    yield row("a size that passes through Cast and Identity", "r = Reshape(h, i)\ng = Flatten(r)")
    twice = "r = Reshape(h, i)\nt = Relu(h)\nv = Reshape(t, i)\na = Add(r, v)\ng = Flatten(a)"
    yield row("a size of several readers", twice)
    other = "h2 = Conv(x, w1)\nr = Reshape(h, i)\nv = Reshape(h2, i)\nj = Concat<axis=1>(r, v)\ng = Flatten(j)"
    yield row("a size of readers that disagree", other, "float[8,3,3,3] w1", prunable=16, reads=576)
    part = "all = Concat<axis=0>(ones, i, ones)\np = Slice(all, second, fourth)\nr = Reshape(h, p)\ng = Flatten(r)"
    yield row("a size that is cut out of a list", part, "int64[1] ones = {1}", "int64[1] fourth = {4}")
    chosen = "e = Equal(i, never)\nl = Shape(i)\no = ConstantOfShape<value = int64[1] {1}>(l)\nw = Where(e, o, i)\n"
    yield row("a size that passes through Where", f"{chosen}r = Reshape(h, w)\ng = Flatten(r)", "int64 never = {-7}")
    late = "m = ReduceMax<keepdims=0>(x)\nf = Sigmoid(m)\nz = Floor(f)\nj = Cast<to=7>(z)\nt = Add(i, j)\n"
    late += "r = Reshape(h, t)\nl = Shape(x)\no = Slice(l, first, second)\nv = Concat<axis=0>(o, rest)\n"
    late += "g = Reshape(r, v)"
    yield row("a size of data", late, "int64[1] rest = {-1}", prunable=0, because="is not known before")


def vectors() -> Iterator[Row]:
    """Vectors of which parts are taken."""
    gates = "p = Slice(v, zero, four)\nq = Slice(v, four, eight)\nj = Concat<axis=0>(q, p)\ng = Add(h, j)"
    ints = ("int64[1] zero = {0}", "int64[1] four = {4}", "int64[1] eight = {8}")
    yield Row("a vector whose parts are read elsewhere", mlp(gates, "float[8] v", *ints), 8)
    yield Row("a vector of which a part is read", mlp(gates, "float[99] v", *ints), 8)


def branches() -> Iterator[Row]:
    """If, whose branches are one graph with what is around them, and must agree on what they give."""

    def text(then: str, other: str, *weights: str, shape: str = "2,8,6,6", **given: Any) -> str:
        bodies = f"then_branch = t () => (float[{shape}] a) {{ {then} }}, "
        bodies += f"else_branch = e () => (float[{shape}] b) {{ {other} }}"
        return sandwich(f"g = If(c)<{bodies}>", *weights, inputs=", bool c", **given)

    yield Row("If that captures a map", text("a = Relu(h)", "b = Neg(h)"), 8)
    yield Row("If of names that are used twice", text("r = Relu(h)\na = Neg(r)", "r = Neg(h)\nb = Relu(r)"), 8)
    weights = ("float[6,8,1,1] w1", "float[4,8,1,1] w2", "float[6,4,1,1] w3")
    chains = ("a = Conv(h, w1)", "m = Conv(h, w2)\nr = Relu(m)\nb = Conv(r, w3)")
    yield Row("If with weights on both sides", text(*chains, *weights, shape="2,6,6,6", reads=6), 18)
    inside = "u = Constant<value_floats = [0.5,1.0,1.5,2.0,2.5,3.0,3.5,4.0]>()\ns = Constant<value_ints = [8,1,1]>()\n"
    yield Row("If with a constant of its own", text(inside + "v = Reshape(u, s)\na = Mul(h, v)", "b = Neg(h)"), 8)
    sized = "s = Constant<value_ints = [2,8,36]>()\nt = Reshape(h, s)\n"
    sized += "z = Constant<value_ints = [2,8,6,6]>()\na = Reshape(t, z)"
    yield Row("If with sizes inside", text(sized, "b = Neg(h)"), 8)
    depthwise = text("a = Conv<group = 8>(h, w1)", "b = Identity(h)", "float[8,1,1,1] w1")
    yield Row("If around a depthwise Conv", depthwise, 8)
    fixed = text("a = Relu(h)", "b = Identity(z)").replace("bool c", "bool c, float[2,8,6,6] z")
    yield Row("If that is fixed on one side", fixed, 0, "has fixed channels in the other branch")
    nested = "a = If(c)<then_branch = t2 () => (float[2,8,6,6] p) { p = Relu(h) }, "
    nested += "else_branch = e2 () => (float[2,8,6,6] q) { q = Abs(h) }>"
    yield Row("If in an If", text(nested, "b = Neg(h)"), 8)
    squeeze = "i = Constant<value_ints = [0]>()\na = Squeeze(h, i)"
    other = text(squeeze, "b = Relu(h)", "bool c = {0}").replace("(float[2,8,6,6] a)", "(float[8,6,6] a)")
    other = other.replace(", bool c)", ")").replace("(float y)", "(float[N,5,6,6] y)").replace("[2,", "[N,")
    shapes = {"x": (2, 3, 8, 8)}
    yield Row("If that always takes the same branch", other, 8, shapes=shapes)
    mean = "b = ReduceMean<axes = [0]>(h)"
    two = text("a = Relu(h)", mean).replace("(float[2,8,6,6] b)", "(float[1,8,6,6] b)")
    yield Row("If whose branches give two shapes", two, 0, "another shape in the other branch")


def functions() -> Iterator[Row]:
    """Model-local functions: pruned through where their bodies name no size, written out where they do."""
    own = '\n<domain: "custom", opset_import: ["" : 17, "custom" : 1]> '
    weights = ("float[8,8,1,1] w1", "float[8] b1", "float[6,8,3,3] w2", "float[6] b2")
    block = own + "Block (X, W, B) => (Y) { C = Conv(X, W, B)\nY = Relu(C) }"
    call = "a = custom.Block(h, w1, b1)\ng = custom.Block(a, w2, b2)"
    yield Row("function of weights", sandwich(call, *weights, reads=6) + block, 22)
    grouped = own + "Block <group> (X, W) => (Y) { C = Conv<group: int = @group>(X, W)\nY = Relu(C) }"
    call = "a = custom.Block<group=8>(h, w1)\ng = custom.Block<group=1>(a, w2)"
    depthwise = sandwich(call, "float[8,1,1,1] w1", weights[2], reads=6)
    yield Row("function with an attribute that is a size", depthwise + grouped, 14)
    inner = own + "Act <alpha: float = 0.1> (X) => (Y) { Y = LeakyRelu<alpha: float = @alpha>(X) }"
    outer = own + "Outer (X, W) => (Y) { A = custom.Act(X)\nC = Conv(A, W)\nY = custom.Act<alpha=0.3>(C) }"
    yield Row("functions in functions", sandwich("g = custom.Outer(h, w1)", weights[0]) + outer + inner, 16)
    shuffle = own + "Shuffle (X) => (Y) { s = Constant<value_ints=[2,2,4,36]>()\nR = Reshape(X, s)\n"
    shuffle += "T = Transpose<perm=[0,2,1,3]>(R)\nz = Constant<value_ints=[2,8,6,6]>()\nY = Reshape(T, z) }"
    yield Row("function that names a size", sandwich("g = custom.Shuffle(h)") + shuffle, 4)
    call = "p = custom.Shuffle(h)\nt = Concat<axis=1>(z, z)\nq = custom.Shuffle(t)\ng = Add(p, q)"
    fixed = sandwich(call, inputs=", float[2,4,6,6] z") + shuffle
    yield Row("function that names a size, of fixed channels", fixed, 0, FIXED)
    several = own + "Pair (X, Z) => (Y, V) { Y = Add(X, Z)\nV = Identity(Y) }"
    yield Row("function of two outputs", pair("g, unread = custom.Pair(h, h2)") + several, 8)
    absent = own + "Clamp (X, L) => (Y) { Y = Clip(X, L) }"
    yield Row("function without its last input", sandwich("g = custom.Clamp(h)") + absent, 8)
    newer = own.replace("17", "18") + "Newer (X) => (Y) { Y = Relu(X) }"
    yield Row("function of another opset", sandwich("g = custom.Newer(h)", G) + newer, 0, "Newer has no rule")


def foreign() -> Iterator[Row]:
    """Operators that nothing here can run, and what follows from them: the rest is pruned."""
    weights = "float[8,3,3,3] w0, float[8,8,1,1] w1, float[8,8,1,1] w2, float[5,8,1,1] w9"
    head, tail = "a = Conv(x, w0)\nb = Relu(a)\nh = Conv(b, w1)", "y = Conv(g, w9)"

    def text(middle: str, more: str = "") -> str:
        return f"(float[2,3,8,8] x) => (float[2,5,6,6] y) <{weights}{more}> {{ {head}\n{middle}\n{tail} }}"

    nowhere = "meets a tensor whose shape nobody knows"
    yield Row("foreign operator", text("g = custom.Foreign(h)"), 8, "Foreign has no rule")
    declared = text("u = custom.Foreign(x)\nr = Mul(h, u)\ng = Conv(r, w2)", ", float[2,8,6,6] u")
    yield Row("foreign operator of a declared shape", declared, 16, FIXED)
    yield Row("foreign operator of an unknown shape", declared.replace(", float[2,8,6,6] u", ""), 8, nowhere)
    reshaped = "t = custom.Foreign(x)\nv = Reshape(t, s)\nr = Conv(h, w2)\ng = Mul(r, v)"
    yield Row("foreign operator, reshaped", text(reshaped, ", int64[4] s = {2,8,6,6}"), 16, nowhere)
    sized = "n = Shape(h)\nc = Slice(n, one, two)\nq = Concat<axis=0>(c, all)\nt = custom.Foreign(x)\nz = Reshape(t, q)"
    sizes = ", int64[1] one = {1}, int64[1] two = {2}, int64[1] all = {-1}"
    told = text(f"{sized}\ng = Conv(h, w2)", sizes).replace("] y)", "] y, float[8,?] z)")
    yield Row("number of channels, read beside a foreign operator", told, 16, "has an input of unknown shape")
    dropped = text("q = SequenceConstruct(h, h)\nn = SequenceLength(q)\nf = Cast<to=1>(n)\ng = Mul(h, f)")
    yield Row("sequence of which the length is read", dropped, 8, "SequenceConstruct has no rule")


def sequences() -> Iterator[Row]:
    """Sequences that are split, made and joined at constant positions."""
    parts = "q = SplitToSequence<axis=1>(h, s)\na = SequenceAt(q, i)\nb = SequenceAt(q, j)\n"
    at = ("int64 i = {1}", "int64 j = {-2}")
    for name, sizes, reads in (("sizes", "int64[2] s = {3,5}", 8), ("a size", "int64 s = {4}", 8)):
        text = sandwich(f"{parts}g = Concat<axis=1>(a, b)", sizes, *at, reads=reads)
        yield Row(f"SplitToSequence by {name}", text, 8)
    old = sandwich(f"{parts}g = Concat<axis=1>(a, b)", "int64[2] s = {3,5}", *at)
    yield Row("SplitToSequence at opset 11", old, 8, opset=11, ir=6)
    joined = "q = SplitToSequence<axis=1>(h, s)\ng = ConcatFromSequence<axis=1>(q)"
    yield Row("ConcatFromSequence", sandwich(joined, "int64 s = {3}"), 8)
    made = "q = SequenceConstruct(h, h2)\na = SequenceAt(q, i)\nr = Relu(a)\nq2 = SequenceInsert(q, r)\n"
    made += "q3 = SequenceErase(q2, z)\ng = ConcatFromSequence<axis=1>(q3)"
    yield Row("SequenceConstruct", pair(made, "int64 i = {0}", "int64 z = {0}", reads=14, second=6), 14)
    stacked = "q = SequenceConstruct(h, h2)\nt = ConcatFromSequence<axis=0, new_axis=1>(q)\n"
    stacked += "g = ReduceMax<axes=[0], keepdims=0>(t)"
    yield Row("ConcatFromSequence along a new axis", pair(stacked), 8)
    yield Row("ConcatFromSequence along a new axis at opset 11", pair(stacked), 8, opset=11, ir=6)
    given = sandwich(f"{parts}g = Concat<axis=1>(a, b)", "int64[2] s = {4,4}", at[1], inputs=", int64 i")
    yield Row("SequenceAt of a position that is given", given, 0, "SplitToSequence has no rule")


def qonnx() -> Iterator[Row]:
    """QONNX's quantizers, of weights and of maps, with one scale or one a channel."""
    more = ("float[8,1,1,1] vars", "float zero = {0}", "float bits = {8}", "float[8,8,1,1] w1", "float[8,8,1,1] q", G)
    for domain in QONNX:
        for op in QUANTIZERS:
            rest = {"Trunc": "zero, bits, bits", "BipolarQuant": "", "FloatQuant": "bits, bits"}.get(op, "zero, bits")
            rest = f", {rest}" if rest else ""
            middle = f"q = {domain}.{op}(w1, vars{rest})\nc = Conv(h, q)\ng = {domain}.{op}(c, vars2{rest})"
            text = sandwich(middle, *more, "float[1,8,1,1] vars2")
            yield Row(f"{domain} {op}", text, 16)


def opaque() -> Iterator[Row]:
    """What has no rule holds what reaches it."""
    mystery = '\n<domain: "custom", opset_import: ["" : 17]> Mystery (X) => (Y) { Y = Relu(X) }'
    unknown = sandwich("g = custom.Mystery(h)", G) + mystery
    yield Row("function of a custom domain", unknown, 8)
    yield from foreign()
    yield from functions()
    yield from branches()
    loop = (
        "g = Loop(n, , h)<body = l (int64 i, bool c, float[2,8,6,6] a) => (bool d, float[2,8,6,6] b) "
        "{ d = Identity(c)\nb = Add(a, h) }>"
    )
    yield Row("Loop that captures a map", sandwich(loop, "int64 n = {2}", G), 0, "is read inside Loop")


ROWS: tuple[Row, ...] = tuple(
    row
    for family in (
        unary,
        binary,
        quantized,
        convolutions,
        products,
        heads,
        concats,
        slices,
        layouts,
        space,
        zeros,
        repeats,
        reductions,
        sampling,
        norms,
        recurrent,
        sequences,
        indexed,
        integers,
        dynamic,
        qonnx,
        fused,
        weights,
        sizes,
        carried_sizes,
        vectors,
        opaque,
    )
    for row in family()
)
