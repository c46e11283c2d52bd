"""Folding BatchNormalization: what is folded computes the same, and what must not be folded is left alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from onnxprune.model.onnx_model import from_proto
from onnxprune.passes import FuseBatchNorm
from onnxprune.proof.validity import check_valid
from tests.models import build

Array = NDArray[Any]

NORM = "BatchNormalization<epsilon=0.01>"


@dataclass(frozen=True)
class Row:
    """A model whose BatchNormalization nodes are ``before`` in number, and ``after`` folding."""

    name: str
    text: str = field(repr=False)
    after: int = 0
    before: int = 1

    def __str__(self) -> str:
        return self.name


def conv(width: int = 8, weight: str = "8,3,3,3", options: str = "", tail: str = "", bias: bool = False) -> str:
    """x [2,3,6,6] -> Conv -> BatchNormalization -> y."""
    given = (f", float[{width}] b", ", b") if bias else ("", "")
    return (
        f"(float[2,3,6,6] x) => (float y) <float[{weight}] w{given[0]}, {stats(width)}>"
        f"{{ a = Conv{options}(x, w{given[1]})\ny = {NORM}(a, s, o, m, var)\n{tail} }}"
    )


def transpose(weight: str, group: int, width: int, bias: str = "") -> str:
    """x [2,6,5,5] -> ConvTranspose -> BatchNormalization -> y."""
    given = f", {bias}" if bias else ""
    declared = f", float[{width}] {bias}" if bias else ""
    return (
        f"(float[2,6,5,5] x) => (float y) <float[{weight}] w{declared}, {stats(width)}>"
        f"{{ a = ConvTranspose<group={group}, strides=[2,2]>(x, w{given})\ny = {NORM}(a, s, o, m, var) }}"
    )


def gemm(options: str, weight: str = "5,8", bias: str = "float[8] b") -> str:
    """x [3,5] -> Gemm -> BatchNormalization -> y."""
    given = ", b" if bias else ""
    declared = f", {bias}" if bias else ""
    return (
        f"(float[3,5] x) => (float y) <float[{weight}] w{declared}, {stats(8)}>"
        f"{{ a = Gemm{options}(x, w{given})\ny = {NORM}(a, s, o, m, var) }}"
    )


def stats(width: int, suffix: str = "") -> str:
    return ", ".join(f"float[{width}] {n}{suffix}" for n in ("s", "o", "m", "var"))


def twice(middle: str, *declared: str, outputs: str = "float y") -> str:
    return (
        f"(float[2,3,6,6] x) => ({outputs}) <float[3,3,1,1] w, {stats(3)}, {stats(3, '2')}"
        f"{''.join(', ' + d for d in declared)}> {{ {middle} }}"
    )


TWO = "s2, o2, m2, var2"
ROWS = (
    Row("conv", conv()),
    Row("conv-with-bias", conv(bias=True)),
    Row("conv-group", conv(6, "6,1,3,3", "<group=3>")),
    Row("conv-depthwise", conv(3, "3,1,3,3", "<group=3, pads=[1,1,1,1]>", bias=True)),
    Row(
        "conv-1d",
        f"(float[2,3,9] x) => (float y) <float[8,3,3] w, {stats(8)}>{{ a = Conv(x, w)\ny = {NORM}(a, s, o, m, var) }}",
    ),
    Row(
        "conv-3d",
        f"(float[1,3,4,4,4] x) => (float y) <float[8,3,2,2,2] w, {stats(8)}>"
        f"{{ a = Conv(x, w)\ny = {NORM}(a, s, o, m, var) }}",
    ),
    Row("conv-transpose", transpose("6,4,3,3", 1, 4)),
    Row("conv-transpose-with-bias", transpose("6,4,3,3", 1, 4, "b")),
    Row("conv-transpose-group", transpose("6,4,3,3", 2, 8)),
    Row("conv-transpose-group-with-bias", transpose("6,4,3,3", 3, 12, "b")),
    Row("conv-transpose-depthwise", transpose("6,1,3,3", 6, 6, "b")),
    Row("gemm", gemm("")),
    Row("gemm-without-bias", gemm("", bias="")),
    Row("gemm-transposed", gemm("<transB=1>", "8,5")),
    Row("gemm-alpha", gemm("<alpha=0.5>")),
    Row("gemm-alpha-transposed-without-bias", gemm("<alpha=0.5, transB=1>", "8,5", "")),
    Row("gemm-beta", gemm("<beta=0.5>"), after=1),
    Row("gemm-beta-without-bias", gemm("<beta=0.5>", bias=""), after=1),
    Row("gemm-scalar-bias", gemm("", bias="float b"), after=1),
    Row("gemm-matrix-bias", gemm("", bias="float[3,8] b"), after=1),
    Row("gemm-row-bias", gemm("", bias="float[1,8] b"), after=1),
    Row("two-in-a-row", twice(f"a = Conv(x, w)\nb = {NORM}(a, s, o, m, var)\ny = {NORM}(b, {TWO})"), before=2, after=1),
    Row("norm-without-conv", twice(f"a = {NORM}(x, s, o, m, var)\nb = Conv(a, w)\ny = Relu(b)"), after=1),
    Row("relu-between", twice(f"a = Conv(x, w)\nb = Relu(a)\ny = {NORM}(b, s, o, m, var)"), after=1),
    Row("output-read-twice", twice(f"a = Conv(x, w)\nb = {NORM}(a, s, o, m, var)\ny = Add(a, b)"), after=1),
    Row(
        "output-is-a-graph-output",
        twice(f"a = Conv(x, w)\ny = {NORM}(a, s, o, m, var)", outputs="float y, float a"),
        after=1,
    ),
    Row(
        "shared-weight",
        twice(f"a = Conv(x, w)\nb = {NORM}(a, s, o, m, var)\nc = Conv(b, w)\ny = {NORM}(c, {TWO})"),
        before=2,
        after=2,
    ),
    Row(
        "shared-bias",
        twice(
            f"a = Conv(x, w, b0)\nb = {NORM}(a, s, o, m, var)\ny = Conv(b, v, b0)", "float[3] b0", "float[3,3,1,1] v"
        ),
        after=1,
    ),
    Row(
        "shared-statistics",
        twice(
            f"a = Conv(x, w)\nb = {NORM}(a, s, o, m, var)\nc = Conv(b, v)\ny = {NORM}(c, s, o, m, var)",
            "float[3,3,1,1] v",
        ),
        before=2,
    ),
    Row("norm-of-norm-statistics", twice(f"a = Conv(x, w)\ny = {NORM}(a, s, s, o, var)")),
    Row(
        "weight-is-a-graph-output",
        twice(f"a = Conv(x, w)\ny = {NORM}(a, s, o, m, var)", outputs="float y, float[3,3,1,1] w"),
        after=1,
    ),
    Row("computed-weight", twice(f"v = Relu(w)\na = Conv(x, v)\ny = {NORM}(a, s, o, m, var)"), after=1),
    Row("computed-scale", twice(f"t = Relu(s)\na = Conv(x, w)\ny = {NORM}(a, t, o, m, var)"), after=1),
    Row("name-of-the-new-bias-is-taken", twice(f"a = Conv(x, w)\nw_bias = {NORM}(a, s, o, m, var)\ny = Relu(w_bias)")),
)


def norms(proto: ModelProto) -> int:
    return sum(n.op_type == "BatchNormalization" for n in proto.graph.node)


def feeds(proto: ModelProto, dtype: Any) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    initial = {t.name for t in proto.graph.initializer}
    shapes = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in proto.graph.input}
    return {n: rng.standard_normal(s).astype(dtype) for n, s in shapes.items() if n not in initial}


def run(proto: ModelProto, given: Mapping[str, Array]) -> list[Array]:
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(given)))


class ConvTranspose(OpRun):
    """Each input pixel spreads by its kernel; onnx's own takes no groups."""

    def _run(
        self, x: Array, w: Array, bias: Array | None = None, *, group: int, strides: list[int], **_: Any
    ) -> tuple[Array]:
        blocks = zip(np.split(x, group, axis=1), np.split(w, group), strict=True)
        return (np.concatenate([self._spread(a, b, strides[0]) for a, b in blocks], axis=1) + _column(bias),)

    def _spread(self, x: Array, w: Array, stride: int) -> Array:
        rows, columns = ((n - 1) * stride + k for n, k in zip(x.shape[2:], w.shape[2:], strict=True))
        out = np.zeros((x.shape[0], w.shape[1], rows, columns), x.dtype)
        for i, j in np.ndindex(*x.shape[2:]):
            place = (..., slice(i * stride, i * stride + w.shape[2]), slice(j * stride, j * stride + w.shape[3]))
            out[place] += np.einsum("nc,cohw->nohw", x[:, :, i, j], w)
        return out


