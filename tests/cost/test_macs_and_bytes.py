"""Cost models count nodes at given shapes; their sums are the model's figures."""

from __future__ import annotations

import pytest
from onnx import parser

from fixtures import build as models
from onnxprune.cost import macs_and_bytes as cost
from onnxprune.cost.macs_and_bytes import COSTS, Bytes, Macs, Params
from onnxprune.model.graph import Shape
from onnxprune.model.onnx_model import Model, from_proto
from onnxprune.running import tried_input_shapes


def analysed(model: Model) -> dict[str, Shape]:
    inputs = tried_input_shapes.choose_shapes(model, {})
    return dict(tried_input_shapes.shapes_at(model, inputs).shape)


def test_a_model_costs_what_its_nodes_cost() -> None:
    model = from_proto(models.unet(fold_bn=True, size=64))
    at = analysed(model)
    whole = cost.cost(model.graph, at)
    assert sum(cost.by_node(Macs(), model.graph, at).values()) == whole.macs > 0
    assert sum(cost.by_node(Params(), model.graph, at).values()) == whole.parameters > 0
    assert sum(cost.by_node(Bytes(), model.graph, at).values()) == 4 * whole.parameters


def test_a_weight_that_two_nodes_read_is_paid_once() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[1,4,8,8] X) => (float[1,4,8,8] Y)
    <float[4,4,1,1] W = {1,0,0,0, 0,1,0,0, 0,0,1,0, 0,0,0,1}> { A = Conv(X, W) Y = Conv(A, W) }"""
    model = from_proto(parser.parse_model(text))
    at = analysed(model)
    assert cost.by_node(Params(), model.graph, at) == {0: 16}
    assert cost.by_node(Macs(), model.graph, at) == {0: 1024, 1: 1024}


def test_other_shapes_cost_otherwise() -> None:
    """The shapes given decide, not those of the file: that is how widths are tried."""
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[1,2,8,8] X) => (float[1,2,8,8] Y)
    <double[2,2,1,1] H = {1,0,0,1}> { W = Cast<to = 1>(H) Y = Conv(X, W) }"""
    model = from_proto(parser.parse_model(text))
    at = {**analysed(model), "X": (1, 1, 8, 8), "W": (2, 1, 1, 1), "H": (2, 1, 1, 1)}
    assert cost.by_node(Macs(), model.graph, at) == {1: 128}
    assert cost.by_node(Bytes(), model.graph, at) == {0: 16}


@pytest.mark.parametrize("name", COSTS)
def test_what_is_not_known_costs_nothing(name: str) -> None:
    model = from_proto(models.unet(fold_bn=True, size=64))
    assert cost.by_node(COSTS[name], model.graph, {}) == {}
