"""Rows of operators along axes: reductions, sampling, normalisation, recurrence, indexing."""

from __future__ import annotations

from collections.abc import Iterator

from onnxprune.labels.ops.reduction import REDUCE
from tests.models import flat, mlp, pair, sandwich
from tests.rows.row import G, Row


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


def over_named_axes() -> Iterator[Row]:
    """Operators that work over some axes, and on each position of the others by itself."""
    backwards = mlp("g = ReverseSequence<batch_axis=0, time_axis=1>(h, a)", "int64[2] a = {2,3}", rows="2,3")
    yield Row("ReverseSequence over steps", backwards, 8)
    across = mlp("g = ReverseSequence<batch_axis=0, time_axis=1>(h, a)", "int64[2] a = {5,8}")
    yield Row("ReverseSequence over channels", across, 0, "goes through ReverseSequence over its channels")
    for op, space, channels, inputs in (
        ("MeanVarianceNormalization", "axes=[2,3]", "axes=[0,1,2,3]", ("", "")),
        ("Compress", "axis=3", "axis=1", ("bool[6] a = {1,0,1,1,0,1}", "bool[8] a = {1,1,1,1,1,1,1,1}")),
        ("CenterCropPad", "axes=[2,-1]", "axes=[1]", ("int64[2] a = {4,7}", "int64[1] a = {8}")),
    ):
        reads = f"h{', a' if inputs[0] else ''}"
        free, held = (filter(None, [i]) for i in inputs)
        yield Row(f"{op} over space", sandwich(f"g = {op}<{space}>({reads})", *free), 8, opset=18)
        why = f"goes through {op} over its channels"
        yield Row(f"{op} over channels", sandwich(f"g = {op}<{channels}>({reads})", *held), 0, why, opset=18)
    yield Row("Trilu", sandwich("g = Trilu<upper=1>(h)"), 8)
    last = sandwich("t = Transpose<perm=[0,2,3,1]>(h)\nu = Trilu(t)\ng = Transpose<perm=[0,3,1,2]>(u)")
    yield Row("Trilu of NHWC", last, 0, "goes through Trilu over its channels")


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
    training = sandwich(
        "g, rm, rv = BatchNormalization<training_mode=1>(h, scale, b, m, var)\np = Sqrt(rv)",
        *vectors,
        "float[8] m",
        "float[8] var",
    )
    yield Row("BatchNormalization in training mode", training, 8)
    rank_2 = mlp("g = BatchNormalization(h, scale, b, m, var)", *vectors, "float[8] m", "float[8] var")
    yield Row("BatchNormalization of rank 2", rank_2, 8)
    yield Row("InstanceNormalization", sandwich("g = InstanceNormalization(h, scale, b)", *vectors), 8)
    why = "is normalised over its channels"
    yield Row("LayerNormalization", mlp("g = LayerNormalization(h, scale, b)", *vectors), 0, why)
    spatial = sandwich("g = LayerNormalization<axis=2>(h, s)", "float[6,6] s")
    yield Row("LayerNormalization over height and width", spatial, 8)
    # Without a bias onnxruntime 1.17 ends the process as it optimizes the model.
    mean = sandwich("n, m = LayerNormalization<axis=2>(h, s, c)\ng = Add(n, m)", "float[6,6] s", "float[6,6] c")
    yield Row("LayerNormalization over height and width, its mean too", mean, 8)
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
