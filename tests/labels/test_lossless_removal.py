"""Dead and dormant channels: what is found, what is kept because padding or a missing bias forbids the fold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper

from onnxprune.model.onnx_model import from_proto
from onnxprune.options import Options
from onnxprune.pipeline import Result, prune
from onnxprune.plans.applied import plan_of
from onnxprune.proof import exact
from tests.models import build, flat, mlp, pair, sandwich
from tests.property import all_lossless, assert_exact, assert_lossless, remove, some

Index = Any
Zeros = Mapping[str, Index]

#: Filters 1 and 4 of h, and its inputs' slices of w9.
FILTERS = [1, 4]
READS = (slice(None), FILTERS)


@dataclass(frozen=True)
class Row:
    """A model in text, where its weights are set to 0, and how many channels nobody misses then."""

    name: str
    text: str = field(repr=False)
    zeros: Zeros
    lossless: int
    opset: int = 17
    gone: int | None = None  # where equal counts let fewer go

    def model(self) -> ModelProto:
        return silenced(build(self.text, self.opset, 10 if self.opset > 20 else 8), self.zeros)

    def __str__(self) -> str:
        return self.name


def silenced(model: ModelProto, zeros: Zeros) -> ModelProto:
    """The model with weights set to 0 at these positions."""
    for name, index in zeros.items():
        changed(model, name, partial(_zero, index))
    return model


def changed(model: ModelProto, name: str, change: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
    tensor = next(t for t in model.graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor).copy()), name))


def _zero(index: Index, array: NDArray[Any]) -> NDArray[Any]:
    array[index] = 0
    return array


def padded(middle: str, *weights: str, reads: int = 8) -> str:
    """As `sandwich`, read by a padded 3x3 convolution."""
    text = sandwich(middle, *weights, reads=reads).replace(f"[5,{reads},1,1] w9", f"[5,{reads},3,3] w9")
    return text.replace("y = Conv(g, w9)", "y = Conv<pads=[1,1,1,1]>(g, w9)")


BIASED = "h = Conv(x, w0, b0)"
H = {"w0": FILTERS}
NORM = "g = BatchNormalization(h, b1, b2, b3, var)"
VECTORS = ("float[8] b1", "float[8] b2", "float[8] b3", "float[8] var")
RESIDUAL = "r = Relu(h)\nb = Conv(r, w1)\ng = Add(r, b)"
TAIL = "t = Relu(h)\ng = Add(t, h)"

ROWS = (
    Row("filters of zeros", sandwich("g = Relu(h)"), H, 2),
    Row("filters of zeros behind padding", padded("g = Relu(h)"), H, 2),
    Row("channels that are read with zeros", sandwich("g = Relu(h)"), {"w9": READS}, 2),
    Row("channels that are read with zeros behind padding", padded("g = Sigmoid(h)"), {"w9": READS}, 2),
    Row("half of a filter is no zero", sandwich("g = Relu(h)"), {"w0": (FILTERS, 0)}, 0),
    Row("a bias alone", sandwich("g = Relu(h)", "float[8] b0", h=BIASED), H, 2),
    Row("a bias alone behind padding", padded("g = Sigmoid(h)"), H, 0),
    Row("a sigmoid of zero", sandwich("g = Sigmoid(h)"), H, 2),
    Row("a sigmoid of zero behind padding that a bias cannot take", padded("g = Sigmoid(h)"), H, 0),
    Row(
        "a bias that is cut off", padded("c = Abs(b0)\nn = Neg(c)\ni = Add(h, n)\ng = Relu(i)", "float[8,1,1] b0"), H, 2
    ),
    Row("gamma of zero", sandwich(NORM, *VECTORS), {"b1": FILTERS}, 2),
    Row("gamma and beta of zero behind padding", padded(NORM, *VECTORS), {"b1": FILTERS, "b2": FILTERS}, 2),
    Row("gamma of zero behind padding", padded(NORM, *VECTORS), {"b1": FILTERS}, 0),
    Row("filters of zeros before a norm", sandwich(NORM, *VECTORS), H, 2),
    Row(
        "filters of zeros before a norm in training, as it was before opset 14",
        sandwich(NORM.replace("g =", "g, n, v, m, w ="), *VECTORS),
        H,
        0,
        opset=9,
    ),
    Row("instance norm of zeros", sandwich("g = InstanceNormalization(h, b1, b2)", "float[8] b1", "float[8] b2"), H, 2),
    Row("both sides of a sum", pair("g = Add(h, h2)"), {"w0": [1, 4], "w1": [4, 5]}, 1),
    Row("one side of a product", pair("g = Mul(h, h2)"), {"w0": [1, 4], "w1": [5]}, 3),
    Row("a gate over nothing", sandwich("p = GlobalAveragePool(h)\ns = Sigmoid(p)\ng = Mul(s, h)"), H, 2),
    Row("a residual stage", sandwich(RESIDUAL, "float[8,8,1,1] w1"), {**H, "w1": [4, 5]}, 1),
    Row("a residual stage read nowhere", sandwich(RESIDUAL, "float[8,8,1,1] w1"), {"w1": READS, "w9": READS}, 2),
    Row("sides of a concat", pair("s = Sigmoid(h)\ng = Concat<axis=1>(s, h2)", reads=16), {**H, "w1": [0]}, 3),
    Row("a concat of a map and its negative", sandwich("n = Neg(h)\ng = Concat<axis=1>(h, n)", reads=16), H, 2),
    Row("a split", sandwich("a, b = Split<axis=1>(h)\ng = Concat<axis=1>(b, a)", reads=8), H, 2, opset=11),
    Row(
        "a constant that is concatenated",
        sandwich("g = Concat<axis=1>(h, c)", "float[2,3,6,6] c", reads=11),
        {"c": ...},
        3,
        gone=2,
    ),
    Row("pooling", sandwich("s = Sigmoid(h)\ng = MaxPool<kernel_shape=[2,2], pads=[1,1,1,1]>(s)"), H, 2),
    Row(
        "pooling that counts its padding",
        sandwich("s = Sigmoid(h)\ng = AveragePool<kernel_shape=[2,2], pads=[1,1,1,1], count_include_pad=1>(s)"),
        H,
        0,
    ),
    Row(
        "means over space",
        flat("s = Sigmoid(h)\nm = ReduceMean<axes=[2,3], keepdims=0>(s)\ng = Mul(m, z)", "float[8] z", reads=8),
        {**H, "z": [1]},
        1,
    ),
    Row("sums over space of zeros", flat("g = ReduceSum<axes=[2,3], keepdims=0>(h)", reads=8), H, 2, opset=11),
    Row(
        "a mean over rows that are not alike",
        flat(
            "r = Reshape(h, s)\nm = ReduceMean<axes=[1], keepdims=0>(r)\ng = Transpose<perm=[0,2,1]>(m)",
            "int64[4] s = {2,2,4,36}",
            reads=4,
        ),
        {"w0": [0]},
        0,
    ),
    Row("pixel shuffle", sandwich("d = DepthToSpace<blocksize=2>(h)\ng = Relu(d)", reads=2), {"w0": [1, 3, 5, 7]}, 1),
    Row("part of a pixel shuffle", sandwich("d = DepthToSpace<blocksize=2>(h)\ng = Relu(d)", reads=2), H, 0),
    Row("resizing", sandwich('s = Sigmoid(h)\ng = Resize<mode="linear">(s, , c)', "float[4] c = {1,1,2,2}"), H, 2),
    Row("padding with zeros", sandwich("g = Pad(h, p)", "int64[8] p = {0,0,1,1,0,0,1,1}"), H, 2),
    Row(
        "padding of a constant with zeros",
        sandwich("s = Sigmoid(h)\ng = Pad(s, p)", "int64[8] p = {0,0,1,1,0,0,1,1}"),
        H,
        0,
    ),
    Row(
        "padding of a constant with itself",
        sandwich('s = Sigmoid(h)\ng = Pad<mode="reflect">(s, p)', "int64[8] p = {0,0,1,1,0,0,1,1}"),
        H,
        2,
    ),
    Row("depthwise", sandwich("g = Conv<group=8, pads=[1,1,1,1]>(h, w1)", "float[8,1,3,3] w1"), {**H, "w1": [0]}, 3),
    Row("depthwise of a constant", sandwich("s = Sigmoid(h)\ng = Conv<group=8>(s, w1)", "float[8,1,3,3] w1"), H, 2),
    Row(
        "depthwise of a constant with padding",
        sandwich("s = Sigmoid(h)\ng = Conv<group=8, pads=[1,1,1,1]>(s, w1)", "float[8,1,3,3] w1"),
        H,
        0,
    ),
    Row(
        "groups",
        sandwich("s = Sigmoid(h)\ng = Conv<group=2>(s, w1, b1)", "float[6,4,3,3] w1", "float[6] b1", reads=6),
        {"w0": [1, 4]},
        2,
    ),
    Row(
        "groups of which one has none",
        sandwich("s = Sigmoid(h)\ng = Conv<group=2>(s, w1)", "float[6,4,3,3] w1", reads=6),
        {"w0": [1, 2]},
        2,
        gone=0,
    ),
    Row(
        "ConvTranspose of zeros",
        sandwich("g = ConvTranspose<strides=[2,2]>(h, w1)", "float[8,6,2,2] w1", reads=6),
        H,
        2,
    ),
    Row(
        "ConvTranspose of a constant",
        sandwich("s = Sigmoid(h)\ng = ConvTranspose(s, w1, b1)", "float[8,6,1,1] w1", "float[6] b1", reads=6),
        H,
        2,
    ),
    Row(
        "ConvTranspose of a constant by several taps",
        sandwich("s = Sigmoid(h)\ng = ConvTranspose<strides=[2,2]>(s, w1)", "float[8,6,2,2] w1", reads=6),
        H,
        0,
    ),
    Row(
        "ConvTranspose in groups",
        sandwich("s = Sigmoid(h)\ng = ConvTranspose<group=2>(s, w1, b1)", "float[8,3,1,1] w1", "float[6] b1", reads=6),
        {**H, "w1": (slice(0, 4), 1)},
        3,
        gone=2,
    ),
    Row(
        "a constant through a whole layer",
        sandwich("s = Sigmoid(h)\na = Conv(s, w1, b1)\ng = Tanh(a)", "float[6,8,3,3] w1", "float[6] b1", reads=6),
        {"w0": [0, 1, 2, 3], "w1": ([2, 5], slice(4, 8))},
        6,
    ),
    Row("MatMul, which has no bias", mlp("g = Sigmoid(h)"), {"w0": (slice(None), FILTERS)}, 0),
    Row("MatMul of zeros", mlp("g = Relu(h)"), {"w0": (slice(None), [1]), "w9": [4]}, 2),
    Row(
        "Gemm",
        mlp(
            "s = Sigmoid(h)\na = Gemm<alpha=0.5, beta=2.0>(s, w1, b1)\ng = Relu(a)",
            "float[8,6] w1",
            "float[6] b1",
            reads=6,
        ),
        {"w0": (slice(None), FILTERS)},
        2,
    ),
    Row(
        "Gemm without a bias",
        mlp("s = Sigmoid(h)\ng = Gemm<transB=1>(s, w1)", "float[6,8] w1", reads=6),
        {"w0": (slice(None), FILTERS)},
        2,
    ),
    Row(
        "Gemm with a bias that it scales by 0",
        mlp("s = Sigmoid(h)\ng = Gemm<beta=0.0>(s, w1, b1)", "float[8,6] w1", "float[6] b1", reads=6),
        {"w0": (slice(None), FILTERS)},
        0,
    ),
    Row(
        "Gemm with a scalar bias",
        mlp("s = Sigmoid(h)\ng = Gemm(s, w1, b1)", "float[8,6] w1", "float[1] b1", reads=6),
        {"w0": (slice(None), FILTERS)},
        0,
    ),
    Row(
        "a weight behind Cast and Transpose",
        mlp("c = Cast<to=1>(w1)\nt = Transpose(c)\nk = MatMul(h, t)\ng = Relu(k)", "double[6,8] w1", reads=6),
        {"w1": 3},
        1,
    ),
    Row(
        "a weight of two constants",
        sandwich(
            "w = MatMul(u, v)\nf = Reshape(h, s)\ng0 = MatMul(f, w)\ng = Reshape(g0, q)",
            "float[36,4] u",
            "float[4,36] v",
            "int64[3] s = {2,8,36}",
            "int64[4] q = {2,8,6,6}",
        ),
        {"u": (slice(None), 2)},
        0,
    ),
    Row(
        "a fan-out of which one reader misses it",
        sandwich(
            "s = Sigmoid(h)\nk = Conv(s, w1)\nm = Conv<pads=[1,1,1,1]>(s, w2)\ng = Concat<axis=1>(k, m)",
            "float[4,8,1,1] w1",
            "float[4,8,3,3] w2",
        ),
        H,
        0,
    ),
    Row(
        "a fan-out of which one reader reads zeros",
        sandwich(
            "s = Sigmoid(h)\nk = Conv(s, w1)\nm = Conv<pads=[1,1,1,1]>(s, w2)\ng = Concat<axis=1>(k, m)",
            "float[4,8,1,1] w1",
            "float[4,8,3,3] w2",
        ),
        {**H, "w2": READS},
        2,
    ),
    Row(
        "a bias that two readers share",
        sandwich(
            "s = Sigmoid(h)\nk = Conv(s, w1, b1)\nm = Conv(s, w2, b1)\ng = Add(k, m)",
            "float[8,8,1,1] w1",
            "float[8,8,1,1] w2",
            "float[8] b1",
        ),
        H,
        2,
    ),
    Row("a rounded constant", sandwich("r = Round(h)\ng = Add(r, h)", "float[8] b0", h=BIASED), H, 0),
    Row(
        "QDQ",
        sandwich(
            "q = QuantizeLinear(h, s, z)\nd = DequantizeLinear(q, s, z)\ng = Relu(d)",
            "float s = {0.05}",
            "int8 z = {3}",
        ),
        H,
        2,
    ),
    Row(
        "QDQ of a constant",
        sandwich(
            "a = Sigmoid(h)\nq = QuantizeLinear(a, s, z)\ng = DequantizeLinear(q, s, z)",
            "float s = {0.05}",
            "int8 z = {3}",
        ),
        H,
        0,
    ),
    Row(
        "an LSTM that reads zeros",
        flat(
            "a = Reshape(h, s)\nt = Transpose<perm=[2,0,1]>(a)\n"
            "k, u = LSTM<hidden_size=4>(t, w1, w2)\ng = Reshape(u, q)",
            "int64[3] s = {2,8,36}",
            "float[1,16,8] w1",
            "float[1,16,4] w2",
            "int64[2] q = {2,4}",
            reads=4,
        ),
        H,
        2,
    ),
)


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_what_nobody_misses_is_found_and_goes_exactly(row: Row) -> None:
    removal = assert_lossless(row.model())

    assert len(removal.groups.lossless) == row.lossless
    assert removal.removed == (row.lossless if row.gone is None else row.gone)


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_other_channels_go_with_them_exactly(row: Row) -> None:
    assert_exact(row.model(), some(seed=2, most=0.8, lossless_first=True))
    assert_exact(row.model(), some(seed=3, most=9))


def row_named(name: str) -> Row:
    return next(r for r in ROWS if r.name == name)


# --- through the pipeline -------------------------------------------------------------------------------------------


def run(model: ModelProto, **options: Any) -> Result:
    return prune(from_proto(model), Options(**options))


def kept(result: Result) -> list[int]:
    return [g.kept for g in result.report.groups]


def dead_filters(count: int, out: int = 16) -> ModelProto:
    """Two layers of ``out`` channels, of which ``count`` each are always zero."""
    text = f"""(float[1,3,8,8] x) => (float[1,4,8,8] y)
    <float[{out},3,1,1] w0, float[{out},{out},3,3] w1, float[4,{out},1,1] w2> {{
      a = Conv(x, w0)
      b = Relu(a)
      c = Conv<pads=[1,1,1,1]>(b, w1)
      d = Sigmoid(c)
      y = Conv(d, w2)
    }}"""
    return silenced(build(text), {"w0": slice(count), "w1": slice(count)})


def test_lossless_alone_removes_these_and_nothing_else() -> None:
    result = run(dead_filters(4), ratio=0.0, lossless=True)

    report = result.report
    assert (kept(result), report.lossless) == ([12, 12], 8)
    assert report.proof is not None
    assert max(e.relative for e in report.proof.pruning) <= 1e-5


def test_lossless_is_the_same_with_every_importance_and_scope() -> None:
    for importance in ("l1", "fpgm", "random"):
        for scope in ("group", "global"):
            result = run(dead_filters(4), ratio=0.0, lossless=True, importance=importance, scope=scope)
            assert (kept(result), result.report.lossless) == ([12, 12], 8)


@pytest.mark.parametrize("scope", ["group", "global"])
def test_lossless_channels_go_first_and_count_towards_the_ratio(scope: str) -> None:
    result = run(dead_filters(4), ratio=0.5, scope=scope, importance="random", lossless=True)

    assert sum(kept(result)) == 16
    assert result.report.lossless == 8


@pytest.mark.parametrize("scope", ["group", "global"])
def test_a_ratio_alone_takes_lossless_channels_first(scope: str) -> None:
    result = run(dead_filters(4), ratio=0.125, scope=scope, importance="random")

    assert sum(kept(result)) == 28
    assert result.report.lossless == 4


def test_more_are_lossless_than_the_ratio_asks_for() -> None:
    assert kept(run(dead_filters(4), ratio=0.125, lossless=True)) == [12, 12]
    assert kept(run(dead_filters(16), ratio=0.0, lossless=True)) == [1, 1], "one is always left"
    assert kept(run(dead_filters(11), ratio=0.0, lossless=True, max_ratio=0.5)) == [8, 8]


def test_align_leaves_multiples_and_takes_as_many_as_that_allows() -> None:
    result = run(dead_filters(7), ratio=0.0, lossless=True, align=4)

    assert (kept(result), result.report.lossless) == ([12, 12], 8)
    assert kept(run(dead_filters(3), ratio=0.0, lossless=True, align=4)) == [16, 16]


def test_a_dormant_channel_that_padding_keeps_goes_as_any_other() -> None:
    model = silenced(build(padded("g = Sigmoid(h)")), {"w0": FILTERS})

    assert kept(run(model, ratio=0.0, lossless=True)) == [8]
    pruned = run(model, ratio=0.25)
    assert (kept(pruned), pruned.report.lossless) == ([6], 0)
    assert pruned.report.proof is not None
    assert pruned.report.proof.pruning[0].relative > 1e-3


def test_a_wrong_fold_is_found() -> None:
    removal = remove(row_named("a sigmoid of zero").model(), all_lossless)
    (bias,) = [t for t in removal.pruned.graph.initializer if "input2" in t.name]
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) * 1.01, bias.name))
    forms = (removal.analysis.severed, removal.analysis.flat)
    proof = exact.prove(
        removal.trace, *forms, removal.dead, from_proto(removal.pruned), samples=1, seed=0, rtol=None, atol=0.0
    )
    assert proof.failures()


def test_a_plan_folds_again_only_what_is_still_constant() -> None:
    row = row_named("a sigmoid of zero")
    removal = assert_lossless(row.model())
    plan = plan_of(removal.trace, removal.rewrite, {})

    retrained = build(row.text)
    result = prune(from_proto(retrained), Options(), plan)

    assert result.report.lossless == 0
    assert not [n for n in result.model.graph.constants if "input2" in n], "nothing constant was there to be folded"
    assert result.report.proof is not None
    assert not result.report.proof.failures()


def test_fused_norms_take_the_folded_bias() -> None:
    text = """(float[1,3,8,8] x) => (float[1,4,8,8] y)
    <float[8,3,1,1] w0, float[6,8,1,1] w1, float[6] s, float[6] o, float[6] m, float[6] var, float[4,6,1,1] w2> {
      a = Conv(x, w0)
      b = Sigmoid(a)
      c = Conv(b, w1)
      d = BatchNormalization(c, s, o, m, var)
      e = Relu(d)
      y = Conv(e, w2)
    }"""
    result = run(silenced(build(text), {"w0": FILTERS}), ratio=0.0, lossless=True)
    assert kept(result) == [6, 6]
    assert [n.op for n in result.model.graph.nodes] == ["Conv", "Sigmoid", "Conv", "Relu", "Conv"]


def test_a_model_without_any_stays_as_it_is() -> None:
    model = build(sandwich("g = Relu(h)"))
    result = run(model, ratio=0.0, lossless=True)
    assert result.model.proto == from_proto(model).proto
