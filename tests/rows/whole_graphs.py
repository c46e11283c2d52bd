"""Rows of what is more than one operator: shared weights, sizes, branches, functions, and what nothing is known of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from onnxprune.model.graph import Shape
from onnxprune.running.stand_in_nodes import QONNX, QUANTIZERS
from tests.models import flat, mlp, pair, sandwich
from tests.rows.contracting import SCALE, attention
from tests.rows.row import FIXED, G, Row


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
