"""Operators that onnxruntime runs, and that onnx does not know in its own domain, or took back."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, helper, numpy_helper

from onnxprune import pipeline
from onnxprune.errors import ModelError
from onnxprune.model.onnx_model import from_proto
from onnxprune.options import Options
from tests.models import build, sandwich

TEXT = """(float[2,6] x) => (float[2,5] y) <float[6,8] w0, float[8,16] w1, float[16,5] w2>
{ h = MatMul(x, w0)
  n = Identity(h)
  a = MatMul(n, w1)
  b = Relu(a)
  y = MatMul(b, w2) }"""


def normalised(op: str, opset: int) -> ModelProto:
    """What is made of ``h`` is normalised by ``op``."""
    proto = build(TEXT, opset)
    proto.graph.node[1].CopyFrom(helper.make_node(op, ["h", "scale"], ["n"], axis=-1))
    proto.graph.initializer.append(numpy_helper.from_array(np.ones(8, np.float32), "scale"))
    return proto


@pytest.mark.parametrize(("op", "opset"), [("LayerNormalization", 13), ("SimplifiedLayerNormalization", 17)])
def test_such_files_are_read_pruned_and_proven(op: str, opset: int) -> None:
    proto = normalised(op, opset)
    result = pipeline.prune(from_proto(proto), Options(ratio=0.5, check_n=1))
    assert result.report.proof is not None
    assert result.report.proof.rewrite_error < 1e-5
    assert (result.report.channels.before, result.report.channels.after) == (16, 8)
    assert [(n.domain, n.op_type) for n in result.model.proto.graph.node][1] == ("", op)
    assert result.model.proto.opset_import == proto.opset_import


def test_the_first_group_normalization_goes_in_groups() -> None:
    """Its scale and bias are one a group."""
    text = sandwich("g = GroupNormalization<num_groups=4>(h, s, b)", "float[4] s", "float[4] b")
    result = pipeline.prune(from_proto(build(text, 18)), Options(ratio=0.5, check_n=1))
    assert result.report.proof is not None
    assert result.report.proof.rewrite_error < 1e-5
    kept = {t.name: list(t.dims) for t in result.model.proto.graph.initializer}
    assert (kept["w0"][0], kept["s"], kept["b"]) == (4, [2], [2])


def test_other_operators_that_nobody_knows_are_refused() -> None:
    with pytest.raises(ModelError, match="No Op registered for LayerNorm "):
        from_proto(normalised("LayerNorm", 17))
