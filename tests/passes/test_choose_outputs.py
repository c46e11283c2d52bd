"""A model cut at tensors inside it, and outputs of which some rows stay."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper

import onnxprune
from onnxprune.errors import OptionError
from onnxprune.model.onnx_model import Model
from onnxprune.running import session as runtime
from tests.commands import CHAIN
from tests.models import build

TWO = """(float[1,3,8,8] x, float[1,4,8,8] beside) => (float[1,4,8,8] y, float[1,6,8,8] z)
<float[8,3,1,1] w0, float[4,8,1,1] w1, float[6,8,1,1] w2>
{ a = Conv(x, w0)
  b = Relu(a)
  c = Conv(b, w1)
  y = Add(c, beside)
  z = Conv(b, w2) }"""
ANCHORS = """(float[1,3,4,4] x) => (float[1,48,5] y)
<float[15,3,1,1] w, float[15] b, int64[5] s = {1, 3, 5, 4, 4}, int64[3] t = {1, 48, 5}>
{ a = Conv(x, w, b)
  r = Reshape(a, s)
  p = Transpose<perm = [0, 1, 3, 4, 2]>(r)
  y = Reshape(p, t) }"""


def outputs(model: ModelProto, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    feeds = {
        i.name: rng.standard_normal([d.dim_value for d in i.type.tensor_type.shape.dim]).astype(np.float32)
        for i in model.graph.input
    }
    with runtime.session(Model(model), "test") as active:
        return {n: np.asarray(a) for n, a in runtime.run(active, feeds, "test").items()}


def dims(model: ModelProto) -> dict[str, list[int]]:
    return {o.name: [d.dim_value for d in o.type.tensor_type.shape.dim] for o in model.graph.output}


def test_what_is_behind_goes_with_its_weights_and_inputs() -> None:
    result = onnxprune.prune(build(TWO), outputs=["c"], ratio=0, data="none")

    assert dims(result.model) == {"c": [1, 4, 8, 8]}
    assert [i.name for i in result.model.graph.input] == ["x"]
    assert {t.name for t in result.model.graph.initializer} == {"w0", "w1"}
    assert any("2 of 5 nodes went, with the inputs beside" in note for note in result.report.notes)
    assert result.report.options["outputs"] == ["c"]


def test_a_node_stands_for_what_it_gives_and_outputs_keep_the_order_given() -> None:
    model = build(TWO)
    model.graph.node[3].name = "sum"
    result = onnxprune.prune(model, outputs=["z", "sum", "b"], ratio=0.25, data="none")
    assert list(dims(result.model).items())[:2] == [("z", [1, 6, 8, 8]), ("y", [1, 4, 8, 8])]
    onnx.checker.check_model(result.model, full_check=True)


def test_shape_of_a_new_output_is_found_by_running_where_nobody_says_it() -> None:
    model = build(TWO.replace("b = Relu(a)", "b = com.microsoft.Gelu(a)"))
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    assert dims(onnxprune.prune(model, outputs=["c"], data="none").model) == {"c": [1, 4, 8, 8]}


@pytest.mark.parametrize("rows", [[0, 2], [3], [0, 1, 2, 3]])
def test_rows_that_stay_are_those_of_the_original(rows: list[int]) -> None:
    model = build(CHAIN)
    result = onnxprune.prune(model, keep_outputs={"y": rows}, data="none")

    assert dims(result.model) == {"y": [1, len(rows), 8, 8]}
    assert [n.op_type for n in result.model.graph.node] == [n.op_type for n in model.graph.node]
    np.testing.assert_allclose(outputs(result.model)["y"], outputs(model)["y"][:, rows], rtol=1e-5, atol=1e-6)
    assert result.report.parameters.ratio == pytest.approx((560 + 32 * len(rows) + 16) / 704)


def test_rows_go_before_the_ratio_is_met_and_the_plan_makes_them_again() -> None:
    model = build(CHAIN)
    result = onnxprune.prune(model, keep_outputs=[("y", [1])], ratio=0.5, data="none")
    again = onnxprune.apply(model, result.plan, data="none")
    assert again.model == result.model
    assert [g.kept for g in result.report.groups] == [8, 16, 0]


def test_classes_of_each_anchor_go_in_every_anchor() -> None:
    model = build(ANCHORS)
    result = onnxprune.prune(model, keep_outputs={"y": [0, 4]}, data="none")
    assert [list(t.dims) for t in result.model.graph.initializer if t.name == "w"] == [[6, 3, 1, 1]]
    np.testing.assert_allclose(outputs(result.model)["y"], outputs(model)["y"][:, :, [0, 4]], rtol=1e-5, atol=1e-6)


def test_rows_that_are_needed_inside_are_taken_at_the_end_and_it_is_said() -> None:
    model = build(CHAIN.replace("y = Conv(d, w2)", "e = Conv(d, w2)\n y = Softmax<axis=1>(e)"))
    result = onnxprune.prune(model, keep_outputs={"y": [2]}, data="none")
    assert dims(result.model) == {"y": [1, 1, 8, 8]}
    assert result.model.graph.node[-1].op_type == "Gather"
    np.testing.assert_allclose(outputs(result.model)["y"], outputs(model)["y"][:, [2]], rtol=1e-5, atol=1e-6)
    assert any("3 rows that output 'y' does not show are still computed" in note for note in result.report.notes)


def test_rows_that_another_layer_reads_stay() -> None:
    text = TWO.replace("y = Add(c, beside)", "y = Identity(c)").replace("z = Conv(b, w2)", "z = Conv(c, w2)")
    model = build(text.replace("float[6,8,1,1] w2", "float[6,4,1,1] w2"))
    result = onnxprune.prune(model, keep_outputs={"y": [0]}, data="none")
    assert outputs(result.model)["z"] == pytest.approx(outputs(model)["z"], abs=1e-5)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"outputs": ["cc"]}, "no node or tensor is called 'cc' (did you mean c?)"),
        ({"keep_outputs": {"q": [0]}}, "no output is called 'q' (known: y)"),
        ({"keep_outputs": {"y": [4]}}, "output 'y' has no row 4 along axis 1: they are 0 to 3"),
        ({"keep_outputs": {"y": []}}, "takes positions from 0 on, and one at least"),
    ],
)
def test_what_is_not_there_is_told(options: dict[str, Any], says: str) -> None:
    with pytest.raises(OptionError) as error:
        onnxprune.prune(build(CHAIN), data="none", **options)
    assert says in str(error.value)
