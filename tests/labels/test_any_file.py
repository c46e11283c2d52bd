"""Whatever a valid file holds, what can be pruned exactly is pruned, and proven."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, TypeProto, ValueInfoProto, helper, numpy_helper

from onnxprune import pipeline
from onnxprune.model import onnx_model as model
from onnxprune.options import Options
from tests.models import build, noise, too_new

#: 8 channels of h can go.
CHAIN = """(float[2,3,8,8] x) => (float[2,5,6,6] y) <float[8,3,3,3] w0, float[5,8,1,1] w9>
{ h = Conv(x, w0)
  r = Relu(h)
  y = Conv(r, w9) }"""
MLP = """(KIND[2,6] x) => (KIND[2,5] y) <KIND[6,8] w0, KIND[8,5] w9>
{ h = MatMul(x, w0)
  r = Relu(h)
  y = MatMul(r, w9) }"""

#: The input is a constant: its 3 channels can go too.
CONSTANT = CHAIN.replace("float[2,3,8,8] x) =>", ") =>").replace("<", "<float[2,3,8,8] x, ", 1)

Change = Callable[[ModelProto], None]


def beside(
    node: str, inputs: list[str], kinds: list[ValueInfoProto], more: list[ValueInfoProto], **attrs: Any
) -> Change:
    """Another node, whose outputs are graph outputs too, and more graph inputs for it."""

    def change(proto: ModelProto) -> None:
        domain, _, op = node.rpartition(".")
        outputs = [k.name for k in kinds]
        proto.graph.node.append(helper.make_node(op, inputs, outputs, domain=domain, **attrs))
        proto.graph.output.extend(kinds)
        proto.graph.input.extend(more)
        if domain and domain not in {o.domain for o in proto.opset_import}:
            proto.opset_import.append(helper.make_opsetid(domain, 1))

    return change


def sparse(proto: ModelProto) -> None:
    """r = Add(h, a sparse constant), which is cut with h."""
    values = numpy_helper.from_array(np.array([1.5, -2], np.float32), "s")
    indices = numpy_helper.from_array(np.array([1, 3], np.int64), "s_indices")
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [8, 1, 1]))
    proto.graph.node[1].CopyFrom(helper.make_node("Add", ["h", "s"], ["r"]))


def weights_are_inputs(proto: ModelProto) -> None:
    """As every initializer had to be before IR 4."""
    proto.ir_version = 3
    for t in proto.graph.initializer:
        proto.graph.input.append(helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)))


def shared_bias_before_ir_4(proto: ModelProto) -> None:
    """Two layers of 8 and 5 channels that read one vector, which is copied."""
    proto.graph.initializer.append(numpy_helper.from_array(noise("b", [8]).astype(np.float32), "b"))
    proto.graph.initializer.append(numpy_helper.from_array(noise("w1", [8, 3, 3, 3]).astype(np.float32), "w1"))
    proto.graph.initializer.append(numpy_helper.from_array(noise("w2", [5, 8, 1, 1]).astype(np.float32), "w2"))
    proto.graph.node[0].input.append("b")
    more = [
        helper.make_node("Conv", ["x", "w1", "b"], ["h1"]),
        helper.make_node("Conv", ["h1", "w2"], ["y1"]),
    ]
    proto.graph.node.extend(more)
    proto.graph.output.append(helper.make_tensor_value_info("y1", TensorProto.FLOAT, [2, 5, 6, 6]))
    weights_are_inputs(proto)


def foreign_end(proto: ModelProto) -> None:
    """The output is what a custom operator makes of y."""
    proto.graph.node[2].output[0] = "scores"
    proto.graph.node.append(helper.make_node("Detect", ["scores"], ["y"], domain="custom"))


def foreign_branch(proto: ModelProto) -> None:
    branches = [
        helper.make_graph(
            [helper.make_node(op, ["x"], ["t"], domain=domain)],
            op, [], [helper.make_tensor_value_info("t", TensorProto.FLOAT, None)],
        )
        for op, domain in (("Foreign", "custom"), ("Relu", ""))
    ]  # fmt: skip
    proto.graph.node.append(helper.make_node("If", ["c"], ["z"], then_branch=branches[0], else_branch=branches[1]))
    proto.graph.input.append(helper.make_tensor_value_info("c", TensorProto.BOOL, []))
    proto.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [None] * 4))


def tensor(name: str, shape: list[int | None], kind: int = TensorProto.FLOAT) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def of(name: str, kind: TypeProto) -> ValueInfoProto:
    return helper.make_value_info(name, kind)


FLOATS = helper.make_tensor_type_proto(TensorProto.FLOAT, [2, 5, 6, 6])
MAPS = helper.make_sequence_type_proto(
    helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
)
STRINGS = TensorProto.STRING
MOMENTUM: dict[str, Any] = {"alpha": 0.9, "beta": 0.1, "mode": "standard", "norm_coefficient": 0.0}
LABELS: dict[str, Any] = {"classlabels_int64s": [0, 1, 2, 3, 4]}

IMAGES = helper.make_sequence_type_proto(FLOATS)
MAYBE = helper.make_optional_type_proto(FLOATS)
NOT_RUN, REFERENCE = "cannot be run here", "onnx's reference"


def beside_it() -> dict[str, Change]:
    """Nodes that have nothing to do with the chain, of every type that ONNX has."""
    whole, flag, text = tensor("z", [], TensorProto.INT64), tensor("z", [], TensorProto.BOOL), tensor("z", [2], STRINGS)
    step, count, some = tensor("r0", []), tensor("t0", [], TensorProto.INT64), tensor("q", [2])
    momentum = ("ai.onnx.preview.training.Momentum", ["r0", "t0", "q", "q", "q"], [tensor("n", [2]), tensor("v", [2])])
    return {
        "sequence output": beside("SequenceConstruct", ["y"], [of("s", IMAGES)], []),
        "sequence input": beside("SequenceLength", ["q"], [whole], [of("q", IMAGES)]),
        "optional input": beside("OptionalHasElement", ["q"], [flag], [of("q", MAYBE)]),
        "string input": beside("Identity", ["s"], [text], [tensor("s", [2], STRINGS)]),
        "input of no elements": beside("Relu", ["q"], [tensor("z", [0, 4])], [tensor("q", [0, 4])]),
        "input of no dimensions": beside("Relu", ["q"], [tensor("z", [])], [tensor("q", [])]),
        "training operator": beside(*momentum, [step, count, some], **MOMENTUM),
    }


#: A model, what is done to it, how many channels can go, and what the report must note.
CASES: dict[str, tuple[str, Change, int, str]] = {
    **{
        name: (CHAIN, change, 8, NOT_RUN if name.startswith(("sequence in", "optional", "train")) else "")
        for name, change in beside_it().items()
    },
    "map output": (
        MLP.replace("KIND", "float"),
        beside("ai.onnx.ml.ZipMap", ["y"], [of("p", MAPS)], [], **LABELS),
        8,
        "",
    ),
    "sparse constant": (CHAIN, sparse, 8, ""),
    "weights that are inputs, IR 3": (CHAIN, weights_are_inputs, 8, ""),
    "a vector to copy, IR 3": (CHAIN, shared_bias_before_ir_4, 16, ""),
    "custom operator at the end": (CHAIN, foreign_end, 8, "'Detect:y' cannot be run here"),
    "custom operator in a branch": (CHAIN, foreign_branch, 8, NOT_RUN),
    "all in bfloat16": (MLP.replace("KIND", "bfloat16"), lambda _: None, 8, REFERENCE),
    "convolution in float64": (CHAIN.replace("float", "double"), lambda _: None, 8, REFERENCE),
    "no inputs": (CONSTANT, lambda _: None, 11, ""),
}


@pytest.mark.parametrize("name", CASES)
def test_file_is_pruned_and_proven(name: str) -> None:
    text, change, prunable, note = CASES[name]
    proto = build(text)
    change(proto)
    if reason := too_new(proto):
        pytest.skip(reason)
    result = pipeline.prune(model.from_proto(proto), Options(ratio=0.5, check_n=1))
    report = result.report
    assert report.channels.before == prunable
    assert report.proof is not None
    assert report.proof.rewrite_error < 1e-2
    assert (prunable == 0) == (report.channels.after == prunable)
    assert note in "".join(report.notes)
    assert bool(note) == bool(report.notes)
    assert [i.name for i in result.model.proto.graph.input] == [i.name for i in proto.graph.input]


def test_model_without_nodes_is_left_as_it_is() -> None:
    whole = build(CHAIN)
    del whole.graph.node[:], whole.graph.initializer[:], whole.graph.value_info[:]
    whole.graph.output[0].CopyFrom(whole.graph.input[0])
    result = pipeline.prune(model.from_proto(whole), Options())
    assert result.model.proto == whole
