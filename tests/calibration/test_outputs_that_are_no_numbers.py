"""Outputs of text, sequences and maps: errors are told of what they are made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, ValueInfoProto, helper, numpy_helper

from onnxprune.labels.outputs.parts import ends
from onnxprune.model.onnx_model import from_proto
from tests.commands import Run
from tests.models import build

TEXT = """(float[N,3,8,8] x) => (float[N,4] l) <float[16,3,1,1] w0, float[16,16,1,1] w1, float[16,4] w2>
{ a = Conv(x, w0)
  b = Relu(a)
  c = Conv(b, w1)
  g = GlobalAveragePool(c)
  f = Flatten(g)
  l = Gemm(f, w2)
  p = Softmax(l)
  i = ArgMax<axis=1, keepdims=0>(p) }"""

FLOATS = helper.make_tensor_type_proto(TensorProto.FLOAT, None)
MAP = onnx.TypeProto()
MAP.map_type.key_type = TensorProto.INT64
MAP.map_type.value_type.CopyFrom(FLOATS)
NAMES = helper.make_tensor_value_info("o", TensorProto.STRING, ["N"])
CODES: dict[str, Any] = {"keys_int64s": [0, 1, 2, 3], "values_strings": ["a", "b", "c", "d"]}

#: The last node, its output, and what is compared in its place.
LAST: dict[str, tuple[onnx.NodeProto, ValueInfoProto, tuple[str, ...]]] = {
    "text by code": (helper.make_node("LabelEncoder", ["i"], ["o"], domain="ai.onnx.ml", **CODES), NAMES, ("l",)),
    "text out of a list": (helper.make_node("Gather", ["names", "i"], ["o"]), NAMES, ("l",)),
    "text that is constant": (helper.make_node("Identity", ["names"], ["o"]), NAMES, ()),
    "a sequence": (
        helper.make_node("SplitToSequence", ["p"], ["o"], axis=1),
        helper.make_value_info("o", helper.make_sequence_type_proto(FLOATS)),
        ("l",),
    ),
    "a sequence of maps": (
        helper.make_node("ZipMap", ["p"], ["o"], domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2, 3]),
        helper.make_value_info("o", helper.make_sequence_type_proto(MAP)),
        ("l",),
    ),
    "an optional": (
        helper.make_node("Optional", ["p"], ["o"]),
        helper.make_value_info("o", helper.make_optional_type_proto(FLOATS)),
        ("l",),
    ),
}


def model(name: str) -> ModelProto:
    """The network, of which the last node gives the only output."""
    proto = build(TEXT)
    node, output, _ = LAST[name]
    proto.graph.node.append(node)
    proto.graph.output[0].CopyFrom(output)
    proto.graph.initializer.append(numpy_helper.from_array(np.array(["a", "b", "c", "d"], object), "names"))
    proto.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    return proto


@pytest.mark.parametrize("name", LAST)
def test_counted_is_what_they_are_made_of(name: str) -> None:
    assert ends(from_proto(model(name)).graph) == LAST[name][2]


def moved(op: str, *parameters: int) -> ModelProto:
    """As `model`, its text moved by one more operator."""
    proto = model("text out of a list")
    names = [f"p{i}" for i in range(len(parameters))]
    proto.graph.initializer.extend(
        numpy_helper.from_array(np.array([v]), n) for v, n in zip(parameters, names, strict=True)
    )
    proto.graph.node[-1].output[:] = ["t"]
    nodes = [helper.make_node(op, ["t", *names], ["m"]), helper.make_node("Identity", ["m"], ["o"])]
    proto.graph.node.extend(nodes)
    return proto


@pytest.mark.parametrize(
    ("op", "parameters"), [("Slice", (0, 9)), ("Tile", (2,)), ("Expand", (1,)), ("Reshape", (-1,))]
)
def test_text_that_is_moved_is_no_end(op: str, parameters: tuple[int, ...]) -> None:
    assert ends(from_proto(moved(op, *parameters)).graph) == ("l",)


@pytest.mark.drawn
def test_models_that_move_text_are_calibrated_and_proven(run: Run, tmp_path: Path) -> None:
    onnx.save(moved("Slice", 0, 9), tmp_path / "m.onnx")
    outcome = run(tmp_path / "m.onnx", "--samples", 16, "--align", 1)
    assert (outcome.code, outcome.err.count("Traceback")) == (0, 0)
    assert "output error: 'l' cosine" in outcome.out


def test_a_long_sequence_is_followed_to_its_parts() -> None:
    """Deeper than Python calls functions."""
    proto = model("a sequence")
    proto.graph.node[-1].output[:] = ["s0"]
    inserts = (helper.make_node("SequenceInsert", [f"s{i}", "p"], [f"s{i + 1}"]) for i in range(3000))
    proto.graph.node.extend([*inserts, helper.make_node("Identity", ["s3000"], ["o"])])
    assert ends(from_proto(proto).graph) == ("l",)


@pytest.mark.drawn
@pytest.mark.parametrize("name", LAST)
def test_models_are_calibrated_and_proven(name: str, run: Run, tmp_path: Path) -> None:
    onnx.save(model(name), tmp_path / "m.onnx")
    outcome = run(tmp_path / "m.onnx", "--samples", 16, "--align", 1)
    assert (outcome.code, outcome.err.count("Traceback")) == (0, 0)
    assert ("output error: 'l' cosine" in outcome.out) == bool(LAST[name][2])
    assert "over the limit" not in outcome.out  # of the floats in a map, as of others


@pytest.mark.drawn
@pytest.mark.parametrize("name", [n for n in LAST if LAST[n][2]])
def test_gradients_are_of_what_they_are_made_of(name: str, run: Run, tmp_path: Path) -> None:
    onnx.save(model(name), tmp_path / "m.onnx")
    outcome = run(tmp_path / "m.onnx", "--samples", 16, "--align", 1, "--importance", "taylor")
    assert (outcome.code, outcome.err.count("Traceback")) == (0, 0)


@pytest.mark.drawn
@pytest.mark.parametrize("name", LAST)
def test_metrics_ask_for_one_of_the_users_own(name: str, run: Run, tmp_path: Path) -> None:
    onnx.save(model(name), tmp_path / "m.onnx")
    outcome = run("sensitivity", tmp_path / "m.onnx", "--samples", 16)
    assert outcome.code == 2
    assert "no output of the model is a tensor of numbers (give a metric of your own" in outcome.err
