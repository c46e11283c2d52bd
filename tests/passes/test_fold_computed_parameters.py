"""Parameters that nodes compute from constants are stored where that costs nothing, and computed still elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

import onnxprune
from onnxprune.model.onnx_model import from_proto
from onnxprune.passes import FoldComputedParameters
from onnxprune.passes import run as run_passes
from tests.models import build

FLOAT = onnx.TensorProto.FLOAT


@dataclass(frozen=True)
class Row:
    """Nodes from x [2,3,6,6] to y, initializers beside w [8,3,3,3], and the operators that are left."""

    name: str
    nodes: str = field(repr=False)
    left: str
    declared: str = ""

    def __str__(self) -> str:
        return self.name


ROWS = (
    # A bias that is not there, as PyTorch's exporter writes it before its own optimization.
    Row(
        "bias-of-zeros",
        "n = Shape(w)\no = Constant<value_ints=[8]>()\nz = Constant<value_float=0.0>()\n"
        "t = CastLike(z, x)\nb = Expand(t, o)\ny = Conv(x, w, b)",
        "Shape Conv",  # nobody reads n: not a part of the bias
    ),
    Row(
        "bias-by-shape-of-weight",
        "n = Shape<end=1>(w)\nz = Constant<value_float=0.5>()\nb = Expand(z, n)\ny = Conv(x, w, b)",
        "Conv",
    ),
    Row("weight-transposed", "v = Transpose<perm=[1,0,2,3]>(u)\ny = Conv(x, v)", "Conv", "float[3,8,3,3] u"),
    Row(
        "statistics",
        "t = Abs(v)\na = Conv(x, w)\ny = BatchNormalization(a, s, o, m, t)",
        "Conv BatchNormalization",
        "float[8] s, float[8] o, float[8] m, float[8] v",
    ),
    Row(
        "two-read-it", "v = Neg(u)\na = Conv(x, v)\nc = Conv(x, v)\ny = Add(a, c)", "Conv Conv Add", "float[8,3,3,3] u"
    ),
    Row("another-name", "v = Identity(w)\na = Conv(x, w)\nc = Conv(x, v)\ny = Add(a, c)", "Conv Conv Add"),
    Row(
        "of-an-input",
        "m = ReduceMean<keepdims=0, axes=[0,2,3]>(x)\nv = Concat<axis=0>(m, k)\ny = Conv(x, w, v)",
        "ReduceMean Concat Conv",
        "float[5] k",
    ),
    Row(
        "dequantized",
        "v = DequantizeLinear(q, k)\ny = Conv(x, v)",
        "DequantizeLinear Conv",
        "int8[8,3,3,3] q, float k",
    ),
    Row("random", "v = RandomUniform<shape=[8]>()\nb = Abs(v)\ny = Conv(x, w, b)", "RandomUniform Abs Conv"),
    Row(
        "large",
        "n = Constant<value_ints=[8,3,200,200]>()\nv = Expand(k, n)\na = Pad(x, p)\ny = Conv(a, v)",
        "Constant Expand Pad Conv",
        "float k, int64[8] p = {0,0,100,100,0,0,100,100}",
    ),
    Row("no-parameter", "v = Abs(k)\na = Conv(x, w)\ny = Add(a, v)", "Abs Conv Add", "float k"),
)


def model(row: Row) -> onnx.ModelProto:
    declared = ", ".join(filter(None, ("float[8,3,3,3] w", row.declared)))
    return build(f"(float[2,3,6,6] x) => (float y) <{declared}> {{ {row.nodes} }}")


def run(proto: onnx.ModelProto) -> NDArray[np.float32]:
    x = np.random.default_rng(0).standard_normal((2, 3, 6, 6)).astype(np.float32)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_operators_that_are_left_compute_the_same(row: Row) -> None:
    given = from_proto(model(row))
    types = dict.fromkeys((*given.graph.producer, "x"), FLOAT)
    folded = run_passes(given, [FoldComputedParameters(types)])
    assert [n.op_type for n in folded.model.proto.graph.node] == row.left.split()
    assert bool(folded.changes) == (folded.model is not given)
    if "Random" not in row.left:
        np.testing.assert_allclose(run(folded.model.proto), run(given.proto), rtol=1e-4, atol=1e-5)


def test_what_stays_keeps_its_nodes() -> None:
    given = from_proto(model(ROWS[2]))
    types = dict.fromkeys((*given.graph.producer, "x"), FLOAT)
    assert FoldComputedParameters(types, {("v",)}).run(given).model is given


@pytest.mark.drawn
def test_a_run_folds_and_solves_behind_a_bias_that_is_computed() -> None:
    """As PyTorch 2.5 exports a convolution without a bias: BatchNormalization was left, and no layer was solved."""
    zeros = "n{0} = Shape<end=1>({0})\nz{0} = Constant<value_float=0.0>()\nb{0} = Expand(z{0}, n{0})\n"
    proto = build(
        "(float[1,3,12,12] x) => (float y) <float[16,3,3,3] u, float[16,16,3,3] v, float[16] s, float[16] o,"
        f" float[16] m, float[16] d = {{{','.join(['1'] * 16)}}}> {{ {zeros.format('u')}a = Conv(x, u, bu)\n"
        f"c = BatchNormalization(a, s, o, m, d)\ne = Relu(c)\n{zeros.format('v')}y = Conv(e, v, bv) }}"
    )
    result = onnxprune.prune(proto, ratio=0.5)
    assert [n.op_type for n in result.model.graph.node] == ["Conv", "Relu", "Conv"]
    assert result.report.recovered is not None, result.report.notes
    assert result.report.recovered.layers == 2