def _column(bias: Array | None) -> Array:
    return np.zeros(1) if bias is None else bias[:, None, None]


def fold(proto: ModelProto) -> ModelProto:
    """Fold, check that the result is valid, and that the model given stayed as it was."""
    before = proto.SerializeToString(deterministic=True)
    given = from_proto(proto)
    result = FuseBatchNorm().run(given)
    check_valid(given, result.model)
    assert given.proto.SerializeToString(deterministic=True) == before
    assert bool(result.changes) == (result.model is not given)
    assert len(result.changes) == norms(proto) - norms(result.model.proto)
    return result.model.proto


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_outputs_stay_equal_to_rounding(row: Row) -> None:
    proto = build(row.text)
    folded = fold(proto)
    assert (norms(proto), norms(folded)) == (row.before, row.after)
    given = feeds(proto, np.float32)
    for before, after in zip(run(proto, given), run(folded, given), strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("row", [r for r in ROWS if r.after < r.before], ids=str)
def test_in_double_precision_outputs_stay_equal_to_its_rounding(row: Row) -> None:
    """No kernel of onnxruntime takes doubles everywhere: onnx's reference operators run these."""
    proto = build(row.text.replace("float", "double"))
    folded = fold(proto)
    assert norms(folded) == row.after
    given = feeds(proto, np.float64)
    before, after = (ReferenceEvaluator(m, new_ops=[ConvTranspose]).run(None, given) for m in (proto, folded))
    for a, b in zip(before, after, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("row", [r for r in ROWS if r.after == r.before], ids=str)
def test_what_is_left_alone_is_the_same_object(row: Row) -> None:
    given = from_proto(build(row.text))
    assert FuseBatchNorm().run(given).model is given


@pytest.mark.parametrize("name", ["w", "b", "s", "o", "m", "var"])
def test_a_parameter_that_is_a_graph_input_is_left_alone(name: str) -> None:
    proto = build(conv(bias=True))
    shape = next(list(t.dims) for t in proto.graph.initializer if t.name == name)
    proto.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    assert norms(fold(proto)) == 1


@pytest.mark.parametrize("name", ["w", "b", "s", "o", "m", "var"])
def test_a_parameter_without_a_value_is_left_alone(name: str) -> None:
    proto = build(conv(bias=True))
    (tensor,) = (t for t in proto.graph.initializer if t.name == name)
    proto.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, list(tensor.dims)))
    proto.graph.initializer.remove(tensor)
    assert norms(fold(proto)) == 1


