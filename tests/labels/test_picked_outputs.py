"""Outputs that are picked by rank are judged by what they are picked from."""

from __future__ import annotations

from onnxprune import pipeline
from onnxprune.labels.outputs.picked import picked_from
from onnxprune.model.onnx_model import from_proto
from onnxprune.options import Options
from onnxprune.report.gates import Gates, Measured
from tests.models import build

HEAD = "h = MatMul(x, w0)\nr = Relu(h)\nm = MatMul(r, w9)\ns = Sigmoid(m)"
TOP = f"""(float[2,6] x) => (float[2,7] y, int64[2,7] i, float[2,40] z)
  <float[6,8] w0, float[8,40] w9, int64[1] k = {{7}}>
{{ {HEAD}\ny, i = TopK(s, k)\nz = Neg(m) }}"""

#: Two stages: rows that the first picks go through weights of their own.
TWO = f"""(float[2,6] x) => (float[2,7,5] y)
  <float[6,8] w0, float[8,40] w9, float[1,8] w1, float[8,5] w2, int64[1] k = {{7}},
  int64[1] a = {{-1}}>
{{ {HEAD}\nt, i = TopK(s, k)\nu = Unsqueeze(t, a)\nv = MatMul(u, w1)\nb = Relu(v)\ny = MatMul(b, w2) }}"""

BOXES = f"""(float[4,6] x) => (int64[n,3] y) <float[6,8] w0, float[8,5] w9, int64[1] one = {{0}}, int64[1] four = {{4}},
  int64[1] five = {{5}}, int64[1] ax = {{1}}, int64[1] most = {{3}}, float[1] iou = {{0.5}}, int64[3] cls = {{1,1,-1}},
  int64[3] all = {{1,-1,4}}>
{{ {HEAD}\nb = Slice(m, one, four, ax)\nc = Slice(s, four, five, ax)\np = Reshape(b, all)\nq = Reshape(c, cls)
  y = NonMaxSuppression(p, q, most, iou) }}"""


def test_what_outputs_are_picked_from_is_in_front_of_a_sigmoid() -> None:
    graph = from_proto(build(TOP)).graph
    assert picked_from(graph, {"s": 1, "m": 1}) == {"y": ("m",), "i": ("m",)}


def test_headline_and_gates_use_what_goes_into_the_picking() -> None:
    for text in (TOP, BOXES):
        report = pipeline.prune(from_proto(build(text)), Options(ratio=0.5)).report
        assert report.proof is not None
        assert "m" in [e.name for e in report.proof.rewrite]
        assert "y" not in [e.name for e in (*report.proof.rewrite, *report.proof.inside, *report.proof.pruning)]
        assert 0 < report.proof.pruning[0].snr_db < 60
        (check,) = Gates(1e-6).checks(Measured.of_report(report))
        assert check.passed
        assert any("'y' is picked by rank" in n and "'m'" in n for n in report.notes)


def test_other_outputs_of_the_model_count_as_they_did() -> None:
    report = pipeline.prune(from_proto(build(TOP)), Options(ratio=0.5)).report
    assert report.proof is not None
    assert {e.name for e in report.proof.pruning} == {"m", "z"}


def test_what_is_cut_behind_the_picking_is_compared_too() -> None:
    report = pipeline.prune(from_proto(build(TWO)), Options(ratio=0.5)).report
    assert [g.kept for g in report.groups] == [4, 4]
    assert report.proof is not None
    assert "y" in [e.name for e in report.proof.inside]
    assert [e.name for e in report.proof.pruning] == ["y"]
    (check,) = Gates(min_snr=60).checks(Measured.of_report(report))
    assert not check.passed
