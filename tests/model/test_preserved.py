"""Nothing else changes: all that pruning does not mean to touch is as it was, to the last field."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from onnxprune import pipeline
from onnxprune.model import files, onnx_model
from onnxprune.options import Options
from tests.models import build

#: Conv, Relu, Conv: 8 and 8 channels that can go. c is read by a function, by an If inside an If, and by an operator
#: with a sparse constant, and so stays.
BODY = """(float[N,3,H,W] x, bool flag, int64[2] n) => (float[N,4,H,W] y, float16[N,4,H,W] z, int64[2] k)
<float[8,3,1,1] w0, float[8] b0, float[8,8,1,1] w1, float[4,8,1,1] w2, int64[2] one = {1, 1}, float unread = {3}>
{ a = Conv(x, w0, b0)
  b = Relu(a)
  c = Conv(b, w1)
  d = Conv(c, w2)
  e = Identity(d)
  y = Identity(e)
  f = Add(d, d)
  h = Cast<to=10>(f)
  z = Mul(h, h)
  k = Add(n, one) }"""


def rich() -> ModelProto:
    """A model that uses every corner of the format that onnxruntime takes."""
    proto = build(BODY)
    _describe(proto)
    _call_function(proto)
    _branch(proto)
    _add_sparse(proto)
    _train(proto)
    proto.graph.quantization_annotation.add(tensor_name="b").quant_parameter_tensor_names.add(
        key="SCALE_TENSOR", value="unread"
    )
    return proto


def _describe(proto: ModelProto) -> None:
    proto.producer_name, proto.producer_version, proto.domain = "someone", "1.2", "org.example"
    proto.model_version, proto.doc_string, proto.graph.doc_string = 7, "of the model", "of the graph"
    for key, value in (("names", "{0: 'person'}"), ("stride", "32"), ("empty", "")):
        proto.metadata_props.add(key=key, value=value)
    for node in proto.graph.node:
        node.name, node.doc_string = f"node_{node.output[0]}", f"makes {node.output[0]}"
        node.metadata_props.add(key="trace", value="line 1")
    for info in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        info.doc_string = f"of {info.name}"
    proto.graph.input[0].type.denotation = "IMAGE"
    proto.graph.input[0].type.tensor_type.shape.dim[1].denotation = "DATA_CHANNEL"
    for tensor in proto.graph.initializer:
        tensor.doc_string = f"of {tensor.name}"


def _call_function(proto: ModelProto) -> None:
    """e = local.Twice(d)"""
    body = helper.make_node("Add", ["p", "p"], ["q"])
    twice = helper.make_function("local", "Twice", ["p"], ["q"], [body], [helper.make_opsetid("", 17)])
    twice.doc_string = "of the function"
    proto.functions.append(twice)
    proto.opset_import.append(helper.make_opsetid("local", 1))
    node = next(n for n in proto.graph.node if n.output[0] == "e")
    node.op_type, node.domain = "Twice", "local"


def _branch(proto: ModelProto) -> None:
    """y = if flag: (if flag: e else: d) else: relu(d) + a constant of the branch's own"""
    like = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("r", "s", "t", "u")]
    inner = [
        helper.make_graph([helper.make_node("Identity", [read], [info.name])], f"inner_{read}", [], [info])
        for read, info in (("e", like[0]), ("d", like[1]))
    ]
    then = helper.make_graph(
        [helper.make_node("If", ["flag"], ["t"], then_branch=inner[0], else_branch=inner[1])], "then", [], [like[2]]
    )
    own = numpy_helper.from_array(np.full((1, 4, 1, 1), 2, np.float32), "own")
    other = helper.make_graph(
        [helper.make_node("Relu", ["d"], ["v"]), helper.make_node("Add", ["v", "own"], ["u"])],
        "else", [], [like[3]], [own], doc_string="of the branch",
    )  # fmt: skip
    node = next(n for n in proto.graph.node if n.output[0] == "y")
    node.CopyFrom(helper.make_node("If", ["flag"], ["y"], "node_y", then_branch=then, else_branch=other))


