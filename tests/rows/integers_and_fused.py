"""Rows of integer operators and of those that onnxruntime fuses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tests.models import mlp, pair, sandwich
from tests.rows.row import Row

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
    picked = "c = Greater(h, none)\nr = com.microsoft.QLinearWhere(c, q, s, z, q, s, z, s, z)"
    picked = f"{into}\n{picked}\ng = DequantizeLinear(r, s, z)"
    yield Row("QLinearWhere", sandwich(picked, "uint8[2,8,6,6] r", "float none = {0}", *Q), 8)
    for name, axis, prunable, why in (
        ("width", "axis=3, opset=13", 8, None),
        ("channels", "axis=1, opset=13", 0, "goes through"),
        ("width at opset 11", "axis=2, opset=11", 8, None),
        ("channels at opset 11", "axis=1, opset=11", 0, "goes through"),
    ):
        text = f"{into}\np = com.microsoft.QLinearSoftmax<{axis}>(q, s, z, s, z)\n{out}"
        yield Row(f"QLinearSoftmax along {name}", sandwich(text, "uint8[2,8,6,6] p", *Q), prunable, why)
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
            name = f"DynamicQuantizeLSTM{' in both directions' * (width - 1)} [{scales}]"
            yield Row(name, text, 13)
            states = f"float[{width},2,5] h0, float[{width},2,5] c0, float[{scales}] vars,"
            started = text.replace("b,,,,,", "b,,h0,c0,,").replace(f"float[{scales}] vars,", states)
            yield Row(f"{name}, from states", started, 13)


def in_blocks() -> Iterator[Row]:
    """Weights of 4 and 8 bits in blocks of 16 columns, which go as one where their scales allow it."""
    for bits, scales, zeros, prunable in (
        (4, "12,2", "", 14),
        (4, "24", "", 12),
        (4, "12,2", "uint8[12,1] z", 12),
        (8, "12,2", "uint8[12,2] z", 14),
        (4, "12,2", "float[12,2] z", 14),
        (4, "24", "uint8[12] z", 12),
    ):
        name = f"MatMulNBits of {bits} bits, scales {scales}, zero points {zeros or 'none'}"
        node = (
            f"g = com.microsoft.MatMulNBits<K=32, N=12, bits={bits}, block_size=16>(h, w1, s{', z' if zeros else ''})"
        )
        weights = ", ".join([f"uint8[12,2,{2 * bits}] w1, float[{scales}] s", *([zeros] if zeros else [])])
        text = f"(float[2,3,6] x) => (float[2,3,5] y) <float[6,32] w0, float[12,5] w9, {weights}>"
        yield Row(
            name,
            f"{text} {{ h = MatMul(x, w0)\n{node}\ny = MatMul(g, w9) }}",
            prunable,
            None if prunable > 12 else "is quantized in blocks",
        )


def fused() -> Iterator[Row]:
    """Fused attention and what comes with it."""
    projected = "q = MatMul(x, wq)\nk = MatMul(x, wk)\nv = MatMul(x, wv)\n"

    def of_three(name: str, node: str, *more: str, width: int = 8, prunable: int = 16, opset: int = 17) -> Row:
        weights = ", ".join([f"float[6,{width}] wq, float[6,{width}] wk, float[6,8] wv, float[8,5] w9", *more])
        text = f"(float[2,3,6] x) => (float[2,3,5] y) <{weights}> {{ {projected}{node}\ny = MatMul(a, w9) }}"
        return Row(name, text, prunable, opset=opset, ir=11 if opset > 22 else 8)

    gemm = 'g = com.microsoft.FusedGemm<activation="Relu", transB=1>(h, w1, b)'
    yield Row("FusedGemm", mlp(gemm, "float[6,8] w1", "float[6] b", "float[2,6] g", reads=6), 14)
    attend = "a = Attention<q_num_heads=2, kv_num_heads=2>"
    declared = "float[2,3,8] a"
    yield of_three("Attention", f"{attend}(q, k, v)", declared, opset=23)
    yield of_three(
        "Attention with other sizes of Q and V", f"{attend}(q, k, v)", declared, width=6, prunable=14, opset=23
    )
    yield of_three("Attention with a mask of heads", f"{attend}(q, k, v, m)", declared, "float[1,2,3,3] m", opset=23)
    shared = "float[6,16] wq, float[6,8] wk, float[6,8] wv, float[16,5] w9, float[2,3,16] a"
    for name, more, mask in (("", "", ""), (" and a mask", ", float[1,4,3,3] m", ", m")):
        node = f"a = Attention<q_num_heads=4, kv_num_heads=2>(q, k, v{mask})"
        text = f"(float[2,3,6] x) => (float[2,3,5] y) <{shared}{more}> {{ {projected}{node}\ny = MatMul(a, w9) }}"
        yield Row(f"Attention of two heads for each of K and V{name}", text, 16, opset=23, ir=11)
    tables = ("float[8,2] c", "float[8,2] s", "int64[2,3] p = {0,1,2,3,4,5}")
    turned = "r = RotaryEmbedding<num_heads=2>(q, c, s, p)\nt = RotaryEmbedding<num_heads=2>(k, c, s, p)\n"
    turned += "a = Attention<q_num_heads=2, kv_num_heads=2>(r, t, v)"
    yield of_three("RotaryEmbedding", turned, declared, *tables, prunable=8, opset=23)
    own = turned.replace("Rotary", "com.microsoft.Rotary").replace("c, s, p", "p, c, s")
    own = own.replace("Attention<q_num_heads=2, kv_", "com.microsoft.MultiHeadAttention<")
    given = (declared, "float[2,3,8] r", "float[2,3,8] t", *tables)
    yield of_three("RotaryEmbedding of onnxruntime", own, *given, prunable=8)
    spread = "r = Reshape(q, s4)\nt = Transpose<perm=[0,2,1,3]>(r)\nu = RotaryEmbedding(t, c, s, p)\n"
    spread += "b = Transpose<perm=[0,2,1,3]>(u)\na = Reshape(b, s3)"
    sizes = ("int64[4] s4 = {0,0,2,4}", "int64[3] s3 = {0,0,-1}", "float[2,3,8] a")
    yield of_three("RotaryEmbedding of four dimensions", spread, *sizes, *tables, prunable=18, opset=23)
    told = "com.microsoft.RotaryEmbedding<num_heads=2, rotary_embedding_dim=4>(t, p, c, s)"
    given = (spread.replace("RotaryEmbedding(t, c, s, p)", told), *sizes, "float[2,2,3,4] u", "float[2,3,2,4] b")
    yield of_three("RotaryEmbedding of four dimensions that is told its heads", *given, *tables, prunable=18)
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
