"""A run of nodes as a model of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from onnx import ModelProto, ValueInfoProto, helper

from onnxprune.model.edits import IR_INITIALIZERS, captured
from onnxprune.model.onnx_model import Model


def excerpt(model: Model, nodes: Iterable[int], inputs: Mapping[str, int], outputs: Sequence[str]) -> Model:
    """A model of these ``nodes`` of ``model``, with ``inputs`` {name: element type}; weights are not copied."""
    source = model.proto
    out = ModelProto(ir_version=max(source.ir_version, IR_INITIALIZERS), functions=source.functions)
    out.opset_import.extend(source.opset_import)
    out.graph.name = "excerpt"
    kinds = {n: helper.make_tensor_type_proto(t, None) for n, t in inputs.items()}
    out.graph.input.extend(ValueInfoProto(name=n, type=kind) for n, kind in kinds.items())
    out.graph.output.extend(ValueInfoProto(name=n) for n in outputs)
    out.graph.node.extend(source.graph.node[i] for i in nodes)
    made = {o for n in out.graph.node for o in n.output}
    for name in dict.fromkeys(i for n in out.graph.node for i in (*n.input, *captured(n))):
        if name in model.constant_protos and name not in made:
            tensor = out.graph.initializer.add()
            tensor.CopyFrom(model.constant_protos[name])
            tensor.name = name
    return Model(out, model.path, model.weights)