def _add_sparse(proto: ModelProto) -> None:
    """z = Cast(d + sparse)"""
    values = numpy_helper.from_array(np.array([1.5, -2], np.float32), "sparse")
    indices = numpy_helper.from_array(np.array([1, 3], np.int64), "sparse_indices")
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4, 1, 1]))
    next(n for n in proto.graph.node if n.output[0] == "f").input[1] = "sparse"


def _train(proto: ModelProto) -> None:
    step = helper.make_graph(
        [helper.make_node("Identity", ["unread"], ["next"])],
        "step", [], [helper.make_tensor_value_info("next", TensorProto.FLOAT, [])],
    )  # fmt: skip
    proto.training_info.append(helper.make_training_info(step, [("unread", "next")], None, None))


def prune(proto: ModelProto) -> pipeline.Result:
    shapes = {"x": (2, 3, 5, 6)}
    return pipeline.prune(onnx_model.from_proto(proto), Options(ratio=0.5, input_shapes=shapes))


def expected(proto: ModelProto, after: ModelProto, width: int) -> ModelProto:
    """The original with weights of ``after``, and with the widths of a, b and c in their declarations."""
    new = {t.name: t for t in after.graph.initializer}
    wanted = copy.deepcopy(proto)
    shapes = {"w0": [width, 3, 1, 1], "b0": [width], "w1": [width, width, 1, 1], "w2": [4, width, 1, 1]}
    for tensor in wanted.graph.initializer:
        if tensor.name in shapes:
            assert list(new[tensor.name].dims) == shapes[tensor.name]
            tensor.ClearField("dims")
            tensor.dims.extend(shapes[tensor.name])
            tensor.raw_data = new[tensor.name].raw_data
    for info in wanted.graph.value_info:
        if info.name in ("a", "b", "c"):
            info.type.tensor_type.shape.dim[1].dim_value = width
    return wanted


def test_only_weights_and_declared_widths_change() -> None:
    proto = rich()
    result = prune(proto)
    after = result.model.proto
    assert [g.kept for g in result.report.groups] == [4, 4]
    assert {"a", "b", "c"} <= {v.name for v in after.graph.value_info}
    assert after == expected(proto, after, 4)


def test_the_file_holds_what_the_result_does(tmp_path: Path) -> None:
    result = prune(rich())
    files.write({tmp_path / "out.onnx": result.model})
    assert onnx.load(tmp_path / "out.onnx") == result.model.proto
    assert files.load(tmp_path / "out.onnx").proto == result.model.proto


def test_the_model_given_stays_as_it_was() -> None:
    proto = rich()
    before = copy.deepcopy(proto)
    given = onnx_model.from_proto(proto)
    pipeline.prune(given, Options(input_shapes={"x": (1, 3, 4, 4)}))
    assert given.proto == proto == before


def test_the_comparison_sees_every_field_that_it_is_about() -> None:
    """Each of these is lost by one tool or another; the comparison would tell."""
    proto = rich()
    after = prune(proto).model.proto
    changes: dict[str, Callable[[ModelProto], object]] = {
        "ir_version": lambda m: setattr(m, "ir_version", 9),
        "opset": lambda m: setattr(m.opset_import[0], "version", 18),
        "producer": lambda m: m.ClearField("producer_name"),
        "domain": lambda m: m.ClearField("domain"),
        "model_version": lambda m: m.ClearField("model_version"),
        "doc_string": lambda m: m.ClearField("doc_string"),
        "metadata": lambda m: m.metadata_props.pop(),
        "functions": lambda m: m.functions[0].ClearField("doc_string"),
        "training_info": lambda m: m.ClearField("training_info"),
        "graph_doc_string": lambda m: m.graph.ClearField("doc_string"),
        "quantization_annotation": lambda m: m.graph.ClearField("quantization_annotation"),
        "sparse_initializer": lambda m: m.graph.sparse_initializer[0].values.dims.pop(),
        "value_info": lambda m: m.graph.value_info.pop(),
        "unread_initializer": lambda m: m.graph.initializer.pop(),
        "dim_param": lambda m: m.graph.input[0].type.tensor_type.shape.dim[2].ClearField("dim_param"),
        "node_metadata": lambda m: m.graph.node[0].ClearField("metadata_props"),
        "node_name": lambda m: m.graph.node[0].ClearField("name"),
        "subgraph": lambda m: [a.g.ClearField("doc_string") for n in m.graph.node for a in n.attribute],
        "data_type": lambda m: setattr(m.graph.output[1].type.tensor_type, "elem_type", 1),
    }
    unseen = []
    for name, change in changes.items():
        other = copy.deepcopy(after)
        change(other)
        if other == expected(proto, after, 4):
            unseen.append(name)
    assert unseen == []


