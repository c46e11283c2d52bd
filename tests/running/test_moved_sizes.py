"""Sizes that follow, and what happens where they cannot."""

from __future__ import annotations

from onnx import ModelProto

from onnxprune import pipeline
from onnxprune.model.onnx_model import from_proto
from onnxprune.options import Options
from onnxprune.report import model_reports
from tests.models import build
from tests.rows import ROWS

SHAPES = {"x": (2, 3, 8, 8)}


def pruned(proto: ModelProto, **options: object) -> pipeline.Result:
    return pipeline.prune(from_proto(proto), Options(input_shapes=SHAPES, **options))  # type: ignore[arg-type]


def row(name: str) -> ModelProto:
    return next(r for r in ROWS if r.name == name).model()


def test_readers_that_come_to_disagree_get_a_list_each() -> None:
    found = pruned(row("a size of readers that disagree"), ratio=0.5, ratio_for=(("Conv:h2", 0.25),))
    assert [g.kept for g in found.report.groups] == [4, 6]
    assert [n.op_type for n in found.model.proto.graph.node].count("Concat") == 3  # and the one of the maps


def test_readers_that_agree_share_the_list_that_they_had() -> None:
    found = pruned(row("a size of several readers"), ratio=0.5)
    assert [n.op_type for n in found.model.proto.graph.node].count("Concat") == 1


def test_floats_of_a_dynamic_shape_are_data_of_any_size() -> None:
    text = """(float[N,3,8,8] x) => (float[N,5] y) <float[8,3,3,3] w0, float[8,8] w1, float[16,5] w9,
      int64[1] a = {0}, int64[1] b = {1}, int64[1] eight = {8}>
    { h = Conv(x, w0)
      m = GlobalAveragePool(h)
      f = Flatten(m)
      n = Shape(x)
      k = Slice(n, a, b)
      s = Concat<axis=0>(k, eight)
      z = ConstantOfShape(s)
      t = Add(z, f)
      c = Concat<axis=1>(t, z)
      y = MatMul(c, w9) }"""
    proto = build(text)
    assert [g.kept for g in pruned(proto, ratio=0.5).report.groups] == [4]


def test_a_product_of_channels_and_a_dynamic_size_says_what_to_do() -> None:
    text = """(float[N,3,8,8] x) => (float[N,5,6,6] y) <float[8,3,3,3] w0, float[5,8,1,1] w9,
      int64[1] a = {0}, int64[1] b = {1}, int64[1] eight = {8}, int64[1] all = {36}, int64[2] map = {6,6}>
    { h = Conv(x, w0)
      n = Shape(x)
      k = Slice(n, a, b)
      p = Mul(k, eight)
      s = Concat<axis=0>(p, all)
      v = Reshape(h, s)
      o = Concat<axis=0>(k, eight, map)
      g = Reshape(v, o)
      y = Conv(g, w9) }"""
    proto = build(text)
    assert pruned(proto, ratio=0.5).report.channels.before == 0
    held = model_reports.inspect(from_proto(proto), input_shapes=SHAPES).held
    (why,) = [h.reasons[0] for h in held if h.node == "Conv:h"]
    assert "'Mul:p' computes its size 'p' from channels and from a dynamic size" in why
    assert "with that size fixed" in why
