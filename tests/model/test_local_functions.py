"""Functions of a model: calls stay as they are wherever pruning does not change what is inside."""

from __future__ import annotations

import pytest
from onnx import ModelProto

from onnxprune.model.onnx_model import Model
from onnxprune.model.written_out import functions
from tests.models import build, sandwich
from tests.property import Removal, assert_exact

HEAD = '\n<domain: "custom", opset_import: ["" : 17, "custom" : 1]> '
ACT = HEAD + "Act <alpha: float = 0.1> (X) => (Y) { Y = LeakyRelu<alpha: float = @alpha>(X) }"
GROUPED = (
    HEAD + "Grouped (X, W) => (Y) { C = Conv<group = 8>(X, W)\nA = custom.Act<alpha = 0.2>(C)\nY = custom.Act(A) }"
)
WEIGHT = "float[8,1,1,1] w1"


def called(proto: ModelProto) -> list[str]:
    return [n.op_type for n in proto.graph.node]


def pruned(text: str) -> Removal:
    removal = assert_exact(build(text))
    assert removal.removed
    return removal


def test_call_stays_where_only_its_weights_are_cut() -> None:
    block = HEAD + "Block (X, W) => (Y) { Y = Conv(X, W) }"
    removal = pruned(sandwich("g = custom.Block(h, w1)", "float[8,8,1,1] w1") + block)
    assert called(removal.written) == ["Conv", "Block", "Conv"]
    assert list(removal.written.functions) == list(removal.given.functions)


def test_call_is_written_out_where_a_size_inside_changes_and_calls_inside_it_stay() -> None:
    removal = pruned(sandwich("g = custom.Grouped(h, w1)", WEIGHT) + GROUPED + ACT)
    assert called(removal.written) == ["Conv", "Conv", "Act", "Act", "Conv"]
    assert [f.name for f in removal.written.functions] == ["Act"]
    assert removal.written.functions[0] == removal.given.functions[1]


def test_other_calls_of_the_same_function_stay() -> None:
    """z has channels of its own that nothing prunes."""
    text = sandwich("g = custom.Grouped(h, w1)\nz = custom.Grouped(t, w1)", WEIGHT, inputs=", float[2,8,4,4] t")
    removal = pruned(text.replace("(float y)", "(float y, float z)").replace("(t, w1)", "(t, w2)").replace(
        WEIGHT, f"{WEIGHT}, float[8,1,1,1] w2") + GROUPED + ACT)  # fmt: skip
    assert called(removal.written) == ["Conv", "Conv", "Act", "Act", "Grouped", "Conv"]
    assert list(removal.written.functions) == list(removal.given.functions)


def test_nodes_that_are_written_out_have_names_of_their_own() -> None:
    """The names that they would get are taken."""
    text = sandwich("a = custom.Grouped(h, w1)\ng = custom.Grouped(a, w2)", WEIGHT, "float[8,1,1,1] w2") + GROUPED + ACT
    model = build(text)
    model.graph.node[1].name = model.graph.node[2].name = "block"
    model.graph.initializer[0].name = "block/C"
    model.graph.node[0].input[1] = "block/C"
    removal = assert_exact(model)
    names = [o for n in removal.written.graph.node for o in n.output]
    assert len(names) == len(set(names))
    assert {"block_2/C", "block_3/C"} <= set(names)


def test_operator_sets_that_only_a_function_needs_come_with_its_nodes() -> None:
    block = '\n<domain: "custom", opset_import: ["" : 17, "com.microsoft" : 1]> '
    block += "Block (X, W) => (Y) { C = Conv<group = 8>(X, W)\nY = com.microsoft.QuickGelu(C) }"
    model = build(sandwich("g = custom.Block(h, w1)", WEIGHT, "float[2,8,6,6] g") + block)
    kept = [o for o in model.opset_import if o.domain != "com.microsoft"]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    removal = assert_exact(model)
    assert called(removal.written) == ["Conv", "Conv", "QuickGelu", "Conv"]
    given = [o.domain for o in model.opset_import]
    assert [o.domain for o in removal.written.opset_import] == [*given, "com.microsoft"]


@pytest.mark.parametrize("condition", [0, 1])
def test_subgraph_inside_a_function_reads_what_the_call_gives(condition: int) -> None:
    """Its branches declare how many channels they give, and so are written out."""
    body = HEAD + "Choose (X, C) => (Y) { Y = If (C) "
    body += "<then_branch = t () => (float[2,8,6,6] T) { R = Relu(X)\nT = Neg(R) }, "
    body += "else_branch = e () => (float[2,8,6,6] E) { E = Identity(X) }> }"
    chosen = "s = ReduceMax<keepdims = 0>(x)\nc = Less(s, z)\ng = custom.Choose(h, c)"
    removal = pruned(sandwich(chosen, f"float z = {{{1e9 if condition else -1e9}}}") + body)
    assert called(removal.written) == ["Conv", "ReduceMax", "Less", "If", "Conv"]


def test_model_without_calls_is_the_same_object() -> None:
    model = Model(build(sandwich("g = Relu(h)")))
    assert functions.inline(model).written is model