def test_with_folding_only_the_norm_goes() -> None:
    proto = build(
        """(float[1,3,6,6] x) => (float[1,4,6,6] y)
        <float[8,3,1,1] w, float[8] s, float[8] o, float[8] m, float[8] var, float[4,8,1,1] v, float[2] unread>
        { a = Conv(x, w)
          b = BatchNormalization(a, s, o, m, var)
          c = Relu(b)
          y = Conv(c, v) }"""
    )
    _describe(proto)
    after = prune_all(proto)
    assert [n.name for n in after.graph.node] == ["node_a", "node_c", "node_y"]
    assert [list(n.output) for n in after.graph.node] == [["b"], ["c"], ["y"]]
    assert [t.name for t in after.graph.initializer] == ["w", "v", "unread", "w_bias"]
    assert [v.name for v in after.graph.value_info] == ["b", "c"]
    for name in ("metadata_props", "doc_string", "domain", "opset_import", "ir_version"):
        assert getattr(after, name) == getattr(proto, name)
    assert list(after.graph.input) == list(proto.graph.input)
    assert list(after.graph.output) == list(proto.graph.output)


def prune_all(proto: ModelProto) -> ModelProto:
    return pipeline.prune(onnx_model.from_proto(proto), Options(ratio=0.5)).model.proto


@pytest.mark.parametrize("field", ["float_data", "raw_data"])
def test_untouched_tensors_keep_their_encoding(field: str) -> None:
    proto = build(BODY)
    tensor = next(t for t in proto.graph.initializer if t.name == "unread")
    tensor.ClearField("raw_data")
    tensor.ClearField("float_data")
    if field == "float_data":
        tensor.float_data.append(3)
    else:
        tensor.raw_data = np.float32(3).tobytes()
    after = prune(proto).model.proto
    assert next(t for t in after.graph.initializer if t.name == "unread") == tensor


@pytest.mark.parametrize(("opset", "ir"), [(9, 4), (11, 6), (13, 7), (17, 8), (19, 9)])
def test_opset_and_ir_version_stay(opset: int, ir: int) -> None:
    after = prune(
        build(BODY.replace("int64[2] n", "float[2] n").replace("int64[2]", "float[2]"), opset, ir)
    ).model.proto
    assert (after.ir_version, after.opset_import[0].version) == (ir, opset)


def test_weights_in_constant_nodes_stay_there() -> None:
    proto = build(BODY)
    tensors = {t.name: t for t in proto.graph.initializer}
    constants = [helper.make_node("Constant", [], [n], f"const_{n}", value=t) for n, t in tensors.items()]
    nodes = [*constants, *proto.graph.node]
    del proto.graph.initializer[:], proto.graph.node[:]
    proto.graph.node.extend(nodes)
    after = prune(proto).model.proto
    assert not after.graph.initializer
    assert [(n.name, n.op_type, n.output) for n in after.graph.node] == [(n.name, n.op_type, n.output) for n in nodes]
    dims = {n.output[0]: list(n.attribute[0].t.dims) for n in after.graph.node if n.op_type == "Constant"}
    assert dims == {"w0": [4, 3, 1, 1], "b0": [4], "w1": [4, 4, 1, 1], "w2": [4, 4, 1, 1], "one": [2], "unread": []}


def test_weights_that_are_graph_inputs_too_stay_so() -> None:
    proto = build(BODY, 11, 6)
    for name in ("w0", "w1"):
        dims = next(list(t.dims) for t in proto.graph.initializer if t.name == name)
        proto.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, dims))
    after = prune(proto).model.proto
    shapes = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in after.graph.input}
    assert [shapes["w0"], shapes["w1"]] == [[4, 3, 1, 1], [4, 4, 1, 1]]
    assert [i.name for i in after.graph.input] == [i.name for i in proto.graph.input]
