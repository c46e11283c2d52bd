"""One operator of a model, run by itself on floats: what tables and matrices of integers are made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, ValueInfoProto, helper
from onnx import numpy_helper as nph

from onnxprune.model.graph import Node
from onnxprune.model.onnx_model import Model
from onnxprune.running.session import results


def run_alone(model: Model, node: Node, x: NDArray[Any], constants: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """Output 0 of ``node`` for ``x`` as input 0, and ``constants`` at other positions, as {"_2": array}.

    Raises ModelError where nothing here runs it.
    """
    copy = NodeProto()
    copy.CopyFrom(model.proto.graph.node[node.index])
    names = ["x", *(f"_{i}" if f"_{i}" in constants else "" for i in range(1, len(node.inputs)))]
    del copy.input[:], copy.output[:]
    copy.input.extend(names)
    copy.output.append("y")
    graph = helper.make_graph(
        [copy],
        "one",
        [helper.make_tensor_value_info("x", int(helper.np_dtype_to_tensor_dtype(x.dtype)), x.shape)],
        [ValueInfoProto(name="y")],
        [nph.from_array(np.asarray(v), n) for n, v in constants.items() if n in names],
    )
    opsets = [helper.make_opsetid(o.domain, o.version) for o in model.proto.opset_import]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=max(model.proto.ir_version, 7))
    return np.asarray(results(Model(proto), {"x": x})["y"])
