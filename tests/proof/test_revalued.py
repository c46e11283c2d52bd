"""Of what is solved anew nothing but numbers may be new."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper

import onnxprune
from onnxprune.errors import CheckError
from onnxprune.model import files
from onnxprune.model.edits import Edits
from onnxprune.model.onnx_model import Model, from_proto
from onnxprune.proof.revalued import Revalued, prove_revalued
from tests.models import build

TEXT = """(float[1,3,8,8] x) => (float[1,4,6,6] y)
<float[16,3,3,3] w0, float[16] b0, float[4,16,1,1] w1>
{ a = Conv(x, w0, b0)
  b = Relu(a)
  y = Conv(b, w1) }"""


def edited(**edits: object) -> tuple[ModelProto, ModelProto]:
    proto = build(TEXT)
    return proto, from_proto(proto).apply(Edits(**edits)).proto  # type: ignore[arg-type]


def proven(before: ModelProto, after: ModelProto) -> Revalued:
    return prove_revalued(from_proto(before), from_proto(after))


def test_other_numbers_and_new_biases_are_counted() -> None:
    values = {"w1": np.ones((4, 16, 1, 1), np.float32)}
    before, after = edited(constants=values, added={"w1_bias": np.ones(4, np.float32)}, inputs={2: {2: "w1_bias"}})
    assert proven(before, after) == Revalued(changed=1, added=1, of=3, parameters=4)
    assert proven(before, before) == Revalued(changed=0, added=0, of=3, parameters=0)


def _attribute(proto: ModelProto) -> None:
    proto.graph.node[2].attribute.add(name="group", i=1, type=onnx.AttributeProto.INT)


def _rewired(proto: ModelProto) -> None:
    proto.graph.node[2].input[0] = "a"


def _another_bias(proto: ModelProto) -> None:
    proto.graph.initializer.append(numpy_helper.from_array(np.ones(16, np.float32), "b1"))
    proto.graph.node[0].input[2] = "b1"


def _metadata(proto: ModelProto) -> None:
    proto.metadata_props.add(key="names", value="cat")


def _gone(proto: ModelProto) -> None:
    del proto.graph.initializer[1]
    del proto.graph.node[0].input[2]


def _double(proto: ModelProto) -> None:
    proto.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.ones(16, np.float64), "b0"))


def _extra_node(proto: ModelProto) -> None:
    proto.graph.node.add(op_type="Relu", input=["b"], output=["c"])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (_attribute, "node 'y'"),
        (_rewired, "node 'y'"),
        (_another_bias, "node 'a'"),
        (_metadata, "the file"),
        (_gone, "'b0'"),
        (_double, "type of initializer 'b0'"),
        (_extra_node, "number of nodes"),
    ],
)
def test_anything_else_is_named(change: Callable[[ModelProto], None], named: str) -> None:
    before, after = edited(constants={"w1": np.ones((4, 16, 1, 1), np.float32)})
    change(after)
    with pytest.raises(CheckError, match="solving weights anew changed") as caught:
        prove_revalued(from_proto(before), Model(after))
    assert named in str(caught.value)


def test_weights_that_lie_in_the_file_are_compared_too(tmp_path: Path) -> None:
    onnx.save(build(TEXT), tmp_path / "m.onnx")
    model = files.load(tmp_path / "m.onnx")
    assert "w0" in model.weights
    solved = model.apply(Edits(constants={"w0": np.ones((16, 3, 3, 3), np.float32)}))
    assert prove_revalued(model, solved) == Revalued(changed=1, added=0, of=3, parameters=0)


def test_a_run_counts_what_it_solved() -> None:
    images = np.random.default_rng(0).random((64, 3, 8, 8), np.float32)
    result = onnxprune.prune(build(TEXT), ratio=0.5, data={"x": images})
    report = result.report
    assert report.recovered is not None
    assert report.recovered.solved
    assert report.revalued == Revalued(changed=1, added=1, of=3, parameters=4)
    written = sum(math.prod(t.dims) for t in result.model.graph.initializer)
    assert report.parameters.after + report.revalued.parameters == written


def test_a_run_that_solves_nothing_has_nothing_to_count() -> None:
    assert onnxprune.prune(build(TEXT), ratio=0.5, data="none").report.revalued is None
