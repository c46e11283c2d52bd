"""What a model costs: multiply-accumulates and parameters, as functions of shapes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from onnx import TensorProto

from onnxprune import ops
from onnxprune.graph import Graph, Shape

_FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
_WEIGHTS = _FLOATS | {TensorProto.INT8, TensorProto.UINT8}


@dataclass(frozen=True)
class Cost:
    """``macs`` at the input shapes analysed; ``parameters``: elements of constants of float and 8-bit types."""

    macs: int
    parameters: int


def macs_by_node(graph: Graph, shapes: Mapping[str, Shape]) -> dict[str, int]:
    """MACs of each node that multiplies, by node label, at these tensor shapes (constants included)."""
    found: dict[str, int] = {}
    for node in graph.nodes:
        rule = ops.find(node)
        known = all(n in shapes for n in (*node.inputs[:2], *node.outputs[:1]) if n)
        if rule is not None and rule.macs is not None and known:
            inputs = [shapes.get(n, ()) for n in node.inputs]
            found[node.label] = rule.macs(node, inputs, [shapes[n] for n in node.outputs if n in shapes])
    return found


def parameters(graph: Graph) -> int:
    """Number of weights: elements of initializers and Constant nodes of float and 8-bit types."""
    return sum(math.prod(s) for t, s in graph.constants.values() if t in _WEIGHTS)


def cost(graph: Graph, shapes: Mapping[str, Shape]) -> Cost:
    """The model's cost at these shapes."""
    return Cost(sum(macs_by_node(graph, shapes).values()), parameters(graph))
