"""Rows of operators that sum over channels: convolutions, products, attention."""

from __future__ import annotations

from collections.abc import Iterator

from tests.models import mlp, sandwich
from tests.rows.row import G, Row


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