def test_training_mode_is_left_alone() -> None:
    proto = build(conv())
    node = proto.graph.node[-1]
    node.attribute.append(helper.make_attribute("training_mode", 1))
    node.output.extend(["mean_out", "var_out"])
    assert norms(fold(proto)) == 1


def test_half_precision_with_single_precision_statistics_is_left_alone() -> None:
    proto = build(conv(bias=True).replace("x) => (float y)", "x) => (float16 y)").replace("float[2", "float16[2"))
    for tensor in proto.graph.initializer:
        if tensor.name in ("w", "b"):
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    assert proto.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT16
    del proto.graph.value_info[:]
    onnx.checker.check_model(proto, full_check=True)
    assert norms(fold(proto)) == 1


def test_half_precision_is_rounded_once() -> None:
    proto = build(conv().replace("float", "float16"))
    folded = fold(proto)
    assert norms(folded) == 0
    old, new = ({t.name: numpy_helper.to_array(t) for t in m.graph.initializer} for m in (proto, folded))
    scale = old["s"].astype(np.float64) / np.sqrt(old["var"].astype(np.float64) + np.float32(0.01))
    wanted = old["w"].astype(np.float64) * scale[:, None, None, None]
    assert new["w"].dtype == np.float16
    assert np.array_equal(new["w"], wanted.astype(np.float16))


@pytest.mark.parametrize("opset", [9, 14, 15, 17, 21])
def test_opsets(opset: int) -> None:
    assert norms(fold(build(conv(), opset))) == 0


def test_constant_nodes_that_only_the_norm_read_go_with_it() -> None:
    proto = build(conv())
    names = ("s", "o", "m", "var")
    tensors = [t for t in proto.graph.initializer if t.name in names]
    nodes = [helper.make_node("Constant", [], [t.name], value=t) for t in tensors] + list(proto.graph.node)
    kept = [t for t in proto.graph.initializer if t.name not in names]
    del proto.graph.initializer[:], proto.graph.node[:]
    proto.graph.initializer.extend(kept)
    proto.graph.node.extend(nodes)
    folded = fold(proto)
    assert [n.op_type for n in folded.graph.node] == ["Conv"]
    given = feeds(proto, np.float32)
    np.testing.assert_allclose(run(folded, given)[0], run(proto, given)[0], rtol=1e-5, atol=1e-5)


def test_names_of_what_is_kept_stay() -> None:
    proto = build(conv(bias=True, tail="z = Relu(y)").replace("(float y)", "(float z)"))
    proto.graph.node[0].name = "first"
    folded = fold(proto)
    assert [(n.name, n.op_type, list(n.input), list(n.output)) for n in folded.graph.node] == [
        ("first", "Conv", ["x", "w", "b"], ["y"]),
        ("", "Relu", ["y"], ["z"]),
    ]
    assert {t.name for t in folded.graph.initializer} == {"w", "b"}


def test_infinite_statistics_are_left_alone() -> None:
    proto = build(conv())
    (tensor,) = (t for t in proto.graph.initializer if t.name == "var")
    tensor.CopyFrom(numpy_helper.from_array(np.full(8, -1, np.float32), "var"))
    with np.errstate(invalid="ignore"):
        assert norms(fold(proto)) == 1
