"""Rows of operators that move elements."""

from __future__ import annotations

from collections.abc import Iterator

from tests.models import flat, mlp, pair, sandwich
from tests.rows.row import FIXED, Row


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
    turned = (
        "r = Reshape(h, s)\np = Slice(r, z, e, a, t)\nq = Slice(r, o, e, a, t)\nv = Mul(p, k)\nw = Mul(q, k)\n"
        "m = Unsqueeze(v, n)\nl = Unsqueeze(w, n)\nj = Concat<axis=-1>(l, m)\ng = Reshape(j, u)"
    )
    bound = [f"int64[1] {n} = {{{v}}}" for n, v in zip("zoeatn", (0, 1, 9, 2, 2, -1), strict=True)]
    sizes = ("float[1,1,2] k", "int64[3] s = {0,2,4}", "int64[2] u = {2,-1}")
    yield Row("Slice of pairs of each head", mlp(turned, *bound, *sizes), 2)
    nothing = "a, b = Split<axis=1>(h, s)\nc = Slice(h, n, n, o)\ng = Concat<axis=1>(b, a, c)"
    ends = ("int64[2] s = {8,0}", "int64[1] n = {3}", "int64[1] o = {1}")
    yield Row("Split and Slice of which nothing is taken", sandwich(nothing, *ends), 8)
    ends = ("int64[1] s = {-3}", "int64[1] e = {5}", "int64[1] a = {1}")
    moved = sandwich("c = Slice(h, s, e, a)\ng = Concat<axis=1>(h, c)", *ends)
    yield Row("Slice from behind its end, of which nothing is taken", moved, 8)
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
    for mode in ("constant", "edge"):
        moved = sandwich(f'g = Pad<mode="{mode}">(h, s)', "int64[8] s = {0,1,0,0,0,-1,0,0}")
        yield Row(f"Pad that moves channels, {mode}", moved, 0, "is padded with copies of channels")
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
