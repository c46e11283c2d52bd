"""Inspect accounts for every weight and every multiplying node, and the parts add up to the model."""

from __future__ import annotations

import pytest
from onnx import ModelProto, helper

from onnxprune import pipeline
from onnxprune.model.onnx_model import from_proto
from onnxprune.options import Options
from onnxprune.report import model_reports
from onnxprune.report.weights_accounted import in_words
from tests.models import build, too_new
from tests.rows import ROWS, Row

FOREIGN = """(float[2,3,8,8] x) => (float[2,5,6,6] y) <float[8,3,3,3] w0, float[8,8] w1, float[5,8,1,1] w9>
{ h = Conv(x, w0)\ng = custom.Mystery(h, w1)\ny = Conv(g, w9) }"""


def unread(proto: ModelProto) -> ModelProto:
    proto.graph.initializer.append(helper.make_tensor("nobody", 1, [7], [0.0] * 7))
    return proto


@pytest.mark.parametrize("row", ROWS[::6], ids=str)
def test_parts_add_up_to_the_model(row: Row) -> None:
    proto = row.model()
    if reason := too_new(proto, row.shapes):
        pytest.skip(reason)
    found = model_reports.inspect(from_proto(proto), input_shapes=row.shapes)
    assert sum(n.parameters for n in found.nodes) == found.cost.parameters
    assert sum(n.macs or 0 for n in found.nodes) == found.cost.macs
    assert len({n.node for n in found.nodes}) == len(found.nodes)
    assert all(n.because or n.state == "prunable" for n in found.nodes)
    assert len({h.node for h in found.held}) == len(found.held)


def test_an_operator_that_nobody_understands_is_named_with_its_weights() -> None:
    found = model_reports.inspect(from_proto(build(FOREIGN)))
    states = {n.node: (n.state, n.parameters, n.macs) for n in found.nodes}
    assert states["Mystery:g"] == ("not understood", 64, None)
    assert states["Conv:h"][0] == "held"
    assert any("'Mystery:g' (Mystery)" in line for line in in_words(found.nodes, found.cost.parameters))


def test_weights_that_no_node_reads_are_counted() -> None:
    text = "(float[2,6] x) => (float[2,5] y) <float[6,8] w0, float[8,5] w9> { h = MatMul(x, w0)\ny = MatMul(h, w9) }"
    found = model_reports.inspect(from_proto(unread(build(text))))
    assert [(n.state, n.parameters) for n in found.nodes] == [("prunable", 48), ("prunable", 40), ("unread", 7)]


def test_where_nothing_goes_the_first_reasons_are_said() -> None:
    notes = pipeline.prune(from_proto(build(FOREIGN)), Options()).report.notes
    assert any("'Mystery:g' stays: Mystery has no rule" in n for n in notes)
    assert any("'Conv:h' stays: Mystery:g: Mystery has no rule" in n for n in notes)


def test_a_pattern_that_has_no_effect_is_said() -> None:
    text = "(float[2,6] x) => (float[2,5] y) <float[6,8] w0, float[8,5] w9> { h = MatMul(x, w0)\ny = MatMul(h, w9) }"
    options = Options(ratio_for={"MatMul:y": 0.5, "MatMul:h": 0.5}, exclude=["y"])
    notes = pipeline.prune(from_proto(build(text)), options).report.notes
    assert [n for n in notes if "no effect" in n] == [
        "--ratio-for 'MatMul:y' has no effect: is the graph output 'y'",
        "--exclude 'y' has no effect: is the graph output 'y'",
    ]
