"""A network with its activations rounded to grids by nodes that every runtime has: divide, clip, round, multiply.

Each result is bit for bit `Grid.values` of `Grid.codes`. Outputs are measured on this network in place of the original
one; it is no format and is not written to a file.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

from onnxprune.constraints.grids import Grid
from onnxprune.model.dtypes import to_tensor
from onnxprune.model.onnx_model import Model

#: Before this opset there is no Round.
_ROUND_SINCE = 11


def simulated(model: Model, grids: Mapping[str, Grid]) -> Model:
    """``model`` in which the tensors that ``grids`` names are rounded before any node reads them."""
    grids = {n: g for n, g in grids.items() if n in model.graph.consumers}
    if not grids:
        return model
    opset = model.opset
    out = ModelProto()
    out.CopyFrom(model.proto)
    graph = out.graph
    del graph.node[:]
    inputs = {i.name for i in model.graph.inputs}
    for name in (n for n in grids if n in inputs):
        _round(graph, name, grids[name], opset)
    for node in model.proto.graph.node:
        copy = graph.node.add()
        copy.CopyFrom(node)
        for position, name in enumerate(node.input):
            if name in grids:
                copy.input[position] = _after(name)
        for name in node.output:
            if name in grids:
                _round(graph, name, grids[name], opset)
    return Model(out, model.path, model.weights)


def scale_of(name: str) -> str:
    """The constant that holds the scale of tensor ``name``."""
    return f"{name}__grid_scale"


def _after(name: str) -> str:
    return f"{name}__on_grid"


def _round(graph: GraphProto, name: str, grid: Grid, opset: int) -> None:
    """Append the nodes that make what `_after` names."""
    nodes: list[NodeProto] = []
    constants: list[TensorProto] = []

    def made(op: str, inputs: list[str], output: str = "") -> str:
        result = output or f"{name}__grid_{len(nodes)}"
        nodes.append(helper.make_node(op, inputs, [result]))
        return result

    def constant(title: str, value: float) -> str:
        constants.append(to_tensor(np.asarray(value, np.float32), title, TensorProto.FLOAT))
        return title

    scale, zero = constant(scale_of(name), float(grid.scale.flat[0])), int(grid.zero_point.flat[0])
    code = made("Max", [made("Div", [name, scale]), constant(f"{name}__grid_low", grid.low - zero)])
    code = made("Min", [code, constant(f"{name}__grid_high", grid.high - zero)])
    if opset >= _ROUND_SINCE:
        code = made("Round", [code])
    else:
        code = made("Floor", [made("Add", [code, constant(f"{name}__grid_half", 0.5)])])
    made("Mul", [code, scale], _after(name))
    graph.node.extend(nodes)
    graph.initializer.extend(constants)
